//! Manifests and configurations as registries and builders write them.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn digest(n: u8) -> String {
    Digest::of(&[n]).to_string()
}

fn entry(n: u8, os: &str, arch: &str, variant: Option<&str>) -> serde_json::Value {
    let mut platform = json!({"os": os, "architecture": arch});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    json!({"mediaType": OCI_MANIFEST, "digest": digest(n), "size": 1, "platform": platform})
}

fn index(entries: &[serde_json::Value]) -> Index {
    let bytes = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
    match parse("x", &bytes).unwrap() {
        Manifest::Index(index) => index,
        Manifest::Image(_) => panic!("an index"),
    }
}

fn platform(arch: &str, variant: Option<&str>) -> Platform {
    Platform {
        architecture: arch.into(),
        os: "linux".into(),
        variant: variant.map(Into::into),
    }
}

#[test]
fn the_platform_is_chosen_by_architecture_then_variant() {
    let index = index(&[
        entry(1, "windows", "amd64", None),
        entry(2, "linux", "arm64", None),
        entry(3, "linux", "arm", Some("v6")),
        entry(4, "linux", "arm", Some("v7")),
        entry(5, "linux", "amd64", None),
        entry(6, "unknown", "unknown", None),
    ]);
    for (wanted, expected) in [
        (platform("amd64", None), 5),
        (platform("arm64", Some("v8")), 2),
        (platform("arm", Some("v7")), 4),
        (platform("arm", Some("v5")), 3),
    ] {
        let found = choose("x", &index, &wanted).unwrap();
        assert_eq!(found.digest.to_string(), digest(expected), "{wanted:?}");
    }
    let error = choose("x", &index, &platform("s390x", None)).unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert!(error.to_string().contains("linux/arm64"), "{error}");
}

#[test]
fn docker_and_oci_manifests_are_understood() {
    for (manifest, layer) in [
        (
            Some(OCI_MANIFEST),
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
        (
            Some(DOCKER_MANIFEST),
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (None, OCI_LAYER),
    ] {
        let mut value = json!({
            "schemaVersion": 2,
            "config": {"digest": digest(1), "size": 3},
            "layers": [{"mediaType": layer, "digest": digest(2), "size": 4}],
        });
        if let Some(media_type) = manifest {
            value["mediaType"] = json!(media_type);
        }
        let parsed = parse("x", &serde_json::to_vec(&value).unwrap()).unwrap();
        assert!(matches!(parsed, Manifest::Image(m) if m.layers.len() == 1));
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let layer = |media_type: &str| {
        json!({
            "schemaVersion": 2,
            "config": {"digest": digest(1), "size": 3},
            "layers": [{"mediaType": media_type, "digest": digest(2), "size": 4}],
        })
    };
    for value in [
        json!({"schemaVersion": 1}),
        json!({"schemaVersion": 2, "mediaType": "text/plain"}),
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST}),
        json!([]),
        layer("application/vnd.wasm.content.layer.v1+wasm"),
        json!({"schemaVersion": 2, "config": {"digest": "sha256:../../x", "size": 1}, "layers": []}),
        json!({"schemaVersion": 2, "config": {"digest": digest(1), "size": -1}, "layers": []}),
    ] {
        assert!(
            parse("x", &serde_json::to_vec(&value).unwrap()).is_err(),
            "{value}"
        );
    }
}

#[test]
fn configurations_with_nulls_are_read() {
    let value = json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Entrypoint": null, "Cmd": ["sh"], "Env": ["A=b"], "Volumes": null, "ExposedPorts": null,
            "Labels": null, "User": "1000:1000", "WorkingDir": "/srv", "OnBuild": null,
            "Healthcheck": {"Test": ["NONE"]},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(1)]},
    });
    let bytes = serde_json::to_vec(&value).unwrap();
    let config = parse_config("x", &bytes, 1).unwrap().config;
    assert_eq!(config.cmd().clone().unwrap(), ["sh"]);
    assert_eq!(config.user().as_deref(), Some("1000:1000"));
    assert!(parse_config("x", &bytes, 2).is_err());
    let empty = json!({"rootfs": {"diff_ids": null}});
    assert!(parse_config("x", &serde_json::to_vec(&empty).unwrap(), 0).is_ok());
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse("x", &bytes);
        let _ = parse_config("x", &bytes, 1);
    }
}

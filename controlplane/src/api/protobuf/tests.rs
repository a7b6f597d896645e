//! Tests of `api::protobuf`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

fn block(field: u64, body: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(body.len() as u64),
        body.to_vec(),
    ]
    .concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let names = [block(1, api_version.as_bytes()), block(2, kind.as_bytes())].concat();
    [
        MAGIC.to_vec(),
        block(1, &names),
        block(2, raw),
        block(3, b""),
        block(4, b""),
    ]
    .concat()
}

fn named(name: &str) -> Vec<u8> {
    // As Go sends it: fields that are not set are there, empty.
    let metadata = [
        block(1, name.as_bytes()),
        block(2, b""),
        block(3, b""),
        number(7, 0),
        block(8, b""),
    ];
    block(1, &metadata.concat())
}

#[test]
fn a_secret_is_read() {
    let data = [block(1, b"key"), block(2, b"\x00\xffv")].concat();
    let body = envelope(
        "v1",
        "Secret",
        &[named("s"), block(2, &data), block(3, b"Opaque")].concat(),
    );
    assert_eq!(
        decode(&body).unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
               "data": {"key": "AP92"}, "type": "Opaque"})
    );
}

#[test]
fn numbers_that_are_set_to_zero_stay_and_others_go() {
    // DeploymentSpec: replicas 1, minReadySeconds 5.
    let spec = [number(1, 0), number(5, 0)].concat();
    let body = envelope(
        "apps/v1",
        "Deployment",
        &[named("d"), block(2, &spec)].concat(),
    );
    assert_eq!(decode(&body).unwrap()["spec"], json!({"replicas": 0}));
    let options = envelope("policy/v1", "DeleteOptions", &number(1, 0));
    assert_eq!(decode(&options).unwrap()["gracePeriodSeconds"], 0);
}

#[test]
fn a_claim_may_ask_for_no_class() {
    // PersistentVolumeClaimSpec: volumeName 3, storageClassName 5.
    for (spec, expected) in [
        (
            [block(3, b""), block(5, b"")].concat(),
            json!({"storageClassName": ""}),
        ),
        (block(3, b""), json!({})),
    ] {
        let claim = [named("c"), block(2, &spec)].concat();
        let body = envelope("v1", "PersistentVolumeClaim", &claim);
        assert_eq!(decode(&body).unwrap()["spec"], expected);
    }
    // A volume's is none of these: PersistentVolumeSpec has it at 6.
    let volume = [named("v"), block(2, &block(6, b""))].concat();
    let body = envelope("v1", "PersistentVolume", &volume);
    assert_eq!(decode(&body).unwrap()["spec"], json!({}));
}

#[test]
fn ports_maps_and_embedded_messages() {
    let by_name = [number(1, 1), number(2, 0), block(3, b"http")].concat();
    let unset = [number(1, 0), number(2, 0), block(3, b"")].concat();
    let port = |target: &[u8]| {
        block(
            1,
            &[
                block(1, b""),
                block(2, b"TCP"),
                number(3, 80),
                block(4, target),
                number(5, 0),
            ]
            .concat(),
        )
    };
    let spec = [port(&by_name), port(&unset)].concat();
    let body = envelope("v1", "Service", &[named("s"), block(2, &spec)].concat());
    assert_eq!(
        decode(&body).unwrap()["spec"]["ports"],
        json!([{"protocol": "TCP", "port": 80, "targetPort": "http"}, {"protocol": "TCP", "port": 80}])
    );
    // Volume: name 1, embedded VolumeSource 2 with hostPath 1 and its path 1.
    let volume = [block(1, b"v"), block(2, &block(1, &block(1, b"/tmp")))].concat();
    let body = envelope(
        "v1",
        "Pod",
        &[named("p"), block(2, &block(1, &volume))].concat(),
    );
    assert_eq!(
        decode(&body).unwrap()["spec"]["volumes"],
        json!([{"name": "v", "hostPath": {"path": "/tmp"}}])
    );
}

#[test]
fn times_are_rfc3339() {
    let at = |nanos: i64| [number(1, 1_700_000_000), number(2, nanos)].concat();
    // LeaseSpec: renewTime 4 (micro); ObjectMeta: creationTimestamp 8.
    let raw = [
        block(1, &block(8, &at(5))),
        block(2, &block(4, &at(1_234_567))),
    ]
    .concat();
    let lease = decode(&envelope("coordination.k8s.io/v1", "Lease", &raw)).unwrap();
    assert_eq!(
        lease["metadata"]["creationTimestamp"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(lease["spec"]["renewTime"], "2023-11-14T22:13:20.001234Z");
}

#[test]
fn every_message_of_the_table_is_there() {
    for (name, fields) in table() {
        assert!(
            !fields.is_empty() || name.ends_with("Source") || name.contains("Options"),
            "{name}"
        );
        for field in fields {
            if let Type::Message(inner) = field.kind {
                assert!(
                    table().contains_key(inner),
                    "{name}.{}: {inner}",
                    field.name
                );
            }
        }
    }
}

#[test]
fn every_built_in_kind_may_be_sent() {
    for kind in crate::kinds::all() {
        // No client sends definitions in this form: their type is not among those of the Go clients.
        if kind.group == "apiextensions.k8s.io" {
            continue;
        }
        let name = message_name(&kind.api_version(), kind.kind);
        assert!(table().contains_key(name.as_str()), "{name}");
    }
}

#[test]
fn webhooks_with_their_embedded_rules() {
    // rules: operations 1, and the rule itself (2) with groups 1, versions 2, resources 3.
    let rule = [
        block(1, b"CREATE"),
        block(
            2,
            &[block(1, b""), block(2, b"v1"), block(3, b"pods")].concat(),
        ),
    ]
    .concat();
    let webhook = [block(1, b"a.b.c"), block(3, &rule), number(7, 5)].concat();
    let raw = block(2, &webhook);
    let version = "admissionregistration.k8s.io/v1";
    let object = decode(&envelope(version, "ValidatingWebhookConfiguration", &raw)).unwrap();
    assert_eq!(
        object["webhooks"][0],
        serde_json::json!({"name": "a.b.c", "timeoutSeconds": 5, "rules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]})
    );
}

#[test]
fn nonsense_is_refused() {
    assert_eq!(decode(b"{}"), Err(WireError::Magic));
    assert!(matches!(
        decode(&envelope("v9", "Nope", b"")),
        Err(WireError::Kind(_))
    ));
    assert_eq!(
        decode(&envelope("v1", "Pod", &[0x0a, 0xff, 0x01])),
        Err(WireError::Truncated)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_panic(
        raw in proptest::collection::vec(any::<u8>(), 0..300),
        kind in prop_oneof![Just("Pod"), Just("Service"), Just("Secret"), Just("Node")],
    ) {
        let _ = decode(&raw);
        let _ = decode(&envelope("v1", kind, &raw));
    }
}

//! Merging a container with its image.
#![allow(clippy::unwrap_used)]

use super::*;

fn built(
    container: serde_json::Value,
    security: serde_json::Value,
    image: serde_json::Value,
) -> Result<ContainerSpec, ContainerError> {
    let mut container = container;
    container["name"] = "c".into();
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [container], "securityContext": security},
    }))
    .unwrap();
    let image: Config = serde_json::from_value(image).unwrap();
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    let made = Made {
        id: "id".to_owned(),
        rootfs: "/rootfs".into(),
        image: &image,
        env: vec![("A".to_owned(), "pod".to_owned())],
        mounts: Vec::new(),
        pod_dir: Path::new("/pod"),
        termination_log: "/log".into(),
        log_path: "/c.log".into(),
        log_limits: LogLimits {
            max_bytes: 1 << 20,
            max_files: 2,
        },
        node_memory_bytes: 1 << 30,
        confinement: Confinement::default(),
    };
    container_spec(&pod, &container, made)
}

#[test]
fn commands_and_arguments() {
    let image = serde_json::json!({"Entrypoint": ["/entry"], "Cmd": ["default"]});
    for (container, args) in [
        (serde_json::json!({}), vec!["/entry", "default"]),
        (serde_json::json!({"args": ["$(A)"]}), vec!["/entry", "pod"]),
        (serde_json::json!({"command": ["/run"]}), vec!["/run"]),
        (
            serde_json::json!({"command": ["/run"], "args": ["x", "$$(A)"]}),
            vec!["/run", "x", "$(A)"],
        ),
    ] {
        let spec = built(container, serde_json::json!({}), image.clone()).unwrap();
        assert_eq!(spec.args, args);
    }
    let nothing = built(
        serde_json::json!({}),
        serde_json::json!({}),
        serde_json::json!({}),
    );
    assert_eq!(nothing.unwrap_err(), ContainerError::NoCommand);
}

#[test]
fn the_image_gives_what_the_pod_does_not() {
    let image = serde_json::json!({"Cmd": ["/run"], "Env": ["A=image", "B=image", "C"],
        "User": "bee:hive", "WorkingDir": "/work"});
    let spec = built(serde_json::json!({}), serde_json::json!({}), image.clone()).unwrap();
    let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["B=image", "C=", "A=pod"]);
    assert_eq!(
        (spec.user.as_str(), spec.working_dir.as_str()),
        ("bee:hive", "/work")
    );
    let spec = built(
        serde_json::json!({"workingDir": "/tmp", "securityContext": {"runAsUser": 7}}),
        serde_json::json!({"runAsUser": 5, "runAsGroup": 6, "fsGroup": 8, "supplementalGroups": [9]}),
        image,
    )
    .unwrap();
    assert_eq!((spec.user.as_str(), spec.run_as_group), ("7", Some(6)));
    assert_eq!(spec.supplemental_groups, [9, 8]);
    assert_eq!(spec.working_dir, "/tmp");
}

#[test]
fn root_is_refused_where_it_is_not_wanted() {
    let strict = serde_json::json!({"runAsNonRoot": true});
    for (user, error) in [
        ("", Some(ContainerError::RunsAsRoot)),
        ("0:0", Some(ContainerError::RunsAsRoot)),
        (
            "bee",
            Some(ContainerError::NonNumericUser("bee".to_owned())),
        ),
        ("1000:1000", None),
    ] {
        let image = serde_json::json!({"Cmd": ["/run"], "User": user});
        let spec = built(serde_json::json!({}), strict.clone(), image);
        assert_eq!(spec.err(), error, "{user}");
    }
    let image = serde_json::json!({"Cmd": ["/run"], "User": "1000"});
    let asks = serde_json::json!({"securityContext": {"runAsUser": 0}});
    let spec = built(asks, strict, image);
    assert_eq!(spec.err(), Some(ContainerError::AsksForRoot));
}

#[test]
fn standard_files_give_way_to_volumes() {
    let image = serde_json::json!({"Cmd": ["/run"]});
    let container = serde_json::json!({"terminationMessagePath": "/msg", "volumeMounts":
        [{"name": "v", "mountPath": "/etc/hosts"}]});
    let spec = built(container, serde_json::json!({}), image).unwrap();
    let places: Vec<&str> = spec
        .mounts
        .iter()
        .map(|mount| mount.destination.to_str().unwrap())
        .collect();
    assert_eq!(places, ["/etc/hostname", "/etc/resolv.conf", "/msg"]);
}

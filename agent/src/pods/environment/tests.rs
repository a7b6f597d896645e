//! References, order, service variables.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::ObjectName;

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn objects() -> Objects {
    let objects = Objects::default();
    let map = serde_json::json!({"data": {"a": "from-map", "b": "two"}});
    objects.set_config_map(name("ns", "map"), serde_json::from_value(map).unwrap());
    let secret = serde_json::json!({"data": {"key": "c2VjcmV0"}});
    objects.set_secret(
        name("ns", "secret"),
        serde_json::from_value(secret).unwrap(),
    );
    objects.set_config_map(name("ns", "none"), None);
    objects.set_secret(name("ns", "none"), None);
    objects
}

fn env(
    container: serde_json::Value,
    objects: &Objects,
) -> Result<Vec<(String, String)>, ConfigError> {
    env_of(container, serde_json::json!(null), objects)
}

fn env_of(
    mut container: serde_json::Value,
    links: serde_json::Value,
    objects: &Objects,
) -> Result<Vec<(String, String)>, ConfigError> {
    container["name"] = "c".into();
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"containers": [container], "enableServiceLinks": links},
    }))
    .unwrap();
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    environment(
        &pod,
        &container,
        objects,
        &Surroundings::default(),
        Path::new("/none"),
    )
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn references_are_resolved_in_order() {
    let container = serde_json::json!({
        "envFrom": [{"configMapRef": {"name": "map"}, "prefix": "P_"}],
        "env": [
            {"name": "X", "value": "1"},
            {"name": "Y", "value": "$(X)$(P_a)$(Z)"},
            {"name": "Z", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "key"}}},
            {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "P_b", "value": "replaced"},
        ],
    });
    assert_eq!(
        env(container, &objects()).unwrap(),
        pairs(&[
            ("P_a", "from-map"),
            ("P_b", "replaced"),
            ("X", "1"),
            ("Y", "1from-map$(Z)"),
            ("Z", "secret"),
            ("N", "p"),
        ])
    );
}

#[test]
fn what_is_missing_is_named_unless_it_is_optional() {
    let reference = |kind: &str, object: &str, key: &str, optional: bool| {
        serde_json::json!({"env": [{"name": "A", "valueFrom":
            {kind: {"name": object, "key": key, "optional": optional}}}]})
    };
    for (kind, object, key, message) in [
        (
            "configMapKeyRef",
            "none",
            "a",
            "configmap \"none\" not found",
        ),
        ("secretKeyRef", "none", "a", "secret \"none\" not found"),
        (
            "configMapKeyRef",
            "map",
            "x",
            "couldn't find key x in ConfigMap ns/map",
        ),
        (
            "secretKeyRef",
            "secret",
            "x",
            "couldn't find key x in Secret ns/secret",
        ),
    ] {
        let error = env(reference(kind, object, key, false), &objects()).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(
            env(reference(kind, object, key, true), &objects()),
            Ok(Vec::new())
        );
    }
    // Optional or not: what was not heard of may be there.
    let unheard = env(reference("secretKeyRef", "other", "a", true), &objects());
    assert!(matches!(unheard, Err(ConfigError::NotReceived { .. })));
}

#[test]
fn services_become_variables() {
    let objects = objects();
    let facts = |ip: &str, port: u16, port_name: &str| ServiceFacts {
        cluster_ip: ip.parse().unwrap(),
        ports: vec![(port_name.to_owned(), "TCP", port)],
    };
    objects.set_service(
        name("default", "kubernetes"),
        Some(facts("10.96.0.1", 443, "https")),
    );
    objects.set_service(name("ns", "my-db"), Some(facts("10.96.0.2", 5432, "")));
    objects.set_service(name("other", "far"), Some(facts("10.96.0.3", 1, "")));
    let all = env(
        serde_json::json!({"env": [{"name": "U", "value": "$(MY_DB_SERVICE_HOST)"}]}),
        &objects,
    );
    let all: BTreeMap<String, String> = all.unwrap().into_iter().collect();
    for (variable, value) in [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
        ("MY_DB_SERVICE_HOST", "10.96.0.2"),
        ("MY_DB_SERVICE_PORT", "5432"),
        ("U", "10.96.0.2"),
    ] {
        assert_eq!(
            all.get(variable).map(String::as_str),
            Some(value),
            "{variable}"
        );
    }
    assert!(!all.keys().any(|variable| variable.starts_with("FAR")));
    // Without links only the API server is told of.
    let few = env_of(serde_json::json!({}), serde_json::json!(false), &objects).unwrap();
    assert!(
        few.iter()
            .all(|(variable, _)| variable.starts_with("KUBERNETES_"))
    );
}

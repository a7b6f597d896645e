//! Tests of `registry::pod_account`.
#![allow(clippy::unwrap_used)]

use super::*;

fn pod() -> Value {
    json!({"spec": {
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}],
    }})
}

#[test]
fn every_container_without_a_mount_of_its_own_gets_the_token() {
    let mut pod = pod();
    complete(&mut pod, &json!({}), "kube-api-access-abcde");
    let spec = &pod["spec"];
    for container in [&spec["initContainers"][0], &spec["containers"][0]] {
        assert_eq!(
            container["volumeMounts"],
            json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT}])
        );
    }
    assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"]["path"], "token");
    assert_eq!(sources[1]["configMap"]["name"], ROOT_CA);
    // What is there already is taken again.
    complete(&mut pod, &json!({}), "kube-api-access-other");
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn pod_and_account_may_say_no_and_the_pod_has_the_last_word() {
    for (on_pod, on_account, wanted) in [
        (Value::Null, json!(false), false),
        (json!(true), json!(false), true),
        (json!(false), json!(true), false),
        (Value::Null, Value::Null, true),
    ] {
        let mut pod = pod();
        pod["spec"]["automountServiceAccountToken"] = on_pod.clone();
        let account = json!({"automountServiceAccountToken": on_account});
        complete(&mut pod, &account, "kube-api-access-abcde");
        assert_eq!(
            pod["spec"]["volumes"].is_array(),
            wanted,
            "{on_pod} {on_account}"
        );
    }
}

#[test]
fn pull_secrets_of_the_account_are_for_pods_without_any() {
    let account = json!({"imagePullSecrets": [{"name": "registry"}]});
    let mut plain = pod();
    complete(&mut plain, &account, "v");
    assert_eq!(
        plain["spec"]["imagePullSecrets"],
        account["imagePullSecrets"]
    );
    let mut own = pod();
    own["spec"]["imagePullSecrets"] = json!([{"name": "mine"}]);
    complete(&mut own, &account, "v");
    assert_eq!(own["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
}

//! What quotas say to a write.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::kinds;

fn pods() -> &'static Kind<'static> {
    kinds::by_plural("", "v1", "pods").unwrap()
}

fn pod(cpu: &str) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "2"}}}]}})
}

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"name": "q", "namespace": "n", "resourceVersion": "7"},
        "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

#[test]
fn a_pod_takes_what_it_asks_for() {
    let quota = quota(
        json!({"requests.cpu": "1", "pods": "2"}),
        json!({"requests.cpu": "500m", "pods": "1"}),
    );
    let changed = charged(&quota, pods(), &pod("250m"), None)
        .unwrap()
        .unwrap();
    assert_eq!(
        changed["status"]["used"],
        json!({"requests.cpu": "750m", "pods": "2"})
    );
    let refused = charged(&quota, pods(), &pod("600m"), None).unwrap_err();
    assert_eq!(
        refused,
        "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1"
    );
    // Only what is more than before counts.
    assert_eq!(
        charged(&quota, pods(), &pod("250m"), Some(&pod("300m"))).unwrap(),
        None
    );
}

#[test]
fn what_is_limited_must_be_said() {
    let quota = quota(
        json!({"limits.memory": "1Gi", "requests.cpu": "1"}),
        json!({"requests.cpu": "0"}),
    );
    assert_eq!(
        charged(&quota, pods(), &pod("1"), None).unwrap_err(),
        "failed quota: q: must specify limits.memory for: c"
    );
}

#[test]
fn a_quota_that_nobody_has_counted_yet_refuses() {
    let quota = quota(json!({"pods": "1"}), json!({}));
    assert_eq!(
        charged(&quota, pods(), &pod("1"), None).unwrap_err(),
        "status unknown for quota: q, resources: pods"
    );
}

#[test]
fn scopes_choose_pods() {
    let mut of_terminating = quota(json!({"pods": "1"}), json!({"pods": "1"}));
    of_terminating["spec"]["scopes"] = json!(["Terminating"]);
    assert_eq!(
        charged(&of_terminating, pods(), &pod("1"), None).unwrap(),
        None
    );
    let mut terminating = pod("1");
    terminating["spec"]["activeDeadlineSeconds"] = 5.into();
    assert!(charged(&of_terminating, pods(), &terminating, None).is_err());
}

#[test]
fn services_take_their_node_ports() {
    let services = kinds::by_plural("", "v1", "services").unwrap();
    let used = usage::of(
        services,
        &json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
    );
    assert_eq!(used["services.nodeports"].to_string(), "2");
    assert_eq!(used["count/services"].to_string(), "1");
    let apps = kinds::by_plural("apps", "v1", "deployments").unwrap();
    assert!(usage::of(apps, &json!({})).contains_key("count/deployments.apps"));
}

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
fn what_is_asked_for_the_pod_as_a_whole_is_what_it_takes() {
    let quota = quota(
        json!({"requests.cpu": "2", "limits.memory": "1Gi"}),
        json!({"requests.cpu": "0", "limits.memory": "0"}),
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "512Mi"}},
        "overhead": {"cpu": "100m"},
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}, {"name": "d"}]}});
    let changed = charged(&quota, pods(), &pod, None).unwrap().unwrap();
    assert_eq!(
        changed["status"]["used"],
        json!({"requests.cpu": "1600m", "limits.memory": "512Mi"})
    );
}

#[test]
fn a_resize_takes_as_well() {
    assert!(concerns(pods(), "resize") && !concerns(pods(), "status"));
    let deployments = kinds::by_plural("apps", "v1", "deployments").unwrap();
    assert!(!concerns(deployments, "resize"));
}

#[test]
fn a_pod_that_its_node_does_not_end_takes_nothing() {
    let mut late = pod("1");
    late["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
    late["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    let taken = |pod: &Value| usage::of(pods(), pod).contains_key("pods");
    assert!(!taken(&late));
    late["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z".into();
    assert!(taken(&late));
    assert!(usage::of(pods(), &late).contains_key("count/pods"));
}

#[test]
fn claims_are_chosen_by_their_attributes_class() {
    let claims = kinds::by_plural("", "v1", "persistentvolumeclaims").unwrap();
    let mut quota = quota(json!({"persistentvolumeclaims": "1"}), json!({}));
    let mut is_in = |operator: &str, values: Value, claim: &Value| {
        quota["spec"]["scopeSelector"] = json!({"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": operator, "values": values}]});
        (
            usage::is_in_scope(&quota, claims, claim),
            usage::is_in_scope(&quota, pods(), claim),
        )
    };
    let plain = json!({"spec": {}});
    let gold = json!({"spec": {"volumeAttributesClassName": "gold"},
        "status": {"currentVolumeAttributesClassName": "silver"}});
    assert_eq!(is_in("Exists", json!([]), &plain), (false, false));
    assert_eq!(is_in("Exists", json!([]), &gold), (true, false));
    assert_eq!(is_in("In", json!(["silver"]), &gold), (true, false));
    assert_eq!(is_in("In", json!(["bronze"]), &gold), (false, false));
    assert_eq!(is_in("NotIn", json!(["gold"]), &plain), (true, false));
    assert_eq!(
        is_in("NotIn", json!(["gold", "silver"]), &gold),
        (false, false)
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

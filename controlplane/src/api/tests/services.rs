//! Addresses and ports of Services.

use std::collections::HashSet;

use serde_json::json;

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": spec});
    if service["spec"]["ports"].is_null() {
        service["spec"]["ports"] = json!([{"port": 80}]);
    }
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_services_get_one_address_and_all_are_given_back() {
    let member = member().await;
    let known = member.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(known["spec"]["clusterIP"], "10.96.0.1");
    let creates = (0..40).map(|n| {
        let member = &member;
        async move {
            member
                .post(
                    SERVICES,
                    &service(&format!("s{n}"), json!({"type": "NodePort"})),
                )
                .await
                .ok()
        }
    });
    let made = futures::future::join_all(creates).await;
    let addresses: HashSet<&str> = made
        .iter()
        .map(|s| s["spec"]["clusterIP"].as_str().unwrap())
        .collect();
    let ports: HashSet<u64> = made
        .iter()
        .map(|s| s["spec"]["ports"][0]["nodePort"].as_u64().unwrap())
        .collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));

    let address = made[0]["spec"]["clusterIP"].as_str().unwrap();
    let taken = member
        .post(SERVICES, &service("t", json!({"clusterIP": address})))
        .await;
    assert_eq!(taken.code, 422);
    assert_eq!(
        taken.message(),
        format!(
            "Service \"t\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed to allocate IP \
             {address}: provided IP is already allocated"
        )
    );
    let port = made[0]["spec"]["ports"][0]["nodePort"].clone();
    let spec = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
    let taken = member.post(SERVICES, &service("t", spec)).await;
    assert_eq!(
        taken.message(),
        format!(
            "Service \"t\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated"
        )
    );
    member
        .delete(&format!("{SERVICES}/s0"), &Value::Null)
        .await
        .ok();
    let now_free =
        json!({"type": "NodePort", "clusterIP": address, "ports": [{"port": 1, "nodePort": port}]});
    member.post(SERVICES, &service("t", now_free)).await.ok();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn types_change_and_allocations_follow() {
    let member = member().await;
    let path = format!("{SERVICES}/s");
    let made = member
        .post(SERVICES, &service("s", json!({"type": "NodePort"})))
        .await
        .ok();
    let port = made["spec"]["ports"][0]["nodePort"].clone();
    // A PUT that leaves out what was allocated keeps it.
    let kept = member
        .put(
            &path,
            &service("s", json!({"type": "NodePort", "ports": [{"port": 80}]})),
        )
        .await
        .ok();
    assert_eq!(kept["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    let plain = member
        .patch(
            &path,
            "merge-patch",
            &json!({"spec": {"type": "ClusterIP"}}),
        )
        .await
        .ok();
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    let other = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
    member.post(SERVICES, &service("other", other)).await.ok();
    let moved = member
        .patch(
            &path,
            "merge-patch",
            &json!({"spec": {"clusterIP": "10.96.0.77"}}),
        )
        .await;
    assert_eq!(moved.code, 422, "{}", moved.json);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let external = member.patch(&path, "merge-patch", &external).await.ok();
    assert!(
        external["spec"]["clusterIP"]
            .as_str()
            .unwrap_or("")
            .is_empty()
    );
    let reuse = json!({"clusterIP": made["spec"]["clusterIP"]});
    member.post(SERVICES, &service("reuse", reuse)).await.ok();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headless_dual_stack_and_dry_run() {
    let member = member().await;
    let headless = member
        .post(
            SERVICES,
            &service("h", json!({"clusterIP": "None", "selector": {"a": "b"}})),
        )
        .await
        .ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let dual = member.post(SERVICES, &service("d", dual)).await.ok();
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let addresses = dual["spec"]["clusterIPs"].as_array().unwrap();
    assert!(
        addresses[1].as_str().unwrap().starts_with("fd00:96::"),
        "{addresses:?}"
    );
    let six = member
        .post(SERVICES, &service("six", json!({"ipFamilies": ["IPv6"]})))
        .await
        .ok();
    assert!(six["spec"]["clusterIP"].as_str().unwrap().contains(':'));
    let dry = json!({"clusterIP": "10.96.0.200"});
    member
        .post(
            &format!("{SERVICES}?dryRun=All"),
            &service("x", dry.clone()),
        )
        .await
        .ok();
    member.post(SERVICES, &service("x", dry)).await.ok();
    let outside = member
        .post(SERVICES, &service("y", json!({"clusterIP": "192.0.2.1"})))
        .await;
    assert_eq!(outside.code, 422);
    let shared = json!({"type": "NodePort", "ports": [
        {"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]});
    let shared = member.post(SERVICES, &service("dns", shared)).await.ok();
    let ports = shared["spec"]["ports"].as_array().unwrap();
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
    member.controller.shutdown().await;
}

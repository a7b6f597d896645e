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
async fn the_service_kubernetes_has_both_families_and_endpoints_where_others_reach_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    settings.listen = "[::]:0".parse().unwrap();
    let controller = Controller::start(settings).await.unwrap();
    let port = controller.address().port();
    let kubeconfig = controller.admin_kubeconfig(&format!("https://127.0.0.1:{port}"));
    let client = client(&kubeconfig).await;
    let get = async |path: &str| {
        let answer = send(&client, Method::GET, path, &[], "").await;
        answer.ok()
    };
    let known = get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(
        known["spec"]["clusterIPs"],
        json!(["10.96.0.1", "fd00:96::1"])
    );
    assert_eq!(known["spec"]["ipFamilyPolicy"], "PreferDualStack");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slices = get(&format!(
        "{slices}?labelSelector=kubernetes.io/service-name%3Dkubernetes"
    ))
    .await;
    // One for each family that this machine has a way out by.
    let slices = slices["items"].as_array().unwrap();
    let mut families = HashSet::new();
    for slice in slices {
        assert!(families.insert(slice["addressType"].as_str().unwrap()));
        assert_eq!(slice["ports"][0]["port"], port);
        let address = slice["endpoints"][0]["addresses"][0].as_str().unwrap();
        let address: std::net::IpAddr = address.parse().unwrap();
        assert!(!address.is_loopback() && !address.is_unspecified());
        assert_eq!(address.is_ipv4(), slice["addressType"] == "IPv4");
    }
    controller.shutdown().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_outside_the_configured_range_is_refused_and_an_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let wide = Controller::start(config(dir.path())).await.unwrap();
    let member = Member::of(wide, dir).await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 32000}]});
    let old = member.post(SERVICES, &service("old", spec)).await.ok();
    let member = member
        .restarted(|config| config.node_ports = 31000..=31003)
        .await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30999}]});
    let refused = member.post(SERVICES, &service("new", spec)).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message(),
        "Service \"new\" is invalid: spec.ports[0].nodePort: Invalid value: 30999: provided port is not in \
         the valid range. The range of valid ports is 31000-31003"
    );
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let path = format!("{SERVICES}/old");
    let kept = member.patch(&path, "merge-patch", &labelled).await.ok();
    assert_eq!(kept["spec"]["ports"], old["spec"]["ports"]);
    for number in 0..4 {
        let name = format!("n{number}");
        let made = member
            .post(SERVICES, &service(&name, json!({"type": "NodePort"})))
            .await
            .ok();
        let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        assert!((31000..=31003).contains(&port), "{port}");
    }
    let full = member
        .post(SERVICES, &service("n4", json!({"type": "NodePort"})))
        .await;
    assert_eq!(full.code, 500);
    assert!(
        full.message().contains("range is full"),
        "{}",
        full.message()
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_node_port_is_given_kept_and_given_back() {
    let member = member().await;
    let path = format!("{SERVICES}/lb");
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = member.post(SERVICES, &service("lb", local)).await.ok();
    let port = made["spec"]["healthCheckNodePort"].clone();
    assert!(port.as_u64().unwrap() >= 30000);
    assert_ne!(port, made["spec"]["ports"][0]["nodePort"]);
    let taken = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port});
    let taken = member.post(SERVICES, &service("other", taken)).await;
    assert_eq!(
        taken.message(),
        format!(
            "Service \"other\" is invalid: spec.healthCheckNodePort: Invalid value: {port}: provided port is \
             already allocated"
        )
    );
    let moved = json!({"spec": {"healthCheckNodePort": 31999}});
    let moved = member.patch(&path, "merge-patch", &moved).await;
    assert_eq!(
        moved.message(),
        "Service \"lb\" is invalid: spec.healthCheckNodePort: Invalid value: 31999: field is immutable"
    );
    let cluster = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    let cluster = member.patch(&path, "merge-patch", &cluster).await.ok();
    assert!(cluster["spec"]["healthCheckNodePort"].is_null());
    let free = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
    member.post(SERVICES, &service("free", free)).await.ok();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_without_node_ports_has_those_that_were_asked_for_only() {
    let member = member().await;
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let none = member.post(SERVICES, &service("none", none)).await.ok();
    assert!(none["spec"]["ports"][0].get("nodePort").is_none());
    let one = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "ports": [{"port": 1, "nodePort": 30123, "name": "a"}, {"port": 2, "name": "b"}]});
    let one = member.post(SERVICES, &service("one", one)).await.ok();
    assert_eq!(one["spec"]["ports"][0]["nodePort"], 30123);
    assert!(one["spec"]["ports"][1].get("nodePort").is_none());
    let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30123}]});
    let taken = member.post(SERVICES, &service("taken", taken)).await;
    assert_eq!(taken.code, 422, "what was asked for is marked as taken");
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_upgraded_to_dual_stack_and_back() {
    let member = member().await;
    let path = format!("{SERVICES}/s");
    let single = member.post(SERVICES, &service("s", json!({}))).await.ok();
    let prefer = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let dual = member.patch(&path, "merge-patch", &prefer).await.ok();
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(dual["spec"]["clusterIPs"][0], single["spec"]["clusterIP"]);
    let second = dual["spec"]["clusterIPs"][1].clone();
    assert!(
        second.as_str().unwrap().starts_with("fd00:96::"),
        "{second}"
    );
    let other = json!({"spec": {"clusterIPs": [single["spec"]["clusterIP"], "fd00:96::77"]}});
    let other = member.patch(&path, "merge-patch", &other).await;
    assert_eq!(other.code, 422, "{}", other.json);
    let back = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let back = member.patch(&path, "merge-patch", &back).await.ok();
    assert_eq!(back["spec"]["clusterIPs"], single["spec"]["clusterIPs"]);
    assert_eq!(back["spec"]["ipFamilies"], json!(["IPv4"]));
    let reuse = json!({"ipFamilies": ["IPv6"], "clusterIP": second});
    member.post(SERVICES, &service("reuse", reuse)).await.ok();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_load_balancer_is_checked_and_goes_with_the_type() {
    let member = member().await;
    let path = format!("{SERVICES}/lb");
    member
        .post(SERVICES, &service("lb", json!({"type": "LoadBalancer"})))
        .await
        .ok();
    let status = format!("{path}/status");
    let with = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
    let good = member
        .patch(&status, "merge-patch", &with(json!({"ip": "203.0.113.7"})))
        .await
        .ok();
    assert_eq!(
        good["status"]["loadBalancer"]["ingress"][0]["ipMode"],
        "VIP"
    );
    for (bad, field) in [
        (json!({"ip": "203.0.113"}), "ingress[0].ip"),
        (
            json!({"ip": "203.0.113.7", "ipMode": "Magic"}),
            "ingress[0].ipMode",
        ),
        (
            json!({"hostname": "a.b", "ipMode": "VIP"}),
            "ingress[0].ipMode",
        ),
        (json!({"hostname": "203.0.113.7"}), "ingress[0].hostname"),
    ] {
        let refused = member.patch(&status, "merge-patch", &with(bad)).await;
        assert_eq!(refused.code, 422, "{}", refused.json);
        assert!(refused.message().contains(field), "{}", refused.message());
    }
    let plain = json!({"spec": {"type": "ClusterIP"}});
    let plain = member.patch(&path, "merge-patch", &plain).await.ok();
    assert_eq!(plain["status"]["loadBalancer"], json!({}));
    let late = with(json!({"ip": "203.0.113.7"}));
    let late = member.patch(&status, "merge-patch", &late).await;
    assert!(
        late.message()
            .contains("may only be used when `spec.type` is"),
        "{}",
        late.message()
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn allocations_that_parted_from_their_services_are_brought_back() {
    use crate::registry::{Registry, ServiceRanges};
    use crate::store::{Op, Txn};
    let member = member().await;
    let made = member
        .post(SERVICES, &service("s", json!({"type": "NodePort"})))
        .await
        .ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let store = member.controller.store_for_tests();
    let ranges = ServiceRanges {
        cidrs: Vec::new(),
        node_ports: 30000..=32767,
    };
    let (registry, _recorder) = Registry::new(store.clone(), ranges);
    let clean = registry.repair_allocations().await.unwrap();
    assert_eq!((clean.leaked, clean.missing, clean.double), (0, 0, 0));
    let txn = Txn {
        compares: Vec::new(),
        ops: vec![
            Op::Put {
                key: "/allocations/cluster-ips/10.96.0.99".into(),
                value: "{}".into(),
            },
            Op::Delete {
                key: format!("/allocations/cluster-ips/{address}"),
            },
        ],
    };
    store.txn(txn).await.unwrap();
    let repaired = registry.repair_allocations().await.unwrap();
    assert_eq!((repaired.leaked, repaired.missing), (1, 1));
    let free = json!({"clusterIP": "10.96.0.99"});
    member.post(SERVICES, &service("free", free)).await.ok();
    let taken = json!({"clusterIP": address});
    assert_eq!(member.post(SERVICES, &service("t", taken)).await.code, 422);
    member.controller.shutdown().await;
}

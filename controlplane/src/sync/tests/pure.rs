//! Conversions, references, status merging and parcels.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeStatus, Service, Taint};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;
use proto::node::v1::{ObjectChange, PodChange, ServiceChange};

use super::super::batch::{Own, Parcel, Shared};
use super::super::references::{Kind, Reference, references};
use super::*;

fn pod_of(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec}))
        .unwrap()
}

#[test]
fn every_way_to_refer_to_an_object_is_found() {
    let pod = pod_of(json!({
        "serviceAccountName": "robot",
        "runtimeClassName": "fast",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"name": "c", "envFrom": [
            {"configMapRef": {"name": "env-map"}}, {"secretRef": {"name": "env-secret"}}]}],
        "initContainers": [{"name": "i", "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "key-map", "key": "k"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "key-secret", "key": "k"}}}]}],
        "volumes": [
            {"name": "1", "configMap": {"name": "volume-map"}},
            {"name": "2", "secret": {"secretName": "volume-secret"}},
            {"name": "3", "projected": {"sources": [
                {"configMap": {"name": "projected-map"}}, {"secret": {"name": "projected-secret"}}]}},
            {"name": "4", "emptyDir": {}}],
    }));
    let pull = |account: &str| vec![format!("pull-of-{account}")];
    let found: Vec<_> = references(&pod, &pull, &|_| None)
        .into_iter()
        .map(|reference| format!("{:?} {}", reference.kind, reference.name))
        .collect();
    assert_eq!(
        found,
        [
            "ConfigMap env-map",
            "ConfigMap key-map",
            "ConfigMap projected-map",
            "ConfigMap volume-map",
            "Secret env-secret",
            "Secret key-secret",
            "Secret projected-secret",
            "Secret pull",
            "Secret pull-of-robot",
            "Secret volume-secret",
            "ServiceAccount robot",
            "RuntimeClass fast",
        ]
    );
    let nothing = references(&Pod::default(), &|_| vec![], &|_| None);
    assert!(nothing.is_empty());
    let default = references(&pod_of(json!({"containers": []})), &|_| vec![], &|_| None);
    assert_eq!(
        default,
        [Reference::new(Kind::ServiceAccount, "ns", "default")].into()
    );
}

#[test]
fn services_and_slices_are_converted_with_documented_defaults() {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"uid": "u"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "externalIPs": ["192.0.2.7", "nonsense"], "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "x"}]}},
    }))
    .unwrap();
    let converted = convert::service(&service);
    assert_eq!(
        converted
            .cluster_ips
            .iter()
            .map(bytes::Bytes::len)
            .collect::<Vec<_>>(),
        [4, 16]
    );
    assert_eq!(
        (
            converted.external_ips.len(),
            converted.load_balancer_ips.len()
        ),
        (1, 1)
    );
    assert_eq!(converted.session_affinity_seconds, 10_800);
    assert!(converted.external_traffic_local && !converted.internal_traffic_local);
    assert_eq!(converted.ports[0].protocol, 17);
    let headless: Service =
        serde_json::from_value(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}))
            .unwrap();
    let headless = convert::service(&headless);
    assert!(headless.headless && headless.cluster_ips.is_empty());
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p"}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}],
    }))
    .unwrap();
    let slice = convert::endpoint_slice(&slice);
    let shown: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.ready, endpoint.serving, endpoint.terminating))
        .collect();
    assert_eq!(shown, [(true, true, false), (false, true, true)]);
    assert_eq!(
        (
            slice.service.as_str(),
            slice.endpoints[0].target_pod.as_str()
        ),
        ("web", "p")
    );
}

#[test]
fn addresses_behind_a_proxy_stay_away_and_the_older_annotation_counts() {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "lb", "annotations": {
            "service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, 192.0.2.0/24"}},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": "203.0.113.2", "ipMode": "Proxy"},
            {"ip": "203.0.113.3"}, {"hostname": "lb.example"}]}},
    }))
    .unwrap();
    let converted = convert::service(&service);
    let addresses: Vec<&[u8]> = converted
        .load_balancer_ips
        .iter()
        .map(AsRef::as_ref)
        .collect();
    assert_eq!(addresses, [[203, 0, 113, 1], [203, 0, 113, 3]]);
    assert_eq!(
        converted.load_balancer_source_ranges,
        ["10.0.0.0/8", "192.0.2.0/24"]
    );
}

#[test]
fn a_status_report_keeps_what_others_wrote_and_never_revives_a_pod() {
    let mut pod = pod_of(json!({"containers": []}));
    pod.status = Some(
        serde_json::from_value(json!({
            "phase": "Running", "qosClass": "Burstable",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
        }))
        .unwrap(),
    );
    let report: PodStatus = serde_json::from_value(
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
    )
    .unwrap();
    let merged = podstatus::merged(&pod, report.clone()).unwrap();
    let status = merged.status.clone().unwrap();
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect();
    assert_eq!(conditions, [("PodScheduled", "True"), ("Ready", "True")]);
    assert_eq!(
        podstatus::merged(&merged, report.clone()),
        None,
        "the same again is no write"
    );
    let mut ended = merged;
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    assert_eq!(podstatus::merged(&ended, report), None);
}

#[test]
fn registration_respects_what_others_set() {
    let mut reported = node("n1");
    reported
        .status
        .as_mut()
        .unwrap()
        .conditions
        .as_mut()
        .unwrap()[0]
        .status = "False".into();
    let made = register::new_node("n1", &reported);
    let taints = made.spec.as_ref().unwrap().taints.as_ref().unwrap();
    assert_eq!(taints[0].key, "node.kubernetes.io/not-ready");
    assert_eq!(
        register::new_node("n1", &node("n1")).spec.unwrap().taints,
        None
    );

    let mut stored = made;
    stored
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("theirs".into(), "1".into());
    let spec = stored.spec.as_mut().unwrap();
    spec.pod_cidr = Some("10.0.0.0/24".into());
    spec.taints = Some(vec![Taint {
        key: "theirs".into(),
        ..Taint::default()
    }]);
    assert_eq!(register::introduced(&stored, &reported), None);
    let mut renamed = reported.clone();
    renamed
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("zone".into(), "a".into());
    let changed = register::introduced(&stored, &renamed).unwrap();
    assert_eq!(changed.spec, stored.spec);
    assert_eq!(changed.metadata.labels.as_ref().unwrap().len(), 3);
    let status = NodeStatus::default();
    let kept = register::with_status(&stored, status).unwrap();
    assert_eq!(
        kept.status.unwrap().conditions.unwrap().len(),
        1,
        "a condition of others stays"
    );
    let amount = |text: &str| Quantity(text.to_owned());
    let amounts = |all: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        let all = all.iter();
        all.map(|(name, text)| ((*name).to_owned(), amount(text)))
            .collect()
    };
    stored.status.as_mut().unwrap().capacity = Some(amounts(&[
        ("cpu", "2"),
        ("example.com/dongle", "3"),
        ("gone", "1"),
    ]));
    let status = NodeStatus {
        capacity: Some(amounts(&[("cpu", "4")])),
        ..NodeStatus::default()
    };
    let kept = register::with_status(&stored, status).unwrap();
    assert_eq!(
        kept.status.unwrap().capacity.unwrap(),
        amounts(&[("cpu", "4"), ("example.com/dongle", "3")]),
        "extended resources are not the node's to take away"
    );
}

proptest! {
    /// Nothing is lost or doubled, messages stay small, and only the last claims the revision.
    #[test]
    fn parcels_are_cut_into_bounded_messages(
        services in 0_usize..700,
        sizes in proptest::collection::vec(0_usize..1_500_000, 0..12),
        full: bool,
    ) {
        let shared = Shared::services(
            (0..services)
                .map(|number| ServiceChange { name: number.to_string(), ..ServiceChange::default() }),
        );
        let own = Own {
            pods: sizes.iter().map(|size| PodChange {
                pod_json: vec![0; *size].into(), ..PodChange::default()
            }).collect(),
            objects: sizes.iter().map(|size| ObjectChange {
                object_json: vec![0; *size / 2].into(), ..ObjectChange::default()
            }).collect(),
        };
        let parcel = Parcel { full, revision: 9, since: 4, shared: Arc::new(shared), own };
        let messages = parcel.messages();
        let batches: Vec<_> = messages.iter().map(|message| decoded(&message.parts.concat())).collect();
        let last = batches.len() - 1;
        for (position, batch) in batches.iter().enumerate() {
            prop_assert_eq!(batch.full, full);
            prop_assert_eq!(batch.last, position == last);
            prop_assert_eq!(batch.revision, if position == last { 9 } else { 4 });
            prop_assert!(batch.services.len() <= 200);
            let bytes: usize = batch.pods.iter().map(|pod| pod.pod_json.len()).sum();
            prop_assert!(batch.pods.len() <= 1 || bytes <= 1 << 20);
        }
        let all: Vec<_> = batches.iter().flat_map(|batch| &batch.services)
            .map(|service| service.name.parse::<usize>().unwrap()).collect();
        prop_assert_eq!(all, (0..services).collect::<Vec<_>>());
        let pods: Vec<_> = batches.iter().flat_map(|batch| &batch.pods)
            .map(|pod| pod.pod_json.len()).collect();
        prop_assert_eq!(pods, sizes);
    }
}

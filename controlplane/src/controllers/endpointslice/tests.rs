//! Tests of `controllers::endpointslice`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{
    ContainerPort, EndpointAddress, EndpointPort, EndpointSubset, PodIP, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::controllers::fixtures::{at, labels, metadata, pod};

fn service() -> Service {
    Service {
        metadata: metadata("web"),
        spec: Some(ServiceSpec {
            selector: Some(labels(&[("app", "web")])),
            cluster_ip: Some("10.96.0.9".into()),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(IntOrString::Int(8080)),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn addressed(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
    let mut pod = pod(name, Some("n1"), ready.then_some(1));
    let status = pod.status.as_mut().unwrap();
    status.pod_ip = Some(ip.into());
    status.pod_ips = Some(vec![PodIP { ip: ip.into() }]);
    Arc::new(pod)
}

fn node(name: &str) -> Option<endpoint::Place> {
    let zone = Some("z1".into());
    (name != "gone").then_some(endpoint::Place { zone })
}

fn topology() -> endpoint::Topology<'static> {
    endpoint::Topology {
        node: &node,
        cpus: None,
    }
}

/// What the slices are once the changes are made.
fn applied(existing: &[Arc<EndpointSlice>], changes: &pack::Changes) -> Vec<Arc<EndpointSlice>> {
    let mut all: Vec<_> = existing
        .iter()
        .filter(|slice| !changes.delete.contains(slice))
        .map(|slice| {
            changes
                .update
                .iter()
                .find(|new| new.metadata.name == slice.metadata.name)
                .map_or_else(|| Arc::clone(slice), |new| Arc::new(new.clone()))
        })
        .collect();
    for (number, slice) in changes.create.iter().enumerate() {
        let mut slice = slice.clone();
        slice.metadata.name = Some(format!("web-{}-{number}", existing.len()));
        all.push(Arc::new(slice));
    }
    all
}

fn plan(pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> pack::Changes {
    endpoint::plan(&service(), pods, existing, &topology())
}

#[test]
fn an_endpoint_says_all_about_its_pod() {
    let changes = plan(&[addressed("a", "10.0.0.1", true)], &[]);
    let slice = &changes.create[0];
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!(endpoint.addresses, ["10.0.0.1"]);
    assert_eq!(endpoint.node_name.as_deref(), Some("n1"));
    assert_eq!(endpoint.zone.as_deref(), Some("z1"));
    assert_eq!(
        endpoint.target_ref.as_ref().unwrap().name.as_deref(),
        Some("a")
    );
    let slices = applied(&[], &changes);
    assert_eq!(
        plan(&[addressed("a", "10.0.0.1", true)], &slices),
        pack::Changes::default(),
        "nothing to do the second time"
    );
}

#[test]
fn conditions_follow_readiness_termination_and_publish_not_ready() {
    let conditions = |service: &Service, pod: &Arc<Pod>| {
        let changes = endpoint::plan(service, std::slice::from_ref(pod), &[], &topology());
        let endpoint = changes.create[0].endpoints.as_ref().unwrap()[0].clone();
        let conditions = endpoint.conditions.unwrap();
        (
            conditions.ready.unwrap(),
            conditions.serving.unwrap(),
            conditions.terminating.unwrap(),
        )
    };
    let ready = addressed("a", "10.0.0.1", true);
    let waiting = addressed("a", "10.0.0.1", false);
    let mut ending = ready.as_ref().clone();
    ending.metadata.deletion_timestamp = Some(Time(at(9)));
    let ending = Arc::new(ending);
    assert_eq!(conditions(&service(), &ready), (true, true, false));
    assert_eq!(conditions(&service(), &waiting), (false, false, false));
    assert_eq!(conditions(&service(), &ending), (false, true, true));
    let mut open = service();
    open.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    assert_eq!(conditions(&open, &waiting), (true, false, false));
}

#[test]
fn pods_without_address_or_finished_are_left_out_but_an_empty_slice_stays() {
    let mut finished = addressed("b", "10.0.0.2", true).as_ref().clone();
    finished.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let pods = [Arc::new(pod("a", Some("n1"), None)), Arc::new(finished)];
    let changes = plan(&pods, &[]);
    assert_eq!(changes.create.len(), 1);
    assert_eq!(changes.create[0].endpoints.as_deref(), Some(&[][..]));
    let slices = applied(&[], &changes);
    assert_eq!(plan(&pods, &slices), pack::Changes::default());
    let changes = plan(&[addressed("a", "10.0.0.1", true)], &slices);
    assert_eq!((changes.create.len(), changes.delete.len()), (1, 1));
}

#[test]
fn a_change_of_one_pod_writes_one_slice() {
    let mut pods: Vec<_> = (0..250)
        .map(|n| {
            addressed(
                &format!("p{n:03}"),
                &format!("10.0.{}.{}", n / 100, n % 100),
                true,
            )
        })
        .collect();
    let changes = plan(&pods, &[]);
    let sizes: Vec<_> = changes
        .create
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
    let slices = applied(&[], &changes);
    pods[7] = addressed("p007", "10.0.0.7", false);
    let changes = plan(&pods, &slices);
    assert_eq!(
        (
            changes.create.len(),
            changes.update.len(),
            changes.delete.len()
        ),
        (0, 1, 0)
    );
    let slices = applied(&slices, &changes);
    // One goes and one comes: both into the slice that is written anyway.
    pods[7] = addressed("new", "10.0.9.9", true);
    let changes = plan(&pods, &slices);
    assert_eq!(
        (
            changes.create.len(),
            changes.update.len(),
            changes.delete.len()
        ),
        (0, 1, 0)
    );
    let total: usize = applied(&slices, &changes)
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len())
        .sum();
    assert_eq!(total, 250);
}

#[test]
fn named_ports_are_resolved_per_pod_and_split_slices() {
    let mut service = service();
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port =
        Some(IntOrString::String("web".into()));
    let with_port = |name: &str, ip: &str, port: i32| {
        let mut pod = addressed(name, ip, true).as_ref().clone();
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            name: Some("web".into()),
            container_port: port,
            ..ContainerPort::default()
        }]);
        Arc::new(pod)
    };
    let pods = [
        with_port("a", "10.0.0.1", 8080),
        with_port("b", "10.0.0.2", 9090),
        with_port("c", "10.0.0.3", 8080),
    ];
    let changes = endpoint::plan(&service, &pods, &[], &topology());
    let ports: Vec<_> = changes
        .create
        .iter()
        .map(|slice| slice.ports.as_ref().unwrap()[0].port.unwrap())
        .collect();
    assert_eq!(ports, [8080, 9090]);
    let legacy::Change::Create(endpoints) = legacy::plan(&service, &pods, None) else {
        panic!("no Endpoints");
    };
    assert_eq!(endpoints.subsets.as_ref().unwrap().len(), 2);
}

#[test]
fn headless_without_ports_has_endpoints_and_hostnames() {
    let mut service = service();
    let spec = service.spec.as_mut().unwrap();
    spec.cluster_ip = Some("None".into());
    spec.ports = None;
    let mut pod = addressed("a", "10.0.0.1", true).as_ref().clone();
    let spec = pod.spec.as_mut().unwrap();
    (spec.hostname, spec.subdomain) = (Some("a-0".into()), Some("web".into()));
    let pods = [Arc::new(pod)];
    let changes = endpoint::plan(&service, &pods, &[], &topology());
    let slice = &changes.create[0];
    assert_eq!(slice.ports.as_deref(), Some(&[][..]));
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0].hostname.as_deref(),
        Some("a-0")
    );
    assert!(
        slice
            .metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key("service.kubernetes.io/headless")
    );
    let legacy::Change::Create(endpoints) = legacy::plan(&service, &pods, None) else {
        panic!("no Endpoints");
    };
    assert_eq!(endpoints.subsets.unwrap()[0].ports, None);
}

#[test]
fn both_families_of_a_dual_stack_service() {
    let mut service = service();
    service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
    let mut pod = addressed("a", "10.0.0.1", true).as_ref().clone();
    pod.status
        .as_mut()
        .unwrap()
        .pod_ips
        .as_mut()
        .unwrap()
        .push(PodIP {
            ip: "fd00::1".into(),
        });
    let changes = endpoint::plan(&service, &[Arc::new(pod)], &[], &topology());
    let families: Vec<_> = changes
        .create
        .iter()
        .map(|slice| slice.address_type.as_str())
        .collect();
    assert_eq!(families, ["IPv6", "IPv4"]);
}

#[test]
fn legacy_endpoints_split_ready_and_not_ready_and_are_stable() {
    let pods = [
        addressed("a", "10.0.0.1", true),
        addressed("b", "10.0.0.2", false),
    ];
    let legacy::Change::Create(endpoints) = legacy::plan(&service(), &pods, None) else {
        panic!("no Endpoints");
    };
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
    assert_eq!(
        subset.not_ready_addresses.as_ref().unwrap()[0].ip,
        "10.0.0.2"
    );
    assert_eq!(
        legacy::plan(&service(), &pods, Some(&endpoints)),
        legacy::Change::Keep
    );
}

#[test]
fn hand_made_endpoints_are_mirrored_and_unmirrored() {
    let mut service = service();
    service.spec.as_mut().unwrap().selector = None;
    let endpoints = Endpoints {
        metadata: metadata("web"),
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![
                EndpointAddress {
                    ip: "192.0.2.1".into(),
                    ..EndpointAddress::default()
                },
                EndpointAddress {
                    ip: "2001:db8::1".into(),
                    ..EndpointAddress::default()
                },
            ]),
            not_ready_addresses: None,
            ports: Some(vec![EndpointPort {
                port: 80,
                ..EndpointPort::default()
            }]),
        }]),
    };
    let changes = mirror::plan(&service, Some(&endpoints), &[]);
    assert_eq!(changes.create.len(), 2);
    let slices = applied(&[], &changes);
    assert_eq!(
        mirror::plan(&service, Some(&endpoints), &slices),
        pack::Changes::default()
    );
    assert_eq!(mirror::plan(&service, None, &slices).delete.len(), 2);
    // No more than a thousand of one subset.
    let mut many = endpoints;
    many.subsets.as_mut().unwrap()[0].addresses = Some(
        (0..1_500)
            .map(|n| EndpointAddress {
                ip: format!("192.0.{}.{}", n / 200, n % 200),
                ..EndpointAddress::default()
            })
            .collect(),
    );
    let changes = mirror::plan(&service, Some(&many), &[]);
    let counts = changes
        .create
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len());
    assert_eq!(counts.collect::<Vec<_>>(), [100; 10]);
}

#[test]
fn every_traffic_distribution_has_its_hints_and_the_annotation_wins() {
    let pods = [
        addressed("a", "10.0.0.1", true),
        addressed("b", "10.0.0.2", false),
    ];
    let hints = |service: &Service| {
        let changes = endpoint::plan(service, &pods, &[], &topology());
        let endpoints = changes.create[0].endpoints.clone().unwrap();
        let of = |name: &str| {
            let mut all = endpoints.iter();
            let one =
                all.find(|one| one.target_ref.as_ref().unwrap().name.as_deref() == Some(name));
            one.unwrap().hints.clone()
        };
        assert_eq!(of("b"), None, "one that is not ready gets no hint");
        of("a").map(|hints| {
            let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
            let nodes = hints.for_nodes.into_iter().flatten().map(|node| node.name);
            (zones.collect::<Vec<_>>(), nodes.collect::<Vec<_>>())
        })
    };
    let with = |distribution: &str| {
        let mut service = service();
        service.spec.as_mut().unwrap().traffic_distribution = Some(distribution.into());
        service
    };
    let z1 = vec!["z1".to_owned()];
    assert_eq!(hints(&service()), None);
    for same_zone in ["PreferClose", "PreferSameZone"] {
        assert_eq!(hints(&with(same_zone)), Some((z1.clone(), vec![])));
    }
    let n1 = vec!["n1".to_owned()];
    assert_eq!(hints(&with("PreferSameNode")), Some((z1, n1)));
    let mut auto = with("PreferSameNode");
    auto.metadata.annotations = Some(labels(&[("service.kubernetes.io/topology-mode", "Auto")]));
    assert_eq!(hints(&auto), None, "one zone is not enough to go by");
}

#[test]
fn endpoints_beyond_a_thousand_are_cut_off_and_it_is_said() {
    let address = |n: usize| format!("10.0.{}.{}", n / 200, n % 200);
    let pods: Vec<_> = (0..1_100)
        .map(|n| addressed(&format!("p{n:04}"), &address(n), n >= 200))
        .collect();
    let legacy::Change::Create(endpoints) = legacy::plan(&service(), &pods, None) else {
        panic!("no Endpoints");
    };
    let annotations = endpoints.metadata.annotations.as_ref().unwrap();
    assert_eq!(
        annotations["endpoints.kubernetes.io/over-capacity"],
        "truncated"
    );
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    // Who is ready is named first.
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 900);
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 100);
}

#[test]
fn pods_go_with_their_node_unless_all_are_published() {
    let mut lost = addressed("lost", "10.0.0.2", true).as_ref().clone();
    lost.spec.as_mut().unwrap().node_name = Some("gone".into());
    let pods = [addressed("there", "10.0.0.1", true), Arc::new(lost)];
    let count = |service: &Service| {
        let changes = endpoint::plan(service, &pods, &[], &topology());
        changes.create[0].endpoints.as_ref().unwrap().len()
    };
    let mut service = service();
    assert_eq!(count(&service), 1);
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    assert_eq!(count(&service), 2);
}

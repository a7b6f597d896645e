//! The objects of a large cluster. Pure.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

pub(super) const NAMESPACE: &str = "bench";
/// The slice whose changes are timed.
pub(super) const MARKER: &str = "marker";

const CAPACITY: [(&str, &str); 3] = [
    ("cpu", "64"),
    ("memory", "256Gi"),
    ("ephemeral-storage", "1Ti"),
];
/// How many pods a node takes that has room: far more than it gets.
const ROOM: u32 = 250;

pub(super) fn node_name(number: u32) -> String {
    format!("node-{number:05}")
}

/// A node as it introduces itself: with room for no pod.
pub(super) fn node(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(number), "labels": {
            "kubernetes.io/hostname": node_name(number),
            "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "status": status(number, 0),
    })
}

/// What the node says of itself once it takes pods.
pub(super) fn with_room(number: u32) -> Value {
    status(number, ROOM)
}

fn status(number: u32, room: u32) -> Value {
    let mut capacity: serde_json::Map<String, Value> = CAPACITY
        .iter()
        .map(|(name, quantity)| ((*name).to_owned(), json!(quantity)))
        .collect();
    capacity.insert("pods".to_owned(), json!(room.to_string()));
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + number);
    let now = "2026-01-01T00:00:00Z";
    json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": address.to_string()},
                      {"type": "Hostname", "address": node_name(number)}],
        "conditions": [
            condition("Ready", "True", "Simulated", now),
            condition("MemoryPressure", "False", "Simulated", now),
            condition("DiskPressure", "False", "Simulated", now),
            condition("PIDPressure", "False", "Simulated", now),
        ],
        "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "6.1.0",
            "osImage": "simulated", "containerRuntimeVersion": "none://0", "kubeletVersion": "v1.36.0",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    })
}

fn condition(kind: &str, status: &str, reason: &str, now: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now,
        "lastTransitionTime": now})
}

pub(super) fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("svc-{number}"), "namespace": NAMESPACE},
        "spec": {"selector": {"app": format!("app-{number}")},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

/// Pods are spread over the Services one after the other.
pub(super) fn pod(number: u32, services: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": NAMESPACE,
            "labels": {"app": format!("app-{}", number % services.max(1))}},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example/app:1",
                "ports": [{"containerPort": 8080}],
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}]},
    })
}

/// What a node reports of a pod that serves.
pub(super) fn running(address: Ipv4Addr) -> Value {
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    json!({
        "phase": "Running", "startTime": now, "podIP": address.to_string(),
        "podIPs": [{"ip": address.to_string()}],
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"),
                       condition("PodScheduled")],
        "containerStatuses": [{"name": "main", "ready": true, "started": true, "restartCount": 0,
            "image": "registry.example/app:1", "imageID": "", "state": {"running": {"startedAt": now}}}],
    })
}

/// The Service that the marker belongs to: nobody but the benchmark writes its slice.
pub(super) fn marker_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": MARKER, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })
}

/// A slice that says which change it is by the address of its endpoint.
pub(super) fn marker(change: u32) -> Value {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": MARKER, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": MARKER}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    });
    slice["endpoints"] = marker_patch(change)["endpoints"].take();
    slice
}

/// Merge patch that makes it that of another change.
pub(super) fn marker_patch(change: u32) -> Value {
    json!({"endpoints": [{
        "addresses": [marker_address(change).to_string()], "conditions": {"ready": true},
    }]})
}

/// 198.18.0.0/15 is for benchmarks.
fn marker_address(change: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + change)
}

/// Which change the bytes of an address stand for.
pub(super) fn marked(address: &[u8]) -> Option<u32> {
    let octets: [u8; 4] = address.try_into().ok()?;
    u32::from_be_bytes(octets).checked_sub(u32::from(Ipv4Addr::new(198, 18, 0, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_says_which_change_it_is() {
        assert_eq!(marked(&marker_address(300).octets()), Some(300));
        assert_eq!(marked(&[1, 2, 3, 4]), None);
        assert_eq!(marked(&[1]), None);
    }

    #[test]
    fn each_service_has_its_share_of_the_pods() {
        let app = |number| pod(number, 10)["metadata"]["labels"]["app"].clone();
        let of_third =
            (0..50).filter(|number| app(*number) == service(3)["spec"]["selector"]["app"]);
        assert_eq!(of_third.count(), 5);
    }
}

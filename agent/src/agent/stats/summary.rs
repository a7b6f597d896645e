//! `/stats/summary`, as `k8s.io/kubelet/pkg/apis/stats/v1alpha1` has it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ContainerUse, Measured, NodeUse, PodUse};
use crate::network::Counters;
use crate::runtime::usage::Detail;
use crate::volumes::usage::DiskUsage;

pub(in crate::agent) fn summary(measured: &Measured) -> Value {
    let pods = measured.pods.iter().map(|it| pod(it, &measured.node));
    json!({"node": node(&measured.node), "pods": pods.collect::<Vec<_>>()})
}

fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

fn node(node: &NodeUse) -> Value {
    let at = time(node.at);
    let mut network = json!({"time": at});
    if let Some((name, counters)) = &node.uplink {
        let mut own = interface(name, counters);
        network["interfaces"] = json!([own]);
        own["time"] = json!(at);
        own["interfaces"] = network["interfaces"].take();
        network = own;
    }
    let machine = &node.machine;
    let used = machine
        .disk_bytes
        .saturating_sub(machine.disk_available_bytes);
    let mut memory = memory(&node.used, &at);
    memory["availableBytes"] = json!(machine.memory_available_bytes);
    json!({
        "nodeName": node.name,
        "startTime": time(node.since),
        "cpu": cpu(node.used.cpu_nanos, node.cpu_rate, &at),
        "memory": memory,
        "network": network,
        "fs": disk(node, used, machine.inodes.saturating_sub(machine.inodes_free)),
        "runtime": {"imageFs": disk(node, node.image_bytes, 0)},
        "rlimit": {"time": at, "maxpid": machine.pids_max, "curproc": machine.pids},
    })
}

fn pod(pod: &PodUse, node: &NodeUse) -> Value {
    let at = time(node.at);
    let rates: Option<Vec<u64>> = pod.containers.iter().map(|it| it.cpu_rate).collect();
    let rate = rates.map(|rates| rates.iter().sum());
    let containers = pod.containers.iter().map(|it| container(it, node));
    let volumes = pod.volumes.iter().map(|(name, used)| {
        let mut volume = disk(node, used.bytes, used.inodes);
        volume["name"] = json!(name);
        volume
    });
    let mut value = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.since.map(time),
        "containers": containers.collect::<Vec<_>>(),
        "cpu": cpu(pod.used.cpu_nanos, rate, &at),
        "memory": memory(&pod.used, &at),
        "volume": volumes.collect::<Vec<_>>(),
        "ephemeral-storage": disk(node, pod.disk.bytes, pod.disk.inodes),
        "process_stats": {"process_count": pod.used.pids},
    });
    if let Some(counters) = &pod.network {
        let mut network = interface("eth0", counters);
        network["interfaces"] = json!([interface("eth0", counters)]);
        network["time"] = json!(at);
        value["network"] = network;
    }
    value
}

fn container(container: &ContainerUse, node: &NodeUse) -> Value {
    let at = time(node.at);
    let of = |used: &DiskUsage| disk(node, used.bytes, used.inodes);
    json!({
        "name": container.name,
        "startTime": container.since.map(time),
        "cpu": cpu(container.used.cpu_nanos, container.cpu_rate, &at),
        "memory": memory(&container.used, &at),
        "rootfs": of(&container.written),
        "logs": of(&container.logs),
    })
}

fn cpu(nanos: u64, rate: Option<u64>, at: &str) -> Value {
    let mut value = json!({"time": at, "usageCoreNanoSeconds": nanos});
    if let Some(rate) = rate {
        value["usageNanoCores"] = json!(rate);
    }
    value
}

fn memory(used: &Detail, at: &str) -> Value {
    let mut value = json!({
        "time": at,
        "usageBytes": used.memory_bytes,
        "workingSetBytes": used.working_set_bytes,
        "rssBytes": used.rss_bytes,
        "pageFaults": used.page_faults,
        "majorPageFaults": used.major_page_faults,
    });
    if let Some(limit) = used.memory_limit_bytes {
        value["availableBytes"] = json!(limit.saturating_sub(used.working_set_bytes));
    }
    value
}

/// All is on the disk that the node's data is on.
fn disk(node: &NodeUse, used: u64, inodes_used: u64) -> Value {
    let machine = &node.machine;
    json!({
        "time": time(node.at),
        "availableBytes": machine.disk_available_bytes,
        "capacityBytes": machine.disk_bytes,
        "usedBytes": used,
        "inodesFree": machine.inodes_free,
        "inodes": machine.inodes,
        "inodesUsed": inodes_used,
    })
}

fn interface(name: &str, counters: &Counters) -> Value {
    json!({
        "name": name,
        "rxBytes": counters.received_bytes,
        "rxErrors": counters.receive_errors,
        "txBytes": counters.sent_bytes,
        "txErrors": counters.send_errors,
    })
}

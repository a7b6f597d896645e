//! The Node object and its status from what is known of the machine. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::host::{Host, Usage};
use crate::pods::Pressure;
use crate::runtime::huge_pages;

/// The API level with what kind of node this is.
const KUBELET_VERSION: &str = "v1.36.0+waggle";
pub(crate) const MAX_PODS: u64 = 110;
/// As many images as a node tells of, largest first, as the kubelet does.
const MOST_IMAGES: usize = 50;
/// Kept back for the node itself.
const RESERVED_MEMORY: u64 = 100 << 20;

/// What the status is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) host: Host,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) runtime_version: String,
    /// Names by which RuntimeClasses choose a runtime.
    pub(crate) runtime_handlers: Vec<String>,
    /// `None` when pods can run; else why not.
    pub(crate) not_ready: Option<String>,
    pub(crate) shutting_down: Option<String>,
    pub(crate) usage: Usage,
    pub(crate) pressure: Pressure,
    /// Reference and digest, size.
    pub(crate) images: Vec<(Vec<String>, u64)>,
}

/// CPU in thousandths and memory in bytes that pods may have. Huge pages are kept from everything else.
pub(crate) fn allocatable(host: &Host) -> (u64, u64) {
    let huge: u64 = host
        .huge_pages
        .iter()
        .map(|(size, count)| size * count)
        .sum();
    (
        host.cpus * 1_000,
        host.memory_bytes.saturating_sub(RESERVED_MEMORY + huge),
    )
}

/// Bytes of the disk that pods may have, of all that it has.
fn storage(disk_bytes: u64) -> u64 {
    disk_bytes / 10 * 9
}

pub(crate) fn allocatable_storage(data_dir: &Path) -> u64 {
    storage(Usage::read(data_dir).disk_bytes)
}

pub(crate) fn node(facts: &NodeFacts, before: Option<&NodeStatus>, now: Timestamp) -> Node {
    let mut labels: BTreeMap<String, String> = facts.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", facts.name.as_str()),
        ("kubernetes.io/arch", facts.host.architecture.as_str()),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts.host.architecture.as_str()),
        ("beta.kubernetes.io/os", "linux"),
    ] {
        labels
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    Node {
        metadata: ObjectMeta {
            name: Some(facts.name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(node_status(facts, before, now)),
    }
}

pub(crate) fn node_status(
    facts: &NodeFacts,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let (cpu, memory) = allocatable(&facts.host);
    let resources = |cpu: u64, memory: u64, disk: u64| {
        let quantity = |text: String| Quantity(text);
        let cpu = if cpu.is_multiple_of(1_000) {
            (cpu / 1_000).to_string()
        } else {
            format!("{cpu}m")
        };
        let huge = facts.host.huge_pages.iter().map(|(size, count)| {
            let name = format!("hugepages-{}", huge_pages::binary(*size));
            (name, quantity(huge_pages::binary(size * count)))
        });
        let mut all = BTreeMap::from([
            ("cpu".to_owned(), quantity(cpu)),
            (
                "memory".to_owned(),
                quantity(format!("{}Ki", memory / 1024)),
            ),
            ("pods".to_owned(), quantity(MAX_PODS.to_string())),
            (
                "ephemeral-storage".to_owned(),
                quantity(format!("{}Ki", disk / 1024)),
            ),
        ]);
        all.extend(huge);
        all
    };
    let disk = facts.usage.disk_bytes;
    let mut addresses: Vec<NodeAddress> = facts
        .addresses
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".to_owned(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".to_owned(),
        address: facts.name.clone(),
    });
    let mut images = facts.images.clone();
    images.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    images.truncate(MOST_IMAGES);
    NodeStatus {
        capacity: Some(resources(
            facts.host.cpus * 1_000,
            facts.host.memory_bytes,
            disk,
        )),
        allocatable: Some(resources(cpu, memory, storage(disk))),
        addresses: Some(addresses),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        runtime_handlers: Some(runtime_handlers(&facts.runtime_handlers)),
        conditions: Some(conditions(facts, before, now)),
        images: (!images.is_empty()).then(|| {
            images
                .into_iter()
                .map(|(names, size)| ContainerImage {
                    names: Some(names),
                    size_bytes: Some(i64::try_from(size).unwrap_or(i64::MAX)),
                })
                .collect()
        }),
        node_info: Some(NodeSystemInfo {
            architecture: facts.host.architecture.clone(),
            boot_id: facts.host.boot_id.clone(),
            container_runtime_version: format!("runc://{}", facts.runtime_version),
            kernel_version: facts.host.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: facts.host.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.host.os_image.clone(),
            swap: None,
            system_uuid: facts.host.system_uuid.clone(),
        }),
        ..NodeStatus::default()
    }
}

/// What each runtime can do for its pods; the one without a name is the default one.
fn runtime_handlers(names: &[String]) -> Vec<NodeRuntimeHandler> {
    let unnamed = std::iter::once(String::new());
    unnamed
        .chain(names.iter().cloned())
        .map(|name| NodeRuntimeHandler {
            name: Some(name),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(true),
                user_namespaces: Some(true),
            }),
        })
        .collect()
}

fn conditions(
    facts: &NodeFacts,
    before: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pressure = facts.pressure;
    let condition = |type_: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let since = before
            .and_then(|before| before.conditions.as_ref())
            .and_then(|all| all.iter().find(|known| known.type_ == type_))
            .filter(|known| known.status == status)
            .and_then(|known| known.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: Some(since.unwrap_or_else(|| time(now))),
        }
    };
    let short = |type_: &str, is_short: bool, has: (&str, &str), has_not: (&str, &str)| {
        let (reason, message) = if is_short { has } else { has_not };
        condition(type_, is_short, reason, message.to_owned())
    };
    let ready = match facts.shutting_down.as_ref().or(facts.not_ready.as_ref()) {
        None => condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        Some(why) => condition("Ready", false, "KubeletNotReady", why.clone()),
    };
    vec![
        short(
            "MemoryPressure",
            pressure.memory,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        ),
        short(
            "DiskPressure",
            pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        short(
            "PIDPressure",
            pressure.pids,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ),
        ready,
    ]
}

fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn facts() -> NodeFacts {
        NodeFacts {
            name: "n".to_owned(),
            host: Host {
                cpus: 2,
                memory_bytes: 1 << 30,
                architecture: "amd64".to_owned(),
                ..Host::default()
            },
            addresses: vec!["192.0.2.1".parse().unwrap()],
            usage: Usage {
                memory_available_bytes: 1 << 29,
                ..Usage::default()
            },
            ..NodeFacts::default()
        }
    }

    fn of<'a>(status: &'a NodeStatus, type_: &str) -> &'a NodeCondition {
        status
            .conditions
            .as_ref()
            .unwrap()
            .iter()
            .find(|condition| condition.type_ == type_)
            .unwrap()
    }

    #[test]
    fn a_node_says_what_it_has() {
        let made = node(&facts(), None, Timestamp::UNIX_EPOCH);
        let status = made.status.unwrap();
        assert_eq!(status.capacity.as_ref().unwrap()["cpu"].0, "2");
        assert_eq!(status.capacity.as_ref().unwrap()["memory"].0, "1048576Ki");
        assert_eq!(status.capacity.as_ref().unwrap()["pods"].0, "110");
        assert_eq!(of(&status, "Ready").status, "True");
        assert_eq!(of(&status, "MemoryPressure").status, "False");
        let labels = made.metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/hostname"], "n");
    }

    #[test]
    fn transitions_are_dated_when_they_happen() {
        let first = node_status(&facts(), None, Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(100).unwrap();
        let same = node_status(&facts(), Some(&first), later);
        assert_eq!(
            of(&same, "Ready").last_transition_time,
            of(&first, "Ready").last_transition_time
        );
        let mut short = facts();
        short.pressure.memory = true;
        short.not_ready = Some("why".to_owned());
        let changed = node_status(&short, Some(&same), later);
        assert_eq!(
            of(&changed, "Ready").last_transition_time,
            Some(time(later))
        );
        assert_eq!(of(&changed, "MemoryPressure").status, "True");
    }
}

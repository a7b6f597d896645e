//! What a node refuses to run, and how it says so. Pure.

use k8s_openapi::api::core::v1::Pod;

use super::confine;
use super::qos::{self, QosClass};
use super::record::PodFailure;

/// From this priority on a pod is what the node or cluster itself needs.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// System controls that belong to a namespace of the pod and harm nobody outside of it.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Which namespace keeps a system control from reaching the host.
const IPC: [&str; 8] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
];

/// What the node is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

/// A pod that is not run: its reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// `allowed_sysctls` are names, or patterns that end with `*`.
pub(crate) fn refused(
    pod: &Pod,
    allowed_sysctls: &[String],
    pressure: Pressure,
) -> Option<Refused> {
    let spec = pod.spec.as_ref()?;
    if let Some(short) = kept_out(pod, pressure) {
        return Some(Refused {
            reason: "Evicted",
            message: format!("Pod was rejected: The node had condition: [{short}]. "),
        });
    }
    let host_network = spec.host_network == Some(true);
    let host_ipc = spec.host_ipc == Some(true);
    confine::sysctls(pod).keys().find_map(|name| {
        let why = sysctl_refused(name, allowed_sysctls, host_network, host_ipc)?;
        Some(Refused {
            reason: "SysctlForbidden",
            message: format!("Pod was rejected: forbidden sysctl: {name:?} {why}"),
        })
    })
}

/// The machine is about to go down.
pub(crate) fn going_down() -> Refused {
    Refused {
        reason: "NodeShutdown",
        message: "Pod was rejected as the node is shutting down.".to_owned(),
    }
}

/// Another pod of the node has a port that this one wants of the node.
pub(crate) fn ports_taken() -> Refused {
    Refused {
        reason: "NodePorts",
        message:
            "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the \
                  requested pod ports"
                .to_owned(),
    }
}

impl Refused {
    /// What the control plane found, by the node's labels and taints; a word that is not known says nothing.
    pub(crate) fn misplaced(predicate: &str) -> Option<Self> {
        let (reason, why) = match predicate {
            "NodeAffinity" => (
                "NodeAffinity",
                "node(s) didn't match Pod's node affinity/selector",
            ),
            "TaintToleration" => (
                "TaintToleration",
                "node(s) had taints that the pod didn't tolerate",
            ),
            _ => return None,
        };
        Some(Self {
            reason,
            message: format!("Pod was rejected: Predicate {reason} failed: {why}"),
        })
    }

    pub(crate) fn failure(self) -> PodFailure {
        PodFailure {
            reason: self.reason.to_owned(),
            message: self.message,
            disrupts: false,
            refused: true,
            grace_seconds: None,
        }
    }
}

/// The node has too little left of what the pod asks for.
pub(crate) fn too_little((name, [asked, used, all]): (&str, [u64; 3])) -> Refused {
    Refused {
        reason: match name {
            "pods" => "OutOfpods",
            "cpu" => "OutOfcpu",
            "memory" => "OutOfmemory",
            _ => "OutOfephemeral-storage",
        },
        message: format!(
            "Pod was rejected: Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {all}"
        ),
    }
}

/// A short node takes no new pods; one that is short of memory alone takes those that said how much they need.
fn kept_out(pod: &Pod, pressure: Pressure) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let critical = spec.priority.unwrap_or(0) >= CRITICAL_PRIORITY || is_static(pod);
    let tolerated = |key: &str| {
        let mut all = spec.tolerations.iter().flatten();
        all.any(|it| {
            it.key
                .as_deref()
                .is_none_or(|known| known.is_empty() || known == key)
        })
    };
    if critical {
        None
    } else if pressure.disk {
        Some("DiskPressure")
    } else if pressure.pids {
        Some("PIDPressure")
    } else if pressure.memory
        && qos::class(spec) == QosClass::BestEffort
        && !tolerated("node.kubernetes.io/memory-pressure")
    {
        Some("MemoryPressure")
    } else {
        None
    }
}

/// Whether it comes from a file of the node, not from the control plane.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let source = annotations.and_then(|all| all.get("kubernetes.io/config.source"));
    source.is_some_and(|source| source != "api")
}

fn sysctl_refused(
    name: &str,
    allowed: &[String],
    host_network: bool,
    host_ipc: bool,
) -> Option<&'static str> {
    let of_network = name.starts_with("net.");
    let of_ipc = IPC.contains(&name) || name.starts_with("fs.mqueue.");
    let fits = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    if !SAFE_SYSCTLS.contains(&name) && !allowed.iter().any(fits) {
        Some("not allowlisted")
    } else if of_network && host_network {
        Some("not allowed with host net enabled")
    } else if of_ipc && host_ipc {
        Some("not allowed with host ipc enabled")
    } else if !of_network && !of_ipc {
        Some("not namespaced")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn system_controls_are_refused_unless_they_are_safe_or_allowed() {
        let pod = |name: &str, host: bool| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {
                "hostNetwork": host, "hostIPC": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]},
                "containers": []}}))
            .unwrap()
        };
        let allowed = ["kernel.msg*".to_owned(), "kernel.panic".to_owned()];
        for (name, host, why) in [
            ("net.ipv4.tcp_syncookies", false, None),
            ("net/ipv4/tcp_syncookies", false, None),
            ("net.ipv4.tcp_syncookies", true, Some("host net")),
            ("kernel.shm_rmid_forced", true, Some("host ipc")),
            ("kernel.msgmax", false, None),
            ("kernel.shmmax", false, Some("not allowlisted")),
            ("kernel.panic", false, Some("not namespaced")),
        ] {
            let refused = refused(&pod(name, host), &allowed, Pressure::default());
            match why {
                None => assert_eq!(refused, None, "{name}"),
                Some(why) => assert!(refused.unwrap().message.contains(why), "{name}"),
            }
        }
    }
}

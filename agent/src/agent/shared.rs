//! What the running parts of an agent are, for those who tell of them: status screens, metrics, the node's own server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::stats::Baseline;
use super::{AgentConfig, AgentStatus, PodSummary};
use crate::dataplane::DataPlane;
use crate::images::ImageStore;
use crate::node::Host;
use crate::pods::{NodeMachine, Pods};
use crate::sync::ClientMetrics;

/// What the parts below and the local server share.
pub(super) struct Shared {
    pub(super) pods: Arc<Pods<NodeMachine>>,
    pub(super) images: ImageStore,
    pub(super) data_plane: DataPlane,
    pub(super) registry: Registry,
    pub(super) addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    pub(super) client: ClientMetrics,
    pub(super) applied: [watch::Receiver<u64>; 2],
    pub(super) facts: Facts,
    /// What rates are taken from.
    pub(super) baseline: Arc<Baseline>,
    /// The options in force, as a kubelet would show them.
    pub(super) configuration: serde_json::Value,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) node_name: String,
    pub(super) cgroup_parent: String,
    pub(super) data_dir: PathBuf,
    pub(super) uplink: Option<String>,
    pub(super) cpus: u64,
    pub(super) memory_bytes: u64,
    /// When the machine was started.
    pub(super) booted: Timestamp,
}

impl Facts {
    pub(super) fn new(config: &AgentConfig, host: &Host) -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime = uptime.split(['.', ' ']).next().unwrap_or_default();
        let uptime = SignedDuration::from_secs(uptime.parse().unwrap_or(0));
        Self {
            node_name: config.node_name.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            data_dir: config.data_dir.clone(),
            uplink: config.uplink.clone().or_else(crate::node::uplink),
            cpus: host.cpus,
            memory_bytes: host.memory_bytes,
            booted: Timestamp::now().saturating_sub(uptime).unwrap_or_default(),
        }
    }
}

impl Shared {
    fn applied_revision(&self) -> u64 {
        self.applied
            .iter()
            .map(|applied| *applied.borrow())
            .min()
            .unwrap_or(0)
    }

    pub(super) fn status(&self) -> AgentStatus {
        let pods =
            self.pods
                .snapshots()
                .into_iter()
                .map(|snapshot| {
                    let status = snapshot.status;
                    let containers = status.container_statuses.iter().flatten();
                    PodSummary {
                        namespace: snapshot.key.namespace,
                        name: snapshot.key.name,
                        phase: status.phase.clone().unwrap_or_default(),
                        ready: status.conditions.iter().flatten().any(|condition| {
                            condition.type_ == "Ready" && condition.status == "True"
                        }),
                        addresses: status
                            .pod_ips
                            .iter()
                            .flatten()
                            .filter_map(|ip| ip.ip.parse().ok())
                            .collect(),
                        restarts: containers
                            .map(|container| u32::try_from(container.restart_count).unwrap_or(0))
                            .sum(),
                    }
                })
                .collect();
        AgentStatus {
            node_name: self.facts.node_name.clone(),
            addresses: self.addresses.load().to_vec(),
            connected: self.client.connected.get() == 1,
            applied_revision: self.applied_revision(),
            attachments: self.data_plane.attachments(),
            pods,
        }
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("metrics cannot be written");
        }
        let end = "# EOF\n";
        let body_len = text.strip_suffix(end).map_or(text.len(), str::len);
        text.truncate(body_len);
        text.push_str("# HELP waggle_agent_drops Packets dropped by the data plane.\n");
        text.push_str("# TYPE waggle_agent_drops counter\n");
        for (reason, count) in self.data_plane.drops() {
            text.push_str(&format!(
                "waggle_agent_drops_total{{reason=\"{reason}\"}} {count}\n"
            ));
        }
        text.push_str(
            "# HELP waggle_agent_applied_revision Store revision in force on this node.\n",
        );
        text.push_str("# TYPE waggle_agent_applied_revision gauge\n");
        text.push_str(&format!(
            "waggle_agent_applied_revision {}\n",
            self.applied_revision()
        ));
        text.push_str(end);
        text
    }
}

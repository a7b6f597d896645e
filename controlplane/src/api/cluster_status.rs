//! `GET /waggle/v1/status`: the members, and how far each node is. Made from this member's memory at each
//! request; nothing of it is stored, so that a node's progress costs no write.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};

use super::{Api, respond};
use crate::cache::Cache;
use crate::registry::ApiError;
use crate::sync::{Applied, Connected};

/// What the status is made of.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) cache: Cache,
    pub(crate) applied: Applied,
    /// Where the CA is, which a new member is given.
    pub(crate) pki: std::path::PathBuf,
}

impl View {
    /// What all members have of the directory with the certificates: the CA, and nothing of this member's own.
    pub(super) fn shared_files(&self) -> Result<BTreeMap<String, String>, ApiError> {
        let failed = |error: std::io::Error| ApiError::internal(format!("reading the CA: {error}"));
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&self.pki).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("ca") && (name.ends_with(".crt") || name.ends_with(".key")) {
                let text = std::fs::read_to_string(entry.path()).map_err(failed)?;
                files.insert(name, text);
            }
        }
        Ok(files)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// The answer of `/waggle/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub kind: String,
    pub api_version: String,
    /// Of the last write that the answering member has applied.
    pub revision: u64,
    pub members: Vec<MemberStatus>,
    pub nodes: Vec<NodeStatus>,
}

/// A member of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    pub id: u64,
    #[serde(default)]
    pub name: String,
    /// Where other members reach it; empty in a control plane of one.
    pub address: String,
    /// Where clients reach its API.
    #[serde(default)]
    pub api_address: String,
    pub leader: bool,
    pub voter: bool,
    /// It answers the member that says this.
    #[serde(default)]
    pub present: bool,
    #[serde(default)]
    pub revision: u64,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub disk_bytes: u64,
    /// Its disk is about to be full: the cluster takes no more writes.
    #[serde(default)]
    pub no_space: bool,
}

/// A node, and its stream to the member that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub name: String,
    /// `True`, `False` or `Unknown`, as the condition Ready.
    pub ready: String,
    pub addresses: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    pub zone: String,
    /// It holds a stream to this member; what follows is known only then.
    pub connected: bool,
    pub agent_version: String,
    /// Kernel maps and DNS hold everything up to here.
    pub applied_revision: u64,
    /// It was sent everything that concerns it up to here. Revisions after it that change nothing for nodes
    /// are never sent.
    pub sent_revision: u64,
    /// How much later what it was sent is than what it has applied, in revisions.
    pub behind: u64,
    pub data_plane: DataPlane,
}

/// How a node's data plane is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    pub routing: String,
    pub north_south: String,
    pub xdp: String,
}

impl Api {
    pub(super) fn cluster_status(&self) -> Response<Body> {
        let store = self.registry.store();
        let (own, own_id) = (store.report(), store.id());
        let heard = store.heard();
        let members = store.members().into_iter().map(|member| {
            let report = match heard.get(&member.id) {
                _ if member.id == own_id => Some((true, own.clone())),
                Some(heard) => Some((heard.is_present(), heard.report.clone())),
                None => None,
            };
            let (present, report) = report.unwrap_or_default();
            MemberStatus {
                id: member.id,
                name: member.name,
                address: member.address,
                api_address: member.api_address,
                leader: member.leads,
                voter: member.votes,
                present,
                revision: report.revision,
                version: report.version,
                disk_bytes: report.disk_bytes,
                no_space: report.no_space,
            }
        });
        let connected = self.view.applied.connected();
        let nodes = self.view.cache.nodes.list("");
        let status = ClusterStatus {
            kind: "ClusterStatus".to_owned(),
            api_version: "waggle.dev/v1".to_owned(),
            revision: store.revision(),
            members: members.collect(),
            nodes: nodes
                .iter()
                .map(|node| {
                    let name = node.metadata.name.as_deref().unwrap_or_default();
                    node_status(node, connected.get(name))
                })
                .collect(),
        };
        respond::value(StatusCode::OK, &serde_json::json!(status))
    }
}

/// Pure.
fn node_status(node: &Node, stream: Option<&Connected>) -> NodeStatus {
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten();
    let ready = ready
        .filter(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.clone())
        .next();
    let addresses = status.addresses.iter().flatten();
    let labels = node.metadata.labels.as_ref();
    let spec = node.spec.clone().unwrap_or_default();
    let (applied, sent) = stream.map_or((0, 0), |stream| (stream.applied, stream.sent));
    let introduction = stream.map(|stream| stream.introduction.clone());
    let introduction = introduction.unwrap_or_default();
    NodeStatus {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: ready.unwrap_or_else(|| "Unknown".to_owned()),
        addresses: addresses
            .filter(|address| address.type_ == "InternalIP")
            .map(|address| address.address.clone())
            .collect(),
        pod_cidrs: spec.pod_cidrs.unwrap_or_default(),
        zone: labels
            .and_then(|labels| labels.get("topology.kubernetes.io/zone"))
            .cloned()
            .unwrap_or_default(),
        connected: stream.is_some(),
        agent_version: introduction.agent_version,
        applied_revision: applied,
        sent_revision: sent,
        behind: sent.saturating_sub(applied),
        data_plane: DataPlane {
            routing: introduction.data_plane.routing,
            north_south: introduction.data_plane.north_south,
            xdp: introduction.data_plane.xdp,
        },
    }
}

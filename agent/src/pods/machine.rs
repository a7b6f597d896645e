//! The seam between a pod's worker and what it acts on: images, network, supervisor and mounts.
//!
//! [`Machine`] is the node and [`PodSandbox`] one pod's supervisor. The real ones only forward; the fakes
//! (`machine/fake.rs`, tests only) let the worker be tested under a clock that is not the real one.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::Protocol;
use crate::images::{Credentials, Image, PullPolicy, Purpose};
use crate::runtime::{ContainerSpec, ContainerState, ExecOutcome, Resources, SandboxSpec};
use crate::userns::UserNamespace;

mod node;
pub(crate) use node::NodeMachine;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod mortal;

/// Why an image is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFailure {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A pod's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) netns: PathBuf,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What a pod asks of its network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NetworkWishes {
    /// Its sockets are left alone: packets to Services are balanced one by one instead.
    pub(crate) opted_out: bool,
    pub(crate) host_ports: Vec<WantedPort>,
    /// The pod has users of its own: where their ids begin outside.
    pub(crate) first_id: Option<u32>,
}

/// A port of the node that is to lead to the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedPort {
    /// Every address of the node if none, or unspecified.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) container_port: u16,
}

/// Everything a worker does to the node. Errors are messages for events and statuses.
pub(crate) trait Machine: Send + Sync + 'static {
    type Sandbox: PodSandbox;

    fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> impl Future<Output = Result<Image, ImageFailure>> + Send;
    /// Returns the root file system, whose files belong to `users` if the pod has users of its own.
    fn mount_image(
        &self,
        image: &Image,
        dir: &Path,
        purpose: Purpose,
        users: Option<&UserNamespace>,
    ) -> impl Future<Output = Result<PathBuf, String>> + Send;
    fn unmount_image(&self, dir: &Path) -> impl Future<Output = Result<(), String>> + Send;
    /// Idempotent: a pod that has a network gets that one.
    fn attach_network(
        &self,
        uid: &str,
        wishes: &NetworkWishes,
    ) -> impl Future<Output = Result<Attached, String>> + Send;
    /// The pod cannot be reached any more when this returns; what is left of its network goes by itself. Idempotent.
    fn detach_network(&self, uid: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// Returns when nothing is left of the networks that were detached.
    fn networks_detached(&self) -> impl Future<Output = ()> + Send;
    /// Uids that have a network.
    fn list_networks(&self) -> impl Future<Output = Result<Vec<String>, String>> + Send;
    fn start_sandbox(
        &self,
        spec: &SandboxSpec,
    ) -> impl Future<Output = Result<Self::Sandbox, String>> + Send;
    fn connect_sandbox(
        &self,
        run_dir: &Path,
    ) -> impl Future<Output = Result<Option<Self::Sandbox>, String>> + Send;
    /// Removes everything that a sandbox without an answering supervisor has left; says how its containers
    /// ended. Idempotent.
    fn sweep_sandbox(
        &self,
        run_dir: &Path,
    ) -> impl Future<Output = Result<BTreeMap<String, ContainerState>, String>> + Send;
    /// Idempotent.
    fn mount_tmpfs(&self, dir: &Path, size_bytes: Option<u64>) -> Result<(), String>;
    /// Mounts what `sub` names inside the volume at `root` on `target`.
    fn mount_sub_path(&self, root: &Path, sub: &str, target: &Path) -> Result<(), String>;
    /// Takes away the sub-paths that are mounted in `place`. Idempotent.
    fn unmount_sub_paths(&self, place: &Path) -> Result<(), String>;
    /// Idempotent. Pages have so many bytes.
    fn mount_huge_pages(&self, dir: &Path, page_bytes: u64) -> Result<(), String>;
    /// Idempotent.
    fn unmount_below(&self, dir: &Path) -> Result<(), String>;
}

/// One pod's supervisor.
pub(crate) trait PodSandbox: Clone + Send + Sync + 'static {
    /// Makes a container and starts its program.
    fn run(&self, spec: &ContainerSpec) -> impl Future<Output = Result<(), String>> + Send;
    /// Of one that is made, or being made. Idempotent.
    fn start_container(&self, id: &str) -> impl Future<Output = Result<(), String>> + Send;
    fn kill(&self, id: &str, signal: i32) -> impl Future<Output = Result<(), String>> + Send;
    /// Limits of a running container, or of the whole pod.
    fn set_resources(
        &self,
        id: Option<&str>,
        resources: &Resources,
    ) -> impl Future<Output = Result<(), String>> + Send;
    fn delete(&self, id: &str) -> impl Future<Output = Result<(), String>> + Send;
    fn states(
        &self,
    ) -> impl Future<Output = Result<BTreeMap<String, ContainerState>, String>> + Send;
    fn changes(&self) -> watch::Receiver<u64>;
    fn exec(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
        max_output: usize,
    ) -> impl Future<Output = Result<ExecOutcome, String>> + Send;
    fn stop(self) -> impl Future<Output = Result<(), String>> + Send;
}

//! The real node behind [`Machine`]: forwards to images, networks, data plane and runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Attached, ImageFailure, Machine, NetworkWishes, PodSandbox};
use crate::dataplane::{DataPlane, HostPort, PodInterface};
use crate::images::{Credentials, Image, ImageStore, PullPolicy, Purpose};
use crate::network::{NetworkError, Networks, PodNetwork};
use crate::runtime::{ContainerSpec, ContainerState, ExecOutcome, Resources, Sandbox, SandboxSpec};
use crate::userns::UserNamespace;
use crate::volumes::{sub_path, tmpfs};

mod departures;
use departures::Departures;

/// While one network waits for the kernel, the other is made a namespace.
const WIRED_AT_ONCE: usize = 2;
/// How long a pod waits for a network that goes, until it says so and tries again.
const DEPARTURE: Duration = Duration::from_secs(10);

/// The node's parts. Networks come later than the rest: they need the node's pod range.
#[derive(Debug)]
pub(crate) struct NodeMachine {
    pub(crate) images: ImageStore,
    pub(crate) data_plane: DataPlane,
    pub(crate) networks: OnceLock<Networks>,
    pub(crate) supervisor_program: PathBuf,
    /// Held while a network is made, in the order in which it was asked for: the kernel does one thing at a time here
    /// (RTNL). Pods that take turns at each of a dozen requests would all be ready at the end; so the first are while the
    /// last wait.
    wiring: tokio::sync::Semaphore,
    /// By pod uid; what must be told to the data plane when the pod goes.
    interfaces: Mutex<BTreeMap<String, PodInterface>>,
    departures: Departures,
}

impl NodeMachine {
    pub(crate) fn new(
        images: ImageStore,
        data_plane: DataPlane,
        supervisor_program: PathBuf,
    ) -> Self {
        Self {
            images,
            data_plane,
            networks: OnceLock::new(),
            supervisor_program,
            wiring: tokio::sync::Semaphore::new(WIRED_AT_ONCE),
            interfaces: Mutex::default(),
            departures: Departures::new(),
        }
    }

    fn networks(&self) -> Result<&Networks, String> {
        self.networks
            .get()
            .ok_or_else(|| "the node has no pod range yet".to_owned())
    }

    /// When there is no address left, the next that a pod gives back will do.
    async fn make_network(
        &self,
        networks: &Networks,
        uid: &str,
        first_id: Option<u32>,
    ) -> Result<PodNetwork, NetworkError> {
        let made = networks.attach_in(uid, first_id).await;
        if matches!(made, Err(NetworkError::Exhausted(_))) {
            let all_over = timeout(DEPARTURE, self.departures.all_over()).await;
            if all_over.unwrap_or(true) {
                return networks.attach_in(uid, first_id).await;
            }
        }
        made
    }

    /// What the data plane knows of a pod's network, if there is one.
    async fn interface(
        &self,
        networks: &Networks,
        uid: &str,
    ) -> Result<Option<PodInterface>, String> {
        let known = self
            .interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
        if known.is_some() {
            return Ok(known);
        }
        let all = networks.list().await.map_err(text)?;
        if !all.iter().any(|known| known == uid) {
            return Ok(None);
        }
        // Attached by an earlier agent: asking again tells what it is.
        let network = networks.attach(uid).await.ok();
        Ok(network.map(|network| network.interface))
    }
}

/// The error with its causes, which `Display` may leave to `source`.
fn text(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

impl Machine for NodeMachine {
    type Sandbox = Sandbox;

    async fn ensure_image(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> Result<Image, ImageFailure> {
        self.images
            .ensure(reference, policy, credentials)
            .await
            .map_err(|error| ImageFailure {
                reason: error.reason().to_owned(),
                message: error.to_string(),
            })
    }

    async fn mount_image(
        &self,
        image: &Image,
        dir: &Path,
        purpose: Purpose,
        users: Option<&UserNamespace>,
    ) -> Result<PathBuf, String> {
        let mounted = self.images.mount_for(image, dir, purpose, users).await;
        mounted.map_err(text)
    }

    async fn unmount_image(&self, dir: &Path) -> Result<(), String> {
        self.images.unmount(dir).await.map_err(text)
    }

    async fn attach_network(&self, uid: &str, wishes: &NetworkWishes) -> Result<Attached, String> {
        let networks = self.networks()?;
        // It had one before, and gets another one.
        let over = timeout(DEPARTURE, self.departures.over(uid)).await;
        over.map_err(|_| "the one that it had is not removed yet".to_owned())?;
        let turn = self.wiring.acquire().await.map_err(text)?;
        let network = self.make_network(networks, uid, wishes.first_id).await;
        let network = network.map_err(text)?;
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.to_owned(), network.interface.clone());
        self.data_plane
            .add_pod(&network.interface)
            .await
            .map_err(text)?;
        drop(turn);
        self.data_plane
            .opt_out(&network.interface, wishes.opted_out)
            .await
            .map_err(text)?;
        let ports = wishes.host_ports.iter().map(|port| HostPort {
            host_ip: port.host_ip,
            port: port.port,
            protocol: port.protocol,
            addresses: network.addresses.clone(),
            container_port: port.container_port,
        });
        self.data_plane.set_host_ports(uid, ports.collect()).await;
        networks.carries(uid, &network).await.map_err(text)?;
        Ok(Attached {
            netns: network.netns,
            addresses: network.addresses,
        })
    }

    async fn detach_network(&self, uid: &str) -> Result<(), String> {
        let Some(networks) = self.networks.get() else {
            return Ok(());
        };
        if self.departures.is_under_way(uid) {
            return Ok(());
        }
        let interface = self.interface(networks, uid).await?;
        self.data_plane.set_host_ports(uid, Vec::new()).await;
        if let Some(interface) = &interface {
            let unreached = self.data_plane.unreach_pod(interface).await;
            unreached.map_err(text)?;
        }
        let (data_plane, networks) = (self.data_plane.clone(), networks.clone());
        let owned = uid.to_owned();
        self.departures.begin(uid, move || {
            let (data_plane, networks) = (data_plane.clone(), networks.clone());
            let (interface, uid) = (interface.clone(), owned.clone());
            async move {
                if let Some(interface) = &interface {
                    data_plane.detach_pod(interface).await.map_err(text)?;
                }
                networks.detach(&uid).await.map_err(text)
            }
        });
        Ok(())
    }

    async fn networks_detached(&self) {
        self.departures.all_over().await;
    }

    async fn list_networks(&self) -> Result<Vec<String>, String> {
        match self.networks.get() {
            Some(networks) => networks.list().await.map_err(text),
            None => Ok(Vec::new()),
        }
    }

    async fn start_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, String> {
        Sandbox::start(spec, &self.supervisor_program)
            .await
            .map_err(text)
    }

    async fn connect_sandbox(&self, run_dir: &Path) -> Result<Option<Sandbox>, String> {
        Sandbox::connect(run_dir).await.map_err(text)
    }

    async fn sweep_sandbox(
        &self,
        run_dir: &Path,
    ) -> Result<BTreeMap<String, ContainerState>, String> {
        crate::runtime::sweep(run_dir).await.map_err(text)
    }

    fn mount_tmpfs(&self, dir: &Path, size_bytes: Option<u64>) -> Result<(), String> {
        tmpfs::ensure(dir, size_bytes).map_err(text)
    }

    fn mount_sub_path(&self, root: &Path, sub: &str, target: &Path) -> Result<(), String> {
        sub_path::mount_at(root, sub, target).map_err(|error| error.to_string())
    }

    fn unmount_sub_paths(&self, place: &Path) -> Result<(), String> {
        sub_path::unmount_all(place).map_err(text)
    }

    fn mount_huge_pages(&self, dir: &Path, page_bytes: u64) -> Result<(), String> {
        tmpfs::ensure_huge_pages(dir, page_bytes).map_err(text)
    }

    fn unmount_below(&self, dir: &Path) -> Result<(), String> {
        tmpfs::unmount_below(dir).map_err(text)
    }
}

impl PodSandbox for Sandbox {
    async fn run(&self, spec: &ContainerSpec) -> Result<(), String> {
        Sandbox::run(self, spec).await.map_err(text)
    }

    async fn start_container(&self, id: &str) -> Result<(), String> {
        Sandbox::start_container(self, id).await.map_err(text)
    }

    async fn kill(&self, id: &str, signal: i32) -> Result<(), String> {
        Sandbox::kill(self, id, signal).await.map_err(text)
    }

    async fn set_resources(&self, id: Option<&str>, resources: &Resources) -> Result<(), String> {
        Sandbox::set_resources(self, id, resources)
            .await
            .map_err(text)
    }

    async fn delete(&self, id: &str) -> Result<(), String> {
        Sandbox::delete(self, id).await.map_err(text)
    }

    async fn states(&self) -> Result<BTreeMap<String, ContainerState>, String> {
        Sandbox::states(self).await.map_err(text)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Sandbox::changes(self)
    }

    async fn exec(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
        max_output: usize,
    ) -> Result<ExecOutcome, String> {
        Sandbox::exec(self, id, args, timeout, max_output)
            .await
            .map_err(text)
    }

    async fn stop(self) -> Result<(), String> {
        Sandbox::stop(self).await.map_err(text)
    }
}

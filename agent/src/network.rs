//! Pod networks: a network namespace, a veth pair and addresses per pod; no address twice, also after a
//! crash. Everything here is netlink and files; packets are the data plane's.
//!
//! What is on disk below `run_dir`, in the order in which it comes to be:
//! `ipam/<address>` (holds the uid), `netns/<uid>` (bind mount), `netns/<uid>.json` (complete).

mod addresses;
mod link;
mod namespace;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::net::TcpSocket;

use self::addresses::Addresses;
use self::link::Names;
use crate::dataplane::PodInterface;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("no free address in {0:?}")]
    Exhausted(Vec<IpNet>),
    #[error("pod range {0} is not in the cluster's")]
    OutsideCluster(IpNet),
    #[error("pod range {0} overlaps {1}")]
    Overlap(IpNet, IpNet),
    #[error("{0:?} cannot be a pod's uid")]
    Uid(String),
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{action}")]
    System {
        action: &'static str,
        source: io::Error,
    },
    #[error("{action} for pod {uid}")]
    Netlink {
        action: &'static str,
        uid: String,
        source: rtnetlink::Error,
    },
}

impl NetworkError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}

/// A pod's network as it was set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Bind mount of the network namespace, for runc's `namespaces[].path`.
    pub netns: PathBuf,
    pub addresses: Vec<IpAddr>,
    pub interface: PodInterface,
}

/// Whether a node may give its pods addresses of these ranges.
///
/// # Errors
/// When one is not in the cluster's ranges, or two overlap.
pub fn check_ranges(ranges: &[IpNet], cluster: &[IpNet]) -> Result<(), NetworkError> {
    addresses::check(ranges, cluster)
}

/// Removes the address ledger below `run_dir` if no pod has an address.
pub fn remove_unused_ledger(run_dir: &Path) {
    addresses::remove_unused(&run_dir.join("ipam"));
}

/// Sockets for IPv4 and, where there is such a thing, IPv6, not connected yet, in a network namespace or in that of
/// this process. A socket belongs to the namespace in which it was made, whoever uses it.
pub(crate) async fn sockets_in(
    netns: Option<&Path>,
) -> Result<(TcpSocket, Option<TcpSocket>), NetworkError> {
    let failed = NetworkError::system("make a socket");
    let make = || {
        Ok((
            TcpSocket::new_v4().map_err(failed)?,
            TcpSocket::new_v6().ok(),
        ))
    };
    match netns {
        Some(path) => namespace::inside(path, make).await,
        None => make(),
    }
}

/// What has passed a pod's interface, as the pod sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) received_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) receive_errors: u64,
    pub(crate) received_drops: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_packets: u64,
    pub(crate) send_errors: u64,
    pub(crate) sent_drops: u64,
}

/// The counters of all interfaces of this process's network namespace.
#[derive(Debug, Default)]
pub(crate) struct AllCounters(std::collections::BTreeMap<String, Counters>);

impl AllCounters {
    /// Without what cannot be read.
    pub(crate) fn read() -> Self {
        Self(link::counters(
            &std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default(),
        ))
    }

    /// Of a pod with a network of its own. Its interface sends what ours receives.
    pub(crate) fn of_pod(&self, pod_uid: &str) -> Option<Counters> {
        let ours = self.0.get(&Names::of(pod_uid).host)?;
        Some(Counters {
            received_bytes: ours.sent_bytes,
            received_packets: ours.sent_packets,
            receive_errors: ours.send_errors,
            received_drops: ours.sent_drops,
            sent_bytes: ours.received_bytes,
            sent_packets: ours.received_packets,
            send_errors: ours.receive_errors,
            sent_drops: ours.received_drops,
        })
    }

    pub(crate) fn of_interface(&self, name: &str) -> Option<Counters> {
        self.0.get(name).copied()
    }
}

/// Sets up and tears down pod networks, by pod uid.
#[derive(Debug, Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespaces: PathBuf,
    addresses: Addresses,
    /// Bytes; 0: what the kernel gives.
    mtu: AtomicU32,
    /// Uids of which something may be left that is not a whole network: to look for it takes longer than to make one.
    unsettled: Mutex<BTreeSet<String>>,
    /// Held while a network is made. All of them want RTNL, of which the kernel has one, and some of what they ask for does
    /// not wait for it but tries again and again.
    turn: Mutex<()>,
}

impl Inner {
    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Networks {
    /// `run_dir` holds namespaces (`netns/<uid>`) and the address ledger. Reads back what is there.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub async fn open(
        run_dir: &Path,
        pod_cidrs: Vec<IpNet>,
        mtu: Option<u32>,
    ) -> Result<Self, NetworkError> {
        let namespaces = run_dir.join("netns");
        std::fs::create_dir_all(&namespaces).map_err(NetworkError::file("create", &namespaces))?;
        let addresses = Addresses::open(run_dir.join("ipam"), pod_cidrs)?;
        let this = Self {
            inner: Arc::new(Inner {
                namespaces,
                addresses,
                mtu: AtomicU32::new(mtu.unwrap_or(0)),
                unsettled: Mutex::default(),
                turn: Mutex::default(),
            }),
        };
        let known = this.list().await?;
        this.inner.unsettled().extend(known);
        Ok(this)
    }

    /// Where pods get addresses from that are set up from now on; others keep theirs.
    pub fn set_ranges(&self, pod_cidrs: Vec<IpNet>) {
        self.inner.addresses.set_ranges(pod_cidrs);
    }

    /// Bytes of the largest IP packet of pods that are set up from now on.
    pub fn set_mtu(&self, mtu: u32) {
        self.inner.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Sets up the pod's network, or returns the one that it has. On failure nothing is left.
    ///
    /// # Errors
    /// When there is no address left, or the kernel refuses something.
    pub async fn attach(&self, pod_uid: &str) -> Result<PodNetwork, NetworkError> {
        let network = self.attach_in(pod_uid, None).await?;
        self.carries(pod_uid, &network).await?;
        Ok(network)
    }

    /// The same, without waiting until the pair carries packets ([`Self::carries`]); a new network is owned by a new user
    /// namespace, whose ids begin with `first_id`.
    ///
    /// # Errors
    /// When there is no address left, or the kernel refuses something.
    pub async fn attach_in(
        &self,
        pod_uid: &str,
        first_id: Option<u32>,
    ) -> Result<PodNetwork, NetworkError> {
        check_uid(pod_uid)?;
        if let Some(network) = self.complete(pod_uid) {
            return Ok(network);
        }
        // Left by a crash half-way, by somebody who did not wait for the end, or by who took a part of it away.
        let is_new = self.inner.unsettled().insert(pod_uid.to_owned());
        if !is_new || self.record(pod_uid).exists() {
            self.detach(pod_uid).await?;
            self.inner.unsettled().insert(pod_uid.to_owned());
        }
        match self.set_up(pod_uid, first_id).await {
            Ok(network) => {
                self.inner.unsettled().remove(pod_uid);
                Ok(network)
            }
            Err(error) => {
                if let Err(second) = self.detach(pod_uid).await {
                    tracing::warn!(pod_uid, error = %second, "cannot undo a failed set-up");
                }
                Err(error)
            }
        }
    }

    /// Waits until the pod can be sent packets.
    ///
    /// # Errors
    /// When the pair is gone or does not come up.
    pub async fn carries(&self, pod_uid: &str, network: &PodNetwork) -> Result<(), NetworkError> {
        link::carries(pod_uid, network.interface.host_ifindex).await
    }

    /// The network of a pod that is set up in full, and still there.
    fn complete(&self, pod_uid: &str) -> Option<PodNetwork> {
        let interface = std::fs::read(self.record(pod_uid)).ok()?;
        let mut interface: PodInterface = serde_json::from_slice(&interface).ok()?;
        let netns = self.netns(pod_uid);
        // An earlier agent's record does not name it.
        interface.netns.clone_from(&netns);
        let names = Names::of(pod_uid);
        let same = link::index(&names.host) == Some(interface.host_ifindex);
        (same && namespace::is_mounted(&netns)).then(|| PodNetwork {
            netns,
            addresses: interface.addresses.clone(),
            interface,
        })
    }

    async fn set_up(
        &self,
        pod_uid: &str,
        first_id: Option<u32>,
    ) -> Result<PodNetwork, NetworkError> {
        let (this, uid) = (self.clone(), pod_uid.to_owned());
        // All of it on one thread, which does not wait for others between its dozens of requests: there may be many that
        // have nothing to do with networks when many pods begin together.
        namespace::on_own_thread(move || {
            let _turn = this.inner.turn.lock();
            let addresses = this.inner.addresses.allocate(&uid)?;
            let netns = this.netns(&uid);
            namespace::create(&netns, first_id)?;
            let mtu = this.inner.mtu.load(Ordering::Relaxed);
            let mtu = (mtu > 0).then_some(mtu);
            let interface = link::create(&uid, &netns, &addresses, mtu)?;
            let record = serde_json::to_vec(&interface).map_err(|error| {
                NetworkError::system("encode the network's record")(error.into())
            })?;
            let path = this.record(&uid);
            addresses::write_whole(&path, &record).map_err(NetworkError::file("write", &path))?;
            Ok(PodNetwork {
                netns,
                addresses,
                interface,
            })
        })
        .await
    }

    /// Idempotent.
    ///
    /// # Errors
    /// When something of it cannot be removed; what is left is removed by the next call.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        check_uid(pod_uid)?;
        let record = self.record(pod_uid);
        // It is written when all of a network is there.
        let whole = std::fs::read(&record).ok();
        let whole: Option<PodInterface> = whole.and_then(|text| serde_json::from_slice(&text).ok());
        addresses::remove_file(&record).map_err(NetworkError::file("remove", &record))?;
        link::remove(pod_uid).await?;
        namespace::remove(&self.netns(pod_uid))?;
        // Last: until here the address is still in use.
        let known = whole.as_ref().map(|whole| whole.addresses.as_slice());
        self.inner.addresses.release(pod_uid, known)?;
        self.inner.unsettled().remove(pod_uid);
        Ok(())
    }

    /// Uids that have a network, for sweeping after a crash.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub async fn list(&self) -> Result<Vec<String>, NetworkError> {
        let mut uids: BTreeSet<String> = self.inner.addresses.holders()?.into_iter().collect();
        let directory = &self.inner.namespaces;
        let entries =
            std::fs::read_dir(directory).map_err(NetworkError::file("read", directory))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.strip_suffix(".json").unwrap_or(&name);
            if check_uid(uid).is_ok() {
                uids.insert(uid.to_owned());
            }
        }
        Ok(uids.into_iter().collect())
    }

    fn netns(&self, pod_uid: &str) -> PathBuf {
        self.inner.namespaces.join(pod_uid)
    }

    fn record(&self, pod_uid: &str) -> PathBuf {
        self.inner.namespaces.join(format!("{pod_uid}.json"))
    }
}

/// A uid becomes a file name.
fn check_uid(uid: &str) -> Result<(), NetworkError> {
    let sound = !uid.is_empty()
        && uid.len() <= 128
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if sound {
        Ok(())
    } else {
        Err(NetworkError::Uid(uid.to_owned()))
    }
}

#[cfg(test)]
mod tests;

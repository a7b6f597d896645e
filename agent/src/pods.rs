//! One worker per pod: what is, what should be, the next step.
//!
//! ```text
//!   pods (here)          the set of workers: begun, told, swept, ended
//!   worker               the loop of one pod        plan     what to do next (pure)
//!   record               what survives the agent    status   what is reported (pure)
//!   machine              the seam to images, network, runtime and mounts
//!   environment env_file fields files mounts container       references resolved into final values
//!   admit                what a node refuses to run
//!   manifest             pods from files of the node
//!   confine              seccomp profiles, system controls, process ids; app_armor: profiles of that
//!   runtime_class        which OCI runtime runs a pod
//!   user_ids             ids of pods that have users of their own
//!   turns                how many begin at the same time
//!   ports                what a pod asks of the network: hostPorts, opting out
//!   probe prober         verdicts (pure) and asking
//! ```
//! Not here: the control plane (`sync` brings pods and objects, and takes reports through [`Reporter`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

mod admit;
mod app_armor;
mod backoff;
mod claims;
mod confine;
mod container;
mod context;
mod credentials;
mod env_file;
mod environment;
mod expand;
mod fields;
mod files;
mod machine;
pub(crate) mod manifest;
mod metrics;
mod mounts;
mod objects;
mod plan;
mod ports;
mod probe;
mod prober;
pub(crate) mod qos;
pub(crate) mod quantity;
mod record;
mod report;
mod runtime_class;
mod status;
mod tokens;
mod turns;
mod user_ids;
mod wanted;
mod worker;

pub(crate) use admit::{Pressure, Refused};
pub(crate) use app_armor::is_enabled as has_app_armor;
pub(crate) use container::LogLimits;
pub(crate) use context::{Clock, Context, Settings};
pub(crate) use files::Resolver;
use machine::PodSandbox;
pub(crate) use machine::{Machine, NodeMachine};
pub(crate) use metrics::PodMetrics;
pub(crate) use objects::{Kind, Objects, ServiceFacts};
#[cfg(test)]
pub(crate) use record::PodDirs;
pub(crate) use report::{EventType, PodEvent, PodKey, Reporter};
pub(crate) use runtime_class::{DEFAULT_HANDLER, Handlers};
pub(crate) use tokens::TokenWish;
pub(crate) use turns::Turns;
pub(crate) use user_ids::UserIds;
pub(crate) use worker::{ContainerSnapshot, Snapshot};

use plan::Leaving;
use record::Record;
use worker::{Command, Worker};

/// Commands that a worker has not taken yet; more of them wait.
const INBOX: usize = 32;

/// How long a mirror pod that was deleted is away. A `kubectl delete` that finds the next one between two of its
/// requests waits for ever (kubernetes/kubectl#1803; mended in kubernetes/kubernetes#135563).
const SHOWN_AGAIN: Duration = Duration::from_secs(1);

/// All pods of this node. Only node sync and the composition root call it; each pod's state is its worker's.
pub(crate) struct Pods<M: Machine> {
    context: Arc<Context<M>>,
    workers: Arc<Mutex<BTreeMap<String, Handle>>>,
    /// The static pods that the control plane shows, by the uids of its copies.
    mirrors: Mutex<BTreeMap<String, PodKey>>,
}

struct Handle {
    key: PodKey,
    /// From a file of the node, not from the control plane.
    is_static: bool,
    inbox: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Option<Snapshot>>,
    task: JoinHandle<()>,
}

impl<M: Machine> Pods<M> {
    /// Begins with the pods that an earlier agent had, and sweeps what belongs to none.
    pub(crate) async fn open(context: Arc<Context<M>>) -> std::io::Result<Self> {
        let pods = Self {
            context,
            workers: Arc::default(),
            mirrors: Mutex::default(),
        };
        let dir = pods.context.settings.data_dir.join("pods");
        std::fs::create_dir_all(&dir)?;
        let mut known = BTreeSet::new();
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let loaded = record::load(&path).map(|(pod, record)| (PodKey::of(&pod), pod, record));
            match loaded {
                Ok((Some(key), pod, record)) => {
                    known.insert(key.uid.clone());
                    pods.begin(key, pod, Some(record));
                }
                Ok((None, ..)) => pods.sweep_data(&path).await,
                Err(error) => {
                    tracing::warn!(dir = %path.display(), %error, "not a pod's directory; swept");
                    pods.sweep_data(&path).await;
                }
            }
        }
        pods.sweep_run(&known).await;
        Ok(pods)
    }

    /// A directory of a pod that was hardly begun.
    async fn sweep_data(&self, path: &std::path::Path) {
        if let Some(uid) = path.file_name().and_then(std::ffi::OsStr::to_str) {
            self.sweep_sandbox(uid).await;
        }
        if let Err(error) = self.context.machine.unmount_below(path) {
            tracing::warn!(dir = %path.display(), %error, "mounts were not swept");
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::warn!(dir = %path.display(), %error, "not swept");
        }
    }

    /// Supervisors and networks of pods that nobody knows.
    async fn sweep_run(&self, known: &BTreeSet<String>) {
        let dir = self.context.settings.run_dir.join("pods");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(uid) = name.to_str().filter(|uid| !known.contains(*uid)) else {
                continue;
            };
            self.sweep_sandbox(uid).await;
            let _ = std::fs::remove_dir_all(entry.path());
        }
        match self.context.machine.list_networks().await {
            Ok(uids) => {
                for uid in uids.iter().filter(|uid| !known.contains(*uid)) {
                    self.sweep_sandbox(uid).await;
                }
            }
            Err(error) => tracing::warn!(%error, "networks were not swept"),
        }
    }

    async fn sweep_sandbox(&self, uid: &str) {
        let run_dir = self.context.settings.run_dir.join("pods").join(uid);
        match self.context.machine.connect_sandbox(&run_dir).await {
            Ok(Some(sandbox)) => {
                if let Err(error) = sandbox.stop().await {
                    tracing::warn!(uid, %error, "a supervisor was not swept");
                }
            }
            Ok(None) => {
                if let Err(error) = self.context.machine.sweep_sandbox(&run_dir).await {
                    tracing::warn!(uid, %error, "a sandbox was not swept");
                }
            }
            Err(error) => tracing::warn!(uid, %error, "a supervisor was not swept"),
        }
        if let Err(error) = self.context.machine.detach_network(uid).await {
            tracing::warn!(uid, %error, "a network was not swept");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: PodKey, pod: Pod, record: Option<Record>) {
        let is_static = admit::is_static(&pod);
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, snapshot) = watch::channel(None);
        let worker = Worker::new(
            Arc::clone(&self.context),
            key.clone(),
            pod,
            record,
            commands,
            publish,
        );
        let workers = Arc::clone(&self.workers);
        let gauge = self.context.metrics.pods.clone();
        let uid = key.uid.clone();
        let mut guard = self.lock();
        gauge.inc();
        let task = tokio::spawn(async move {
            worker.serve().await;
            gauge.dec();
            workers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&uid);
        });
        guard.insert(
            key.uid.clone(),
            Handle {
                key,
                is_static,
                inbox,
                snapshot,
                task,
            },
        );
    }

    /// A pod as the control plane has it now.
    pub(crate) async fn set(&self, pod: Pod) {
        self.take(pod, false, None).await;
    }

    /// A pod that is not for this node. If it runs here, it goes on.
    pub(crate) async fn set_refused(&self, pod: Pod, refused: Refused) {
        self.take(pod, false, Some(refused)).await;
    }

    /// A pod that goes on although its deletion was asked for, because other nodes may still send it
    /// requests. If it does not run here, it does not begin to.
    pub(crate) async fn set_held(&self, pod: Pod) {
        self.take(pod, true, None).await;
    }

    async fn take(&self, mut pod: Pod, held: bool, refused: Option<Refused>) {
        let Some(key) = PodKey::of(&pod) else {
            tracing::warn!("a pod without name or uid was passed over");
            return;
        };
        if let Some(hash) = manifest::mirrored(&pod) {
            let shown = PodKey {
                uid: hash.to_owned(),
                ..key.clone()
            };
            self.mirrors().insert(key.uid.clone(), shown);
            // The copy of a static pod: nothing runs for it, so nothing has to end before it goes.
            if pod.metadata.deletion_timestamp.is_some() {
                self.context.reporter.terminated(&key);
            }
            return;
        }
        if !is_safe(&key, &pod) {
            tracing::warn!(uid = %key.uid, "a pod whose names cannot be used in paths was passed over");
            return;
        }
        let inbox = self.lock().get(&key.uid).map(|handle| handle.inbox.clone());
        match inbox {
            Some(inbox) => {
                if held {
                    pod.metadata.deletion_timestamp = None;
                    pod.metadata.deletion_grace_period_seconds = None;
                }
                let _ = inbox.send(Command::Update(Box::new(pod))).await;
            }
            // It has ended here before, or never came to begin: there is nothing to wait for.
            None if pod.metadata.deletion_timestamp.is_some() => {
                self.context.reporter.terminated(&key);
            }
            None => {
                let record = refused.map(|refused| self.refuse(&pod, refused));
                self.begin(key, pod, record);
            }
        }
    }

    /// An event that is about no pod, told as those of pods are.
    pub(crate) fn tell(&self, event: PodEvent) {
        self.context.reporter.event(event);
    }

    /// The record of a pod that is not begun.
    fn refuse(&self, pod: &Pod, refused: Refused) -> Record {
        self.context.reporter.event(PodEvent {
            involved: report::reference(pod, None),
            event_type: EventType::Warning,
            reason: refused.reason,
            message: refused.message.clone(),
        });
        Record {
            failed: Some(refused.failure()),
            ..Record::new(self.context.clock.now())
        }
    }

    fn mirrors(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, PodKey>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Static pods that the control plane shows: by their own uids, which follow from their files.
    pub(crate) fn shown_static_pods(&self) -> Vec<PodKey> {
        self.mirrors().values().cloned().collect()
    }

    /// There is no such static pod any more, nor does anything of it run.
    pub(crate) fn end_mirror(&self, shown: &PodKey) {
        self.context.reporter.terminated(shown);
    }

    /// The control plane has the pod no more.
    pub(crate) async fn gone(&self, uid: &str) {
        let shown = self.mirrors().remove(uid);
        if let Some(shown) = shown {
            return self.show_again(&shown.uid);
        }
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(Command::Gone).await;
        }
    }

    /// Somebody has deleted the copy, not the pod: with its status it is made again, [`SHOWN_AGAIN`] later.
    fn show_again(&self, uid: &str) {
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.downgrade());
        let Some(inbox) = inbox else { return };
        tokio::spawn(async move {
            tokio::time::sleep(SHOWN_AGAIN).await;
            if let Some(inbox) = inbox.upgrade() {
                let _ = inbox.send(Command::Repeat).await;
            }
        });
    }

    /// The node has other addresses: pods say where they run, and those on the node's own network have them too.
    pub(crate) async fn addresses_changed(&self) {
        let all: Vec<_> = self.lock().values().map(|it| it.inbox.clone()).collect();
        for inbox in all {
            let _ = inbox.send(Command::Addresses).await;
        }
    }

    /// After a full state: these are all pods that there are.
    pub(crate) async fn retain(&self, uids: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .lock()
            .iter()
            .filter(|(uid, handle)| !handle.is_static && !uids.contains(*uid))
            .map(|(uid, _)| uid.clone())
            .collect();
        let mirrors: Vec<String> = self.mirrors().keys().cloned().collect();
        let mirrors = mirrors.into_iter().filter(|uid| !uids.contains(uid));
        for uid in gone.into_iter().chain(mirrors) {
            self.gone(&uid).await;
        }
    }

    /// Pods from files of the node, by uid.
    pub(crate) fn static_pods(&self) -> BTreeMap<String, PodKey> {
        let handles = self.lock();
        let all = handles.iter().filter(|(_, handle)| handle.is_static);
        all.map(|(uid, handle)| (uid.clone(), handle.key.clone()))
            .collect()
    }

    /// The file of a static pod is gone, or says something else.
    pub(crate) async fn end_static(&self, uid: &str) {
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(Command::End).await;
        }
    }

    /// Tells the control plane once more how a pod is.
    pub(crate) async fn repeat(&self, uid: &str) {
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(Command::Repeat).await;
        }
    }

    /// What is known of a pod by name; the youngest when a name was used again.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Snapshot> {
        self.lock()
            .values()
            .filter(|handle| handle.key.namespace == namespace && handle.key.name == name)
            .filter_map(|handle| handle.snapshot.borrow().clone())
            .max_by_key(|snapshot| snapshot.status.start_time.clone().map(|time| time.0))
    }

    /// Ends a pod for the node's sake: at once, or within `grace` and its own grace period.
    pub(crate) async fn evict(&self, uid: &str, message: String, grace: Option<Duration>) {
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(Command::Evict(message, grace)).await;
        }
    }

    /// Ends a pod because the machine goes down, within `grace` and its own grace period.
    pub(crate) async fn shut_down(&self, uid: &str, grace: Duration) {
        let inbox = self.lock().get(uid).map(|handle| handle.inbox.clone());
        if let Some(inbox) = inbox {
            let _ = inbox.send(Command::ShutDown(grace)).await;
        }
    }

    /// Whether pods that are yet to come are refused, because the machine goes down.
    pub(crate) fn set_shutting_down(&self, shutting_down: bool) {
        self.context
            .shutting_down
            .store(shutting_down, std::sync::atomic::Ordering::Relaxed);
    }

    /// What the node is short of, for pods that are yet to come.
    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        self.context.set_pressure(pressure);
    }

    /// Follows one pod.
    pub(crate) fn watch(&self, uid: &str) -> Option<watch::Receiver<Option<Snapshot>>> {
        Some(self.lock().get(uid)?.snapshot.clone())
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.lock()
            .values()
            .filter_map(|handle| handle.snapshot.borrow().clone())
            .collect()
    }

    /// The workers stop where they are; pods run on and are adopted by the next agent.
    pub(crate) async fn leave_running(&self) {
        let handles: Vec<Handle> = std::mem::take(&mut *self.lock()).into_values().collect();
        for handle in handles {
            drop(handle.inbox);
            // A worker ends between two steps; one that is waiting on the runtime is not waited for long.
            let mut task = handle.task;
            if tokio::time::timeout(Duration::from_secs(10), &mut task)
                .await
                .is_err()
            {
                task.abort();
            }
        }
    }

    /// As `kill -9` of the agent would: nothing more is done, and nothing written.
    #[cfg(test)]
    fn kill(&self) {
        for handle in std::mem::take(&mut *self.lock()).into_values() {
            handle.task.abort();
        }
    }

    /// Ends all pods and releases what they hold; returns those that did not end in time.
    pub(crate) async fn end_all(&self, grace: Duration, patience: Duration) -> Vec<PodKey> {
        let grace_seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let handles: Vec<Handle> = std::mem::take(&mut *self.lock()).into_values().collect();
        for handle in &handles {
            let _ = handle
                .inbox
                .send(Command::Leave(Leaving { grace_seconds }))
                .await;
        }
        let deadline = tokio::time::Instant::now() + patience;
        let mut left = Vec::new();
        for handle in handles {
            let mut task = handle.task;
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                left.push(handle.key);
            }
        }
        let detached = self.context.machine.networks_detached();
        if tokio::time::timeout_at(deadline, detached).await.is_err() {
            tracing::warn!("networks of pods that have ended are left");
        }
        left
    }
}

/// Names become parts of paths.
fn is_safe(key: &PodKey, pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    let inner = spec.flat_map(|spec| {
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let volumes = spec.volumes.iter().flatten();
        containers
            .map(|container| &container.name)
            .chain(ephemeral.map(|container| &container.name))
            .chain(volumes.map(|volume| &volume.name))
    });
    [&key.namespace, &key.name, &key.uid]
        .into_iter()
        .chain(inner)
        .all(|name| {
            !name.is_empty()
                && name.len() <= 253
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        })
}

#[cfg(test)]
mod tests;

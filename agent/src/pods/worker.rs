//! The loop of one pod: look, plan, do, note, tell. The only writer of the pod's record.
//!
//! The steps themselves are in `worker/`: `prepare` (volumes, network, supervisor, and their release),
//! `image` (pulls), `start` (attempts begin), `hooks`, `stop` (attempts end), `observe` (attempts as the
//! supervisor sees them), `probing`, `panics` (what is begun again).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::admit;
use super::app_armor;
use super::backoff::Backoff;
use super::context::Context;
use super::machine::{ImageFailure, Machine, PodSandbox};
use super::manifest;
use super::plan::{self, Action, HookKind, Leaving, Transient, TransientContainer};
use super::ports;
use super::probe::ProbeKind;
use super::prober::ProbeReport;
use super::record::{PodDirs, PodFailure, Record, Terminating};
use super::report::{EventType, PodKey};
use super::wanted::{self, Wanted, clamp_grace, deletion_grace};
use crate::images::Image;

mod claims;
mod hooks;
mod image;
mod image_volumes;
mod observe;
mod panics;
mod prepare;
mod probing;
mod resize;
mod start;
mod stop;
mod tell;

/// The supervisor is asked for all states at least this often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Seconds that a pod has when the node runs short.
const EVICTION_GRACE: i64 = 1;

/// What others ask of a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// The pod as the control plane has it now.
    Update(Box<Pod>),
    /// The node has other addresses.
    Addresses,
    /// The control plane has it no more.
    Gone,
    /// Its file is gone: as if its deletion had been asked for.
    End,
    /// Report again what was reported last.
    Repeat,
    /// The node cannot keep it, and says why.
    /// The message, and how long it may take when that is not at once.
    Evict(String, Option<Duration>),
    /// The machine goes down; how long it may take.
    ShutDown(Duration),
    /// End the containers and release everything, but keep the pod in the books.
    Leave(Leaving),
}

/// What others may see of a pod.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) key: PodKey,
    /// As the control plane has it.
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: PodStatus,
    pub(crate) dirs: PodDirs,
    pub(crate) containers: BTreeMap<String, ContainerSnapshot>,
}

impl Snapshot {
    /// As the pod names them.
    pub(crate) fn images(&self) -> Vec<String> {
        let spec = self.pod.spec.iter();
        let containers = spec.clone().flat_map(wanted::containers);
        let volumes = spec.flat_map(|spec| spec.volumes.iter().flatten());
        let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone());
        containers
            .filter_map(|it| it.image)
            .chain(volumes)
            .collect()
    }

    pub(crate) fn is_static(&self) -> bool {
        admit::is_static(&self.pod)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerSnapshot {
    /// Number of the current attempt, once its program was started.
    pub(crate) current: Option<u32>,
    pub(crate) previous: Option<u32>,
    pub(crate) live: bool,
    /// Reason of the waiting state, when there is no attempt.
    pub(crate) waiting: Option<String>,
}

/// What a container needs of images: its own, and those of volumes by their names.
#[derive(Debug)]
struct Pulled {
    image: Image,
    volumes: Vec<(String, Image)>,
}

/// Results of work that was begun and not waited for.
#[derive(Debug)]
enum Finished {
    Pull {
        container: String,
        outcome: Box<Result<Pulled, ImageFailure>>,
        took: Duration,
        was_present: bool,
    },
    Hook {
        container: String,
        number: u32,
        kind: HookKind,
        outcome: Result<(), String>,
    },
    /// It panicked: there is no result.
    Nothing,
}

pub(crate) struct Worker<M: Machine> {
    context: Arc<Context<M>>,
    key: PodKey,
    pod: Arc<Pod>,
    wanted: Wanted,
    dirs: PodDirs,
    record: Record,
    saved: Option<Record>,
    transient: Transient,
    sandbox: Option<M::Sandbox>,
    changes: Option<watch::Receiver<u64>>,
    /// The supervisor's view may differ from the record.
    look: bool,
    /// The pod's resources may differ from what is in force.
    resize_due: bool,
    /// Look then, at the latest.
    look_at: Option<Timestamp>,
    images: BTreeMap<String, Image>,
    /// By the names of volumes.
    volume_images: BTreeMap<String, Image>,
    pull_backoffs: BTreeMap<String, Backoff>,
    probers: BTreeMap<(String, ProbeKind), AbortHandle>,
    /// By container: one hook at a time.
    hooks: BTreeMap<String, AbortHandle>,
    /// Last message of each kind of failure, so that an event is sent when something new is to be said.
    told: BTreeMap<String, String>,
    inbox: mpsc::Receiver<Command>,
    finished: (mpsc::Sender<Finished>, mpsc::Receiver<Finished>),
    reports: (mpsc::Sender<ProbeReport>, mpsc::Receiver<ProbeReport>),
    snapshot: watch::Sender<Option<Snapshot>>,
}

/// Whether the scheduler has bound the pod: the ports that it wants are free, or about to be.
fn was_scheduled(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "True")
}

impl<M: Machine> Drop for Worker<M> {
    fn drop(&mut self) {
        self.context.allocate(&self.key.uid, None);
        self.context.release_ports(&self.key.uid);
        self.context.user_ids.give_back(&self.key.uid);
        for task in self.probers.values().chain(self.hooks.values()) {
            task.abort();
        }
    }
}

impl<M: Machine> Worker<M> {
    pub(crate) fn new(
        context: Arc<Context<M>>,
        key: PodKey,
        pod: Pod,
        known: Option<Record>,
        inbox: mpsc::Receiver<Command>,
        snapshot: watch::Sender<Option<Snapshot>>,
    ) -> Self {
        let settings = &context.settings;
        let dirs = PodDirs::new(
            &settings.data_dir,
            &settings.run_dir,
            &key.namespace,
            &key.name,
            &key.uid,
        );
        let now = context.clock.now();
        let mut record = known.unwrap_or_else(|| Record::new(now));
        bound_deadlines(&mut record, now);
        if let Some(first_id) = record.first_id {
            context.user_ids.keep(&key.uid, first_id);
        }
        let transient = Transient::taken_over(&record);
        let this = Self {
            wanted: Wanted::of(&pod),
            context,
            key,
            pod: Arc::new(pod),
            dirs,
            record,
            saved: None,
            transient,
            sandbox: None,
            changes: None,
            look: false,
            resize_due: true,
            look_at: None,
            images: BTreeMap::new(),
            volume_images: BTreeMap::new(),
            pull_backoffs: BTreeMap::new(),
            probers: BTreeMap::new(),
            hooks: BTreeMap::new(),
            told: BTreeMap::new(),
            inbox,
            finished: mpsc::channel(16),
            reports: mpsc::channel(64),
            snapshot,
        };
        // Here, because pods are begun in their order, and run at the same time.
        let _ = this.reserve_ports(this.begun());
        let _ = this.reserve_resources(this.begun());
        this
    }

    /// Whether it was begun before, or will not be.
    fn begun(&self) -> bool {
        self.record.prepared || self.record.released || self.record.failed.is_some()
    }

    /// Runs until the pod has ended and may be forgotten, or until nobody holds the other end of the inbox.
    async fn run(&mut self) {
        self.save_pod();
        if admit::is_static(&self.pod) {
            let copy = manifest::mirror(&self.pod);
            self.context.reporter.mirror(&self.key, &copy);
        }
        self.admit();
        self.note_deletion();
        self.adopt().await;
        let mut objects = self.context.objects.changes();
        loop {
            let now = self.now();
            if self.look || self.look_at.is_some_and(|at| at <= now) {
                self.look_at = None;
                self.observe().await;
            }
            if self.resize_due && self.transient.prepared {
                self.resize().await;
            }
            let plan = plan::plan(&self.wanted, &self.record, &self.transient, now);
            match plan.actions.first() {
                None => {
                    self.save();
                    self.tell();
                }
                // It is noted by that step, before anything else.
                Some(Action::Prepare) if self.saved.is_none() => {}
                Some(_) => self.note(),
            }
            let mut acted = false;
            for action in plan.actions {
                acted = true;
                if action == Action::Finish {
                    self.tell();
                    self.finish();
                    return;
                }
                self.act(action).await;
                // What is told is noted with what was done.
                self.tell();
                self.note();
            }
            if acted {
                // Commands come first, so that a deletion is not kept waiting by a long chain of steps.
                while let Ok(command) = self.inbox.try_recv() {
                    self.command(command);
                }
                continue;
            }
            let wake = [plan.wake, self.display_change(), self.look_at];
            let wake = wake.into_iter().flatten().min();
            let wake = wake.map(|wake| self.context.clock.instant(wake));
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(finished) = self.finished.1.recv() => self.finished(finished),
                Some(report) = self.reports.1.recv() => self.probed(report),
                () = changed(&mut self.changes) => self.look = true,
                _ = objects.changed() => self.objects_changed(),
                () = sleep_until(wake) => {}
                () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {
                    self.look = true;
                    self.resize_due |= self.record.resize.is_some();
                }
            }
        }
    }

    /// A pod that was not begun yet may be one that this node does not run.
    fn admit(&mut self) {
        let begun = self.begun();
        let settings = &self.context.settings;
        let refused = admit::refused(
            &self.pod,
            &settings.allowed_sysctls,
            self.context.pressure(),
        );
        let going_down = self.context.shutting_down.load(Ordering::Relaxed);
        let refused = refused.or_else(|| going_down.then(admit::going_down));
        let refused = refused.or_else(|| app_armor::refused(&self.pod, settings.app_armor));
        let refused = refused.or_else(|| self.reserve_ports(begun));
        let refused = refused.or_else(|| self.reserve_resources(begun));
        let Some(refused) = refused.filter(|_| !begun) else {
            return;
        };
        self.context.release_ports(&self.key.uid);
        self.context.allocate(&self.key.uid, None);
        let message = refused.message.clone();
        self.event(None, EventType::Warning, refused.reason, message);
        self.record.failed = Some(refused.failure());
    }

    /// The scheduler sees to it that ports are free; a pod that names its node itself did not ask it.
    fn reserve_ports(&self, begun: bool) -> Option<admit::Refused> {
        if self.record.released || self.record.failed.is_some() {
            return None;
        }
        let wanted = ports::host_ports(&self.pod);
        let keeps = begun || was_scheduled(&self.pod);
        let reserved = self.context.reserve_ports(&self.key.uid, wanted, keeps);
        (!reserved).then(admit::ports_taken)
    }

    /// As with ports: the scheduler has counted for those that asked it.
    fn reserve_resources(&self, begun: bool) -> Option<admit::Refused> {
        if self.record.released || self.record.failed.is_some() {
            return None;
        }
        let asked = resize::asked(self.pod.spec.as_ref()?);
        let keeps = begun || was_scheduled(&self.pod) || admit::is_static(&self.pod);
        let reserved = self.context.reserve(&self.key.uid, asked, keeps);
        reserved.err().map(admit::too_little)
    }

    /// What the node cannot wait for ends at once.
    fn evict(&mut self, message: String, grace: Option<Duration>) {
        if self.record.failed.is_some() || self.record.released {
            return;
        }
        let seconds = grace.map_or(EVICTION_GRACE, |grace| {
            let longest = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            longest.min(self.wanted.grace_seconds).max(EVICTION_GRACE)
        });
        self.event(None, EventType::Warning, "Evicted", message.clone());
        self.fail_for_the_node("Evicted", message, seconds);
    }

    /// The machine goes down.
    fn shut_down(&mut self, grace: Duration) {
        if self.record.failed.is_some() || self.record.released {
            return;
        }
        let longest = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let message = "Pod was terminated in response to imminent node shutdown.".to_owned();
        let seconds = longest.min(self.wanted.grace_seconds);
        self.fail_for_the_node("Terminated", message, seconds);
    }

    fn fail_for_the_node(&mut self, reason: &str, message: String, grace_seconds: i64) {
        self.record.failed = Some(PodFailure {
            reason: reason.to_owned(),
            message,
            disrupts: true,
            refused: false,
            grace_seconds: Some(grace_seconds),
        });
        self.shorten(grace_seconds);
    }

    fn now(&self) -> Timestamp {
        self.context.clock.now()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Update(pod) => {
                if *pod == *self.pod {
                    return;
                }
                // Most changes are the echo of what this node reported.
                let echo = same_but_status(&self.pod, &pod);
                self.pod = Arc::from(pod);
                if !echo {
                    self.wanted = Wanted::of(&self.pod);
                    self.resize_due = true;
                    self.save_pod();
                    self.note_deletion();
                }
            }
            Command::Addresses => {
                if self.record.prepared && self.host_network() {
                    self.record.addresses = self.context.settings.addresses();
                    self.save();
                }
            }
            Command::Gone => {
                let grace_seconds = deletion_grace(&self.pod);
                self.terminate(grace_seconds, true);
            }
            Command::End => self.terminate(deletion_grace(&self.pod), false),
            Command::Repeat => {
                if let Some(status) = &self.record.reported {
                    self.context.reporter.status(&self.key, status);
                }
            }
            Command::Evict(message, grace) => self.evict(message, grace),
            Command::ShutDown(grace) => self.shut_down(grace),
            Command::Leave(leaving) => {
                self.transient.leaving = Some(leaving);
                self.shorten(leaving.grace_seconds);
            }
        }
    }

    fn note_deletion(&mut self) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.terminate(deletion_grace(&self.pod), false);
        }
    }

    /// The pod is to end; a later request may shorten the time, never lengthen it.
    fn terminate(&mut self, grace_seconds: i64, gone: bool) {
        let since = self.now();
        match &mut self.record.terminating {
            None => {
                self.record.terminating = Some(Terminating {
                    since,
                    grace_seconds,
                    gone,
                });
            }
            Some(terminating) => {
                terminating.gone |= gone;
                terminating.grace_seconds = terminating.grace_seconds.min(grace_seconds);
            }
        }
        self.shorten(grace_seconds);
    }

    fn shorten(&mut self, grace_seconds: i64) {
        let latest = self.now() + SignedDuration::from_secs(clamp_grace(grace_seconds));
        for container in self.record.containers.values_mut() {
            if let Some(kill) = container
                .attempt
                .as_mut()
                .and_then(|attempt| attempt.kill.as_mut())
            {
                kill.deadline = kill.deadline.min(latest);
            }
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Prepare => self.prepare().await,
            Action::Pull(container) => self.pull(&container),
            Action::Start { container, number } => self.start(&container, number).await,
            Action::Launch(container) => self.launch(&container).await,
            Action::Hook(container, kind) => self.hook(&container, kind).await,
            Action::Stop {
                container,
                grace_seconds,
                cause,
            } => self.stop(&container, grace_seconds, cause).await,
            Action::Signal(container) => self.signal_end(&container).await,
            Action::Kill(container) => self.kill(&container).await,
            Action::RestartAll => self.record.restarting_all = true,
            Action::BeginAnew => {
                let now = self.now();
                self.record.begin_anew(&self.wanted, now);
            }
            Action::Fail { reason, message } => {
                self.event(
                    None,
                    EventType::Warning,
                    "DeadlineExceeded",
                    message.clone(),
                );
                self.record.failed = Some(PodFailure {
                    reason,
                    message,
                    disrupts: false,
                    refused: false,
                    grace_seconds: None,
                });
            }
            Action::Release => self.release().await,
            Action::Finish => {}
        }
    }

    /// Removes what is left of the pod on this node.
    fn finish(&mut self) {
        if self.transient.leaving.is_some() {
            return;
        }
        if self
            .record
            .terminating
            .is_some_and(|terminating| !terminating.gone)
        {
            self.context.reporter.terminated(&self.key);
        }
        for dir in [&self.dirs.logs, &self.dirs.data, &self.dirs.run] {
            if let Err(error) = std::fs::remove_dir_all(dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(dir = %dir.display(), %error, "a pod's directory was not removed");
            }
        }
    }

    fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Pull {
                container,
                outcome,
                took,
                was_present,
            } => self.pulled(&container, *outcome, took, was_present),
            Finished::Hook {
                container,
                number,
                kind,
                outcome,
            } => self.hook_finished(&container, number, kind, outcome),
            // Whatever waits for it would wait for ever. The panic was told of when it happened.
            Finished::Nothing => {
                std::panic::resume_unwind(Box::new("a task of the worker panicked"))
            }
        }
    }

    fn objects_changed(&mut self) {
        let now = self.now();
        for container in self.transient.containers.values_mut() {
            if let Some(trouble) = &mut container.trouble
                && trouble.reason == "CreateContainerConfigError"
            {
                trouble.again = now;
            }
        }
        if self.transient.prepare_again.is_some() {
            self.transient.prepare_again = Some(now);
        }
        if self.transient.prepared {
            self.refresh_volumes();
        }
    }

    fn save(&mut self) {
        if self.saved.as_ref() == Some(&self.record) {
            return;
        }
        match self.dirs.save_record(&self.record) {
            Ok(()) => self.saved = Some(self.record.clone()),
            Err(error) => {
                tracing::error!(pod = %self.key.name, %error, "the pod's record was not written");
            }
        }
    }

    /// Saves what another agent would have to know. What was told alone waits until nothing is to be done: most steps of
    /// a start change that.
    fn note(&mut self) {
        let told_alone = self
            .saved
            .as_ref()
            .is_some_and(|saved| saved.differs_in_what_was_told(&self.record));
        if !told_alone {
            self.save();
        }
    }

    fn save_pod(&self) {
        if let Err(error) = self.dirs.save_pod(&self.pod) {
            tracing::error!(pod = %self.key.name, %error, "the pod's specification was not written");
        }
    }

    fn transient(&mut self, container: &str) -> &mut TransientContainer {
        self.transient
            .containers
            .entry(container.to_owned())
            .or_default()
    }

    fn container(&self, name: &str) -> Option<Container> {
        let mut all = wanted::containers(self.pod.spec.as_ref()?);
        all.find(|container| container.name == name)
    }

    async fn connect(&mut self) {
        match self.context.machine.connect_sandbox(&self.dirs.run).await {
            Ok(Some(sandbox)) => self.use_sandbox(sandbox),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(pod = %self.key.name, %error, "the pod's supervisor does not answer");
            }
        }
    }

    fn use_sandbox(&mut self, sandbox: M::Sandbox) {
        self.changes = Some(sandbox.changes());
        self.sandbox = Some(sandbox);
        self.look = true;
    }
}

/// Whether nothing changed that a worker acts on.
fn same_but_status(one: &Pod, other: &Pod) -> bool {
    let (a, b) = (&one.metadata, &other.metadata);
    one.spec == other.spec
        && a.deletion_timestamp == b.deletion_timestamp
        && a.deletion_grace_period_seconds == b.deletion_grace_period_seconds
        && a.labels == b.labels
        && a.annotations == b.annotations
}

/// A record written by a clock that went elsewhere must not keep a pod from ending.
fn bound_deadlines(record: &mut Record, now: Timestamp) {
    let grace = record
        .terminating
        .map_or(30, |terminating| terminating.grace_seconds);
    let latest = now + SignedDuration::from_secs(clamp_grace(grace));
    for container in record.containers.values_mut() {
        if let Some(kill) = container
            .attempt
            .as_mut()
            .and_then(|attempt| attempt.kill.as_mut())
        {
            kill.deadline = kill.deadline.min(latest);
            kill.forced = kill.forced.map(|forced| forced.min(now));
        }
    }
}

/// Resolves when the supervisor says that something changed; never without one.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    match changes {
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                // The supervisor's client is gone: look once, then wait for other things.
                *changes = None;
            }
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

//! `v1.PodStatus` of a pod from what is known of it: phases, conditions, reasons as the kubelet gives them.
//! Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{self, ImageState, Progress, Transient, TransientContainer};
use super::qos;
use super::record::{AttemptState, ContainerRecord, Ended, Record};
use super::wanted::Wanted;

/// What the status takes from the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    pub(crate) addresses: Vec<IpAddr>,
}

/// Conditions that this module writes; all others are carried over.
const OWN_CONDITIONS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

pub(crate) fn status(
    pod: &Pod,
    wanted: &Wanted,
    record: &Record,
    transient: &Transient,
    host: &HostFacts,
    now: Timestamp,
) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let all_over = ending(record) && !any_live(record);
    let init_done = init_done(wanted, record);
    let render = |container: &Container| {
        container_status(
            container, wanted, record, transient, init_done, all_over, now,
        )
    };
    let init: Vec<ContainerStatus> = spec.init_containers.iter().flatten().map(render).collect();
    let main: Vec<ContainerStatus> = spec.containers.iter().map(render).collect();
    let phase = phase(wanted, record);
    let addresses = &record.addresses;
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: record.failed.as_ref().map(|failed| failed.reason.clone()),
        message: record.failed.as_ref().map(|failed| failed.message.clone()),
        conditions: Some(conditions(pod, record, &main, &init, phase, init_done, now)),
        host_ip: host.addresses.first().map(IpAddr::to_string),
        host_ips: (!host.addresses.is_empty()).then(|| {
            host.addresses
                .iter()
                .map(|ip| HostIP { ip: ip.to_string() })
                .collect()
        }),
        pod_ip: addresses.first().map(IpAddr::to_string),
        pod_ips: (!addresses.is_empty()).then(|| {
            addresses
                .iter()
                .map(|ip| PodIP { ip: ip.to_string() })
                .collect()
        }),
        start_time: Some(time(record.start_time)),
        qos_class: Some(qos::class(&spec).as_str().to_owned()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Whether the pod is being ended as a whole.
fn ending(record: &Record) -> bool {
    record.terminating.is_some() || record.failed.is_some() || record.released
}

fn any_live(record: &Record) -> bool {
    record
        .containers
        .values()
        .filter_map(|container| container.attempt.as_ref())
        .any(super::record::Attempt::is_live)
}

fn init_done(wanted: &Wanted, record: &Record) -> bool {
    match plan::progress(wanted, record) {
        Progress::Init(_) => false,
        Progress::Main => true,
        Progress::Done => !init_failed(wanted, record),
    }
}

fn init_failed(wanted: &Wanted, record: &Record) -> bool {
    wanted.init.iter().any(|container| {
        !container.sidecar
            && record
                .container(&container.name)
                .and_then(ContainerRecord::ended)
                .is_some_and(|ended| {
                    ended.exit_code != 0
                        && !wanted.policy(&container.name).restarts(ended.exit_code)
                })
    })
}

pub(crate) fn phase(wanted: &Wanted, record: &Record) -> &'static str {
    if record.failed.is_some() {
        return "Failed";
    }
    if init_failed(wanted, record) {
        return "Failed";
    }
    let ended: Vec<Option<&Ended>> = wanted
        .main
        .iter()
        .map(|container| record.container(&container.name)?.ended())
        .collect();
    let over = record.released || (record.terminating.is_some() && !any_live(record));
    if over {
        let all_well = !ended.is_empty()
            && ended
                .iter()
                .all(|ended| ended.is_some_and(|ended| ended.exit_code == 0));
        return if all_well { "Succeeded" } else { "Failed" };
    }
    match plan::progress(wanted, record) {
        Progress::Init(_) => "Pending",
        Progress::Done => {
            if ended
                .iter()
                .all(|ended| ended.is_some_and(|ended| ended.exit_code == 0))
            {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        Progress::Main => {
            let never_begun = wanted.main.iter().any(|container| {
                record.attempt(&container.name).is_none_or(|attempt| {
                    attempt.number == 0
                        && matches!(
                            attempt.state,
                            AttemptState::Creating | AttemptState::Created
                        )
                })
            });
            if never_begun { "Pending" } else { "Running" }
        }
    }
}

fn container_status(
    container: &Container,
    wanted: &Wanted,
    record: &Record,
    transient: &Transient,
    init_done: bool,
    all_over: bool,
    now: Timestamp,
) -> ContainerStatus {
    let empty = ContainerRecord::default();
    let known = record.container(&container.name).unwrap_or(&empty);
    let nothing = TransientContainer::default();
    let state = transient
        .containers
        .get(&container.name)
        .unwrap_or(&nothing);
    let is_init = wanted.init.iter().any(|init| init.name == container.name);
    let sidecar = wanted
        .init
        .iter()
        .any(|init| init.name == container.name && init.sidecar);
    let running = known.running_since().is_some();
    let started = running && is_started(container, state);
    let ready = if is_init && !sidecar {
        known.ended().is_some_and(|ended| ended.exit_code == 0)
    } else {
        running && started && is_ready(container, state)
    };
    let (current, last) = states(
        container,
        wanted,
        known,
        state,
        all_over,
        // What a failed initialization kept from running still waits, for all to see.
        init_done && !is_init,
        now,
    );
    let image = container.image.clone().unwrap_or_default();
    ContainerStatus {
        name: container.name.clone(),
        image,
        image_id: known.image_id.clone(),
        container_id: known
            .attempt
            .as_ref()
            .filter(|attempt| !matches!(attempt.state, AttemptState::Creating))
            .map(|attempt| container_id(&attempt.id)),
        ready,
        started: Some(started),
        restart_count: i32::try_from(known.restart_count()).unwrap_or(i32::MAX),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn is_started(container: &Container, state: &TransientContainer) -> bool {
    container.startup_probe.is_none() || state.started == Some(true)
}

fn is_ready(container: &Container, state: &TransientContainer) -> bool {
    container.readiness_probe.is_none() || state.ready == Some(true)
}

/// `state` and `lastState`.
fn states(
    container: &Container,
    wanted: &Wanted,
    known: &ContainerRecord,
    state: &TransientContainer,
    all_over: bool,
    its_turn: bool,
    now: Timestamp,
) -> (ContainerState, Option<ContainerState>) {
    let before = known.last.as_ref().map(terminated);
    let Some(attempt) = &known.attempt else {
        if all_over && its_turn {
            return (never_ran(), None);
        }
        return (first_waiting(container, wanted, state, now), None);
    };
    match &attempt.state {
        AttemptState::Creating | AttemptState::Created => (being_made(wanted), before),
        AttemptState::Running { started_at } => (
            ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(time(*started_at)),
                }),
                ..ContainerState::default()
            },
            before,
        ),
        AttemptState::Ended(ended) => {
            let restarts = !all_over && wanted.policy(&container.name).restarts(ended.exit_code);
            if !restarts {
                return (terminated(ended), before);
            }
            // Between two attempts the last one is `lastState` and `state` says what is waited for.
            if let Some(waiting) = trouble(container, state, now) {
                return (waiting, Some(terminated(ended)));
            }
            let until = known.crash.until(ended.noticed_at.min(now));
            if until.is_some_and(|until| now < until) {
                let message = format!(
                    "back-off {}s restarting failed container={}",
                    known.crash.delay().as_secs(),
                    container.name
                );
                return (
                    waiting("CrashLoopBackOff", Some(message)),
                    Some(terminated(ended)),
                );
            }
            (terminated(ended), before)
        }
    }
}

/// Of a container that was never tried.
fn first_waiting(
    container: &Container,
    wanted: &Wanted,
    state: &TransientContainer,
    now: Timestamp,
) -> ContainerState {
    trouble(container, state, now).unwrap_or_else(|| being_made(wanted))
}

/// Of every container of a pod with init containers, the kubelet says that the pod initializes.
fn being_made(wanted: &Wanted) -> ContainerState {
    let reason = if wanted.init.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    waiting(reason, None)
}

/// What keeps the next attempt from being made, if something does.
fn trouble(
    container: &Container,
    state: &TransientContainer,
    now: Timestamp,
) -> Option<ContainerState> {
    match &state.image {
        ImageState::Failed {
            reason,
            message,
            at,
            ..
        } => {
            let backing_off = now.duration_since(*at) >= PULL_ERROR_SHOWN && backs_off(reason);
            return Some(if backing_off {
                let image = container.image.as_deref().unwrap_or_default();
                waiting(
                    "ImagePullBackOff",
                    Some(format!("Back-off pulling image \"{image}\": {message}")),
                )
            } else {
                waiting(reason, Some(message.clone()))
            });
        }
        ImageState::Unknown | ImageState::Pulling | ImageState::Present => {}
    }
    state
        .trouble
        .as_ref()
        .map(|trouble| waiting(&trouble.reason, Some(trouble.message.clone())))
}

/// For so long the error of a pull is shown before `ImagePullBackOff` takes its place.
pub(crate) const PULL_ERROR_SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

/// Whether waiting after this reason is shown as back-off; a name that can never work is not waited for.
pub(crate) fn backs_off(reason: &str) -> bool {
    !matches!(reason, "InvalidImageName" | "ErrImageNeverPull")
}

fn conditions(
    pod: &Pod,
    record: &Record,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
    phase: &str,
    init_done: bool,
    now: Timestamp,
) -> Vec<PodCondition> {
    let succeeded = phase == "Succeeded";
    let unready = names(main.iter().filter(|status| !status.ready));
    let uninitialized = names(init.iter().filter(|status| !status.ready));
    let containers_ready = if succeeded {
        Verdict::not("PodCompleted", None)
    } else if phase == "Failed" {
        Verdict::not("PodFailed", None)
    } else if unready.is_empty() {
        Verdict::yes()
    } else {
        Verdict::not(
            "ContainersNotReady",
            Some(format!("containers with unready status: [{unready}]")),
        )
    };
    let ready = match unmet_gates(pod) {
        Some(message) if containers_ready.status => {
            Verdict::not("ReadinessGatesNotReady", Some(message))
        }
        _ => containers_ready.clone(),
    };
    let initialized = if succeeded {
        Verdict {
            status: true,
            reason: Some("PodCompleted"),
            message: None,
        }
    } else if init_done {
        Verdict::yes()
    } else {
        Verdict::not(
            "ContainersNotInitialized",
            Some(format!(
                "containers with incomplete status: [{uninitialized}]"
            )),
        )
    };
    let sandbox = Verdict {
        status: record.prepared && !record.addresses.is_empty(),
        reason: None,
        message: None,
    };
    let mut conditions = vec![
        sandbox.condition("PodReadyToStartContainers", pod, record, now),
        initialized.condition("Initialized", pod, record, now),
        ready.condition("Ready", pod, record, now),
        containers_ready.condition("ContainersReady", pod, record, now),
        Verdict::yes().condition("PodScheduled", pod, record, now),
    ];
    conditions.extend(
        pod.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str()))
            .cloned(),
    );
    conditions
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses
        .map(|status| status.name.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn unmet_gates(pod: &Pod) -> Option<String> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let met = |gate: &str| {
        pod.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == gate && condition.status == "True")
    };
    let unmet: Vec<String> = gates
        .iter()
        .filter(|gate| !met(&gate.condition_type))
        .map(|gate| {
            format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist or is not true.",
                gate.condition_type
            )
        })
        .collect();
    (!unmet.is_empty()).then(|| unmet.join(", "))
}

#[derive(Debug, Clone)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self {
            status: true,
            reason: None,
            message: None,
        }
    }

    fn not(reason: &'static str, message: Option<String>) -> Self {
        Self {
            status: false,
            reason: Some(reason),
            message,
        }
    }

    fn condition(self, type_: &str, pod: &Pod, record: &Record, now: Timestamp) -> PodCondition {
        let status = if self.status { "True" } else { "False" };
        let find = |status: &PodStatus| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == type_)
                .cloned()
        };
        let before = record
            .reported
            .as_ref()
            .and_then(find)
            .or_else(|| pod.status.as_ref().and_then(find))
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time);
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.map(str::to_owned),
            message: self.message,
            last_transition_time: Some(before.unwrap_or_else(|| time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

pub(crate) fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(&ended.id)),
            exit_code: ended.exit_code,
            signal: ended.signal,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            // A program that never ran is shown with the epoch, as the kubelet does.
            started_at: Some(time(ended.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
            finished_at: Some(time(ended.finished_at)),
        }),
        ..ContainerState::default()
    }
}

/// Of a container that was still waited for when its pod ended.
fn never_ran() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some(
                "The container could not be located when the pod was terminated".to_owned(),
            ),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

pub(crate) fn container_id(id: &str) -> String {
    format!("runc://{id}")
}

/// Kubernetes times have whole seconds.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
mod tests;

//! `v1.PodStatus` of a pod from what is known of it: phases, conditions, reasons as the kubelet gives them.
//! Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP,
    PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{self, ImageState, Progress, Transient, TransientContainer};
use super::qos;
use super::record::{
    Attempt, AttemptState, ContainerRecord, Ended, PodFailure, PostStart, RESTARTING_ALL, Record,
    START_ERROR,
};
use super::wanted::{Wanted, WantedContainer, ephemeral_container};
use crate::runtime::User;

mod conditions;

/// What the status takes from the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    pub(crate) addresses: Vec<IpAddr>,
}

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
    let init_done = init_done(wanted, record, transient);
    let facts = Facts {
        pod,
        wanted,
        record,
        transient,
        init_done,
        all_over,
        now,
    };
    let render = |container: &Container| container_status(container, &facts);
    if let Some(refused) = record.failed.as_ref().filter(|failed| failed.refused) {
        return refused_status(pod, refused, record);
    }
    let init: Vec<ContainerStatus> = spec.init_containers.iter().flatten().map(render).collect();
    let main: Vec<ContainerStatus> = spec.containers.iter().map(render).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral: Vec<ContainerStatus> = ephemeral
        .map(|container| render(&ephemeral_container(container)))
        .collect();
    let phase = phase(wanted, record, transient);
    let addresses = &record.addresses;
    let shown = shown_phase(wanted, record, phase);
    // Why it failed is said when it has: with its phase.
    let failed = record.failed.as_ref().filter(|_| shown == "Failed");
    PodStatus {
        phase: Some(shown.to_owned()),
        reason: failed.map(|failed| failed.reason.clone()),
        message: failed.map(|failed| failed.message.clone()),
        conditions: Some(conditions::conditions(&conditions::Facts {
            pod,
            wanted,
            record,
            main: &main,
            init: &init,
            phase,
            init_done,
            now,
        })),
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
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        allocated_resources: record.resources.as_ref().and_then(|it| it.requests.clone()),
        resources: record.resources.clone(),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Of a pod that the node has not begun: there is nothing to tell of its containers.
fn refused_status(pod: &Pod, refused: &PodFailure, record: &Record) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(refused.reason.clone()),
        message: Some(refused.message.clone()),
        start_time: Some(time(record.start_time)),
        qos_class: Some(qos::class(&spec).as_str().to_owned()),
        conditions: pod.status.as_ref().and_then(|it| it.conditions.clone()),
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
        .any(Attempt::is_live)
}

fn init_done(wanted: &Wanted, record: &Record, transient: &Transient) -> bool {
    if record.restarting_all {
        let begun = |it: &WantedContainer| record.attempt(&it.name).is_some();
        return wanted.main.iter().any(begun);
    }
    match plan::progress(wanted, record, transient) {
        Progress::Init(_) => false,
        Progress::Main => true,
        Progress::Done => !init_failed(wanted, record),
    }
}

fn init_failed(wanted: &Wanted, record: &Record) -> bool {
    wanted.init.iter().any(|container| {
        let known = record.container(&container.name);
        let ended = known.and_then(ContainerRecord::ended);
        !container.sidecar
            && ended.is_some_and(|ended| {
                ended.exit_code != 0 && !container.restarts.after(ended.exit_code)
            })
    })
}

pub(crate) fn phase(wanted: &Wanted, record: &Record, transient: &Transient) -> &'static str {
    let goes_on = record.restarting_all && record.terminating.is_none() && !record.released;
    if record.failed.is_some() || (!goes_on && init_failed(wanted, record)) {
        return "Failed";
    }
    let ended: Vec<Option<&Ended>> = wanted
        .main
        .iter()
        .map(|container| record.container(&container.name)?.ended())
        .collect();
    let well = |ended: &Option<&Ended>| ended.is_some_and(|ended| ended.exit_code == 0);
    let result = if !ended.is_empty() && ended.iter().all(well) {
        "Succeeded"
    } else {
        "Failed"
    };
    if record.released || (record.terminating.is_some() && !any_live(record)) {
        return result;
    }
    if goes_on {
        return if init_done(wanted, record, transient) {
            "Running"
        } else {
            "Pending"
        };
    }
    match plan::progress(wanted, record, transient) {
        Progress::Init(_) => "Pending",
        // Sidecars end after the others, and the pod with them.
        Progress::Done if any_live(record) => "Running",
        Progress::Done => result,
        Progress::Main => {
            let never_begun = |name: &String| match record.attempt(name) {
                None => record.container(name).is_none_or(|known| known.first == 0),
                Some(attempt) => attempt.number == 0 && is_being_made(attempt),
            };
            if wanted.main.iter().any(|it| never_begun(&it.name)) {
                "Pending"
            } else {
                "Running"
            }
        }
    }
}

/// A phase that is the last one is not told while a container may still run.
fn shown_phase(wanted: &Wanted, record: &Record, phase: &'static str) -> &'static str {
    if !matches!(phase, "Failed" | "Succeeded") || !any_live(record) {
        return phase;
    }
    let begun = |name: &String| record.attempt(name).is_some();
    if wanted.main.iter().any(|it| begun(&it.name)) {
        "Running"
    } else {
        "Pending"
    }
}

fn is_being_made(attempt: &Attempt) -> bool {
    matches!(
        attempt.state,
        AttemptState::Creating | AttemptState::Created
    )
}

/// Until its `postStart` hook is done, a container is shown as being made.
fn awaits_hook(wanted: &Wanted, name: &str, attempt: &Attempt) -> bool {
    let has_hook = wanted.container(name).is_some_and(|it| it.post_start);
    has_hook && attempt.post_start == PostStart::Due && attempt.kill.is_none()
}

/// What the statuses of all containers of a pod are made from.
#[derive(Clone, Copy)]
struct Facts<'a> {
    pod: &'a Pod,
    wanted: &'a Wanted,
    record: &'a Record,
    transient: &'a Transient,
    init_done: bool,
    all_over: bool,
    now: Timestamp,
}

fn container_status(container: &Container, facts: &Facts<'_>) -> ContainerStatus {
    let &Facts {
        wanted,
        record,
        transient,
        init_done,
        ..
    } = facts;
    let empty = ContainerRecord::default();
    let known = record.container(&container.name).unwrap_or(&empty);
    let nothing = TransientContainer::default();
    let state = transient
        .containers
        .get(&container.name)
        .unwrap_or(&nothing);
    let hooked = |attempt: &Attempt| awaits_hook(wanted, &container.name, attempt);
    let is_init = wanted.init.iter().any(|init| init.name == container.name);
    let sidecar = wanted
        .init
        .iter()
        .any(|init| init.name == container.name && init.sidecar);
    let running = known.running_since().is_some() && !known.attempt.as_ref().is_some_and(hooked);
    let is_ephemeral = wanted.ephemeral.iter().any(|it| it.name == container.name);
    let started = running && is_started(container, state);
    let ready = if is_init && !sidecar {
        known.ended().is_some_and(|ended| ended.exit_code == 0)
    } else {
        running && started && !is_ephemeral && is_ready(container, state)
    };
    // What a failed initialization kept from running still waits, for all to see.
    let its_turn = init_done && !is_init;
    let (current, last) = states(container, facts, known, state, its_turn);
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
        started: Some(started && !is_ephemeral),
        restart_count: i32::try_from(known.restart_count()).unwrap_or(i32::MAX),
        state: Some(current),
        last_state: Some(last.unwrap_or_default()),
        volume_mounts: volume_mounts(container),
        allocated_resources: known.resources.as_ref().and_then(|it| it.requests.clone()),
        resources: known.resources.clone(),
        user: known.user.as_ref().map(container_user),
        ..ContainerStatus::default()
    }
}

fn container_user(user: &User) -> ContainerUser {
    let groups = user.additional_gids.iter();
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: Some(groups.map(|group| i64::from(*group)).collect()),
        }),
    }
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.iter().flatten();
    let mounts: Vec<VolumeMountStatus> = mounts
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: (mount.read_only == Some(true)).then(|| {
                let asked = mount.recursive_read_only.as_deref();
                let recursive = matches!(asked, Some("Enabled" | "IfPossible"));
                let shown = if recursive { "Enabled" } else { "Disabled" };
                shown.to_owned()
            }),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
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
    facts: &Facts<'_>,
    known: &ContainerRecord,
    state: &TransientContainer,
    its_turn: bool,
) -> (ContainerState, Option<ContainerState>) {
    let &Facts {
        pod,
        wanted,
        all_over,
        now,
        ..
    } = facts;
    let before = known.last.as_ref().map(terminated);
    let Some(attempt) = &known.attempt else {
        if all_over && its_turn {
            return (never_ran(), None);
        }
        return (first_waiting(container, wanted, state, now), before);
    };
    match &attempt.state {
        AttemptState::Creating | AttemptState::Created => (being_made(wanted), before),
        AttemptState::Running { .. } if awaits_hook(wanted, &container.name, attempt) => {
            (being_made(wanted), before)
        }
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
            let restarts = !all_over && wanted.restarts(&container.name, ended.exit_code);
            if !restarts {
                return (terminated(ended), before);
            }
            // Between two attempts the last one is `lastState` and `state` says what is waited for.
            if let Some(waiting) = trouble(container, state, now) {
                return (waiting, Some(terminated(ended)));
            }
            if start_error_ends(ended).is_some_and(|until| now < until) {
                let message = ended.message.clone();
                return (
                    waiting("RunContainerError", message),
                    Some(terminated(ended)),
                );
            }
            let until = known.crash.until(ended.noticed_at.min(now));
            if until.is_some_and(|until| now < until) {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}",
                    known.crash.shown(),
                    container.name,
                    identity(pod)
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

/// A pod as messages name it.
pub(crate) fn identity(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    format!(
        "{}_{}({})",
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid)
    )
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
            let backing_off = now.duration_since(*at) >= ERROR_SHOWN && backs_off(reason);
            return Some(if backing_off {
                let image = container.image.as_deref().unwrap_or_default();
                waiting(
                    "ImagePullBackOff",
                    Some(format!(
                        "Back-off pulling image \"{image}\": {reason}: {message}"
                    )),
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

/// For so long the error of a pull is shown before `ImagePullBackOff` takes its place, and that of a program that could
/// not be started before `CrashLoopBackOff` does.
pub(crate) const ERROR_SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_secs(3);

/// Until when an attempt that never ran is shown as such.
pub(crate) fn start_error_ends(ended: &Ended) -> Option<Timestamp> {
    (ended.reason == START_ERROR).then(|| ended.noticed_at + ERROR_SHOWN)
}

/// Whether waiting after this reason is shown as back-off; a name that can never work is not waited for.
pub(crate) fn backs_off(reason: &str) -> bool {
    !matches!(reason, "InvalidImageName" | "ErrImageNeverPull")
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
    if ended.reason == RESTARTING_ALL {
        return no_more_known(ended);
    }
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

/// Of an attempt that was forgotten when all containers began anew.
fn no_more_known(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.exit_code,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            ..ContainerStateTerminated::default()
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

//! A pod's conditions. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::time;
use crate::pods::record::Record;
use crate::pods::wanted::Wanted;

/// What conditions are made from.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) wanted: &'a Wanted,
    pub(super) record: &'a Record,
    pub(super) main: &'a [ContainerStatus],
    pub(super) init: &'a [ContainerStatus],
    pub(super) phase: &'a str,
    pub(super) init_done: bool,
    pub(super) now: Timestamp,
}

impl Facts<'_> {
    fn is_sidecar(&self, status: &ContainerStatus) -> bool {
        let container = self.wanted.container(&status.name);
        container.is_some_and(|container| container.sidecar)
    }

    /// Sidecars count from when they have started, others when they have ended well.
    fn is_initialized(&self, status: &ContainerStatus) -> bool {
        if self.is_sidecar(status) {
            status.started == Some(true)
        } else {
            status.ready
        }
    }
}

pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let &Facts {
        pod,
        wanted,
        record,
        main,
        init,
        phase,
        init_done,
        now,
        ..
    } = facts;
    let succeeded = phase == "Succeeded";
    let sidecars = init.iter().filter(|status| facts.is_sidecar(status));
    let unready = names(sidecars.chain(main).filter(|status| !status.ready));
    let uninitialized = names(init.iter().filter(|it| !facts.is_initialized(it)));
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
    } else if init_done || began_anew(wanted, record) {
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
    if wanted.may_restart_all() {
        let verdict = match phase {
            "Succeeded" => Verdict::not("PodCompleted", None),
            "Failed" => Verdict::not("PodFailed", None),
            _ if record.restarting_all => Verdict {
                status: true,
                reason: Some("RestartAllContainersStarted"),
                message: Some("container exited with restart policy rule".to_owned()),
            },
            _ => Verdict {
                status: false,
                reason: None,
                message: None,
            },
        };
        conditions.push(verdict.condition("AllContainersRestarting", pod, record, now));
    }
    if let Some(resize) = &record.resize {
        let (type_, reason) = match (resize.pending, resize.reason.as_deref()) {
            (true, Some("Infeasible")) => ("PodResizePending", Some("Infeasible")),
            (true, _) => ("PodResizePending", Some("Deferred")),
            (false, Some(_)) => ("PodResizeInProgress", Some("Error")),
            (false, None) => ("PodResizeInProgress", None),
        };
        let verdict = Verdict {
            status: true,
            reason,
            message: resize.message.clone(),
        };
        conditions.push(verdict.condition(type_, pod, record, now));
    }
    if let Some(failed) = record.failed.as_ref().filter(|failed| failed.disrupts) {
        let target = Verdict {
            status: true,
            reason: Some("TerminationByKubelet"),
            message: Some(failed.message.clone()),
        };
        conditions.push(target.condition("DisruptionTarget", pod, record, now));
    }
    let own: Vec<String> = conditions.iter().map(|it| it.type_.clone()).collect();
    conditions.extend(
        pod.status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .filter(|condition| !own.contains(&condition.type_))
            .filter(|condition| !condition.type_.starts_with("PodResize"))
            .cloned(),
    );
    conditions
}

/// A pod that was initialized stays so when all of its containers begin anew.
fn began_anew(wanted: &Wanted, record: &Record) -> bool {
    let first = |name: &String| record.container(name).map_or(0, |known| known.first);
    wanted
        .main
        .iter()
        .any(|container| first(&container.name) > 0)
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

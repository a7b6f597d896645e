//! A pod's specification reduced to what decides about steps.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, Pod};

/// A grace period longer than this is not distinguishable from it, and keeps arithmetic on time safe.
const LONGEST_GRACE: i64 = 10 * 365 * 24 * 3600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedContainer {
    pub(crate) name: String,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    pub(crate) sidecar: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) restart_policy: RestartPolicy,
    pub(crate) init: Vec<WantedContainer>,
    pub(crate) main: Vec<WantedContainer>,
    pub(crate) grace_seconds: i64,
    pub(crate) active_deadline: Option<SignedDuration>,
}

impl Wanted {
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self {
                restart_policy: RestartPolicy::Never,
                init: Vec::new(),
                main: Vec::new(),
                grace_seconds: 0,
                active_deadline: None,
            };
        };
        Self {
            restart_policy: match spec.restart_policy.as_deref() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            init: spec
                .init_containers
                .iter()
                .flatten()
                .map(|container| WantedContainer {
                    name: container.name.clone(),
                    sidecar: is_sidecar(container),
                })
                .collect(),
            main: spec
                .containers
                .iter()
                .map(|container| WantedContainer {
                    name: container.name.clone(),
                    sidecar: false,
                })
                .collect(),
            grace_seconds: clamp_grace(spec.termination_grace_period_seconds.unwrap_or(30)),
            active_deadline: spec
                .active_deadline_seconds
                .map(|seconds| SignedDuration::from_secs(seconds.clamp(0, LONGEST_GRACE))),
        }
    }

    /// Every container with the policy that decides about its restarts.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&WantedContainer, RestartPolicy)> {
        let init = self.init.iter().map(|container| {
            let policy = match (container.sidecar, self.restart_policy) {
                (true, _) => RestartPolicy::Always,
                (false, RestartPolicy::Never) => RestartPolicy::Never,
                (false, _) => RestartPolicy::OnFailure,
            };
            (container, policy)
        });
        init.chain(
            self.main
                .iter()
                .map(|container| (container, self.restart_policy)),
        )
    }

    pub(crate) fn policy(&self, name: &str) -> RestartPolicy {
        self.all()
            .find(|(container, _)| container.name == name)
            .map_or(RestartPolicy::Never, |(_, policy)| policy)
    }
}

impl RestartPolicy {
    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn clamp_grace(seconds: i64) -> i64 {
    seconds.clamp(0, LONGEST_GRACE)
}

/// The grace period that a deletion asks for: at least a second, as with the kubelet.
pub(crate) fn deletion_grace(pod: &Pod) -> i64 {
    let asked = pod
        .metadata
        .deletion_grace_period_seconds
        .unwrap_or_else(|| Wanted::of(pod).grace_seconds);
    clamp_grace(asked).max(1)
}

//! A pod's specification reduced to what decides about steps.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, EphemeralContainer, Lifecycle, Pod, PodSpec,
};

/// A grace period longer than this is not distinguishable from it, and keeps arithmetic on time safe.
const LONGEST_GRACE: i64 = 10 * 365 * 24 * 3600;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// When a container that has ended is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restarts {
    pub(crate) policy: RestartPolicy,
    /// The first one that an exit code meets decides, whatever the policy says.
    pub(crate) rules: Vec<RestartRule>,
}

/// What happens after certain exit codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestartRule {
    pub(crate) codes: Vec<i32>,
    /// It is about these codes; else about all others.
    pub(crate) within: bool,
    /// All containers of the pod begin anew, not only this one.
    pub(crate) all: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedContainer {
    pub(crate) name: String,
    /// An init container that keeps running beside the others (`restartPolicy: Always`).
    pub(crate) sidecar: bool,
    pub(crate) restarts: Restarts,
    pub(crate) startup_probe: bool,
    pub(crate) post_start: bool,
    pub(crate) pre_stop: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) init: Vec<WantedContainer>,
    pub(crate) main: Vec<WantedContainer>,
    /// Added to look into the pod; they do not count for its life.
    pub(crate) ephemeral: Vec<WantedContainer>,
    pub(crate) grace_seconds: i64,
    pub(crate) active_deadline: Option<SignedDuration>,
}

impl Wanted {
    pub(crate) fn of(pod: &Pod) -> Self {
        let empty = PodSpec {
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: Some(0),
            ..PodSpec::default()
        };
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let policy = named(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let init_policy = match policy {
            RestartPolicy::Never => RestartPolicy::Never,
            RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
        };
        let init = spec.init_containers.iter().flatten();
        let main = spec.containers.iter();
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        Self {
            init: init
                .map(|container| WantedContainer {
                    sidecar: is_sidecar(container),
                    ..WantedContainer::of(container, init_policy)
                })
                .collect(),
            main: main.map(|it| WantedContainer::of(it, policy)).collect(),
            ephemeral: ephemeral
                .map(|it| WantedContainer::of(&ephemeral_container(it), RestartPolicy::Never))
                .collect(),
            grace_seconds: clamp_grace(spec.termination_grace_period_seconds.unwrap_or(30)),
            active_deadline: spec
                .active_deadline_seconds
                .map(|seconds| SignedDuration::from_secs(seconds.clamp(0, LONGEST_GRACE))),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &WantedContainer> {
        self.init.iter().chain(&self.main).chain(&self.ephemeral)
    }

    pub(crate) fn container(&self, name: &str) -> Option<&WantedContainer> {
        self.all().find(|container| container.name == name)
    }

    /// Those that begin anew together, when one of them asks for it.
    pub(crate) fn lasting(&self) -> impl Iterator<Item = &WantedContainer> {
        self.init.iter().chain(&self.main)
    }

    /// Whether an exit code may have all containers begin anew.
    pub(crate) fn may_restart_all(&self) -> bool {
        let mut rules = self.lasting().flat_map(|it| &it.restarts.rules);
        rules.any(|rule| rule.all)
    }

    /// Whether a container that ended with this code is started again.
    pub(crate) fn restarts(&self, name: &str, exit_code: i32) -> bool {
        self.container(name)
            .is_some_and(|container| container.restarts.after(exit_code))
    }
}

impl WantedContainer {
    fn of(container: &Container, pod_policy: RestartPolicy) -> Self {
        let hook = |of: fn(&Lifecycle) -> bool| container.lifecycle.as_ref().is_some_and(of);
        let rules = container.restart_policy_rules.iter().flatten();
        Self {
            name: container.name.clone(),
            sidecar: false,
            restarts: Restarts {
                policy: named(container.restart_policy.as_deref()).unwrap_or(pod_policy),
                rules: rules.filter_map(rule).collect(),
            },
            startup_probe: container.startup_probe.is_some(),
            post_start: hook(|lifecycle| lifecycle.post_start.is_some()),
            pre_stop: hook(|lifecycle| lifecycle.pre_stop.is_some()),
        }
    }
}

fn named(policy: Option<&str>) -> Option<RestartPolicy> {
    match policy? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn rule(rule: &ContainerRestartRule) -> Option<RestartRule> {
    let codes = rule.exit_codes.as_ref()?;
    Some(RestartRule {
        codes: codes.values.clone().unwrap_or_default(),
        within: match codes.operator.as_str() {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        },
        all: match rule.action.as_str() {
            "Restart" => false,
            "RestartAllContainers" => true,
            _ => return None,
        },
    })
}

impl Restarts {
    #[cfg(test)]
    pub(crate) fn plain(policy: RestartPolicy) -> Self {
        Self {
            policy,
            rules: Vec::new(),
        }
    }

    fn rule(&self, exit_code: i32) -> Option<&RestartRule> {
        let mut rules = self.rules.iter();
        rules.find(|rule| rule.codes.contains(&exit_code) == rule.within)
    }

    pub(crate) fn after(&self, exit_code: i32) -> bool {
        self.rule(exit_code).is_some()
            || match self.policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit_code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// Whether the container's end has all containers of its pod begin anew.
    pub(crate) fn all_after(&self, exit_code: i32) -> bool {
        self.rule(exit_code).is_some_and(|rule| rule.all)
    }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container as the container that it is but for its target.
pub(crate) fn ephemeral_container(ephemeral: &EphemeralContainer) -> Container {
    let it = ephemeral.clone();
    Container {
        args: it.args,
        command: it.command,
        env: it.env,
        env_from: it.env_from,
        image: it.image,
        image_pull_policy: it.image_pull_policy,
        name: it.name,
        security_context: it.security_context,
        stdin: it.stdin,
        stdin_once: it.stdin_once,
        termination_message_path: it.termination_message_path,
        termination_message_policy: it.termination_message_policy,
        tty: it.tty,
        volume_devices: it.volume_devices,
        volume_mounts: it.volume_mounts,
        working_dir: it.working_dir,
        ..Container::default()
    }
}

/// All containers of a pod: init, main, ephemeral.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = Container> + '_ {
    let plain = spec.init_containers.iter().flatten();
    let plain = plain.chain(&spec.containers).cloned();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    plain.chain(ephemeral.map(ephemeral_container))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn exit_codes_may_overrule_the_policy() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "init"}],
            "containers": [
                {"name": "plain"},
                {"name": "own", "restartPolicy": "OnFailure"},
                {"name": "ruled", "restartPolicy": "Never", "restartPolicyRules": [
                    {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]},
                {"name": "but", "restartPolicyRules": [
                    {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 1]}}]},
            ],
            "ephemeralContainers": [{"name": "look"}]}}))
        .unwrap();
        let wanted = Wanted::of(&pod);
        for (name, code, again) in [
            ("side", 0, true),
            ("init", 1, false),
            ("plain", 1, false),
            ("own", 1, true),
            ("own", 0, false),
            ("ruled", 42, true),
            ("ruled", 1, false),
            ("but", 2, true),
            ("but", 1, false),
            ("look", 1, false),
            ("none", 1, false),
        ] {
            assert_eq!(wanted.restarts(name, code), again, "{name} {code}");
        }
        assert!(!wanted.may_restart_all());
    }

    #[test]
    fn the_first_rule_that_an_exit_code_meets_decides() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "ruled", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [1, 2]}},
                {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [2, 3]}}]}]}}))
        .unwrap();
        let wanted = Wanted::of(&pod);
        assert!(wanted.may_restart_all());
        let restarts = &wanted.main[0].restarts;
        for (code, again, all) in [
            (0, false, false),
            (1, true, false),
            (2, true, false),
            (3, true, true),
        ] {
            assert_eq!(restarts.after(code), again, "{code}");
            assert_eq!(restarts.all_after(code), all, "{code}");
        }
    }
}

//! Resources of a running pod change: in its cgroups, or by a new attempt where the container wants that.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::Serialize;

use super::Worker;
use crate::pods::context::Share;
use crate::pods::machine::{Machine, PodSandbox};
use crate::pods::qos;
use crate::pods::record::Resize;
use crate::pods::report::EventType;

/// What a pod asks for.
pub(super) fn asked(spec: &PodSpec) -> Share {
    let resources = qos::pod_resources(spec);
    Share {
        cpu_millis: resources.cpu_request_millis.unwrap_or(0),
        memory_bytes: resources.memory_request_bytes.unwrap_or(0),
        storage_bytes: qos::storage_request(spec),
    }
}

/// Why the node cannot give that, or not now.
fn refused(asked: Share, others: Share, all: Share) -> Option<Resize> {
    let pending = |reason: &str, message: String| Resize {
        pending: true,
        reason: Some(reason.to_owned()),
        message: Some(message),
    };
    let kinds = [
        ("cpu", asked.cpu_millis, others.cpu_millis, all.cpu_millis),
        (
            "memory",
            asked.memory_bytes,
            others.memory_bytes,
            all.memory_bytes,
        ),
    ];
    let infeasible = kinds.iter().find(|(_, asked, _, all)| asked > all);
    if let Some((name, asked, _, all)) = infeasible {
        return Some(pending(
            "Infeasible",
            format!(
                "Node didn't have enough capacity: {name}, requested: {asked}, capacity: {all}"
            ),
        ));
    }
    let short =
        |(_, asked, others, all): &&(&str, u64, u64, u64)| others.saturating_add(*asked) > *all;
    let (name, asked, others, all) = kinds.iter().find(short)?;
    Some(pending(
        "Deferred",
        format!(
            "Node didn't have enough resource: {name}, requested: {asked}, used: {others}, capacity: {all}"
        ),
    ))
}

/// What a pod asks for, as events have it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Asked<'a>>,
    containers: Vec<Asked<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Asked<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// An event's message: how far a change is, and to what.
fn told(stage: &str, pod: &Pod, error: &str) -> String {
    let asked = |container| -> Asked<'_> {
        let container: &Container = container;
        Asked {
            name: &container.name,
            resources: container.resources.clone().unwrap_or_default(),
        }
    };
    let spec = pod.spec.iter();
    let init = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let summary = Summary {
        init_containers: init.map(asked).collect(),
        containers: spec.flat_map(|spec| &spec.containers).map(asked).collect(),
        generation: pod.metadata.generation.unwrap_or(0),
        error,
    };
    let text = serde_json::to_string(&summary).expect("names and quantities serialize");
    format!("Pod resize {stage}: {text}")
}

impl<M: Machine> Worker<M> {
    pub(super) async fn resize(&mut self) {
        self.resize_due = false;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let changed = self.outgrown(&spec);
        if changed.is_empty() && !self.whole_outgrown(&spec) {
            self.context.allocate(&self.key.uid, Some(asked(&spec)));
            if self.record.resize.take().is_some() {
                let message = told("completed", &self.pod, "");
                self.event(None, EventType::Normal, "ResizeCompleted", message);
            }
            return;
        }
        let settings = &self.context.settings;
        let all = Share {
            cpu_millis: settings.allocatable_cpu_millis,
            memory_bytes: settings.allocatable_memory_bytes,
            storage_bytes: settings.allocatable_storage_bytes,
        };
        let others = self.context.allocated_to_others(&self.key.uid);
        if let Some(refused) = refused(asked(&spec), others, all) {
            if self.record.resize.as_ref() != Some(&refused) {
                let (event, stage) = match refused.reason.as_deref() {
                    Some("Infeasible") => ("ResizeInfeasible", "Infeasible"),
                    _ => ("ResizeDeferred", "Deferred"),
                };
                let why = refused.message.as_deref().unwrap_or_default();
                let message = told(stage, &self.pod, why);
                self.event(None, EventType::Warning, event, message);
            }
            self.record.resize = Some(refused);
            return;
        }
        if self.record.resize.as_ref().is_none_or(|it| it.pending) {
            let message = told("started", &self.pod, "");
            self.event(None, EventType::Normal, "ResizeStarted", message);
        }
        self.context.allocate(&self.key.uid, Some(asked(&spec)));
        let mut resize = Resize {
            pending: false,
            reason: None,
            message: None,
        };
        if let Err(error) = self.apply_resources(&spec, &changed).await {
            let message = told("error", &self.pod, &error);
            self.event(None, EventType::Warning, "ResizeError", message);
            resize.reason = Some("Error".to_owned());
            resize.message = Some(error);
        }
        self.record.resize = Some(resize);
        // Once more, to see whether it is done; what waits for new attempts is looked at when they begin.
        self.resize_due = self.outgrown(&spec).is_empty() && !self.whole_outgrown(&spec);
    }

    /// Whether the pod as a whole asks for other than its cgroup has.
    fn whole_outgrown(&self, spec: &PodSpec) -> bool {
        self.record.resources != spec.resources
    }

    /// Running containers whose resources are not those that are asked for.
    fn outgrown(&self, spec: &PodSpec) -> Vec<Container> {
        let init = spec.init_containers.iter().flatten();
        let all = init.chain(&spec.containers);
        all.filter(|container| {
            self.record.container(&container.name).is_some_and(|known| {
                known.running_since().is_some()
                    && known.resources.is_some()
                    && known.resources != container.resources
            })
        })
        .cloned()
        .collect()
    }

    async fn apply_resources(
        &mut self,
        spec: &PodSpec,
        changed: &[Container],
    ) -> Result<(), String> {
        let Some(sandbox) = self.sandbox.clone() else {
            return Err("the pod's supervisor does not answer".to_owned());
        };
        let pod = qos::pod_resources(spec);
        // The kernel keeps a child's quota below its parent's: when they grow the pod's has to be first, when they
        // shrink it can only be last.
        let first = sandbox.set_resources(None, &pod).await;
        for container in changed {
            let name = &container.name;
            if self.wants_restart(container) {
                self.transient(name).outdated = true;
                continue;
            }
            let Some(id) = self.record.attempt(name).map(|attempt| attempt.id.clone()) else {
                continue;
            };
            let resources = qos::resources(container);
            sandbox.set_resources(Some(&id), &resources).await?;
            if let Some(known) = self.record.containers.get_mut(name) {
                known.resources.clone_from(&container.resources);
            }
        }
        if first.is_err() {
            sandbox.set_resources(None, &pod).await?;
        }
        self.record.resources.clone_from(&spec.resources);
        Ok(())
    }

    /// Whether a resource changed of which the container cannot make use while it runs.
    fn wants_restart(&self, container: &Container) -> bool {
        let known = self.record.container(&container.name);
        let before = known
            .and_then(|known| known.resources.clone())
            .unwrap_or_default();
        let after = container.resources.clone().unwrap_or_default();
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| {
            let name = &policy.resource_name;
            let changed = [
                (&before.requests, &after.requests),
                (&before.limits, &after.limits),
            ]
            .into_iter()
            .any(|(before, after)| {
                let of = |map: &Option<std::collections::BTreeMap<_, _>>| {
                    map.as_ref().and_then(|map| map.get(name).cloned())
                };
                of(before) != of(after)
            });
            changed && policy.restart_policy == "RestartContainer"
        })
    }
}

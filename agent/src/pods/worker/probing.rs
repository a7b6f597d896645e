//! Probers begin with an attempt and end with it; what they find is noted for the plan and the status.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::Worker;
use crate::pods::machine::Machine;
use crate::pods::plan::Unhealthy;
use crate::pods::probe::ProbeKind;
use crate::pods::prober::{self, ProbeReport, Target};
use crate::pods::record::{Attempt, PostStart};
use crate::pods::report::EventType;

impl<M: Machine> Worker<M> {
    /// Starts the probers that should run and do not. Idempotent.
    pub(super) fn start_probing(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        let spec = self.pod.spec.clone().unwrap_or_default();
        for container in spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
        {
            let Some((since, number, id)) =
                self.record.container(&container.name).and_then(|known| {
                    let since = known.running_since()?;
                    let attempt = known.attempt.as_ref()?;
                    // A container is not asked before its hook has set it up.
                    self.hook_is_done(&container.name, attempt).then_some(())?;
                    Some((since, attempt.number, attempt.id.clone()))
                })
            else {
                continue;
            };
            for (kind, probe) in self.wanted_probes(container) {
                let key = (container.name.clone(), kind);
                if self.probers.contains_key(&key) {
                    continue;
                }
                // The supervisor's clock is the machine's, which may have been set since ours was read.
                let state = self.transient.containers.get(&container.name);
                let launched = state.and_then(|state| state.launched).unwrap_or(since);
                let age = self.now().duration_since(launched);
                let target = Target {
                    container: container.clone(),
                    probe,
                    kind,
                    number,
                    id: id.clone(),
                    address: self.record.addresses.first().copied(),
                    sandbox: sandbox.clone(),
                    age: Duration::try_from(age).unwrap_or_default(),
                };
                let handle = self.beside(prober::run(target, self.reports.0.clone()));
                self.probers.insert(key, handle);
            }
        }
    }

    fn hook_is_done(&self, name: &str, attempt: &Attempt) -> bool {
        let has_hook = self.wanted.container(name).is_some_and(|it| it.post_start);
        !has_hook || attempt.post_start == PostStart::Done
    }

    /// The others wait for the startup probe; nobody is killed for being unwell while the pod ends.
    fn wanted_probes(&self, container: &Container) -> Vec<(ProbeKind, Probe)> {
        let state = self.transient.containers.get(&container.name);
        let started = state.is_some_and(|state| state.started == Some(true));
        let ending = self.record.terminating.is_some() || self.transient.leaving.is_some();
        let mut wanted = Vec::new();
        match &container.startup_probe {
            Some(probe) if !started => {
                if !ending {
                    wanted.push((ProbeKind::Startup, probe.clone()));
                }
                return wanted;
            }
            _ => {}
        }
        if let Some(probe) = &container.readiness_probe {
            wanted.push((ProbeKind::Readiness, probe.clone()));
        }
        if let Some(probe) = &container.liveness_probe
            && !ending
        {
            wanted.push((ProbeKind::Liveness, probe.clone()));
        }
        wanted
    }

    /// Whether only the startup probe is asked yet.
    pub(super) fn awaits_startup(&self, name: &str) -> bool {
        let state = self.transient.containers.get(name);
        let started = state.is_some_and(|state| state.started == Some(true));
        !started
            && self
                .container(name)
                .is_some_and(|container| container.startup_probe.is_some())
    }

    /// Ends the probers and hooks of one container, or all.
    pub(super) fn stop_probing(&mut self, name: Option<&str>) {
        self.probers.retain(|(container, _), prober| {
            let stop = name.is_none_or(|name| name == container);
            if stop {
                prober.abort();
            }
            !stop
        });
        self.hooks.retain(|container, hook| {
            let stop = name.is_none_or(|name| name == container);
            if stop {
                hook.abort();
            }
            !stop
        });
        for (container, state) in &mut self.transient.containers {
            if name.is_none_or(|name| name == container) {
                state.ready = None;
                state.started = None;
                state.unhealthy = None;
                state.hook = None;
                state.pre_stop_done = false;
                state.outdated = false;
                state.launched = None;
            }
        }
    }

    pub(super) fn probed(&mut self, report: ProbeReport) {
        let current = self
            .record
            .container(&report.container)
            .filter(|known| known.running_since().is_some())
            .is_some_and(|known| known.restart_count() == report.number);
        if !current {
            return;
        }
        let name = report.container.as_str();
        if let Some(failure) = report.failure {
            self.context.metrics.probe_failures.inc();
            self.event(
                Some(name),
                EventType::Warning,
                "Unhealthy",
                format!("{} probe failed: {failure}", report.kind.title()),
            );
        }
        if let Some(warning) = report.warning {
            self.event(
                Some(name),
                EventType::Warning,
                "ProbeWarning",
                format!("{} probe warning: {warning}", report.kind.title()),
            );
        }
        let Some(verdict) = report.verdict else {
            return;
        };
        let grace_seconds = self.container(name).and_then(|container| {
            let probe = match report.kind {
                ProbeKind::Startup => container.startup_probe,
                ProbeKind::Liveness => container.liveness_probe,
                ProbeKind::Readiness => None,
            };
            probe?.termination_grace_period_seconds
        });
        let state = self.transient(name);
        match (report.kind, verdict) {
            (ProbeKind::Readiness, ready) => state.ready = Some(ready),
            (ProbeKind::Startup, true) => {
                state.started = Some(true);
                if let Some(prober) = self
                    .probers
                    .remove(&(report.container.clone(), ProbeKind::Startup))
                {
                    prober.abort();
                }
                self.start_probing();
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                state.unhealthy = Some(Unhealthy { grace_seconds });
            }
        }
    }
}

//! How many pods a resource metric asks for. Pure.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::controllers::podstate;
use crate::scheduler::milli;
use crate::usage::PodUsage;

/// CPU of a pod that began less than this ago counts only while it is ready.
const START_UP: SignedDuration = SignedDuration::from_secs(300);
/// A pod that was never ready since shortly after its start is not ready yet.
const FIRST_READY: SignedDuration = SignedDuration::from_secs(30);

/// What is wanted of a resource.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Percent of what is requested.
    Utilization(i64),
    /// Per pod: thousandths.
    Average(i64),
}

/// Which resource, of all containers or of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) resource: String,
    pub(super) container: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i64,
    /// Percent of what is requested, where that was asked for.
    pub(super) utilization: Option<i64>,
    /// Thousandths per pod.
    pub(super) average: i64,
}

/// How far from the target is near enough, each way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

struct Grouped<'a> {
    /// Thousandths by pod, ready ones only.
    measured: HashMap<&'a str, i64>,
    unready: Vec<&'a Pod>,
    missing: Vec<&'a Pod>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Thousandths of the resource that the pod uses.
fn used(metric: &Metric, usage: &PodUsage) -> Option<i64> {
    let containers = usage.containers.iter().filter(|(name, _)| {
        metric
            .container
            .as_ref()
            .is_none_or(|wanted| wanted == name)
    });
    let mut sum: Option<i64> = None;
    for (_, amount) in containers {
        let one = match metric.resource.as_str() {
            "cpu" => i64::try_from(amount.cpu_nanos / 1_000_000).ok()?,
            "memory" => i64::try_from(amount.memory_bytes)
                .ok()?
                .saturating_mul(1_000),
            _ => return None,
        };
        sum = Some(sum.unwrap_or(0).saturating_add(one));
    }
    sum
}

fn is_unready(metric: &Metric, pod: &Pod, usage: &PodUsage, now: Timestamp) -> bool {
    if metric.resource != "cpu" {
        return false;
    }
    let condition = podstate::ready_condition(pod);
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let (Some(condition), Some(started)) = (condition, started) else {
        return true;
    };
    let ready = condition.status == "True";
    let since = condition
        .last_transition_time
        .as_ref()
        .map_or(started.0, |time| time.0);
    if now.duration_since(started.0) < START_UP {
        // What was measured before it was ready is not of its work.
        let window = SignedDuration::try_from(usage.window).unwrap_or_default();
        !ready || usage.at.duration_since(since) < window
    } else {
        !ready && since.duration_since(started.0) < FIRST_READY
    }
}

fn group<'a>(
    metric: &Metric,
    pods: &'a [std::sync::Arc<Pod>],
    usage: &HashMap<&str, &PodUsage>,
    now: Timestamp,
) -> Grouped<'a> {
    let mut grouped = Grouped {
        measured: HashMap::new(),
        unready: Vec::new(),
        missing: Vec::new(),
    };
    for pod in pods.iter().map(std::sync::Arc::as_ref) {
        if podstate::is_terminating(pod) || podstate::phase(pod) == "Failed" {
            continue;
        }
        if podstate::phase(pod) == "Pending" {
            grouped.unready.push(pod);
            continue;
        }
        let measured = usage.get(uid(pod)).and_then(|usage| {
            let amount = used(metric, usage)?;
            Some((*usage, amount))
        });
        match measured {
            None => grouped.missing.push(pod),
            Some((usage, _)) if is_unready(metric, pod, usage, now) => grouped.unready.push(pod),
            Some((_, amount)) => {
                grouped.measured.insert(uid(pod), amount);
            }
        }
    }
    grouped
}

/// Thousandths that the pod requests of the resource.
fn requested(metric: &Metric, pod: &Pod) -> Result<i64, String> {
    let spec = pod.spec.as_ref();
    let whole = spec
        .and_then(|spec| spec.resources.as_ref()?.requests.as_ref())
        .and_then(|requests| milli(requests.get(&metric.resource)?));
    // What is asked for the pod as a whole stands for its containers.
    if let Some(whole) = whole.filter(|_| metric.container.is_none()) {
        return Ok(whole);
    }
    let sidecars = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.iter().flat_map(|spec| spec.containers.iter());
    let mut sum = 0;
    for container in containers.chain(sidecars) {
        if metric
            .container
            .as_ref()
            .is_some_and(|wanted| *wanted != container.name)
        {
            continue;
        }
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let one = requests
            .and_then(|requests| requests.get(&metric.resource))
            .and_then(milli)
            .ok_or_else(|| {
                format!(
                    "missing request for {} in container {} of Pod {}",
                    metric.resource,
                    container.name,
                    pod.metadata.name.as_deref().unwrap_or_default()
                )
            })?;
        sum += one;
    }
    Ok(sum)
}

/// What is needed for the target, from what ready pods use.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub(super) fn propose(
    metric: &Metric,
    target: Target,
    pods: &[std::sync::Arc<Pod>],
    usage: &[PodUsage],
    current: i64,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    let by_uid: HashMap<&str, &PodUsage> =
        usage.iter().map(|one| (one.uid.as_str(), one)).collect();
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let mut grouped = group(metric, pods, &by_uid, now);
    if grouped.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let by_name: HashMap<&str, &Pod> = pods.iter().map(|pod| (uid(pod), pod.as_ref())).collect();
    let requests: HashMap<&str, i64> = match target {
        Target::Utilization(_) => by_name
            .iter()
            .map(|(uid, pod)| Ok((*uid, requested(metric, pod)?)))
            .collect::<Result<_, String>>()?,
        Target::Average(_) => HashMap::new(),
    };
    // How much of the target the given pods use.
    let ratio = |measured: &HashMap<&str, i64>| -> (f64, i64, i64) {
        let sum: i64 = measured.values().sum();
        let count = i64::try_from(measured.len()).unwrap_or(i64::MAX).max(1);
        match target {
            Target::Utilization(percent) => {
                let asked: i64 = measured
                    .keys()
                    .filter_map(|uid| requests.get(uid))
                    .sum::<i64>()
                    .max(1);
                let utilization = sum.saturating_mul(100) / asked;
                (
                    utilization as f64 / percent.max(1) as f64,
                    utilization,
                    sum / count,
                )
            }
            Target::Average(wanted) => {
                let average = sum / count;
                (average as f64 / wanted.max(1) as f64, 0, average)
            }
        }
    };
    let (first, utilization, average) = ratio(&grouped.measured);
    let proposal = |replicas: i64| Proposal {
        replicas,
        utilization: matches!(target, Target::Utilization(_)).then_some(utilization),
        average,
    };
    let ready = grouped.measured.len() as f64;
    let with_unready = !grouped.unready.is_empty() && first > 1.0;
    if grouped.missing.is_empty() && !with_unready {
        if tolerance.covers(first) {
            return Ok(proposal(current));
        }
        return Ok(proposal((first * ready).ceil() as i64));
    }
    // Nobody knows what these use: the guess is against a change.
    for pod in &grouped.missing {
        let guess = match target {
            _ if first > 1.0 => 0,
            Target::Utilization(percent) => {
                let asked = requests.get(uid(pod)).copied().unwrap_or(0);
                asked * percent.max(100) / 100
            }
            Target::Average(wanted) => wanted,
        };
        grouped.measured.insert(uid(pod), guess);
    }
    if with_unready {
        for pod in &grouped.unready {
            grouped.measured.insert(uid(pod), 0);
        }
    }
    let (second, _, _) = ratio(&grouped.measured);
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    if tolerance.covers(second) || turned {
        return Ok(proposal(current));
    }
    let wanted = (second * grouped.measured.len() as f64).ceil() as i64;
    if (second < 1.0 && wanted > current) || (second > 1.0 && wanted < current) {
        return Ok(proposal(current));
    }
    Ok(proposal(wanted))
}

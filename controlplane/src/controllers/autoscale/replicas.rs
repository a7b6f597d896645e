//! How many pods a metric asks for. Pure.

use std::collections::HashMap;
use std::sync::Arc;

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

/// What is wanted of an amount that is not measured pod by pod: thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// Of it as a whole.
    Value(i64),
    /// Of its share per pod.
    Average(i64),
}

/// What was found, as the status shows it: thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Percent of what is requested, and per pod.
    Utilization(i64, i64),
    Average(i64),
    Value(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i64,
    pub(super) found: Found,
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

/// How much a pod uses, and whether that is no sign of its work yet; `None` where nobody has measured it.
type Measure<'a> = dyn Fn(&Pod) -> Option<(i64, bool)> + 'a;

fn group<'a>(pods: &'a [Arc<Pod>], measure: &Measure<'_>) -> Grouped<'a> {
    let mut grouped = Grouped {
        measured: HashMap::new(),
        unready: Vec::new(),
        missing: Vec::new(),
    };
    for pod in pods.iter().map(Arc::as_ref) {
        if podstate::is_terminating(pod) || podstate::is_finished(pod) {
            continue;
        }
        if podstate::phase(pod) == "Pending" {
            grouped.unready.push(pod);
            continue;
        }
        match measure(pod) {
            None => grouped.missing.push(pod),
            Some((_, true)) => grouped.unready.push(pod),
            Some((amount, false)) => {
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
    let (mut sum, mut found) = (0, false);
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
        found = true;
    }
    match &metric.container {
        Some(wanted) if !found => Err(format!(
            "container {wanted} not found in Pod {}",
            pod.metadata.name.as_deref().unwrap_or_default()
        )),
        _ => Ok(sum),
    }
}

/// That the container is there in every pod that says what it uses.
fn check_container(
    metric: &Metric,
    pods: &[Arc<Pod>],
    usage: &HashMap<&str, &PodUsage>,
) -> Result<(), String> {
    let Some(wanted) = &metric.container else {
        return Ok(());
    };
    let running = pods
        .iter()
        .filter(|pod| podstate::phase(pod) == "Running" && !podstate::is_terminating(pod));
    let without = running
        .filter_map(|pod| usage.get(uid(pod)))
        .find(|usage| usage.containers.iter().all(|(name, _)| name != wanted));
    without.map_or(Ok(()), |usage| {
        Err(format!(
            "failed to get container metrics: container {wanted} not present in metrics for pod {}/{}",
            usage.namespace, usage.name
        ))
    })
}

/// What is needed for the target, from what ready pods use of a resource.
pub(super) fn of_resource(
    metric: &Metric,
    target: Target,
    pods: &[Arc<Pod>],
    usage: &[PodUsage],
    current: i64,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    let by_uid: HashMap<&str, &PodUsage> =
        usage.iter().map(|one| (one.uid.as_str(), one)).collect();
    let unmeasured = if pods.iter().any(|pod| by_uid.contains_key(uid(pod))) {
        check_container(metric, pods, &by_uid)
    } else {
        Err("no metrics returned from resource metrics API".to_owned())
    };
    unmeasured.map_err(|why| {
        let resource = &metric.resource;
        format!("unable to get metrics for resource {resource}: {why}")
    })?;
    let measure = |pod: &Pod| {
        let usage = by_uid.get(uid(pod))?;
        Some((used(metric, usage)?, is_unready(metric, pod, usage, now)))
    };
    let grouped = measured(pods, &measure)?;
    let requests: HashMap<&str, i64> = match target {
        Target::Utilization(_) => pods
            .iter()
            .map(|pod| Ok((uid(pod), requested(metric, pod)?)))
            .collect::<Result<_, String>>()?,
        Target::Average(_) => HashMap::new(),
    };
    weigh(grouped, target, &requests, current, tolerance)
}

/// The same from what another server has measured of each pod (thousandths by the pod's name), of which a pod is ready
/// from the start.
pub(super) fn of_pods(
    amounts: &HashMap<String, i64>,
    wanted: i64,
    pods: &[Arc<Pod>],
    current: i64,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let measure = |pod: &Pod| {
        let amount = amounts.get(pod.metadata.name.as_deref()?)?;
        Some((*amount, false))
    };
    let grouped = measured(pods, &measure)?;
    let target = Target::Average(wanted);
    weigh(grouped, target, &HashMap::new(), current, tolerance)
}

/// The same from one amount for all of them. `there` is how many pods the workload says that it has.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
pub(super) fn of_whole(
    amount: i64,
    wanted: Whole,
    pods: &[Arc<Pod>],
    (current, there): (i64, i64),
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let used = amount as f64;
    match wanted {
        Whole::Value(wanted) => {
            let ratio = used / wanted.max(1) as f64;
            let replicas = if current == 0 {
                ratio.ceil() as i64
            } else if tolerance.covers(ratio) {
                current
            } else if pods.is_empty() {
                return Err(format!("unable to calculate ready pods: {NO_PODS}"));
            } else {
                let ready = pods
                    .iter()
                    .filter(|pod| podstate::phase(pod) == "Running" && podstate::is_ready(pod));
                (ratio * ready.count() as f64).ceil() as i64
            };
            Ok(Proposal {
                replicas,
                found: Found::Value(amount),
            })
        }
        Whole::Average(wanted) => {
            let wanted = wanted.max(1) as f64;
            let replicas = if tolerance.covers(used / (wanted * there as f64)) {
                there
            } else {
                (used / wanted).ceil() as i64
            };
            let share = if there == 0 {
                0
            } else {
                (used / there as f64).ceil() as i64
            };
            Ok(Proposal {
                replicas,
                found: Found::Average(share),
            })
        }
    }
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

fn measured<'a>(pods: &'a [Arc<Pod>], measure: &Measure<'_>) -> Result<Grouped<'a>, String> {
    if pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let grouped = group(pods, measure);
    if grouped.measured.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    Ok(grouped)
}

/// How much of the target pods use.
struct Share {
    ratio: f64,
    found: Found,
}

#[allow(clippy::cast_precision_loss)]
fn share(
    measured: &HashMap<&str, i64>,
    target: Target,
    requests: &HashMap<&str, i64>,
) -> Result<Share, String> {
    let sum: i64 = measured.values().sum();
    let count = i64::try_from(measured.len()).unwrap_or(i64::MAX).max(1);
    let average = sum / count;
    Ok(match target {
        Target::Utilization(percent) => {
            let asked = measured.keys().filter_map(|uid| requests.get(uid));
            let asked: i64 = asked.sum();
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = sum.saturating_mul(100) / asked;
            Share {
                ratio: utilization as f64 / percent.max(1) as f64,
                found: Found::Utilization(utilization, average),
            }
        }
        Target::Average(wanted) => Share {
            ratio: average as f64 / wanted.max(1) as f64,
            found: Found::Average(average),
        },
    })
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn weigh(
    mut grouped: Grouped<'_>,
    target: Target,
    requests: &HashMap<&str, i64>,
    current: i64,
    tolerance: Tolerance,
) -> Result<Proposal, String> {
    let first = share(&grouped.measured, target, requests)?;
    let proposal = |replicas: i64| Proposal {
        replicas,
        found: first.found,
    };
    let ready = grouped.measured.len() as f64;
    let with_unready = !grouped.unready.is_empty() && first.ratio > 1.0;
    if grouped.missing.is_empty() && !with_unready {
        if tolerance.covers(first.ratio) {
            return Ok(proposal(current));
        }
        return Ok(proposal((first.ratio * ready).ceil() as i64));
    }
    // Nobody knows what these use: the guess is against a change.
    for pod in &grouped.missing {
        let guess = match target {
            _ if first.ratio > 1.0 => 0,
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
    let second = share(&grouped.measured, target, requests)?.ratio;
    let turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if tolerance.covers(second) || turned {
        return Ok(proposal(current));
    }
    let wanted = (second * grouped.measured.len() as f64).ceil() as i64;
    if (second < 1.0 && wanted > current) || (second > 1.0 && wanted < current) {
        return Ok(proposal(current));
    }
    Ok(proposal(wanted))
}

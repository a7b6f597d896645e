//! What `kubectl get pods` shows, with the logic of its STATUS column.

use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::access::{at, flag, integer, list, text};
use crate::kinds::{table, time};

pub(super) const COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Ready", "string", "Ready containers of all containers."),
    table::column("Status", "string", "What the pod is doing."),
    table::column("Restarts", "string", "How often containers were restarted."),
    table::AGE,
    table::wide("IP", "string", "Address of the pod."),
    table::wide("Node", "string", "Node it runs on."),
    table::wide(
        "Nominated Node",
        "string",
        "Node that is being cleared for it.",
    ),
    table::wide("Readiness Gates", "string", "Conditions it waits for."),
];

pub(super) fn row(object: &Value, now: i64) -> Vec<Value> {
    let summary = summarize(object);
    let restarts = match (&summary.last_restart, summary.restarts) {
        (Some(last), restarts) if restarts != 0 => {
            format!(
                "{restarts} ({} ago)",
                time::human_duration(now.saturating_sub(*last))
            )
        }
        (_, restarts) => restarts.to_string(),
    };
    let ip = list(object, &["status", "podIPs"]).first().map_or_else(
        || text(object, &["status", "podIP"]),
        |ip| text(ip, &["ip"]),
    );
    vec![
        table::name(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        table::age(object, now),
        table::or_none(ip),
        table::or_none(text(object, &["spec", "nodeName"])),
        table::or_none(text(object, &["status", "nominatedNodeName"])),
        readiness_gates(object).into(),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    /// Seconds since the epoch.
    last_restart: Option<i64>,
}

/// Restarts of one or several containers and when the last was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count = self
            .count
            .saturating_add(integer(status, &["restartCount"]).unwrap_or(0));
        let ended = text(status, &["lastState", "terminated", "finishedAt"]);
        self.last = self.last.max(time::seconds(ended));
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, &["status"]) == "True")
}

/// The reason of a terminated state, or its signal or exit code.
fn ended(terminated: &Value) -> String {
    let reason = text(terminated, &["reason"]);
    let signal = integer(terminated, &["signal"]).unwrap_or(0);
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!(
            "ExitCode:{}",
            integer(terminated, &["exitCode"]).unwrap_or(0)
        )
    }
}

fn summarize(object: &Value) -> Summary {
    let phase = text(object, &["status", "phase"]);
    let mut reason = match text(object, &["status", "reason"]) {
        "" => phase,
        reason => reason,
    }
    .to_owned();
    if condition(object, "PodScheduled")
        .is_some_and(|condition| text(condition, &["reason"]) == "SchedulingGated")
    {
        reason = "SchedulingGated".into();
    }
    let sidecars: Vec<&str> = list(object, &["spec", "initContainers"])
        .iter()
        .filter(|container| text(container, &["restartPolicy"]) == "Always")
        .map(|container| text(container, &["name"]))
        .collect();
    let mut ready = 0;
    let mut all = Restarts::default();
    let mut of_sidecars = Restarts::default();
    let initializing = init_reason(object, &sidecars, &mut ready, &mut all, &mut of_sidecars);
    let is_initializing = initializing.is_some();
    reason = initializing.unwrap_or(reason);
    if !is_initializing || is_true(object, "Initialized") {
        all = of_sidecars;
        main_reason(object, &mut reason, &mut ready, &mut all);
    }
    if at(object, &["metadata", "deletionTimestamp"]).is_some() {
        if text(object, &["status", "reason"]) == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    Summary {
        ready,
        total: list(object, &["spec", "containers"]).len() + sidecars.len(),
        reason,
        restarts: all.count,
        last_restart: all.last,
    }
}

/// What the first init container that is not done says; `None` when all are.
fn init_reason(
    object: &Value,
    sidecars: &[&str],
    ready: &mut usize,
    all: &mut Restarts,
    of_sidecars: &mut Restarts,
) -> Option<String> {
    let statuses = list(object, &["status", "initContainerStatuses"]);
    for (index, status) in statuses.iter().enumerate() {
        all.add(status);
        let is_sidecar = sidecars.contains(&text(status, &["name"]));
        if is_sidecar {
            of_sidecars.add(status);
        }
        let terminated = at(status, &["state", "terminated"]);
        let waiting = text(status, &["state", "waiting", "reason"]);
        match terminated {
            Some(terminated) if integer(terminated, &["exitCode"]).unwrap_or(0) == 0 => {}
            _ if is_sidecar && flag(status, &["started"]) => {
                *ready += usize::from(flag(status, &["ready"]));
            }
            Some(terminated) => return Some(format!("Init:{}", ended(terminated))),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                return Some(format!("Init:{waiting}"));
            }
            None => {
                let of = list(object, &["spec", "initContainers"]).len();
                return Some(format!("Init:{index}/{of}"));
            }
        }
    }
    None
}

/// What the containers say; the first one with something to say wins.
fn main_reason(object: &Value, reason: &mut String, ready: &mut usize, restarts: &mut Restarts) {
    let mut running = false;
    for status in list(object, &["status", "containerStatuses"]).iter().rev() {
        restarts.add(status);
        let waiting = text(status, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            *reason = waiting.to_owned();
        } else if let Some(terminated) = at(status, &["state", "terminated"]) {
            *reason = ended(terminated);
        } else if flag(status, &["ready"]) && at(status, &["state", "running"]).is_some() {
            running = true;
            *ready += 1;
        }
    }
    if reason == "Completed" && running {
        let shown = if is_true(object, "Ready") {
            "Running"
        } else {
            "NotReady"
        };
        *reason = shown.to_owned();
    }
}

fn readiness_gates(object: &Value) -> String {
    let gates = list(object, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates
        .iter()
        .filter(|gate| is_true(object, text(gate, &["conditionType"])))
        .count();
    format!("{met}/{}", gates.len())
}

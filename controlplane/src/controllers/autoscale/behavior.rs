//! How fast the number of pods may change: stabilization windows and policies. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerSpec};

/// Down, only as far as everything that was recommended within this.
const DOWN_WINDOW: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: Timestamp,
    pub(super) by: i64,
}

/// What was recommended and done before.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    pub(super) recommended: Vec<(Timestamp, i64)>,
    pub(super) up: Vec<Change>,
    pub(super) down: Vec<Change>,
}

impl History {
    /// Of an autoscaler that is seen for the first time, by this member at least: what there is counts as recommended,
    /// so that nothing is taken away before a window has passed.
    pub(super) fn begun(current: i64, now: Timestamp) -> Self {
        Self {
            recommended: vec![(now, current)],
            ..Self::default()
        }
    }
}

/// What is to be done, and why not what was recommended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limited {
    pub(super) replicas: i64,
    /// Reason and message of the condition AbleToScale when a window holds it back.
    pub(super) stabilized: Option<(&'static str, &'static str)>,
    /// Reason and message of the condition ScalingLimited.
    pub(super) limited: Option<(&'static str, &'static str)>,
}

fn seconds(value: Option<i32>) -> Option<Duration> {
    Some(Duration::from_secs(u64::try_from(value?).ok()?))
}

fn is_within(at: Timestamp, window: Duration, now: Timestamp) -> bool {
    now.duration_since(at).unsigned_abs() < window
}

/// (kind, value, period)
fn policies(rules: Option<&HPAScalingRules>, down: bool) -> Vec<(bool, i64, Duration)> {
    let given = rules.and_then(|rules| rules.policies.as_ref());
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        return given
            .iter()
            .map(|policy| {
                let period = seconds(Some(policy.period_seconds)).unwrap_or_default();
                (policy.type_ == "Percent", i64::from(policy.value), period)
            })
            .collect();
    }
    let period = Duration::from_secs(15);
    if down {
        vec![(true, 100, period)]
    } else {
        vec![(false, 4, period), (true, 100, period)]
    }
}

fn moved(changes: &[Change], period: Duration, now: Timestamp) -> i64 {
    let recent = changes
        .iter()
        .filter(|change| is_within(change.at, period, now));
    recent.map(|change| change.by).sum()
}

/// The most (or least) that the policies allow now.
fn limit(
    rules: Option<&HPAScalingRules>,
    down: bool,
    current: i64,
    history: &History,
    now: Timestamp,
) -> i64 {
    let select = rules.and_then(|rules| rules.select_policy.as_deref());
    if select == Some("Disabled") {
        return current;
    }
    let limits = policies(rules, down)
        .into_iter()
        .map(|(percent, value, period)| {
            let start =
                current - moved(&history.up, period, now) + moved(&history.down, period, now);
            match (down, percent) {
                (false, false) => start + value,
                // Rounded up: 1 pod by 10 % is 2.
                (false, true) => (start * (100 + value) + 99).div_euclid(100),
                (true, false) => start - value,
                (true, true) => (start * (100 - value)).div_euclid(100).max(0),
            }
        });
    let least_change = select == Some("Min");
    let found = if down == least_change {
        limits.max()
    } else {
        limits.min()
    };
    // `Max` is the policy that allows the larger change.
    found.unwrap_or(current)
}

const HELD_DOWN: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const TOO_FAST: (&str, &str) = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const TOO_MANY: (&str, &str) = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: (&str, &str) = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);

/// Without `behavior` the algorithm is the one that was there before it: up to twice as many pods, or four, at a time;
/// and as many as the most that was recommended in the window, also when that is more than there are.
fn plain(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    wanted: i64,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    let least = i64::from(spec.min_replicas.unwrap_or(1));
    let most = i64::from(spec.max_replicas);
    history
        .recommended
        .retain(|(at, _)| is_within(*at, DOWN_WINDOW, now));
    history.recommended.push((now, wanted));
    let all = history.recommended.iter().map(|(_, replicas)| *replicas);
    let stable = all.max().unwrap_or(wanted);
    let rate = current.saturating_mul(2).max(4);
    let (replicas, limited) = if stable < least {
        (least, Some(TOO_FEW))
    } else if stable > most.min(rate) {
        let why = if most > rate { TOO_FAST } else { TOO_MANY };
        (most.min(rate), Some(why))
    } else {
        (stable, None)
    };
    Limited {
        replicas,
        stabilized: (stable != wanted).then_some(HELD_DOWN),
        limited,
    }
}

pub(super) fn apply(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    wanted: i64,
    history: &mut History,
    now: Timestamp,
) -> Limited {
    let Some(behavior) = &spec.behavior else {
        return plain(spec, current, wanted, history, now);
    };
    let (up, down) = (behavior.scale_up.as_ref(), behavior.scale_down.as_ref());
    let up_window =
        seconds(up.and_then(|rules| rules.stabilization_window_seconds)).unwrap_or_default();
    let down_window =
        seconds(down.and_then(|rules| rules.stabilization_window_seconds)).unwrap_or(DOWN_WINDOW);
    let longest = up_window.max(down_window);
    history
        .recommended
        .retain(|(at, _)| is_within(*at, longest, now));
    let (mut lowest, mut highest) = (wanted, wanted);
    for (at, replicas) in &history.recommended {
        if is_within(*at, up_window, now) {
            lowest = lowest.min(*replicas);
        }
        if is_within(*at, down_window, now) {
            highest = highest.max(*replicas);
        }
    }
    history.recommended.push((now, wanted));
    let stable = current.max(lowest).min(highest);
    let stabilized = (stable != wanted).then_some(if wanted >= current {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        HELD_DOWN
    });
    let (replicas, limited) = bounded(spec, current, stable, history, now);
    Limited {
        replicas,
        stabilized,
        limited,
    }
}

fn bounded(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    wanted: i64,
    history: &History,
    now: Timestamp,
) -> (i64, Option<(&'static str, &'static str)>) {
    let behavior = spec.behavior.as_ref();
    let least = i64::from(spec.min_replicas.unwrap_or(1));
    let most = i64::from(spec.max_replicas);
    if wanted > current {
        let rules = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let rate = limit(rules, false, current, history, now).max(current);
        let (allowed, why) = if rate < most {
            (rate, TOO_FAST)
        } else {
            (most, TOO_MANY)
        };
        if wanted > allowed {
            return (allowed, Some(why));
        }
    } else if wanted < current {
        let rules = behavior.and_then(|behavior| behavior.scale_down.as_ref());
        let rate = limit(rules, true, current, history, now).min(current);
        let (allowed, why) = if rate > least {
            (
                rate,
                (
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                ),
            )
        } else {
            (least, TOO_FEW)
        };
        if wanted < allowed {
            return (allowed, Some(why));
        }
    }
    (wanted, None)
}

/// Notes what was done, and forgets what no policy looks at.
pub(super) fn note(history: &mut History, before: i64, after: i64, now: Timestamp) {
    const LONGEST: Duration = Duration::from_secs(1800);
    for changes in [&mut history.up, &mut history.down] {
        changes.retain(|change| is_within(change.at, LONGEST, now));
    }
    let by = after - before;
    match by {
        1.. => history.up.push(Change { at: now, by }),
        ..=-1 => history.down.push(Change { at: now, by: -by }),
        0 => {}
    }
}

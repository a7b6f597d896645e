//! How many nodes may be driven empty at once: when many fall silent together, it is more likely that the network
//! or the control plane is ill than that they all are. Pure.
//!
//! As in Kubernetes each failure zone is judged by itself. Nodes that are not ready get no new pods at once; what is
//! limited is the taint that drives the running ones away.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::plan;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// As few nodes as this that are not ready are no sign of something larger.
const FEW: usize = 2;
/// How soon a node that may not be emptied now is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How fast nodes that are not ready are emptied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NodeEviction {
    /// Nodes a second and zone, while a zone is healthy.
    pub rate: f64,
    /// Nodes a second in a large zone of which too many nodes are not ready; none in a small one.
    pub secondary_rate: f64,
    /// Share of a zone's nodes, 0 to 1, that makes too many.
    pub unhealthy_share: f64,
    /// Nodes of a zone above which it is large.
    pub large_zone: usize,
}

impl Default for NodeEviction {
    fn default() -> Self {
        Self {
            rate: 0.1,
            secondary_rate: 0.01,
            unhealthy_share: 0.55,
            large_zone: 50,
        }
    }
}

/// A failure domain, by the labels of its nodes; those without any are one zone together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Zone {
    region: String,
    name: String,
}

impl Zone {
    pub(super) fn of(node: &Node) -> Self {
        let label = |key| {
            let labels = node.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(key)).cloned()
        };
        Self {
            region: label(REGION).unwrap_or_default(),
            name: label(ZONE).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.region.as_str(), self.name.as_str()) {
            ("", name) => f.write_str(name),
            (region, name) => write!(f, "{region}/{name}"),
        }
    }
}

/// Nodes of a zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) ready: usize,
    pub(super) unready: usize,
}

impl Census {
    fn nodes(self) -> usize {
        self.ready + self.unready
    }

    fn state(self, limits: &NodeEviction) -> State {
        let share = self.unready as f64 / self.nodes().max(1) as f64;
        if self.unready > 0 && self.ready == 0 {
            State::Full
        } else if self.unready > FEW && share >= limits.unhealthy_share {
            State::Partial
        } else {
            State::Normal
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    /// Too many nodes are not ready.
    Partial,
    /// No node is ready.
    Full,
}

/// Counts the nodes of each zone; who is `silent` is not ready, whatever it said last.
pub(super) fn census<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    silent: impl Fn(&Node) -> bool,
) -> HashMap<Zone, Census> {
    let mut zones: HashMap<Zone, Census> = HashMap::new();
    for node in nodes {
        let zone = zones.entry(Zone::of(node)).or_default();
        if plan::is_ready(node) && !silent(node) {
            zone.ready += 1;
        } else {
            zone.unready += 1;
        }
    }
    zones
}

/// Whether a node that is not ready may be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Now,
    /// Not yet; what is being emptied already goes on. Look again after this time.
    Later(Duration),
    /// No node of the cluster is ready: nothing is emptied, and what was begun is called off. Look again
    /// after this time.
    CalledOff(Duration),
}

/// What was decided before. Times are since some moment that stays the same.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When a node of the zone was last given up.
    last: HashMap<Zone, Duration>,
    /// When last no node of the cluster was ready.
    all_out: Option<Duration>,
}

impl Pace {
    /// Asked of a node of `zone` that is not ready. `grace` is how long a node may be silent.
    pub(super) fn judge(
        &mut self,
        zone: &Zone,
        zones: &HashMap<Zone, Census>,
        limits: &NodeEviction,
        grace: Duration,
        now: Duration,
    ) -> Verdict {
        if zones.values().all(|census| census.ready == 0) {
            self.all_out = Some(now);
            return Verdict::CalledOff(LOOK_AGAIN);
        }
        // Where all were away, each gets the time to come back that it has to be silent.
        let until = self.all_out.map(|last| last + grace);
        if let Some(until) = until.filter(|until| now < *until) {
            return Verdict::Later((until - now).min(LOOK_AGAIN));
        }
        let census = zones.get(zone).copied().unwrap_or_default();
        let rate = match census.state(limits) {
            // Other zones are well, so this one is really away.
            State::Normal | State::Full => limits.rate,
            State::Partial if census.nodes() > limits.large_zone => limits.secondary_rate,
            State::Partial => 0.0,
        };
        // A rate that is no number of seconds is none.
        let Ok(interval) = Duration::try_from_secs_f64(1.0 / rate) else {
            return Verdict::Later(LOOK_AGAIN);
        };
        match self.last.get(zone) {
            Some(last) if now < *last + interval => {
                Verdict::Later((*last + interval - now).min(LOOK_AGAIN))
            }
            _ => {
                self.last.insert(zone.clone(), now);
                Verdict::Now
            }
        }
    }
}

#[cfg(test)]
mod tests;

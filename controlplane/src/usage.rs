//! What nodes and pods use, as their nodes report it: kept in memory, by the member that has the node's stream.
//! CPU comes as time spent, which two reports turn into a rate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use proto::node::v1 as wire;

/// A report that is older says nothing about now.
const STALE: Duration = Duration::from_secs(90);
/// Reports that come closer together than this make no rate.
const SHORTEST: Duration = Duration::from_millis(500);

/// Rates of one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// Billionths of a CPU.
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) containers: Vec<(String, Amount)>,
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeUsage {
    pub(crate) name: String,
    pub(crate) amount: Amount,
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
}

#[derive(Debug)]
struct Node {
    at: Timestamp,
    report: wire::Usage,
    usage: Option<NodeUsage>,
    pods: Vec<PodUsage>,
}

/// Cheap to clone; all clones are one book. The lock is held for moments.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsageBook(Arc<Mutex<HashMap<String, Node>>>);

fn rate(before: u64, now: u64, window: Duration) -> u64 {
    // Less than before: it was started anew.
    let spent = u128::from(now.checked_sub(before).unwrap_or(now));
    let nanos = window.as_nanos().max(1);
    u64::try_from(spent * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

fn pods(before: &wire::Usage, now: &wire::Usage, at: Timestamp, window: Duration) -> Vec<PodUsage> {
    let known: HashMap<(&str, &str), u64> = before
        .pods
        .iter()
        .flat_map(|pod| {
            let containers = pod.containers.iter();
            containers.map(|one| ((pod.uid.as_str(), one.name.as_str()), one.cpu_nanos))
        })
        .collect();
    now.pods
        .iter()
        .filter_map(|pod| {
            let containers: Vec<(String, Amount)> = pod
                .containers
                .iter()
                .filter_map(|one| {
                    let before = known.get(&(pod.uid.as_str(), one.name.as_str()))?;
                    let amount = Amount {
                        cpu_nanos: rate(*before, one.cpu_nanos, window),
                        memory_bytes: one.memory_bytes,
                    };
                    Some((one.name.clone(), amount))
                })
                .collect();
            // One of its containers is too young to be measured: so is the pod.
            (!containers.is_empty() && containers.len() == pod.containers.len()).then(|| PodUsage {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                containers,
                at,
                window,
            })
        })
        .collect()
}

impl UsageBook {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, node: &str, report: &wire::Usage) {
        self.record_at(node, report, Timestamp::now());
    }

    fn record_at(&self, node: &str, report: &wire::Usage, at: Timestamp) {
        let mut book = self.lock();
        let mut entry = Node {
            at,
            report: report.clone(),
            usage: None,
            pods: Vec::new(),
        };
        if let Some(before) = book.get(node) {
            let window = at.duration_since(before.at).unsigned_abs();
            if window < SHORTEST {
                return;
            }
            if window < STALE {
                let cpu_nanos = rate(before.report.cpu_nanos, report.cpu_nanos, window);
                entry.usage = Some(NodeUsage {
                    name: node.to_owned(),
                    amount: Amount {
                        cpu_nanos,
                        memory_bytes: report.memory_bytes,
                    },
                    at,
                    window,
                });
                entry.pods = pods(&before.report, report, at, window);
            }
        }
        book.insert(node.to_owned(), entry);
    }

    fn fresh<R>(&self, now: Timestamp, read: impl Fn(&Node) -> Vec<R>) -> Vec<R> {
        let mut book = self.lock();
        book.retain(|_, node| now.duration_since(node.at).unsigned_abs() < STALE);
        book.values().flat_map(read).collect()
    }

    pub(crate) fn nodes(&self, now: Timestamp) -> Vec<NodeUsage> {
        self.fresh(now, |node| node.usage.iter().cloned().collect())
    }

    /// Of all namespaces when `namespace` is empty.
    pub(crate) fn pods(&self, namespace: &str, now: Timestamp) -> Vec<PodUsage> {
        self.fresh(now, |node| {
            let here = |pod: &&PodUsage| namespace.is_empty() || pod.namespace == namespace;
            node.pods.iter().filter(here).cloned().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn report(cpu: u64, container: u64) -> wire::Usage {
        wire::Usage {
            cpu_nanos: cpu,
            memory_bytes: 1 << 30,
            pods: vec![wire::PodUsage {
                namespace: "ns".into(),
                name: "p".into(),
                uid: "u".into(),
                containers: vec![wire::ContainerUsage {
                    name: "c".into(),
                    cpu_nanos: container,
                    memory_bytes: 1 << 20,
                }],
            }],
        }
    }

    #[test]
    fn two_reports_make_a_rate() {
        let book = UsageBook::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        book.record_at("n", &report(5_000_000_000, 1_000_000_000), at(100));
        assert!(book.nodes(at(100)).is_empty());
        book.record_at("n", &report(15_000_000_000, 2_000_000_000), at(110));
        assert_eq!(book.nodes(at(110))[0].amount.cpu_nanos, 1_000_000_000);
        let pods = book.pods("ns", at(110));
        assert_eq!(pods[0].containers[0].1.cpu_nanos, 100_000_000);
        assert!(book.pods("other", at(110)).is_empty());
        assert!(book.nodes(at(300)).is_empty(), "what is old is no answer");
    }
}

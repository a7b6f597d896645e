//! What nodes and pods use, as their nodes report it: kept in memory, by the member that has the node's stream, and asked
//! of it by the others.
//! CPU comes as time spent, which two reports turn into a rate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use jiff::Timestamp;
use proto::node::v1 as wire;
use serde::{Deserialize, Serialize};

use crate::store::Store;

/// A report that is older says nothing about now.
const STALE: Duration = Duration::from_secs(90);
/// Reports that come closer together than this make no rate.
const SHORTEST: Duration = Duration::from_millis(500);
/// A container that has run for less is too young to be measured by its first report.
const YOUNGEST: Duration = Duration::from_secs(3);
/// Under which members ask each other.
const TOPIC: &str = "nodes/usage";
/// A member that does not answer is left out.
const PATIENCE: Duration = Duration::from_secs(1);

/// Rates of one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    /// Billionths of a CPU.
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) containers: Vec<(String, Amount)>,
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub(crate) struct UsageBook {
    book: Arc<Mutex<HashMap<String, Node>>>,
    /// The way to the other members, once there is one.
    store: Arc<OnceLock<Store>>,
}

/// What members ask each other.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Nodes,
    /// Of all namespaces when it is empty.
    Pods(String),
}

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
            let mut covered = Duration::ZERO;
            let containers: Vec<(String, Amount)> = pod
                .containers
                .iter()
                .filter_map(|one| {
                    let age = Duration::from_millis(one.age_millis);
                    let (before, window) = match known.get(&(pod.uid.as_str(), one.name.as_str())) {
                        Some(before) => (*before, window),
                        // Its start is the report before, as with metrics-server.
                        None if age >= YOUNGEST => (0, age),
                        None => return None,
                    };
                    covered = covered.max(window);
                    let amount = Amount {
                        cpu_nanos: rate(before, one.cpu_nanos, window),
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
                window: covered,
            })
        })
        .collect()
}

impl UsageBook {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Node>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on others are asked, and answered.
    pub(crate) fn join(&self, store: &Store) {
        let book = Arc::downgrade(&self.book);
        let answer = move |question: Bytes| {
            let book = book.upgrade().map(|book| Self {
                book,
                store: Arc::default(),
            });
            let answer = || {
                let question = serde_json::from_slice(&question)?;
                let (book, now) = (book.unwrap_or_default(), Timestamp::now());
                serde_json::to_vec(&match question {
                    Question::Nodes => (book.nodes_here(now), Vec::new()),
                    Question::Pods(namespace) => (Vec::new(), book.pods_here(&namespace, now)),
                })
            };
            let answer: Result<Vec<u8>, serde_json::Error> = answer();
            let answer = answer.map(Bytes::from).map_err(|error| error.to_string());
            std::future::ready(answer).boxed()
        };
        store.answer_with(TOPIC, Arc::new(answer));
        // Once: a second call is of the same store.
        let _ = self.store.set(store.clone());
    }

    async fn ask(&self, question: &Question) -> (Vec<NodeUsage>, Vec<PodUsage>) {
        let Some(store) = self.store.get() else {
            return Default::default();
        };
        let question = serde_json::to_vec(question).expect("texts always serialize");
        let answers = store.ask_others(TOPIC, question.into(), PATIENCE).await;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for answer in answers {
            match serde_json::from_slice::<(Vec<NodeUsage>, Vec<PodUsage>)>(&answer) {
                Ok(answer) => {
                    nodes.extend(answer.0);
                    pods.extend(answer.1);
                }
                Err(error) => tracing::debug!(%error, "what another member knows of usage"),
            }
        }
        (nodes, pods)
    }

    /// Of all nodes, whichever member they report to.
    pub(crate) async fn nodes(&self, now: Timestamp) -> Vec<NodeUsage> {
        let (others, _) = self.ask(&Question::Nodes).await;
        let mut all = self.nodes_here(now);
        all.extend(others);
        newest(all, |usage| usage.name.clone(), |usage| usage.at)
    }

    /// Of all nodes' pods, of all namespaces when `namespace` is empty.
    pub(crate) async fn pods(&self, namespace: &str, now: Timestamp) -> Vec<PodUsage> {
        let (_, others) = self.ask(&Question::Pods(namespace.to_owned())).await;
        let mut all = self.pods_here(namespace, now);
        all.extend(others);
        newest(all, |usage| usage.uid.clone(), |usage| usage.at)
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

    fn nodes_here(&self, now: Timestamp) -> Vec<NodeUsage> {
        self.fresh(now, |node| node.usage.iter().cloned().collect())
    }

    fn pods_here(&self, namespace: &str, now: Timestamp) -> Vec<PodUsage> {
        self.fresh(now, |node| {
            let here = |pod: &&PodUsage| namespace.is_empty() || pod.namespace == namespace;
            node.pods.iter().filter(here).cloned().collect()
        })
    }
}

/// A node that has moved from one member to another is known to both for a while.
fn newest<T>(all: Vec<T>, name: impl Fn(&T) -> String, at: impl Fn(&T) -> Timestamp) -> Vec<T> {
    let mut known: HashMap<String, T> = HashMap::new();
    for one in all {
        let name = name(&one);
        if known.get(&name).is_none_or(|other| at(other) < at(&one)) {
            known.insert(name, one);
        }
    }
    known.into_values().collect()
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
                    age_millis: 0,
                }],
            }],
        }
    }

    #[test]
    fn two_reports_make_a_rate() {
        let book = UsageBook::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        book.record_at("n", &report(5_000_000_000, 1_000_000_000), at(100));
        assert!(book.nodes_here(at(100)).is_empty());
        book.record_at("n", &report(15_000_000_000, 2_000_000_000), at(110));
        assert_eq!(book.nodes_here(at(110))[0].amount.cpu_nanos, 1_000_000_000);
        let pods = book.pods_here("ns", at(110));
        assert_eq!(pods[0].containers[0].1.cpu_nanos, 100_000_000);
        assert!(book.pods_here("other", at(110)).is_empty());
        assert!(
            book.nodes_here(at(300)).is_empty(),
            "what is old is no answer"
        );
    }

    #[test]
    fn the_first_report_of_a_container_is_measured_from_its_start() {
        let book = UsageBook::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let with_young = |age_millis| {
            let mut report = report(5_000_000_000, 2_000_000_000);
            let pod = &mut report.pods[0];
            let young = wire::ContainerUsage {
                name: "young".into(),
                cpu_nanos: 1_000_000_000,
                memory_bytes: 1,
                age_millis,
            };
            pod.containers.push(young);
            report
        };
        book.record_at("n", &report(5_000_000_000, 1_000_000_000), at(100));
        book.record_at("n", &with_young(2_999), at(110));
        assert!(book.pods_here("ns", at(110)).is_empty());
        book.record_at("n", &report(5_000_000_000, 1_000_000_000), at(120));
        book.record_at("n", &with_young(4_000), at(122));
        let pods = book.pods_here("ns", at(122));
        assert_eq!(pods[0].containers[0].1.cpu_nanos, 500_000_000);
        assert_eq!(pods[0].containers[1].1.cpu_nanos, 250_000_000);
        assert_eq!(pods[0].window, Duration::from_secs(4));
    }

    #[test]
    fn of_two_members_the_one_that_heard_last_counts() {
        let usage = |name: &str, second, cpu_nanos| NodeUsage {
            name: name.to_owned(),
            amount: Amount {
                cpu_nanos,
                memory_bytes: 0,
            },
            at: Timestamp::from_second(second).unwrap(),
            window: SHORTEST,
        };
        let all = vec![
            usage("a", 5, 1),
            usage("a", 9, 2),
            usage("b", 3, 3),
            usage("a", 7, 4),
        ];
        let mut found = newest(all, |usage| usage.name.clone(), |usage| usage.at);
        found.sort_by(|one, other| one.name.cmp(&other.name));
        let found: Vec<u64> = found.iter().map(|usage| usage.amount.cpu_nanos).collect();
        assert_eq!(found, [2, 3]);
    }
}

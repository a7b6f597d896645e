//! Removes pods that nobody else will: on nodes that are gone or were declared out of service, terminating
//! without ever having had a node, and ended ones beyond a number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cache::{BY_END, BY_NODE, Cache, ENDED, ENDING};
use crate::registry::{Client, DeleteOptions};

use super::disruption_target::{self, Cause};
use super::podstate;

const NAME: &str = "pod-garbage-collector";
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be gone before its pods are: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);
const MAX_ENDED: usize = 12_500;

/// Said of a node by an operator who has seen that it is off: nothing runs there any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A node that is not ready and bears the taint.
fn is_out_of_service(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True");
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    !ready && taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// How it is said of a pod why it went.
fn cause(pod: &Pod, gone: bool) -> Option<Cause> {
    if podstate::is_finished(pod) || node_of(pod).is_none() {
        return None;
    }
    Some(Cause {
        reason: "DeletionByPodGC",
        message: if gone {
            "PodGC: node no longer exists"
        } else {
            "PodGC: node is out of service"
        },
        ended: true,
    })
}

fn node_of(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// Pure: the pods to remove, given for how long each node has been missing.
fn plan(
    pods: &[Arc<Pod>],
    missing: &HashMap<String, Duration>,
    off: &HashSet<String>,
    max_ended: usize,
) -> Vec<Arc<Pod>> {
    let mut remove: Vec<Arc<Pod>> = Vec::new();
    let mut ended: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods {
        match node_of(pod) {
            Some(node) if missing.get(node).is_some_and(|gone| *gone >= QUARANTINE) => {
                remove.push(Arc::clone(pod));
            }
            Some(node) if off.contains(node) && podstate::is_terminating(pod) => {
                remove.push(Arc::clone(pod));
            }
            None if podstate::is_terminating(pod) => remove.push(Arc::clone(pod)),
            _ if podstate::is_finished(pod) && !podstate::is_terminating(pod) => ended.push(pod),
            _ => {}
        }
    }
    if ended.len() > max_ended {
        // Those that a node put out are of no use to whoever counts ends.
        ended.sort_by_key(|pod| {
            let reason = pod
                .status
                .as_ref()
                .and_then(|status| status.reason.as_deref());
            let metadata = &pod.metadata;
            (
                reason != Some("Evicted"),
                metadata.creation_timestamp.clone(),
                metadata.name.clone(),
            )
        });
        let surplus = ended.len() - max_ended;
        remove.extend(ended.into_iter().take(surplus).cloned());
    }
    remove
}

/// Brings the list of missing nodes up to date, given the nodes that pods are on. Pure but for `now`.
fn note_missing(
    missing: &mut HashMap<String, Instant>,
    nodes: Vec<String>,
    is_there: impl Fn(&str) -> bool,
    now: Instant,
) {
    let gone = nodes.into_iter().filter(|node| !is_there(node));
    *missing = gone
        .map(|node| {
            let since = missing.get(&node).copied().unwrap_or(now);
            (node, since)
        })
        .collect();
}

/// Those of all pods that [`plan`] may remove.
fn candidates(cache: &Cache, missing: &HashMap<String, Instant>) -> Vec<Arc<Pod>> {
    let mut pods = cache.pods.indexed(BY_END, ENDED);
    pods.extend(cache.pods.indexed(BY_END, ENDING));
    for node in missing.keys() {
        let there = cache.pods.indexed(BY_NODE, node);
        pods.extend(there.into_iter().filter(|pod| podstate::is_active(pod)));
    }
    pods
}

pub(super) async fn run(client: Client, cache: Cache) {
    let client = client.with_manager(NAME);
    let mut missing: HashMap<String, Instant> = HashMap::new();
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tick.tick().await;
        let now = Instant::now();
        note_missing(
            &mut missing,
            cache.pods.values(BY_NODE),
            |node| cache.nodes.get("", node).is_some(),
            now,
        );
        let pods = candidates(&cache, &missing);
        let durations = missing
            .iter()
            .map(|(node, since)| (node.clone(), now.duration_since(*since)))
            .collect();
        let nodes = cache.nodes.list("");
        let off = nodes
            .iter()
            .filter(|node| is_out_of_service(node))
            .filter_map(|node| node.metadata.name.clone())
            .collect();
        for pod in plan(&pods, &durations, &off, MAX_ENDED) {
            // The view may lag: ask the store whether the node is really gone.
            if let Some(node) = node_of(&pod)
                && durations.contains_key(node)
                && !matches!(client.get::<Node>("", node).await, Ok(None))
            {
                continue;
            }
            let gone = node_of(&pod).is_some_and(|node| durations.contains_key(node));
            if let Some(cause) = cause(&pod, gone)
                && let Err(error) = disruption_target::mark(&client, &pod, cause).await
            {
                // It has changed: the next round sees how.
                tracing::debug!(%error, "pod not marked");
                continue;
            }
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: pod.metadata.uid.clone(),
                ..DeleteOptions::default()
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Err(error) = client.delete::<Pod>(namespace, name, options).await {
                tracing::debug!(namespace, name, %error, "pod not collected");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::controllers::fixtures::{at, pod, pods};

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter()
            .map(|pod| pod.metadata.name.as_deref().unwrap())
            .collect()
    }

    #[test]
    fn pods_of_gone_nodes_and_homeless_terminating_ones_go() {
        let mut homeless = pod("homeless", None, None);
        homeless.metadata.deletion_timestamp = Some(Time(at(1)));
        let list = pods(vec![
            pod("here", Some("n"), None),
            pod("lost", Some("gone"), None),
            pod("recent", Some("just-gone"), None),
            pod("waiting", None, None),
            homeless,
        ]);
        let missing = [
            ("gone".to_owned(), Duration::from_secs(60)),
            ("just-gone".to_owned(), Duration::from_secs(5)),
        ];
        assert_eq!(
            names(&plan(&list, &missing.into(), &HashSet::new(), 10)),
            ["lost", "homeless"]
        );
    }

    #[test]
    fn on_a_node_that_is_off_only_what_was_told_to_end_goes() {
        let mut ending = pod("ending", Some("off"), None);
        ending.metadata.deletion_timestamp = Some(Time(at(1)));
        let list = pods(vec![ending, pod("stays", Some("off"), None)]);
        let off = HashSet::from(["off".to_owned()]);
        assert_eq!(names(&plan(&list, &HashMap::new(), &off, 10)), ["ending"]);
    }

    #[test]
    fn the_oldest_ended_pods_beyond_the_number_go() {
        let list = pods(
            (0..5)
                .map(|number| {
                    let mut pod = pod(&format!("p{number}"), Some("n"), None);
                    pod.metadata.creation_timestamp = Some(Time(at(10 - number)));
                    pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
                    pod
                })
                .collect(),
        );
        let mut evicted = list.clone();
        let mut first = list[0].as_ref().clone();
        first.status.as_mut().unwrap().reason = Some("Evicted".into());
        evicted[0] = Arc::new(first);
        assert_eq!(
            names(&plan(&evicted, &HashMap::new(), &HashSet::new(), 3)),
            ["p0", "p4"]
        );
        assert_eq!(
            names(&plan(&list, &HashMap::new(), &HashSet::new(), 3)),
            ["p4", "p3"]
        );
    }

    #[test]
    fn a_node_is_missing_since_it_was_first_missed() {
        let used = || vec!["gone".to_owned(), "n".to_owned()];
        let start = Instant::now();
        let mut missing = HashMap::new();
        note_missing(&mut missing, used(), |node| node == "n", start);
        note_missing(&mut missing, used(), |node| node == "n", start + QUARANTINE);
        assert_eq!(missing, [("gone".to_owned(), start)].into());
        note_missing(&mut missing, used(), |_| true, start);
        assert!(missing.is_empty());
    }

    #[test]
    fn all_pods_that_may_go_are_looked_at_and_each_once() {
        let cache = Cache::empty();
        let mut ending = pod("ending", Some("gone"), None);
        ending.metadata.deletion_timestamp = Some(Time(at(1)));
        let mut ended = pod("ended", Some("gone"), None);
        ended.status.as_mut().unwrap().phase = Some("Failed".into());
        let list = vec![
            ending,
            ended,
            pod("lost", Some("gone"), None),
            pod("here", Some("n"), None),
        ];
        cache.pods.replace(pods(list), 1);
        let missing = HashMap::from([("gone".to_owned(), Instant::now())]);
        assert_eq!(
            names(&candidates(&cache, &missing)),
            ["ended", "ending", "lost"]
        );
        assert_eq!(
            names(&candidates(&cache, &HashMap::new())),
            ["ended", "ending"]
        );
        let mut nodes = cache.pods.values(BY_NODE);
        nodes.sort();
        assert_eq!(nodes, ["gone", "n"]);
    }
}

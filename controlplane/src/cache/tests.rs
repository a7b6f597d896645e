//! Tests of `cache`.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::registry::Change;

fn node(name: &str, version: &str) -> Arc<Node> {
    Arc::new(Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            resource_version: Some(version.into()),
            ..Default::default()
        },
        ..Default::default()
    })
}

fn pod(name: &str, node: Option<&str>) -> Arc<Pod> {
    Arc::new(Pod {
        metadata: ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            ..Default::default()
        },
        spec: Some(k8s_openapi::api::core::v1::PodSpec {
            node_name: node.map(Into::into),
            ..Default::default()
        }),
        ..Default::default()
    })
}

#[test]
fn subscriber_sees_what_is_there_then_changes_and_nothing_after_drop() {
    let cache = Cache::empty();
    cache.nodes.replace(vec![node("a", "1")], 1);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let subscription = cache.nodes.subscribe(move |delta| {
        log.lock().unwrap().push(format!(
            "{} {}{}",
            delta.key,
            if delta.old.is_some() { "o" } else { "-" },
            if delta.new.is_some() { "n" } else { "-" }
        ));
    });
    cache.nodes.apply(
        vec![
            Change::Applied(node("a", "2")),
            Change::Applied(node("b", "3")),
        ],
        3,
    );
    // A full list reports only what differs: b is gone, a is unchanged.
    cache.nodes.replace(vec![node("a", "2")], 4);
    drop(subscription);
    cache.nodes.apply(vec![Change::Applied(node("c", "5"))], 5);
    assert_eq!(*seen.lock().unwrap(), ["a -n", "a on", "b -n", "b o-"]);
    assert_eq!(cache.nodes.progress(), 5);
}

#[test]
fn index_follows_changes() {
    let cache = Cache::empty();
    cache
        .pods
        .replace(vec![pod("p", None), pod("q", Some("n1"))], 1);
    assert_eq!(cache.pods.indexed(BY_NODE, "n1").len(), 1);
    cache
        .pods
        .apply(vec![Change::Applied(pod("p", Some("n1")))], 2);
    assert_eq!(cache.pods.indexed(BY_NODE, "n1").len(), 2);
    cache
        .pods
        .apply(vec![Change::Deleted(pod("q", Some("n1")))], 3);
    assert_eq!(cache.pods.indexed(BY_NODE, "n1").len(), 1);
    assert_eq!(cache.pods.list("ns").len(), 1);
    assert!(cache.pods.list("n").is_empty());
}

#[tokio::test]
async fn queue_holds_a_key_once_and_brings_it_back_when_added_while_working() {
    let queue = Queue::default();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.next().await, "a");
    queue.add("a");
    assert_eq!(queue.len(), 1, "a is with a worker");
    assert_eq!(queue.next().await, "b");
    queue.done(&"a");
    assert_eq!(queue.next().await, "a");
}

#[tokio::test]
async fn queue_retries_with_doubling_delay_until_forgotten() {
    let queue = Queue::default();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let start = tokio::time::Instant::now();
        queue.retry("a");
        let key = queue.next().await;
        queue.done(&key);
        waits.push(start.elapsed());
    }
    for (wait, at_least) in waits.iter().zip([5, 10, 20, 40]) {
        assert!(*wait >= Duration::from_millis(at_least), "{waits:?}");
    }
    queue.forget(&"a");
    let start = tokio::time::Instant::now();
    queue.retry("a");
    queue.next().await;
    assert!(
        start.elapsed() < waits[3],
        "starts again with the first delay"
    );
}

#[tokio::test]
async fn earliest_delay_of_a_key_wins() {
    let queue = Queue::default();
    let start = tokio::time::Instant::now();
    queue.add_after("a", Duration::from_millis(60));
    queue.add_after("a", Duration::from_millis(10));
    queue.add_after("a", Duration::from_millis(30));
    assert_eq!(queue.next().await, "a");
    assert!(start.elapsed() < Duration::from_millis(30));
    queue.done(&"a");
    let nothing = tokio::time::timeout(Duration::from_millis(100), queue.next()).await;
    assert!(nothing.is_err(), "the later due times were replaced");
}

#[tokio::test]
async fn wait_for_a_revision() {
    let cache = Cache::empty();
    assert!(!cache.nodes.wait_for(3, Duration::from_millis(1)).await);
    let nodes = cache.nodes.clone();
    let waiter = tokio::spawn(async move { nodes.wait_for(3, Duration::from_secs(10)).await });
    cache.nodes.apply(vec![], 3);
    assert!(waiter.await.unwrap());
}

/// A pod as the store has it.
fn stored(name: &str, phase: &str, revision: u64) -> Arc<crate::store::KeyValue> {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "ns", "name": name, "managedFields": [{"manager": "somebody"}]},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": phase},
    });
    Arc::new(crate::store::KeyValue::new(
        format!("/objects/core/pods/ns/{name}").into(),
        serde_json::to_vec(&object).unwrap().into(),
        1,
        revision,
        1,
    ))
}

fn pods_of_which_are_held(recent: usize) -> Informer<Pod> {
    Informer::new(Some(recent), vec![(BY_NODE, node_of), (BY_END, end_of)])
}

#[test]
fn an_object_that_was_not_used_lately_is_not_held_and_is_read_again() {
    let pods = pods_of_which_are_held(2);
    let key = |name| ObjectKey::new("ns", name);
    for (name, revision) in [("a", 5), ("b", 6), ("c", 7)] {
        let kv = stored(name, "Running", revision);
        pods.change(&key(name), Some(&kv)).unwrap();
    }
    let first = Arc::downgrade(&pods.get("ns", "a").unwrap());
    for name in ["b", "c"] {
        let pod = pods.get("ns", name).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some(name));
    }
    assert!(first.upgrade().is_none(), "two others were used since");
    let again = pods.get("ns", "a").unwrap();
    assert_eq!(again.metadata.resource_version.as_deref(), Some("5"));
    assert_eq!(again.metadata.managed_fields, None);
    assert_eq!(pods.indexed(BY_NODE, "n1").len(), 3);
    assert_eq!(pods.list("ns").len(), 3);
}

#[test]
fn a_change_tells_what_was_before_also_where_it_is_not_held() {
    let pods = pods_of_which_are_held(1);
    let key = |name| ObjectKey::new("ns", name);
    for (name, revision) in [("a", 5), ("b", 6)] {
        let kv = stored(name, "Running", revision);
        pods.change(&key(name), Some(&kv)).unwrap();
    }
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let phase = |pod: Option<&Arc<Pod>>| {
        let status = pod.and_then(|pod| pod.status.clone());
        status.and_then(|status| status.phase).unwrap_or_default()
    };
    let subscription = pods.subscribe(move |delta| {
        let line = format!("{} {}>{}", delta.key, phase(delta.old), phase(delta.new));
        log.lock().unwrap().push(line);
    });
    pods.change(&key("a"), Some(&stored("a", "Failed", 7)))
        .unwrap();
    pods.change(&key("b"), None).unwrap();
    drop(subscription);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "ns/a >Running",
            "ns/b >Running",
            "ns/a Running>Failed",
            "ns/b Running>"
        ]
    );
    assert_eq!(pods.indexed(BY_END, ENDED).len(), 1);
    assert!(pods.get("ns", "b").is_none());
}

#[test]
fn a_list_tells_only_what_differs_from_what_the_store_has() {
    let pods = pods_of_which_are_held(1);
    pods.replace_stored(&[stored("a", "Running", 5), stored("b", "Running", 6)], 6)
        .unwrap();
    let told: Arc<Mutex<usize>> = Arc::default();
    let count = Arc::clone(&told);
    let _subscription = pods.subscribe(move |_| *count.lock().unwrap() += 1);
    *told.lock().unwrap() = 0;
    pods.replace_stored(&[stored("b", "Running", 6), stored("c", "Running", 7)], 8)
        .unwrap();
    assert_eq!(*told.lock().unwrap(), 2, "a is gone, c is new");
    assert_eq!(pods.progress(), 8);
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    let pods = pods_of_which_are_held(1);
    let broken = crate::store::KeyValue::new("/objects/core/pods/ns/a".into(), "{".into(), 1, 5, 1);
    let key = ObjectKey::new("ns", "a");
    assert!(pods.change(&key, Some(&Arc::new(broken))).is_err());
    assert!(pods.get("ns", "a").is_none());
}

#[test]
fn candidates_are_found_by_their_rarest_label() {
    let cache = Cache::empty();
    let labeled = |name: &str, app: &str| {
        let mut pod = pod(name, None).as_ref().clone();
        let labels = [("app", app), ("all", "same")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pod.metadata.labels = Some(labels.into());
        Arc::new(pod)
    };
    let pods = vec![
        labeled("p", "one"),
        labeled("q", "two"),
        labeled("r", "two"),
    ];
    cache.pods.replace(pods, 1);
    let named = |labels: &[(&str, &str)]| {
        let labels: Vec<(String, String)> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let pairs = labels.iter().map(|(key, value)| (key, value));
        candidates(&cache.pods, "ns", pairs).len()
    };
    assert_eq!(named(&[("all", "same"), ("app", "one")]), 1);
    assert_eq!(named(&[("all", "same")]), 3);
    assert_eq!(named(&[]), 3);
    assert_eq!(named(&[("app", "nobody")]), 0);
}

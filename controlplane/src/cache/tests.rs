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

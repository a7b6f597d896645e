//! Static pods as the control plane shows them.

use std::time::Duration;

use super::life::{World, one};
use super::*;
use crate::pods::manifest;
use crate::pods::report::recorder::is_ready;

const HASH: &str = "uid-1";

fn fixed() -> Pod {
    let mut fixed = pod(HASH, one(serde_json::json!({})));
    let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
    fixed.metadata.annotations = Some([source].into());
    fixed
}

/// What the store has of it.
fn copy(uid: &str) -> Pod {
    let mut copy = manifest::mirror(&fixed());
    copy.metadata.uid = Some(uid.to_owned());
    copy
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_whose_copy_was_deleted_is_told_of_again() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(fixed()).await;
    world.recorder.status_when(HASH, "ready", is_ready).await;
    let told = || world.recorder.statuses(HASH).len();
    let again = async |before: usize| {
        while told() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    for (uid, all_gone) in [("copy-1", false), ("copy-2", true)] {
        pods.set(copy(uid)).await;
        let shown = pods.shown_static_pods();
        assert_eq!(
            shown.iter().map(|it| it.uid.as_str()).collect::<Vec<_>>(),
            [HASH]
        );
        let before = told();
        let since = tokio::time::Instant::now();
        // Either way the node may hear of it.
        if all_gone {
            pods.retain(&BTreeSet::new()).await;
        } else {
            pods.set(deleted(&copy(uid), 0)).await;
            assert!(world.recorder.is_terminated(uid));
            pods.gone(uid).await;
        }
        let waited = tokio::time::timeout(Duration::from_secs(60), again(before)).await;
        waited.expect("it is told of again");
        assert!(since.elapsed() >= Duration::from_secs(1));
        assert!(pods.shown_static_pods().is_empty());
    }
    // Nothing of that has ended the pod.
    assert!(!world.recorder.is_terminated(HASH));
    assert_eq!(world.created(), ["main 0"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_shown_and_does_not_run_can_be_ended() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(copy("copy-1")).await;
    let shown = pods.shown_static_pods();
    assert_eq!(shown.len(), 1);
    pods.end_mirror(&shown[0]);
    assert!(world.recorder.is_terminated(HASH));
    pods.gone("copy-1").await;
    assert!(pods.shown_static_pods().is_empty());
}

//! Which log is meant, and what is said when there is none.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodStatus;

use super::*;
use crate::pods::{PodDirs, PodKey};

fn snapshot(container: ContainerSnapshot) -> Snapshot {
    let dir = std::path::Path::new("/x");
    Snapshot {
        pod: std::sync::Arc::default(),
        key: PodKey {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
        },
        pod: std::sync::Arc::default(),
        status: PodStatus::default(),
        dirs: PodDirs::new(dir, dir, "ns", "p", "u"),
        containers: BTreeMap::from([("c".to_owned(), container)]),
    }
}

#[test]
fn attempts() {
    let state = |current, previous, waiting: Option<&str>| ContainerSnapshot {
        current,
        previous,
        live: false,
        waiting: waiting.map(str::to_owned),
    };
    let waiting = Some("ContainerCreating");
    for (container, previous, expected) in [
        (state(Some(0), None, None), false, Ok(0)),
        (state(Some(3), Some(2), None), false, Ok(3)),
        (state(Some(3), Some(2), None), true, Ok(2)),
        (
            state(Some(3), Some(2), Some("CrashLoopBackOff")),
            false,
            Ok(3),
        ),
        (
            state(Some(3), Some(2), Some("CrashLoopBackOff")),
            true,
            Ok(3),
        ),
        (
            state(None, None, None),
            false,
            Err("container \"c\" in pod \"p\" is terminated"),
        ),
        (
            state(None, None, waiting),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
        ),
        (
            state(Some(0), None, None),
            true,
            Err("previous terminated container \"c\" in pod \"p\" not found"),
        ),
    ] {
        let snapshot = snapshot(container);
        let found = attempt(&snapshot, "c", previous).map_err(|refusal| {
            assert_eq!((refusal.code, refusal.reason), (400, "BadRequest"));
            refusal.message
        });
        assert_eq!(found, expected.map_err(str::to_owned));
    }
    let unknown = attempt(&snapshot(state(None, None, None)), "d", false);
    assert_eq!(
        unknown.unwrap_err().message,
        "container d is not valid for pod p"
    );
}

#[test]
fn options_of_kubectl() {
    let request = wire::LogsRequest {
        tail_lines: Some(-1),
        since_time: "2026-01-02T03:04:05Z".to_owned(),
        limit_bytes: Some(5),
        ..wire::LogsRequest::default()
    };
    let read = options(&request).unwrap();
    assert_eq!((read.tail_lines, read.limit_bytes), (Some(0), Some(5)));
    assert!(read.since.is_some());
    let wrong = wire::LogsRequest {
        since_time: "yesterday".to_owned(),
        ..wire::LogsRequest::default()
    };
    assert_eq!(options(&wrong).unwrap_err().code, 400);
}

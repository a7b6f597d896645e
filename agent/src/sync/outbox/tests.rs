//! The latest of everything, in order, again after a new stream, within bounds.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::ObjectReference;

use super::*;

fn key(uid: &str) -> PodKey {
    PodKey {
        namespace: "ns".to_owned(),
        name: format!("pod-{uid}"),
        uid: uid.to_owned(),
    }
}

fn status(phase: &str) -> PodStatus {
    PodStatus {
        phase: Some(phase.to_owned()),
        ..PodStatus::default()
    }
}

fn event(message: String) -> PodEvent {
    PodEvent {
        involved: ObjectReference::default(),
        event_type: EventType::Warning,
        reason: "Failed",
        message,
    }
}

/// What is taken out when nothing waits any more, in words.
fn drain(outbox: &Outbox) -> Vec<String> {
    drain_at(outbox, Instant::now() + Duration::from_secs(60))
}

/// What is taken out at a time, in words.
fn drain_at(outbox: &Outbox, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| outbox.take(now))
        .map(|message| match message {
            Message::PodStatus(status) => {
                let json: PodStatus = serde_json::from_slice(&status.status_json).unwrap();
                format!("{} {}", status.uid, json.phase.unwrap())
            }
            Message::PodTerminated(end) => format!("{} ended", end.uid),
            Message::Event(event) => event.message,
            Message::LeaseRenewal(_) => "lease".to_owned(),
            Message::NodeStatus(_) => "node".to_owned(),
            Message::Applied(applied) => format!("applied {}", applied.revision),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_latest_status_of_each_pod_comes_once_and_before_its_end() {
    let outbox = Outbox::default();
    outbox.status(&key("b"), &status("Pending"));
    outbox.status(&key("a"), &status("Pending"));
    outbox.terminated(&key("b"));
    outbox.status(&key("b"), &status("Failed"));
    outbox.event(event("why".to_owned()));
    outbox.renew_lease(40);
    outbox.applied(7);
    assert_eq!(
        drain(&outbox),
        [
            "lease",
            "applied 7",
            "b Failed",
            "a Pending",
            "b ended",
            "why"
        ]
    );
    assert!(drain(&outbox).is_empty());
    outbox.status(&key("a"), &status("Running"));
    assert_eq!(drain(&outbox), ["a Running"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_comes_before_what_is_pending_and_before_events() {
    let outbox = Outbox::default();
    let now = || drain_at(&outbox, Instant::now());
    outbox.event(event("alone".to_owned()));
    assert_eq!(now(), ["alone"]);
    for pod in ["a", "b", "c"] {
        outbox.status(&key(pod), &status("Pending"));
    }
    outbox.event(event("why".to_owned()));
    assert!(now().is_empty());
    outbox.status(&key("b"), &status("Running"));
    assert_eq!(now(), ["b Running"], "not as it was before");
    outbox.terminated(&key("c"));
    assert_eq!(now(), ["c Pending", "c ended"]);
    // The next message comes by itself when it is time.
    let begun = Instant::now();
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push((outbox.next().await.message.unwrap(), begun.elapsed()));
    }
    assert!(matches!(&heard[0], (Message::Event(_), after) if *after >= QUIET && *after < PENDING));
    assert!(matches!(&heard[1], (Message::PodStatus(_), after) if *after >= PENDING));
    assert!(now().is_empty());
    // Statuses that come and come hold events up for so long and no longer.
    outbox.event(event("late".to_owned()));
    for _ in 0..30 {
        outbox.status(&key("b"), &status("Running"));
        assert_eq!(now(), ["b Running"]);
        tokio::time::sleep(QUIET / 2).await;
    }
    assert_eq!(now(), Vec::<String>::new());
    tokio::time::sleep(OLDEST_EVENT).await;
    assert_eq!(now(), ["late"]);
}

#[test]
fn a_new_stream_hears_all_again_but_events() {
    let outbox = Outbox::default();
    outbox.status(&key("a"), &status("Running"));
    outbox.status(&key("b"), &status("Failed"));
    outbox.terminated(&key("b"));
    outbox.node_status(&NodeStatus::default());
    outbox.applied(3);
    outbox.event(event("once".to_owned()));
    drain(&outbox);
    outbox.begin();
    let again = ["applied 3", "a Running", "b Failed", "b ended", "node"];
    assert_eq!(drain(&outbox), again);
    // What the store has no more is not spoken of.
    outbox.forget("b");
    outbox.begin();
    assert_eq!(drain(&outbox), ["applied 3", "a Running", "node"]);
    outbox.retain(&BTreeSet::new());
    outbox.begin();
    assert_eq!(drain(&outbox), ["applied 3", "node"]);
}

#[test]
fn events_are_bounded_and_the_oldest_go() {
    let outbox = Outbox::default();
    for number in 0..MOST_EVENTS + 10 {
        outbox.event(event(number.to_string()));
    }
    let left = drain(&outbox);
    assert_eq!(left.len(), MOST_EVENTS);
    assert_eq!(left[0], "10");
    assert_eq!(outbox.dropped_events.get(), 10);
}

#[tokio::test]
async fn a_waiting_reader_is_woken() {
    let outbox = std::sync::Arc::new(Outbox::default());
    let reader = std::sync::Arc::clone(&outbox);
    let waiting = tokio::spawn(async move { reader.next().await });
    tokio::task::yield_now().await;
    outbox.renew_lease(1);
    let message = waiting.await.unwrap().message.unwrap();
    assert!(matches!(message, Message::LeaseRenewal(_)));
}

/// Its status would make the control plane show it again.
#[test]
fn a_static_pod_that_has_ended_is_shown_no_more() {
    let outbox = Outbox::default();
    outbox.mirror(&key("hash"), &Pod::default());
    outbox.status(&key("hash"), &status("Running"));
    let shown = |message: Option<Message>| match message {
        Some(Message::PodStatus(status)) => !status.mirror_json.is_empty(),
        other => panic!("{other:?}"),
    };
    let later = Instant::now() + Duration::from_secs(60);
    assert!(shown(outbox.take(later)));
    // What the store has is the copy, which has another uid.
    outbox.retain(&BTreeSet::from(["copy".to_owned()]));
    outbox.begin();
    assert!(shown(outbox.take(later)));
    outbox.terminated(&key("hash"));
    assert_eq!(drain(&outbox), ["hash ended"]);
    outbox.begin();
    assert!(!shown(outbox.take(later)));
    assert_eq!(drain(&outbox), ["hash ended"]);
    outbox.retain(&BTreeSet::new());
    outbox.begin();
    assert!(drain(&outbox).is_empty());
}

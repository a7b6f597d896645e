//! Tests of `api::flow`: classes, seats and queues, without HTTP.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn level(name: &str, limited: serde_json::Value) -> PriorityLevelConfiguration {
    let spec = json!({"type": "Limited", "limited": limited});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn schema(name: &str, level: &str, precedence: i32, group: &str) -> FlowSchema {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": group}}],
            "resourceRules": [{
                "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
            }],
        }],
    }}))
    .unwrap()
}

fn user(name: &str) -> User {
    User::named(name, vec!["people".to_owned()])
}

fn list_pods() -> Attributes {
    Attributes {
        verb: "list".into(),
        resource: "pods".into(),
        namespace: "ns".into(),
        ..Attributes::default()
    }
}

/// Two seats for people, who queue.
fn small() -> Flow {
    let flow = Flow::new(2);
    let queuing = json!({"queues": 64, "handSize": 6, "queueLengthLimit": 3});
    let people = level(
        "people",
        json!({"nominalConcurrencyShares": 100, "limitResponse": {"type": "Queue", "queuing": queuing}}),
    );
    flow.configure(&[people], &[schema("people", "people", 10, "people")]);
    flow
}

#[tokio::test]
async fn a_greedy_client_waits_for_itself_and_not_others_for_it() {
    let flow = small();
    let (wanted, greedy, modest) = (list_pods(), user("greedy"), user("modest"));
    let first = flow.admit(&greedy, &wanted).await.unwrap();
    let second = flow.admit(&greedy, &wanted).await.unwrap();
    let mut refused = 0;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut next = Box::pin(flow.admit(&greedy, &wanted));
        match futures::poll!(&mut next) {
            std::task::Poll::Ready(Err(error)) => {
                assert_eq!((error.code(), error.reason()), (429, "TooManyRequests"));
                assert_eq!(error.retry_after(), Some(1));
                refused += 1;
            }
            std::task::Poll::Ready(Ok(_)) => panic!("there is no seat"),
            std::task::Poll::Pending => waiting.push(next),
        }
    }
    assert_eq!((waiting.len(), refused), (18, 42), "six queues of three");
    let mut other = Box::pin(flow.admit(&modest, &wanted));
    assert!(futures::poll!(&mut other).is_pending());
    // As seats get free, the newcomer has its turn long before the queue of the greedy one is done.
    drop((first, second));
    let mut held = Vec::new();
    let mut turns = 0;
    loop {
        if let std::task::Poll::Ready(seat) = futures::poll!(&mut other) {
            seat.unwrap();
            break;
        }
        turns += 1;
        assert!(turns < 8, "it waits too long");
        let mut rest = Vec::new();
        for mut next in waiting.drain(..) {
            match futures::poll!(&mut next) {
                std::task::Poll::Ready(seat) => held.push(seat.unwrap()),
                std::task::Poll::Pending => rest.push(next),
            }
        }
        waiting = rest;
        held.clear();
    }
}

#[tokio::test]
async fn who_gives_up_leaves_no_seat_taken() {
    let flow = small();
    let (wanted, late) = (list_pods(), user("c"));
    let seats = [
        flow.admit(&user("a"), &wanted).await.unwrap(),
        flow.admit(&user("b"), &wanted).await.unwrap(),
    ];
    for _ in 0..10 {
        let mut next = Box::pin(flow.admit(&late, &wanted));
        assert!(futures::poll!(&mut next).is_pending());
    }
    // Given a seat and gone before it took it.
    let mut next = Box::pin(flow.admit(&late, &wanted));
    assert!(futures::poll!(&mut next).is_pending());
    drop(seats);
    drop(next);
    let _both = [
        flow.admit(&user("a"), &wanted).await.unwrap(),
        flow.admit(&user("b"), &wanted).await.unwrap(),
    ];
}

#[test]
fn the_first_schema_counts_and_levels_share_the_seats() {
    let schemas = levels::in_order(vec![
        schema("late", "low", 100, "people"),
        schema("early", "high", 10, "people"),
    ]);
    let class = levels::classify(&schemas, &user("ann"), &list_pods());
    assert_eq!(
        (class.schema.as_str(), class.level.as_str()),
        ("early", "high")
    );
    assert_eq!(class.distinguisher, "ann");
    let nobody = levels::classify(&schemas, &User::anonymous(), &list_pods());
    assert_eq!(nobody.level, CATCH_ALL);
    let reject = json!({"type": "Reject"});
    let of = |name: &str, shares: i32| {
        level(
            name,
            json!({"nominalConcurrencyShares": shares, "limitResponse": reject}),
        )
    };
    let all = levels::levels(&[of("high", 75), of("low", 25)], 600);
    let seats = |name: &str| all.iter().find(|level| level.name == name).unwrap().nominal;
    assert_eq!((seats("high"), seats("low")), (450, 150));
    assert!(all.iter().any(|level| level.name == "exempt"));
}

#[tokio::test]
async fn what_others_do_not_use_is_lent_up_to_the_limit() {
    let flow = Flow::new(10);
    let reject = json!({"type": "Reject"});
    let busy = level(
        "busy",
        json!({"nominalConcurrencyShares": 50, "borrowingLimitPercent": 40, "limitResponse": reject}),
    );
    let idle = level(
        "idle",
        json!({"nominalConcurrencyShares": 50, "lendablePercent": 100, "limitResponse": reject}),
    );
    flow.configure(&[busy, idle], &[schema("s", "busy", 1, "people")]);
    let mut seats = Vec::new();
    while let Ok(seat) = flow.admit(&user("a"), &list_pods()).await {
        seats.push(seat);
    }
    assert_eq!(seats.len(), 7, "five of its own and two fifths of that");
    drop(seats.pop());
    assert!(flow.admit(&user("a"), &list_pods()).await.is_ok());
}

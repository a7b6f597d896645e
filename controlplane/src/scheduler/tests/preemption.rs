//! Who has to go for whom.

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use super::*;

fn with_priority(name: &str, cpu: &str, priority: i32, node: Option<&str>) -> Pod {
    let mut pod = pod(name, cpu);
    pod.metadata.labels = Some([("name".to_owned(), name.to_owned())].into());
    let spec = pod.spec.as_mut().unwrap();
    spec.priority = Some(priority);
    spec.node_name = node.map(Into::into);
    pod
}

fn victims(outcome: &Outcome) -> (String, Vec<String>) {
    let made = outcome.preemption.as_ref().unwrap();
    let victims = made.victims.iter().map(|victim| victim.uid().to_owned());
    (made.node.clone(), victims.collect())
}

fn full(objects: Objects) -> Bench {
    let bench = Bench::with(vec![node("a", "2", "8Gi"), node("b", "2", "8Gi")], objects);
    bench.add(with_priority("a1", "1", 1, Some("a")));
    bench.add(with_priority("a2", "1", 5, Some("a")));
    bench.add(with_priority("b1", "1", 2, Some("b")));
    bench.add(with_priority("b2", "1", 5, Some("b")));
    bench
}

fn only(bench: &Bench, pod: Pod) -> Outcome {
    bench.add(pod);
    let mut outcomes = bench.outcomes();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

#[test]
fn the_least_important_goes() {
    let bench = full(Objects::default());
    let outcome = only(&bench, with_priority("high", "1", 10, None));
    assert_eq!(victims(&outcome), ("a".to_owned(), vec!["a1".to_owned()]));
    assert_eq!(
        outcome.decision,
        none("0/2 nodes are available: 2 Insufficient cpu.")
    );
}

#[test]
fn budgets_are_respected_where_there_is_another_way() {
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "keep"},
        "spec": {"selector": {"matchLabels": {"name": "a1"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    }))
    .unwrap();
    let objects = Objects {
        budgets: vec![Arc::new(budget)],
        ..Objects::default()
    };
    let outcome = only(&full(objects), with_priority("high", "1", 10, None));
    assert_eq!(victims(&outcome), ("b".to_owned(), vec!["b1".to_owned()]));
}

#[test]
fn who_runs_for_the_shortest_time_goes_and_the_newest_version_is_what_is_known() {
    for (node_of_younger, name_of_younger) in [("a", "a1"), ("b", "b1")] {
        let bench = Bench::new(vec![node("a", "1", "8Gi"), node("b", "1", "8Gi")]);
        let mut versions = Vec::new();
        for (name, node) in [("a1", "a"), ("b1", "b")] {
            let placed = with_priority(name, "1", 1, Some(node));
            bench.add(placed.clone());
            // It starts when it is on its node already.
            let mut started = placed.clone();
            let second = if name == name_of_younger { 20 } else { 10 };
            let time = jiff::Timestamp::from_second(second).unwrap();
            started.status = Some(PodStatus {
                start_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time)),
                ..PodStatus::default()
            });
            let (placed, started) = (Arc::new(placed), Arc::new(started));
            bench
                .shared
                .lock()
                .pod_changed(Some(&placed), Some(&started), bench.now);
            versions.push(started);
        }
        let outcome = only(&bench, with_priority("high", "1", 10, None));
        assert_eq!(
            victims(&outcome),
            (node_of_younger.to_owned(), vec![name_of_younger.to_owned()])
        );
        // The scheduler keeps no pod that has a node.
        for version in versions {
            assert_eq!(Arc::strong_count(&version), 1);
        }
    }
}

#[test]
fn pods_that_no_selector_tells_apart_share_their_class() {
    let bench = Bench::new(vec![node("a", "4", "8Gi")]);
    for name in ["first", "second"] {
        let mut pod = pod(name, "1");
        pod.spec.as_mut().unwrap().node_name = Some("a".into());
        bench.add(pod);
    }
    let state = bench.shared.lock();
    let running = &state
        .snapshot
        .node(state.snapshot.slot("a").unwrap())
        .running;
    assert_eq!(running.len(), 2);
    assert!(Arc::ptr_eq(&running[0].class, &running[1].class));
}

#[test]
fn those_who_do_not_preempt_wait() {
    let bench = full(Objects::default());
    let mut patient = with_priority("high", "1", 10, None);
    patient.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
    assert_eq!(
        only(&bench, patient).decision,
        none(
            "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to \
             preemptionPolicy=Never."
        )
    );
    assert_eq!(
        only(&bench, with_priority("equal", "1", 1, None)).decision,
        none(
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
             2 No preemption victims found for incoming pod."
        )
    );
}

#[test]
fn the_room_is_kept_for_the_one_that_it_was_made_for() {
    let mut bench = full(Objects::default());
    let outcome = only(&bench, with_priority("high", "1", 10, None));
    assert_eq!(victims(&outcome).1, ["a1"]);
    let gone = Arc::new(with_priority("a1", "1", 1, Some("a")));
    bench
        .shared
        .lock()
        .pod_changed(Some(&gone), None, bench.now);
    // Whoever comes first does not get it.
    let small = only(&bench, with_priority("small", "1", 0, None));
    assert!(matches!(small.decision, Decision::None(_)), "{small:?}");
    let mut nominated = with_priority("high", "1", 10, None);
    nominated.status = Some(PodStatus {
        nominated_node_name: Some("a".into()),
        ..PodStatus::default()
    });
    bench.add(nominated);
    bench.now += Duration::from_secs(2);
    let decisions = bench.decide();
    assert!(
        decisions.contains(&("high".to_owned(), on("a"))),
        "{decisions:?}"
    );
}

/// It is deleted and has not ended yet.
fn going(conditions: serde_json::Value) -> Pod {
    let mut going = with_priority("going", "1", 1, Some("a"));
    going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::UNIX_EPOCH,
    ));
    going.status = serde_json::from_value(json!({ "conditions": conditions })).unwrap();
    going
}

#[test]
fn who_goes_for_another_reason_is_not_waited_for() {
    let bench = Bench::new(vec![node("a", "1", "8Gi"), node("b", "1", "8Gi")]);
    bench.add(going(json!([])));
    bench.add(with_priority("low", "1", 1, Some("b")));
    let mut high = with_priority("high", "1", 10, None);
    high.status = Some(PodStatus {
        nominated_node_name: Some("a".into()),
        ..PodStatus::default()
    });
    assert!(only(&bench, high).preemption.is_some());
}

#[test]
fn what_a_pod_cannot_use_is_not_kept_for_it() {
    let mut bench = Bench::new(vec![node("a", "1", "8Gi")]);
    // Somebody more important was quicker, or came by another way.
    bench.add(with_priority("highest", "500m", 20, Some("a")));
    let mut high = with_priority("high", "1", 10, None);
    high.status = Some(PodStatus {
        nominated_node_name: Some("a".into()),
        ..PodStatus::default()
    });
    let outcome = only(&bench, high);
    assert_eq!(outcome.nomination(), Nomination::Lost);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let pod = outcome.request.pod.as_ref();
    let changed = with_condition(
        pod,
        Refusal::Unschedulable,
        "why",
        outcome.nomination(),
        now,
    )
    .unwrap();
    assert_eq!(changed.status.unwrap().nominated_node_name, None);
    bench.now += Duration::from_secs(1);
    let small = only(&bench, with_priority("small", "500m", 0, None));
    assert_eq!(small.decision, on("a"));
}

#[test]
fn nobody_comes_into_the_way_of_one_that_room_was_made_for() {
    let bench = Bench::new(vec![node("a", "4", "8Gi")]);
    let mut high = with_priority("high", "3", 10, None);
    high.spec.as_mut().unwrap().affinity = serde_json::from_value(json!({"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"name": "small"}}}]}}))
    .unwrap();
    high.status = Some(PodStatus {
        nominated_node_name: Some("a".into()),
        ..PodStatus::default()
    });
    // It has to wait for what is not on this node, such as its volume.
    {
        let mut state = bench.shared.lock();
        let request = state.snapshot.request(&Arc::new(high));
        for key in request.affinity.iter().flat_map(|affinity| affinity.keys()) {
            state.snapshot.learn(key);
        }
        state.snapshot.nominate(&request, "a");
    }
    let small = only(&bench, with_priority("small", "100m", 0, None));
    let Decision::None(why) = small.decision else {
        panic!("there is room, but not beside that one")
    };
    assert!(
        why.starts_with(
            "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
        ),
        "{why}"
    );
    let other = only(&bench, with_priority("other", "100m", 0, None));
    assert_eq!(other.decision, on("a"));
}

#[test]
fn who_waits_for_its_victims_takes_no_others() {
    let bench = Bench::new(vec![node("a", "1", "8Gi")]);
    bench.add(going(json!([{"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler"}])));
    let mut high = with_priority("high", "1", 10, None);
    high.status = Some(PodStatus {
        nominated_node_name: Some("a".into()),
        ..PodStatus::default()
    });
    let outcome = only(&bench, high);
    assert!(outcome.preemption.is_none());
    let Decision::None(why) = outcome.decision else {
        panic!("it is full")
    };
    assert!(
        why.ends_with("preemption: not eligible due to a terminating pod on the nominated node.")
    );
}

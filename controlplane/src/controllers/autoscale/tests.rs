//! Tests of `controllers::autoscale`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::json;

use super::plan::Said;
use super::*;
use crate::usage::{Amount, PodUsage};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(100_000 + seconds).unwrap()
}

fn spec(more: Value) -> HorizontalPodAutoscalerSpec {
    let mut spec = json!({"maxReplicas": 10, "minReplicas": 1,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

/// Pods that request 100m each.
fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count)
        .map(|number| {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": format!("p{number}"), "uid": format!("u{number}")},
                    "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}}]},
                    "status": {"phase": "Running", "startTime": "1970-01-01T00:00:00Z", "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
                }))
                .unwrap(),
            )
        })
        .collect()
}

fn usage(milli: &[u64]) -> Vec<PodUsage> {
    let one = |(number, milli): (usize, &u64)| PodUsage {
        namespace: "ns".into(),
        name: format!("p{number}"),
        uid: format!("u{number}"),
        containers: vec![(
            "c".into(),
            Amount {
                cpu_nanos: milli * 1_000_000,
                memory_bytes: 1 << 29,
            },
        )],
        at: at(0),
        window: Duration::from_secs(10),
    };
    milli.iter().enumerate().map(one).collect()
}

fn look(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    pods: Result<&[Arc<Pod>], &Unselected>,
    usage: &[PodUsage],
    history: &mut History,
    now: Timestamp,
) -> Findings {
    let view = View {
        namespace: "ns",
        spec,
        current,
        there: current,
        pods,
        usage,
        said: &HashMap::new(),
        now,
    };
    plan(&view, history)
}

fn wanted(spec: &HorizontalPodAutoscalerSpec, current: usize, milli: &[u64]) -> Findings {
    let current_count = i64::try_from(current).unwrap();
    look(
        spec,
        current_count,
        Ok(&pods(current)),
        &usage(milli),
        &mut History::default(),
        at(0),
    )
}

fn reason<'a>(findings: &'a Findings, kind: &str) -> &'a str {
    let mut all = findings.conditions.iter();
    all.find(|known| known.0 == kind).unwrap().2
}

#[test]
fn utilization_decides_and_a_tenth_is_nothing() {
    let spec = spec(json!({}));
    let up = wanted(&spec, 2, &[100, 100]);
    assert_eq!(up.replicas, 4);
    assert_eq!(
        up.why,
        "cpu resource utilization (percentage of request) above target"
    );
    assert_eq!(reason(&up, "ScalingActive"), "ValidMetricFound");
    assert_eq!(wanted(&spec, 2, &[52, 52]).replicas, 2);
    let down = wanted(&spec, 4, &[10, 10, 10, 10]);
    assert_eq!(down.replicas, 1);
    assert_eq!(down.why, "All metrics below target");
    let many = wanted(&spec, 2, &[1000, 1000]);
    assert_eq!(
        (many.replicas, reason(&many, "ScalingLimited")),
        (4, "ScaleUpLimit")
    );
}

#[test]
fn pods_that_are_not_measured_are_guessed_against_a_change() {
    let spec = spec(json!({}));
    // One of two at 100 %: the other counts as idle.
    assert_eq!(wanted(&spec, 2, &[100]).replicas, 2);
    // One of four at 10 %: the others as if they used all that they request.
    assert_eq!(wanted(&spec, 4, &[10]).replicas, 4);
    let none = wanted(&spec, 2, &[]);
    assert_eq!(none.replicas, 2);
    assert!(none.failed);
    assert_eq!(reason(&none, "ScalingActive"), "FailedGetResourceMetric");
}

#[test]
fn memory_by_value() {
    let spec = spec(
        json!({"metrics": [{"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "256Mi"}}}]}),
    );
    let up = wanted(&spec, 2, &[1, 1]);
    assert_eq!(up.replicas, 4);
    let current = &up.metrics[0].resource.as_ref().unwrap().current;
    assert_eq!(
        current.average_value.as_ref().unwrap().0,
        (1_u64 << 29).to_string()
    );
}

#[test]
fn bounds_come_first() {
    let spec = spec(json!({"minReplicas": 3, "maxReplicas": 4}));
    assert_eq!(wanted(&spec, 1, &[1]).replicas, 3);
    assert_eq!(wanted(&spec, 6, &[1; 6]).replicas, 4);
    let off = wanted(&spec, 0, &[]);
    assert_eq!(
        (off.replicas, reason(&off, "ScalingActive")),
        (0, "ScalingDisabled")
    );
}

#[test]
fn what_was_recommended_lately_holds_back() {
    let spec = spec(json!({}));
    let mut history = History::default();
    let apply = |current, wanted, seconds, history: &mut History| {
        behavior::apply(&spec, current, wanted, history, at(seconds))
    };
    assert_eq!(apply(4, 6, 0, &mut history).replicas, 6);
    behavior::note(&mut history, 4, 6, at(0));
    let held = apply(6, 2, 60, &mut history);
    assert_eq!(held.replicas, 6);
    assert_eq!(held.stabilized.unwrap().0, "ScaleDownStabilized");
    assert_eq!(apply(6, 2, 400, &mut history).replicas, 2);
}

#[test]
fn a_new_autoscaler_takes_nothing_away_before_its_window_has_passed() {
    let spec = spec(json!({}));
    let mut history = History::begun(5, at(0));
    let mut plan = |seconds| {
        let findings = look(
            &spec,
            5,
            Ok(&pods(5)),
            &usage(&[1; 5]),
            &mut history,
            at(seconds),
        );
        findings.replicas
    };
    assert_eq!((plan(15), plan(285), plan(301)), (5, 5, 1));
}

#[test]
fn policies_bound_the_pace() {
    let slow = spec(json!({"behavior": {
        "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}}));
    let mut history = History::default();
    assert_eq!(
        behavior::apply(&slow, 2, 8, &mut history, at(0)).replicas,
        3
    );
    behavior::note(&mut history, 2, 3, at(0));
    assert_eq!(
        behavior::apply(&slow, 3, 8, &mut history, at(30)).replicas,
        3
    );
    assert_eq!(
        behavior::apply(&slow, 3, 8, &mut history, at(70)).replicas,
        4
    );
    assert_eq!(
        behavior::apply(&slow, 4, 1, &mut history, at(80)).replicas,
        4
    );
}

#[test]
fn a_scale_says_which_pods_it_is_about() {
    let of = |text: &str| selected(&json!({"status": {"selector": text}}));
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let all = of("app in (web,api),!debug").unwrap();
    assert!(all.iter().all(|one| one.matches(&labels)));
    assert!(!of("app=api").unwrap()[0].matches(&labels));
    let missing = of("").unwrap_err();
    assert_eq!(
        missing.message,
        "the HPA target's scale is missing a selector"
    );
    assert_eq!(of("a in").unwrap_err().event.0, "InvalidSelector");
    // Bounds count without one.
    let mut history = History::default();
    let mut plan = |current| {
        look(
            &spec(json!({})),
            current,
            Err(&missing),
            &[],
            &mut history,
            at(0),
        )
    };
    assert_eq!(plan(11).replicas, 10);
    let held = plan(3);
    assert_eq!(
        (held.replicas, reason(&held, "ScalingActive")),
        (3, "InvalidSelector")
    );
    let said = "selector is required".to_owned();
    assert_eq!(
        held.warnings,
        [
            ("SelectorRequired", said.clone()),
            ("FailedComputeMetricsReplicas", said)
        ]
    );
}

#[test]
fn metrics_that_are_not_known_are_told_with_reasons_of_their_own() {
    let spec = spec(json!({"metrics": [
        {"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
            "target": {"type": "AverageValue", "averageValue": "1Mi"}}}]}));
    let found = wanted(&spec, 2, &[]);
    assert!(found.failed);
    let places: Vec<&str> = found.metrics.iter().map(|one| one.type_.as_str()).collect();
    assert_eq!(places, ["", ""]);
    let none = |name: &str| {
        format!(
            "unable to get metrics for resource {name}: no metrics returned from resource metrics API"
        )
    };
    let cpu = format!("failed to get cpu utilization: {}", none("cpu"));
    let memory = format!("failed to get memory usage: {}", none("memory"));
    let first = format!(
        "invalid metrics (2 invalid out of 2), first error is: failed to get cpu resource metric value: {cpu}"
    );
    let condition = found
        .conditions
        .iter()
        .find(|it| it.0 == "ScalingActive")
        .unwrap();
    assert_eq!(
        condition.3,
        format!("the HPA was unable to compute the replica count: {cpu}")
    );
    assert_eq!(
        found.warnings,
        [
            ("FailedGetResourceMetric", cpu),
            ("FailedGetContainerResourceMetric", memory),
            ("FailedComputeMetricsReplicas", first),
        ]
    );
}

#[test]
fn what_was_measured_before_a_pod_was_ready_does_not_count() {
    let spec = spec(json!({}));
    let mut all = pods(2);
    let young = Arc::make_mut(&mut all[1]).status.as_mut().unwrap();
    young.start_time = Some(Time(at(0)));
    young.conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(at(60)));
    let mut history = History::default();
    // Measured at 0, long before it was ready.
    let found = look(
        &spec,
        2,
        Ok(&all),
        &usage(&[50, 5_000]),
        &mut history,
        at(90),
    );
    assert_eq!(found.replicas, 2);
}

#[test]
fn what_is_asked_for_the_whole_pod_is_what_use_is_compared_with() {
    let spec = spec(json!({}));
    let mut all = pods(2);
    for pod in &mut all {
        let spec = Arc::make_mut(pod).spec.as_mut().unwrap();
        spec.containers[0].resources = None;
        spec.resources = serde_json::from_value(json!({"requests": {"cpu": "200m"}})).unwrap();
    }
    let mut history = History::default();
    let found = look(&spec, 2, Ok(&all), &usage(&[200, 200]), &mut history, at(0));
    assert_eq!(found.replicas, 4);
}

#[test]
fn without_behavior_pods_are_doubled_or_made_four() {
    let spec = spec(json!({"maxReplicas": 100}));
    let apply = |current, wanted, history: &mut History| {
        let done = behavior::apply(&spec, current, wanted, history, at(0));
        (done.replicas, done.limited.map(|why| why.0))
    };
    let fast = Some("ScaleUpLimit");
    for (current, replicas) in [(1, 4), (2, 4), (3, 6), (10, 20)] {
        let found = apply(current, 50, &mut History::default());
        assert_eq!(found, (replicas, fast), "{current}");
    }
    // A change that was made a moment ago holds nothing back.
    let mut history = History::default();
    behavior::note(&mut history, 2, 4, at(0));
    assert_eq!(apply(4, 50, &mut history), (8, fast));
    assert_eq!(apply(60, 200, &mut history).1, Some("TooManyReplicas"));
    // The most that was recommended lately counts upwards, too: somebody has taken pods away by hand.
    let mut history = History::begun(9, at(0));
    assert_eq!(apply(5, 6, &mut history), (9, None));
}

fn failure(findings: &Findings) -> &str {
    assert!(findings.failed);
    &findings.warnings[0].1
}

#[test]
fn one_container_is_looked_for_where_it_runs() {
    let of = |container: &str| {
        spec(
            json!({"metrics": [{"type": "ContainerResource", "containerResource": {
            "name": "cpu", "container": container,
            "target": {"type": "Utilization", "averageUtilization": 50}}}]}),
        )
    };
    assert_eq!(wanted(&of("c"), 2, &[100, 100]).replicas, 4);
    let found = wanted(&of("x"), 2, &[100, 100]);
    assert_eq!(
        reason(&found, "ScalingActive"),
        "FailedGetContainerResourceMetric"
    );
    assert_eq!(
        failure(&found),
        "failed to get cpu utilization: unable to get metrics for resource cpu: failed to get container metrics: \
         container x not present in metrics for pod ns/p0"
    );
    assert!(
        found.warnings[1]
            .1
            .contains("first error is: failed to get x container metric value: ")
    );
}

#[test]
fn pods_that_have_ended_are_not_missed() {
    let spec = spec(json!({}));
    let mut all = pods(3);
    Arc::make_mut(&mut all[2]).status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut history = History::default();
    // Were the third one missed, it would count as busy and hold the others.
    let found = look(&spec, 3, Ok(&all), &usage(&[20, 20]), &mut history, at(0));
    assert_eq!(found.replicas, 1);
}

#[test]
fn nothing_asked_for_is_no_base_of_a_utilization() {
    let spec = spec(json!({}));
    let mut all = pods(1);
    let container = &mut Arc::make_mut(&mut all[0]).spec.as_mut().unwrap().containers[0];
    container.resources = serde_json::from_value(json!({"requests": {"cpu": "0"}})).unwrap();
    let mut history = History::default();
    let found = look(&spec, 1, Ok(&all), &usage(&[20]), &mut history, at(0));
    assert_eq!(
        failure(&found),
        "failed to get cpu utilization: no metrics returned matched known pods"
    );
}

#[test]
fn two_autoscalers_of_the_same_pods_do_nothing() {
    let key = |name: &str| ObjectKey::new("ns", name);
    let selector = |text: &str| parse_labels(text).unwrap();
    let mut all = pods(1);
    Arc::make_mut(&mut all[0]).metadata.labels =
        Some([("app".to_owned(), "web".to_owned())].into());
    let mut rivals = Rivals::default();
    rivals.put(&key("one"), selector("app=web"));
    rivals.put(&key("other"), selector("app=api"));
    rivals.put(&ObjectKey::new("elsewhere", "same"), selector("app=web"));
    assert_eq!(rivals.check(&key("one"), "app=web", &all), Ok(()));
    rivals.put(&key("any"), selector("app"));
    let why = rivals.check(&key("one"), "app=web", &all).unwrap_err();
    assert_eq!(
        why.message,
        "pods by selector app=web are controlled by more than one HPA (e.g. [{one ns} {any ns}])"
    );
    let mut history = History::default();
    let found = look(
        &spec(json!({})),
        1,
        Err(&why),
        &usage(&[100]),
        &mut history,
        at(0),
    );
    assert_eq!(
        (found.replicas, reason(&found, "ScalingActive")),
        (1, "AmbiguousSelector")
    );
    rivals.forget(&key("any"));
    assert_eq!(rivals.check(&key("one"), "app=web", &all), Ok(()));
}

/// What is wanted of three pods by one metric, of which a server has said something.
fn told(metric: Value, said: Result<Said, String>) -> Findings {
    let spec = spec(json!({ "metrics": [metric] }));
    let view = View {
        namespace: "ns",
        spec: &spec,
        current: 3,
        there: 3,
        pods: Ok(&pods(3)),
        usage: &[],
        said: &HashMap::from([(0, said)]),
        now: at(0),
    };
    plan(&view, &mut History::default())
}

fn current(findings: &Findings) -> Value {
    serde_json::to_value(&findings.metrics[0]).unwrap()
}

#[test]
fn what_other_servers_measure_of_pods_counts_pod_by_pod() {
    let metric = json!({"type": "Pods", "pods": {"metric": {"name": "requests"},
        "target": {"type": "AverageValue", "averageValue": "10"}}});
    let all = |amounts: [i64; 3]| {
        let named = amounts.iter().enumerate();
        let named = named.map(|(number, amount)| (format!("p{number}"), amount * 1_000));
        Ok(Said::Pods(named.collect()))
    };
    let found = told(metric.clone(), all([20, 20, 15]));
    assert_eq!(
        (found.replicas, found.why.as_str()),
        (6, "pods metric requests above target")
    );
    assert_eq!(
        current(&found),
        json!({"type": "Pods", "pods": {"metric": {"name": "requests"},
            "current": {"averageValue": "18333m"}}})
    );
    // Those of which nothing is said are as on target when pods would go.
    let one = Ok(Said::Pods([("p0".to_owned(), 1_000)].into()));
    assert_eq!(told(metric.clone(), one).replicas, 3);
    let none = told(
        metric,
        Err("no metrics returned from custom metrics API".into()),
    );
    assert_eq!(reason(&none, "ScalingActive"), "FailedGetPodsMetric");
    assert_eq!(
        failure(&none),
        "unable to get metric requests: no metrics returned from custom metrics API"
    );
}

#[test]
fn an_amount_for_all_is_divided_among_pods_or_compared_as_it_is() {
    let external = |target: Value| {
        json!({"type": "External", "external": {
            "metric": {"name": "queue", "selector": {"matchLabels": {"name": "q"}}}, "target": target}})
    };
    let average = external(json!({"type": "AverageValue", "averageValue": "5"}));
    let whole = external(json!({"type": "Value", "value": "10"}));
    let said = |amount: i64| Ok(Said::Whole(amount * 1_000));
    let found = told(average.clone(), said(26));
    assert_eq!(found.replicas, 6);
    assert_eq!(
        current(&found)["external"]["current"],
        json!({"averageValue": "8667m"})
    );
    assert_eq!(
        told(average.clone(), said(16)).replicas,
        3,
        "a tenth is nothing"
    );
    let found = told(whole.clone(), said(19));
    assert_eq!(found.replicas, 6);
    assert_eq!(
        current(&found)["external"]["current"],
        json!({"value": "19"})
    );
    let selector = "&LabelSelector{MatchLabels:map[string]string{name: q,},MatchExpressions:[]LabelSelectorRequirement{},}";
    assert_eq!(
        found.why,
        format!("external metric queue({selector}) above target")
    );
    let failed = told(average, Err("it is not there".into()));
    assert_eq!(reason(&failed, "ScalingActive"), "FailedGetExternalMetric");
    assert_eq!(
        failure(&failed),
        format!("unable to get external metric ns/queue/{selector}: it is not there")
    );
    let object = json!({"type": "Object", "object": {"metric": {"name": "hits"},
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"},
        "target": {"type": "Value", "value": "2k"}}});
    let found = told(object.clone(), said(4_000));
    assert_eq!(
        (found.replicas, found.why.as_str()),
        (6, "Service metric hits above target")
    );
    let failed = told(object, Err("x".into()));
    assert_eq!(
        failure(&failed),
        "unable to get metric hits on Service ns/web: x"
    );
}

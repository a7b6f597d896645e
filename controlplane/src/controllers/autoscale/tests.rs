//! Tests of `controllers::autoscale`.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::usage::Amount;

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

fn wanted(spec: &HorizontalPodAutoscalerSpec, current: usize, milli: &[u64]) -> Findings {
    let current_count = i64::try_from(current).unwrap();
    plan(
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
        (6, "ScaleUpLimit")
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
        let findings = plan(
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
    assert_eq!(missing, "the HPA target's scale is missing a selector");
    of("a in").unwrap_err();
    // Bounds count without one.
    let mut history = History::default();
    let mut plan = |current| {
        plan(
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
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    let cpu = format!("failed to get cpu utilization: {none}");
    let memory = format!("failed to get memory value: {none}");
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
    let found = plan(
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
    let found = plan(&spec, 2, Ok(&all), &usage(&[200, 200]), &mut history, at(0));
    assert_eq!(found.replicas, 4);
}

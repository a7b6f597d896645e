//! Tables: states of containers to statuses, phases and conditions.
#![allow(clippy::unwrap_used)]

use jiff::SignedDuration;

use super::*;
use k8s_openapi::api::core::v1::PodCondition;

use crate::pods::plan::Trouble;
use crate::pods::record::{Attempt, Terminating};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec,
    }))
    .unwrap()
}

fn ended(exit_code: i32, reason: &str) -> AttemptState {
    AttemptState::Ended(Ended {
        id: "u_a_0".to_owned(),
        number: 0,
        exit_code,
        signal: None,
        reason: reason.to_owned(),
        message: None,
        started_at: Some(now()),
        finished_at: now(),
        noticed_at: now(),
    })
}

fn running() -> AttemptState {
    AttemptState::Running { started_at: now() }
}

fn record(states: &[(&str, AttemptState)]) -> Record {
    let mut record = Record::new(now());
    record.prepared = true;
    record.addresses = vec!["10.0.0.1".parse().unwrap()];
    for (name, state) in states {
        let known = record.containers.entry((*name).to_owned()).or_default();
        known.attempt = Some(Attempt {
            number: 0,
            id: format!("u_{name}_0"),
            state: state.clone(),
            kill: None,
            stop_signal: None,
            post_start: PostStart::Due,
        });
    }
    record
}

fn of(pod: &Pod, record: &Record, transient: &Transient) -> PodStatus {
    let host = HostFacts::default();
    status(pod, &Wanted::of(pod), record, transient, &host, now())
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    let mut all = status.conditions.iter().flatten();
    all.find(|condition| condition.type_ == type_).unwrap()
}

#[test]
fn phases() {
    let two = |policy: &str| {
        pod(serde_json::json!({"restartPolicy": policy,
            "containers": [{"name": "a"}, {"name": "b"}]}))
    };
    let well = || ended(0, "Completed");
    let badly = || ended(1, "Error");
    for (policy, a, b, phase) in [
        ("Always", Some(running()), None, "Pending"),
        (
            "Always",
            Some(running()),
            Some(AttemptState::Creating),
            "Pending",
        ),
        ("Always", Some(running()), Some(running()), "Running"),
        ("Always", Some(well()), Some(badly()), "Running"),
        ("Never", Some(well()), Some(running()), "Running"),
        ("Never", Some(well()), Some(badly()), "Failed"),
        ("Never", Some(well()), Some(well()), "Succeeded"),
        ("OnFailure", Some(well()), Some(badly()), "Running"),
        ("OnFailure", Some(well()), Some(well()), "Succeeded"),
    ] {
        let states: Vec<(&str, AttemptState)> = [("a", a), ("b", b)]
            .into_iter()
            .filter_map(|(name, state)| Some((name, state?)))
            .collect();
        let pod = two(policy);
        let known = record(&states);
        assert_eq!(
            super::phase(&Wanted::of(&pod), &known, &Transient::default()),
            phase,
            "{policy} {states:?}"
        );
    }
}

#[test]
fn waiting_reasons() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let failed = |reason: &str, ago: i64| TransientContainer {
        image: ImageState::Failed {
            reason: reason.to_owned(),
            message: "why".to_owned(),
            at: now() - SignedDuration::from_secs(ago),
            again: now(),
        },
        ..TransientContainer::default()
    };
    let trouble = TransientContainer {
        trouble: Some(Trouble {
            reason: "CreateContainerConfigError".to_owned(),
            message: "why".to_owned(),
            again: now(),
        }),
        ..TransientContainer::default()
    };
    for (state, reason) in [
        (TransientContainer::default(), "ContainerCreating"),
        (failed("ErrImagePull", 0), "ErrImagePull"),
        (failed("ErrImagePull", 5), "ImagePullBackOff"),
        (failed("InvalidImageName", 5), "InvalidImageName"),
        (failed("ErrImageNeverPull", 5), "ErrImageNeverPull"),
        (trouble, "CreateContainerConfigError"),
    ] {
        let mut transient = Transient::default();
        transient.containers.insert("a".to_owned(), state);
        let status = of(&pod, &record(&[]), &transient);
        let container = &status.container_statuses.as_ref().unwrap()[0];
        let waiting = container.state.clone().unwrap().waiting.unwrap();
        assert_eq!(waiting.reason.as_deref(), Some(reason));
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        if reason == "ImagePullBackOff" {
            let message = "Back-off pulling image \"i:1\": ErrImagePull: why";
            assert_eq!(waiting.message.as_deref(), Some(message));
        }
    }
}

#[test]
fn a_crash_loop_names_its_pod() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let mut record = record(&[("a", ended(1, "Error"))]);
    if let Some(known) = record.containers.get_mut("a") {
        known.crash.step(now());
    }
    let status = of(&pod, &record, &Transient::default());
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=a pod=p_default(u)")
    );
}

#[test]
fn what_could_not_be_started_is_shown_before_what_is_waited_for() {
    let shown = |policy: &str, ago: i64| {
        let pod = pod(serde_json::json!({"restartPolicy": policy,
            "containers": [{"name": "a", "image": "i:1"}]}));
        let mut known = record(&[("a", ended(128, START_ERROR))]);
        let known_a = known.containers.get_mut("a").unwrap();
        let attempt = known_a.attempt.as_mut().unwrap();
        if let AttemptState::Ended(ended) = &mut attempt.state {
            ended.noticed_at = now() - SignedDuration::from_secs(ago);
        }
        // The second restart is waited for.
        known_a.crash.step(now());
        known_a.crash.step(now());
        let status = of(&pod, &known, &Transient::default());
        let container = status.container_statuses.unwrap().remove(0);
        let state = container.state.unwrap();
        let last = container.last_state.and_then(|last| last.terminated);
        (
            state.waiting.and_then(|it| it.reason),
            state.terminated.or(last).and_then(|it| it.reason),
        )
    };
    let reasons = |waiting: Option<&str>| {
        let ended = Some(START_ERROR.to_owned());
        (waiting.map(str::to_owned), ended)
    };
    assert_eq!(shown("Always", 1), reasons(Some("RunContainerError")));
    assert_eq!(shown("Always", 4), reasons(Some("CrashLoopBackOff")));
    assert_eq!(shown("Never", 1), reasons(None));
}

#[test]
fn conditions_and_readiness() {
    let pod = pod(
        serde_json::json!({"containers": [{"name": "a", "image": "i:1",
        "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
    );
    let known = record(&[("a", running())]);
    let status = of(&pod, &known, &Transient::default());
    assert_eq!(
        condition(&status, "PodReadyToStartContainers").status,
        "True"
    );
    assert_eq!(condition(&status, "Initialized").status, "True");
    assert_eq!(condition(&status, "PodScheduled").status, "True");
    let ready = condition(&status, "Ready");
    assert_eq!(ready.status, "False");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(
        ready.message.as_deref(),
        Some("containers with unready status: [a]")
    );
    let mut transient = Transient::default();
    transient
        .containers
        .entry("a".to_owned())
        .or_default()
        .ready = Some(true);
    let status = of(&pod, &known, &transient);
    assert_eq!(condition(&status, "Ready").status, "True");
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.container_id.as_deref(), Some("runc://u_a_0"));
}

#[test]
fn transition_times_are_kept_while_nothing_changes() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let mut known = record(&[("a", running())]);
    let first = of(&pod, &known, &Transient::default());
    known.reported = Some(first.clone());
    let host = HostFacts::default();
    let later = now() + SignedDuration::from_secs(60);
    let wanted = Wanted::of(&pod);
    let second = status(&pod, &wanted, &known, &Transient::default(), &host, later);
    assert_eq!(first, second);
    let attempt = known.containers.get_mut("a").unwrap().attempt.as_mut();
    attempt.unwrap().state = ended(1, "Error");
    let third = status(&pod, &wanted, &known, &Transient::default(), &host, later);
    let changed = condition(&third, "Ready").last_transition_time.clone();
    assert_eq!(changed, Some(time(later)));
    let kept = condition(&third, "Initialized")
        .last_transition_time
        .clone();
    assert_eq!(kept, Some(time(now())));
}

#[test]
fn init_containers_hold_back_the_others() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "i:1"}],
        "containers": [{"name": "a", "image": "i:1"}]}));
    let status = of(&pod, &record(&[("i", running())]), &Transient::default());
    assert_eq!(condition(&status, "Initialized").status, "False");
    let main = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = main.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    let status = of(
        &pod,
        &record(&[("i", ended(1, "Error"))]),
        &Transient::default(),
    );
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let status = of(
        &pod,
        &record(&[("i", ended(0, "Completed"))]),
        &Transient::default(),
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "Initialized").status, "True");
    assert!(status.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn conditions_of_others_are_carried_over_and_gates_hold_readiness_back() {
    let mut pod = pod(
        serde_json::json!({"containers": [{"name": "a", "image": "i:1"}],
        "readinessGates": [{"conditionType": "example.com/gate"}]}),
    );
    let known = record(&[("a", running())]);
    let status = of(&pod, &known, &Transient::default());
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    pod.status = serde_json::from_value(serde_json::json!({"conditions":
        [{"type": "example.com/gate", "status": "True"}]}))
    .unwrap();
    let status = of(&pod, &known, &Transient::default());
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(condition(&status, "example.com/gate").status, "True");
}

#[test]
fn what_an_init_container_kept_from_running_still_waits_when_the_pod_has_failed() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i", "image": "i:1"}, {"name": "j", "image": "i:1"}],
        "containers": [{"name": "a", "image": "i:1"}]}));
    let mut known = record(&[("i", ended(5, "Error"))]);
    known.released = true;
    let status = of(&pod, &known, &Transient::default());
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let init = status.init_container_statuses.unwrap();
    let waiting = |status: &ContainerStatus| {
        let waiting = status.state.clone().unwrap().waiting.unwrap();
        waiting.reason.unwrap()
    };
    assert_eq!(waiting(&init[1]), "PodInitializing");
    assert_eq!(
        waiting(&status.container_statuses.unwrap()[0]),
        "PodInitializing"
    );
}

#[test]
fn what_never_ran_when_its_pod_ended_is_terminated() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let mut known = record(&[]);
    known.terminating = Some(Terminating {
        since: now(),
        grace_seconds: 1,
        gone: false,
    });
    let status = of(&pod, &known, &Transient::default());
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let terminated = container.state.clone().unwrap().terminated.unwrap();
    assert_eq!(terminated.reason.as_deref(), Some("ContainerStatusUnknown"));
}

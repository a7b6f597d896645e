//! Whole lives of pods on a machine that is not there, under a clock that is moved on.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::cluster::ObjectName;
use crate::pods::machine::fake::{FakeMachine, Program};
use crate::pods::report::recorder::{container, is_ready, waits_for};

const UID: &str = "uid-1";

pub(super) struct World {
    pub(super) machine: FakeMachine,
    pub(super) recorder: Arc<Recorder>,
    pub(super) objects: Arc<Objects>,
    pub(super) settings: Settings,
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            machine: FakeMachine::default(),
            recorder: Arc::default(),
            objects: Arc::default(),
            settings: settings(dir.path()),
            _dir: dir,
        }
    }

    pub(super) async fn open(&self) -> Pods<FakeMachine> {
        let context = context(
            Arc::new(self.machine.clone()),
            &self.recorder,
            &self.objects,
            self.settings.clone(),
        );
        Pods::open(context).await.unwrap()
    }

    pub(super) fn program(&self, name: &str, program: Program) {
        self.machine.program(name, program);
    }

    pub(super) fn reasons(&self) -> Vec<&'static str> {
        self.recorder.events().iter().map(|event| event.0).collect()
    }

    /// Attempts that were made, as `name number`.
    pub(super) fn created(&self) -> Vec<String> {
        self.machine
            .lock()
            .created
            .iter()
            .map(|id| id.split_once('_').unwrap().1.replace('_', " "))
            .collect()
    }
}

pub(super) fn one(extra: serde_json::Value) -> serde_json::Value {
    let mut spec = serde_json::json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "main", "image": "i:1"}],
    });
    let (into, from) = (spec.as_object_mut().unwrap(), extra.as_object().unwrap());
    into.extend(from.clone());
    spec
}

pub(super) fn ends(after_ms: u64, code: i32) -> Program {
    Program {
        ends: Some((Duration::from_millis(after_ms), code)),
        ..Program::default()
    }
}

pub(super) fn phase_is(phase: &str) -> impl Fn(&k8s_openapi::api::core::v1::PodStatus) -> bool {
    move |status| status.phase.as_deref() == Some(phase)
}

#[tokio::test(start_paused = true)]
async fn from_pending_to_ready_to_gone() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    let status = world.recorder.status_when(UID, "ready", is_ready).await;
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.2"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let first = &world.recorder.statuses(UID)[0];
    assert_eq!(first.phase.as_deref(), Some("Pending"));
    assert!(waits_for(first, "main", "ContainerCreating"));

    pods.set(deleted(&asked, 30)).await;
    world.recorder.terminated_when(UID).await;
    assert!(world.machine.is_clean());
    assert_eq!(
        world.machine.lock().signals,
        [("uid-1_main_0".to_owned(), 15)]
    );
    assert!(!world.settings.data_dir.join("pods").join(UID).exists());
    let last = world.recorder.statuses(UID).pop().unwrap();
    assert_eq!(last.phase.as_deref(), Some("Failed"));
    assert_eq!(world.reasons(), ["Pulled", "Created", "Started", "Killing"]);
}

#[tokio::test(start_paused = true)]
async fn a_held_pod_runs_on_until_its_end_is_told_and_one_that_is_not_here_does_not_begin() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set_held(deleted(&asked, 30)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.machine.lock().signals.is_empty());
    assert!(!world.recorder.is_terminated(UID));
    pods.set(deleted(&asked, 30)).await;
    // A full state of another member may hold it once more: what has begun goes on.
    pods.set_held(deleted(&asked, 30)).await;
    world.recorder.terminated_when(UID).await;
    assert!(world.machine.is_clean());
    let other = pod("uid-2", one(serde_json::json!({})));
    pods.set_held(deleted(&other, 30)).await;
    world.recorder.terminated_when("uid-2").await;
    assert!(world.recorder.statuses("uid-2").is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_listen_is_killed_at_the_deadline() {
    let world = World::new();
    world.program(
        "main",
        Program {
            ignores_signals: true,
            ..Program::default()
        },
    );
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let begun = Instant::now();
    pods.set(deleted(&asked, 20)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Asked again with less patience: what is left is shortened.
    pods.set(deleted(&asked, 3)).await;
    world.recorder.terminated_when(UID).await;
    assert_eq!(begun.elapsed().as_secs(), 8);
    let signals: Vec<i32> = world.machine.lock().signals.iter().map(|s| s.1).collect();
    assert_eq!(signals, [15, 9]);
    let last = world.recorder.statuses(UID).pop().unwrap();
    let state = container(&last, "main").state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_is_restarted_ever_later() {
    let world = World::new();
    world.program("main", ends(100, 1));
    let pods = world.open().await;
    let begun = Instant::now();
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    let mut times = Vec::new();
    for count in 1..=4 {
        world
            .recorder
            .status_when(UID, "restart", |status| {
                container(status, "main").restart_count == count
            })
            .await;
        times.push(begun.elapsed().as_secs());
    }
    // At once, then after 10, 20 and 40 seconds.
    assert_eq!(times, [0, 10, 30, 70]);
    let status = world
        .recorder
        .status_when(UID, "back-off", |status| {
            waits_for(status, "main", "CrashLoopBackOff")
        })
        .await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let last = container(&status, "main").last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().reason.as_deref(), Some("Error"));
    assert!(world.reasons().contains(&"BackOff"));
}

#[tokio::test(start_paused = true)]
async fn restart_policies_decide_about_ends() {
    for (policy, code, phase, attempts) in [
        ("Never", 0, "Succeeded", 1),
        ("Never", 3, "Failed", 1),
        ("OnFailure", 0, "Succeeded", 1),
    ] {
        let world = World::new();
        world.program("main", ends(100, code));
        let pods = world.open().await;
        pods.set(pod(UID, one(serde_json::json!({"restartPolicy": policy}))))
            .await;
        let status = world
            .recorder
            .status_when(UID, phase, phase_is(phase))
            .await;
        let state = container(&status, "main").state.clone().unwrap();
        assert_eq!(state.terminated.unwrap().exit_code, code);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(world.created().len(), attempts, "{policy} {code}");
        // What it held is given back though nobody deleted it.
        assert!(world.machine.is_clean(), "{policy} {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_failure_tries_until_it_works() {
    let world = World::new();
    world.program("main", ends(100, 1));
    let pods = world.open().await;
    pods.set(pod(
        UID,
        one(serde_json::json!({"restartPolicy": "OnFailure"})),
    ))
    .await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    world.program("main", ends(100, 0));
    let succeeded = phase_is("Succeeded");
    let status = world.recorder.status_when(UID, "success", succeeded).await;
    assert_eq!(container(&status, "main").restart_count, 3);
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other() {
    let world = World::new();
    world.program("one", ends(500, 0));
    world.program("two", ends(500, 1));
    let pods = world.open().await;
    let spec = one(serde_json::json!({"initContainers": [
        {"name": "one", "image": "i:1"}, {"name": "two", "image": "i:1"}]}));
    pods.set(pod(UID, spec)).await;
    let status = world
        .recorder
        .status_when(UID, "second fails", |status| {
            container(status, "two").restart_count == 1
        })
        .await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(waits_for(&status, "main", "PodInitializing"));
    world.program("two", ends(500, 0));
    world.recorder.status_when(UID, "ready", is_ready).await;
    let created = world.created();
    assert_eq!(created.first().map(String::as_str), Some("one 0"));
    assert_eq!(created.last().map(String::as_str), Some("main 0"));
    assert_eq!(
        created
            .iter()
            .filter(|made| made.starts_with("one"))
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let world = World::new();
    world.program("setup", ends(100, 2));
    let pods = world.open().await;
    let spec = one(serde_json::json!({"restartPolicy": "Never",
        "initContainers": [{"name": "setup", "image": "i:1"}]}));
    pods.set(pod(UID, spec)).await;
    world
        .recorder
        .status_when(UID, "failure", phase_is("Failed"))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.created(), ["setup 0"]);
    assert!(world.machine.is_clean());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_appears_ends_the_back_off() {
    let world = World::new();
    world.machine.lock().missing_images.insert("i:1".to_owned());
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    let waits = |reason: &'static str| {
        move |status: &k8s_openapi::api::core::v1::PodStatus| waits_for(status, "main", reason)
    };
    world
        .recorder
        .status_when(UID, "error", waits("ErrImagePull"))
        .await;
    let status = world
        .recorder
        .status_when(UID, "back-off", waits("ImagePullBackOff"))
        .await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    tokio::time::sleep(Duration::from_secs(40)).await;
    world.machine.lock().missing_images.clear();
    world.recorder.status_when(UID, "ready", is_ready).await;
    let reasons = world.reasons();
    for reason in ["Pulling", "Failed", "BackOff", "Pulled", "Started"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_appears_is_taken_up_at_once() {
    let world = World::new();
    let name = ObjectName {
        namespace: "default".to_owned(),
        name: "settings".to_owned(),
    };
    world.objects.set_config_map(name.clone(), None);
    let pods = world.open().await;
    let spec = serde_json::json!({"containers": [{"name": "main", "image": "i:1", "env": [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}}]}]});
    pods.set(pod(UID, spec)).await;
    let status = world
        .recorder
        .status_when(UID, "config error", |status| {
            waits_for(status, "main", "CreateContainerConfigError")
        })
        .await;
    let state = container(&status, "main").state.clone().unwrap();
    let message = state.waiting.unwrap().message.unwrap();
    assert_eq!(message, "configmap \"settings\" not found");
    let begun = Instant::now();
    let map = serde_json::from_value(serde_json::json!({"data": {"a": "1"}})).unwrap();
    world.objects.set_config_map(name, Some(map));
    world.objects.announce();
    world.recorder.status_when(UID, "ready", is_ready).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn deletion_while_the_image_is_pulled() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    pods.set(deleted(&asked, 30)).await;
    world.recorder.terminated_when(UID).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.machine.is_clean());
    assert!(world.created().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_network_that_fails_is_tried_again() {
    let world = World::new();
    world.machine.lock().network_error = Some("no free address".to_owned());
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told = world.reasons();
    let told = told
        .iter()
        .filter(|reason| **reason == "FailedCreatePodSandBox");
    assert_eq!(told.count(), 1);
    world.machine.lock().network_error = None;
    world.recorder.status_when(UID, "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_supervisor_is_replaced_and_its_containers_run_again() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    world.machine.lose_sandboxes();
    let status = world
        .recorder
        .status_when(UID, "again", |status| {
            container(status, "main").restart_count == 1 && is_ready(status)
        })
        .await;
    let last = container(&status, "main").last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_goes_on_wherever_the_last_one_stopped() {
    // The last agent is cut off after so many milliseconds of its life, at whatever step it is.
    for after in (0..200).step_by(7) {
        let world = World::new();
        let first = world.open().await;
        let asked = pod(UID, one(serde_json::json!({})));
        first.set(asked.clone()).await;
        tokio::time::sleep(Duration::from_millis(after)).await;
        first.abort();
        let second = world.open().await;
        second.set(asked.clone()).await;
        world.recorder.status_when(UID, "ready", is_ready).await;
        let live = world.machine.sandbox().unwrap().live();
        assert_eq!(live.len(), 1, "cut off after {after} ms");
        second.set(deleted(&asked, 1)).await;
        world.recorder.terminated_when(UID).await;
        assert!(world.machine.is_clean(), "cut off after {after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_agent_finishes_an_end_wherever_the_last_one_stopped() {
    for after in (0..60).step_by(3) {
        let world = World::new();
        let first = world.open().await;
        let asked = pod(UID, one(serde_json::json!({})));
        first.set(asked.clone()).await;
        world.recorder.status_when(UID, "ready", is_ready).await;
        first.set(deleted(&asked, 1)).await;
        tokio::time::sleep(Duration::from_millis(after)).await;
        first.abort();
        let second = world.open().await;
        second.set(deleted(&asked, 1)).await;
        world.recorder.terminated_when(UID).await;
        assert!(world.machine.is_clean(), "cut off after {after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_from_the_full_state_ends_without_a_report() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.retain(&BTreeSet::new()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.machine.is_clean());
    assert!(!world.recorder.is_terminated(UID));
    assert!(pods.snapshots().is_empty());
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_all_and_the_next_start_runs_them_again() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let left = pods
        .end_all(Duration::from_secs(5), Duration::from_secs(30))
        .await;
    assert!(left.is_empty() && world.machine.is_clean());
    let pods = world.open().await;
    pods.set(asked).await;
    world
        .recorder
        .status_when(UID, "again", |status| {
            container(status, "main").restart_count == 1 && is_ready(status)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn probes_make_ready_and_restart_what_is_unwell() {
    let world = World::new();
    world.program(
        "main",
        Program {
            exec_code: 1,
            ..Program::default()
        },
    );
    let pods = world.open().await;
    let exec = serde_json::json!({"exec": {"command": ["check"]}, "periodSeconds": 5});
    let spec = serde_json::json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "main", "image": "i:1", "readinessProbe": exec, "livenessProbe": exec}]});
    pods.set(pod(UID, spec)).await;
    let status = world
        .recorder
        .status_when(UID, "restart", |status| {
            container(status, "main").restart_count == 1
        })
        .await;
    assert!(!is_ready(&status));
    assert!(world.reasons().contains(&"Unhealthy"));
    assert!(world.reasons().contains(&"Killing"));
    world.program("main", Program::default());
    world.recorder.status_when(UID, "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_the_startup_probe() {
    let world = World::new();
    let pods = world.open().await;
    let probe = serde_json::json!({"exec": {"command": ["check"]}, "periodSeconds": 1});
    let slow = serde_json::json!({"exec": {"command": ["check"]}, "initialDelaySeconds": 30});
    let spec = serde_json::json!({"containers": [{"name": "main", "image": "i:1",
        "startupProbe": slow, "readinessProbe": probe}]});
    let begun = Instant::now();
    pods.set(pod(UID, spec)).await;
    let status = world.recorder.status_when(UID, "ready", is_ready).await;
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!(container(&status, "main").started, Some(true));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_fails_the_pod() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(
        UID,
        one(serde_json::json!({"activeDeadlineSeconds": 60})),
    ))
    .await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let status = world
        .recorder
        .status_when(UID, "failure", phase_is("Failed"))
        .await;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.machine.is_clean());
}

#[tokio::test(start_paused = true)]
async fn names_that_are_no_names_are_passed_over() {
    let world = World::new();
    let pods = world.open().await;
    for (uid, container) in [("../../etc", "main"), ("uid", "../x"), ("uid", "")] {
        let spec = serde_json::json!({"containers": [{"name": container, "image": "i:1"}]});
        pods.set(pod(uid, spec)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pods.snapshots().is_empty() && world.machine.is_clean());
}

impl<M: Machine> Pods<M> {
    /// As `kill -9` does.
    fn abort(self) {
        for handle in self.lock().values() {
            handle.task.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_takes_nothing_from_the_delay_of_a_probe() {
    let world = World::new();
    world.machine.lock().clock_behind = Duration::from_secs(3600);
    let failing = Program {
        exec_code: 1,
        ..Program::default()
    };
    world.program("main", failing);
    let probe = serde_json::json!({"exec": {"command": ["check"]}, "initialDelaySeconds": 30,
        "failureThreshold": 1});
    let pods = world.open().await;
    let spec = one(serde_json::json!({"containers": [
        {"name": "main", "image": "i:1", "livenessProbe": probe}]}));
    let begun = Instant::now();
    pods.set(pod(UID, spec)).await;
    let again = |status: &k8s_openapi::api::core::v1::PodStatus| {
        container(status, "main").restart_count > 0
    };
    world.recorder.status_when(UID, "restart", again).await;
    assert!(begun.elapsed().as_secs() >= 30, "{:?}", begun.elapsed());
}

//! Tests of `controllers::deployment::plan`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::{DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::controllers::fixtures::{at, deployment};

/// A cluster of one Deployment: executes plans and lets ReplicaSets reach their size.
struct Cluster {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    /// Per set name, how many pods run, in any state.
    pods: HashMap<String, i32>,
    second: i64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            pods: HashMap::new(),
            second: 0,
        }
    }

    fn step(&mut self) -> Plan {
        self.second += 1;
        let running = self
            .sets
            .iter()
            .map(|set| {
                let name = set.metadata.name.clone().unwrap();
                let running = self.pods.get(&name).copied().unwrap_or(0);
                (
                    set.metadata.uid.clone().unwrap(),
                    usize::try_from(running).unwrap(),
                )
            })
            .collect();
        let plan = plan(&View {
            deployment: &self.deployment,
            sets: &self.sets,
            running: &running,
            now: at(self.second),
        });
        for action in &plan.actions {
            match action {
                Action::Create(set) => {
                    let mut set = set.as_ref().clone();
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.creation_timestamp = Some(
                        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.second)),
                    );
                    self.sets.push(Arc::new(set));
                }
                Action::Update { set, .. } => {
                    let slot = self
                        .sets
                        .iter_mut()
                        .find(|known| known.metadata.uid == set.metadata.uid)
                        .unwrap();
                    *slot = Arc::new(set.as_ref().clone());
                }
                Action::Delete(set) => {
                    self.sets
                        .retain(|known| known.metadata.uid != set.metadata.uid);
                }
                Action::Annotate(revision) => {
                    self.deployment
                        .metadata
                        .annotations
                        .get_or_insert_default()
                        .insert(revision::REVISION.to_owned(), revision.clone());
                }
            }
        }
        if let Some(status) = &plan.status {
            self.deployment.status = Some(status.clone());
        }
        plan
    }

    /// Pods of every set follow its size; `ready` says how many of a set's pods may work.
    fn settle(&mut self, ready: impl Fn(&ReplicaSet) -> i32) {
        for set in &mut self.sets {
            let size = rolling::size(set);
            let works = ready(set).min(size);
            let mut changed = set.as_ref().clone();
            self.pods
                .insert(changed.metadata.name.clone().unwrap(), size);
            changed.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(works),
                available_replicas: Some(works),
                observed_generation: changed.metadata.generation,
                ..ReplicaSetStatus::default()
            });
            *set = Arc::new(changed);
        }
    }

    fn run(&mut self) {
        for _ in 0..200 {
            self.settle(|_| i32::MAX);
            let plan = self.step();
            if plan.actions.is_empty() && plan.status.is_none() {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| rolling::size(set)).collect()
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|set| rolling::available(set)).sum()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let status = self.deployment.status.as_ref().unwrap();
        let conditions = status.conditions.as_ref().unwrap();
        let found = conditions.iter().find(|c| c.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone().unwrap())
    }

    fn revision(&self) -> &str {
        revision::annotation(&self.deployment.metadata, revision::REVISION).unwrap()
    }
}

fn strategy(surge: &str, unavailable: &str) -> Option<DeploymentStrategy> {
    Some(DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::String(surge.into())),
            max_unavailable: Some(IntOrString::String(unavailable.into())),
        }),
    })
}

#[test]
fn first_rollout_makes_one_set_and_completes() {
    let mut cluster = Cluster::new(deployment("web", 3));
    let plan = cluster.step();
    assert!(matches!(&plan.actions[0], Action::Create(set) if rolling::size(set) == 3));
    let reason = ("True".to_owned(), "NewReplicaSetCreated".to_owned());
    assert_eq!(cluster.condition("Progressing"), reason);
    assert_eq!(cluster.condition("Available").0, "False");
    cluster.settle(|_| i32::MAX);
    cluster.run();
    assert_eq!(cluster.condition("Progressing").1, "NewReplicaSetAvailable");
    assert_eq!(cluster.condition("Available").0, "True");
    assert_eq!(cluster.revision(), "1");
    let set = &cluster.sets[0];
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(
        set.metadata.name.as_deref(),
        Some(format!("web-{hash}").as_str())
    );
    let selector = set
        .spec
        .as_ref()
        .unwrap()
        .selector
        .match_labels
        .as_ref()
        .unwrap();
    assert_eq!(&selector["pod-template-hash"], hash);
}

#[test]
fn undo_reuses_the_old_set_with_a_new_revision() {
    let mut cluster = Cluster::new(deployment("web", 3));
    cluster.run();
    cluster.image("echo:2");
    cluster.run();
    assert_eq!((cluster.sizes(), cluster.revision()), (vec![0, 3], "2"));
    cluster.image("echo:1");
    cluster.run();
    assert_eq!((cluster.sizes(), cluster.revision()), (vec![3, 0], "3"));
    let history = revision::annotation(
        &cluster.sets[0].metadata,
        "deployment.kubernetes.io/revision-history",
    );
    assert_eq!(history, Some("1"));
}

#[test]
fn history_beyond_the_limit_goes() {
    let mut start = deployment("web", 1);
    start.spec.as_mut().unwrap().revision_history_limit = Some(2);
    let mut cluster = Cluster::new(start);
    for version in 1..6 {
        cluster.image(&format!("echo:{version}"));
        cluster.run();
    }
    assert_eq!(cluster.sets.len(), 3);
    assert_eq!(cluster.revision(), "5");
}

#[test]
fn history_goes_while_paused_too() {
    let mut cluster = Cluster::new(deployment("web", 1));
    for version in 1..5 {
        cluster.image(&format!("echo:{version}"));
        cluster.run();
    }
    let spec = cluster.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.revision_history_limit) = (Some(true), Some(1));
    // It waits for a pod, so that it is not complete either.
    cluster.settle(|_| 0);
    cluster.step();
    assert_eq!(cluster.sets.len(), 2);
}

#[test]
fn of_very_many_revisions_of_a_set_the_last_are_known() {
    let mut cluster = Cluster::new(deployment("web", 1));
    cluster.run();
    let set = Arc::make_mut(&mut cluster.sets[0]);
    let annotations = set.metadata.annotations.as_mut().unwrap();
    let many: Vec<String> = (1000..1400).map(|revision| revision.to_string()).collect();
    let name = "deployment.kubernetes.io/revision-history";
    annotations.insert(name.to_owned(), many.join(","));
    annotations.insert(revision::REVISION.to_owned(), "1400".into());
    cluster.image("echo:2");
    cluster.run();
    cluster.image("echo:1");
    cluster.run();
    let history = revision::annotation(&cluster.sets[0].metadata, name).unwrap();
    assert_eq!(history.len(), 1999);
    assert!(history.starts_with("1001,") && history.ends_with(",1399,1400"));
}

#[test]
fn what_is_unavailable_is_what_is_wanted_and_is_not_there() {
    let mut cluster = Cluster::new(deployment("web", 4));
    cluster.run();
    // Told to be smaller, and not smaller yet: all that is wanted is there.
    cluster.scale(2);
    cluster.step();
    let plan = cluster.step();
    let status = plan.status.or(cluster.deployment.status.clone()).unwrap();
    assert_eq!(status.replicas, Some(4));
    assert_eq!(status.unavailable_replicas, None);
}

#[test]
fn a_set_that_is_refused_is_told_where_progress_is() {
    let mut refused = deployment("web", 1);
    let now = at(1);
    let failed = status::create_failed(&refused, "Failed to create", now).unwrap();
    let condition = &failed.conditions.unwrap()[0];
    assert_eq!(condition.type_, "Progressing");
    assert_eq!(condition.message.as_deref(), Some("Failed to create"));
    refused.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
    assert_eq!(
        status::create_failed(&refused, "Failed to create", now),
        None
    );
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let mut start = deployment("web", 2);
    start.spec.as_mut().unwrap().strategy = Some(DeploymentStrategy {
        type_: Some("Recreate".into()),
        rolling_update: None,
    });
    let mut cluster = Cluster::new(start);
    cluster.run();
    cluster.image("echo:2");
    cluster.step();
    assert_eq!(cluster.sizes(), [0]);
    // The set says 0, yet a pod is still terminating.
    cluster.settle(|_| 0);
    let name = cluster.sets[0].metadata.name.clone().unwrap();
    cluster.pods.insert(name.clone(), 1);
    cluster.step();
    assert_eq!(cluster.sizes(), [0]);
    cluster.pods.insert(name, 0);
    cluster.step();
    assert_eq!(cluster.sizes(), [0, 2]);
}

#[test]
fn paused_scales_but_does_not_roll() {
    let mut cluster = Cluster::new(deployment("web", 2));
    cluster.run();
    cluster.deployment.spec.as_mut().unwrap().paused = Some(true);
    cluster.image("echo:2");
    cluster.scale(4);
    cluster.run();
    assert_eq!(cluster.sizes(), [4]);
    assert_eq!(cluster.condition("Progressing").1, "DeploymentPaused");
    cluster.deployment.spec.as_mut().unwrap().paused = None;
    cluster.run();
    assert_eq!(cluster.sizes(), [0, 4]);
}

#[test]
fn scaling_in_mid_rollout_is_proportional() {
    let mut start = deployment("web", 10);
    start.spec.as_mut().unwrap().strategy = strategy("3", "2");
    start.spec.as_mut().unwrap().strategy = Some(DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(3)),
            max_unavailable: Some(IntOrString::Int(2)),
        }),
    });
    let mut cluster = Cluster::new(start);
    cluster.run();
    cluster.image("broken");
    let first = cluster.sets[0].metadata.name.clone();
    for _ in 0..10 {
        cluster.step();
        // The new template's pods never become ready.
        cluster.settle(|set| {
            if set.metadata.name == first {
                i32::MAX
            } else {
                0
            }
        });
    }
    assert_eq!(cluster.sizes(), [8, 5]);
    cluster.scale(15);
    cluster.step();
    // The documented example: 15 wanted, 18 allowed, 5 more: 3 to the larger set, 2 to the other.
    assert_eq!(cluster.sizes(), [11, 7]);
}

#[test]
fn no_progress_until_the_deadline_is_a_failure_and_recovery_is_seen() {
    let mut start = deployment("web", 1);
    start.spec.as_mut().unwrap().progress_deadline_seconds = Some(5);
    let mut cluster = Cluster::new(start);
    cluster.step();
    cluster.settle(|_| 0);
    let plan = cluster.step();
    assert!(plan.recheck.is_some());
    cluster.second += 20;
    cluster.step();
    let failed = ("False".to_owned(), "ProgressDeadlineExceeded".to_owned());
    assert_eq!(cluster.condition("Progressing"), failed);
    cluster.settle(|_| i32::MAX);
    cluster.run();
    assert_eq!(cluster.condition("Progressing").1, "NewReplicaSetAvailable");
}

#[test]
fn a_collision_changes_the_hash() {
    let template = deployment("web", 1).spec.unwrap().template;
    assert_ne!(revision::hash(&template, 0), revision::hash(&template, 1));
    assert_eq!(revision::hash(&template, 0), revision::hash(&template, 0));
}

#[test]
fn both_limits_zero_still_moves() {
    let mut start = deployment("web", 3);
    start.spec.as_mut().unwrap().strategy = strategy("0%", "10%");
    assert_eq!(rolling::limits(&start), (0, 1));
}

proptest! {
    /// Whatever the order in which pods become ready, a rollout stays between its limits and ends.
    #[test]
    fn rollout_keeps_its_limits(
        replicas in 1..20_i32,
        surge in 0..100_i32,
        unavailable in 0..100_i32,
        readiness in proptest::collection::vec(0..20_i32, 1..30),
    ) {
        let mut start = deployment("web", replicas);
        start.spec.as_mut().unwrap().strategy =
            strategy(&format!("{surge}%"), &format!("{unavailable}%"));
        let (max_surge, max_unavailable) = rolling::limits(&start);
        let mut cluster = Cluster::new(start);
        cluster.run();
        cluster.image("echo:2");
        let first = cluster.sets[0].metadata.name.clone();
        for ready in readiness {
            let before = cluster.available();
            cluster.step();
            let total: i32 = cluster.sizes().iter().sum();
            prop_assert!(total <= replicas + max_surge, "{total} pods");
            // What a shrunk set still has is its size at most.
            cluster.settle(|set| if set.metadata.name == first { i32::MAX } else {
                ready.max(rolling::available(set))
            });
            let after = cluster.available();
            prop_assert!(after >= (replicas - max_unavailable).min(before), "{after} available");
        }
        cluster.run();
        prop_assert_eq!(cluster.sizes(), vec![0, replicas]);
    }
}

//! Tests of `controllers::statefulset::plan`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetOrdinals, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::controllers::fixtures::{at, metadata, pod, selector, template};

fn set(replicas: i32, policy: &str) -> StatefulSet {
    StatefulSet {
        metadata: metadata("db"),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            pod_management_policy: Some(policy.into()),
            selector: selector(),
            service_name: Some("db".into()),
            template: template(),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn member(ordinal: i32, revision: &str, ready: bool) -> Arc<Pod> {
    let mut pod = pod(&format!("db-{ordinal}"), Some("n"), ready.then_some(0));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), revision.into());
    labels.insert(POD_NAME.into(), format!("db-{ordinal}"));
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    Arc::new(pod)
}

fn ending(ordinal: i32, revision: &str) -> Arc<Pod> {
    let mut pod = member(ordinal, revision, true).as_ref().clone();
    pod.metadata.deletion_timestamp = Some(Time(at(1)));
    Arc::new(pod)
}

fn with<T>(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    revisions: (&str, &str),
    look: impl Fn(&View<'_>) -> T,
) -> T {
    let version = |revision: &str| Version {
        revision: revision.to_owned(),
        template: template(),
    };
    look(&View {
        set,
        pods,
        deleting: &HashSet::new(),
        current: &version(revisions.0),
        update: &version(revisions.1),
        now: at(100),
    })
}

fn shown(plan: &Plan) -> Vec<String> {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    plan.actions
        .iter()
        .map(|action| match action {
            Action::Create(pod) => format!("create {} {}", name(pod), revision_of(pod)),
            Action::Restart(pod) => format!("restart {}", name(pod)),
            Action::Repair(pod) => format!("repair {}", name(pod)),
            Action::Claims(pod) => format!("claims {}", name(pod)),
            Action::Remove(pod) => format!("remove {}", name(pod)),
            Action::Replace(pod) => format!("replace {}", name(pod)),
        })
        .collect()
}

fn planned(set: &StatefulSet, pods: &[Arc<Pod>], revisions: (&str, &str)) -> Vec<String> {
    with(set, pods, revisions, |view| shown(&plan(view)))
}

#[test]
fn pods_come_in_order_each_when_the_one_before_is_ready() {
    let set = set(3, "OrderedReady");
    let same = ("a", "a");
    assert_eq!(planned(&set, &[], same), ["create db-0 a"]);
    assert!(planned(&set, &[member(0, "a", false)], same).is_empty());
    assert_eq!(
        planned(&set, &[member(0, "a", true)], same),
        ["create db-1 a"]
    );
    // A name is free when its pod is gone, not before.
    assert!(planned(&set, &[ending(0, "a"), member(1, "a", true)], same).is_empty());
    assert_eq!(
        planned(&set, &[member(1, "a", true)], same),
        ["create db-0 a"]
    );
}

#[test]
fn in_parallel_they_come_and_go_at_once() {
    let mut set = set(2, "Parallel");
    set.spec.as_mut().unwrap().ordinals = Some(StatefulSetOrdinals { start: Some(5) });
    assert_eq!(
        planned(&set, &[], ("a", "a")),
        ["create db-5 a", "create db-6 a"]
    );
    let pods = [
        member(5, "a", true),
        member(6, "a", false),
        member(7, "a", false),
        member(3, "a", true),
    ];
    assert_eq!(
        planned(&set, &pods, ("a", "a")),
        ["remove db-7", "remove db-3"]
    );
}

#[test]
fn scaling_down_takes_the_highest_and_waits_for_the_others_to_be_well() {
    let set = set(1, "OrderedReady");
    let same = ("a", "a");
    let all = [
        member(0, "a", true),
        member(1, "a", true),
        member(2, "a", true),
    ];
    assert_eq!(planned(&set, &all, same), ["remove db-2"]);
    let going = [member(0, "a", true), member(1, "a", true), ending(2, "a")];
    assert!(planned(&set, &going, same).is_empty());
    let sick = [
        member(0, "a", true),
        member(1, "a", false),
        member(2, "a", true),
    ];
    assert_eq!(planned(&set, &sick, same), ["remove db-2"]);
    // The cause itself may go.
    let sick = [member(0, "a", true), member(1, "a", false)];
    assert_eq!(planned(&set, &sick, same), ["remove db-1"]);
}

#[test]
fn an_update_goes_from_the_top_down_to_the_partition() {
    let mut set = set(3, "OrderedReady");
    let old = [
        member(0, "a", true),
        member(1, "a", true),
        member(2, "a", true),
    ];
    assert_eq!(planned(&set, &old, ("a", "b")), ["replace db-2"]);
    let half = [
        member(0, "a", true),
        member(1, "a", true),
        member(2, "b", true),
    ];
    assert_eq!(planned(&set, &half, ("a", "b")), ["replace db-1"]);
    let rolling = |set: &mut StatefulSet, partition, most: IntOrString| {
        let spec = set.spec.as_mut().unwrap();
        let strategy = spec.update_strategy.as_mut().unwrap();
        strategy.rolling_update = Some(RollingUpdateStatefulSetStrategy {
            partition: Some(partition),
            max_unavailable: Some(most),
        });
    };
    rolling(&mut set, 2, IntOrString::Int(1));
    assert!(planned(&set, &half, ("a", "b")).is_empty());
    // Below the partition a lost pod comes back as it was.
    assert_eq!(planned(&set, &half[1..], ("a", "b")), ["create db-0 a"]);
    rolling(&mut set, 0, IntOrString::String("70%".into()));
    assert_eq!(
        planned(&set, &old, ("a", "b")),
        ["replace db-2", "replace db-1"]
    );
    set.spec.as_mut().unwrap().update_strategy = Some(StatefulSetUpdateStrategy {
        type_: Some("OnDelete".into()),
        rolling_update: None,
    });
    assert!(planned(&set, &old, ("a", "b")).is_empty());
    assert_eq!(planned(&set, &old[1..], ("a", "b")), ["create db-0 b"]);
}

#[test]
fn what_ended_is_made_anew_and_labels_are_put_right() {
    let set = set(2, "OrderedReady");
    let mut ended = member(0, "a", false).as_ref().clone();
    ended.status.as_mut().unwrap().phase = Some("Failed".into());
    assert_eq!(
        planned(&set, &[Arc::new(ended)], ("a", "a")),
        ["restart db-0"]
    );
    let mut bare = member(0, "a", true).as_ref().clone();
    bare.metadata.labels.as_mut().unwrap().remove(POD_NAME);
    assert_eq!(
        planned(&set, &[Arc::new(bare), member(1, "a", true)], ("a", "a")),
        ["repair db-0"]
    );
}

#[test]
fn a_pod_is_available_after_its_time_and_then_the_next_one_comes() {
    let mut set = set(2, "OrderedReady");
    set.spec.as_mut().unwrap().min_ready_seconds = Some(130);
    let plan = with(&set, &[member(0, "a", true)], ("a", "a"), plan);
    assert_eq!(shown(&plan), [""; 0]);
    assert_eq!(plan.recheck, Some(Duration::from_secs(30)));
}

#[test]
fn the_status_counts_revisions_until_the_update_is_complete() {
    let set = set(2, "OrderedReady");
    let half = [member(0, "a", true), member(1, "b", true)];
    let status = |pods: &[Arc<Pod>]| with(&set, pods, ("a", "b"), |view| super::status(view, None));
    let half = status(&half);
    assert_eq!((half.replicas, half.ready_replicas), (2, Some(2)));
    assert_eq!(
        (half.current_replicas, half.updated_replicas),
        (Some(1), Some(1))
    );
    assert_eq!(half.current_revision.as_deref(), Some("a"));
    let done = status(&[member(0, "b", true), member(1, "b", true)]);
    assert_eq!(done.current_revision.as_deref(), Some("b"));
    assert_eq!(
        (done.current_replicas, done.updated_replicas),
        (Some(2), Some(2))
    );
}

#[test]
fn a_pod_has_its_name_its_claims_and_its_place() {
    use super::identity::{Keeper, claims, keeper, owners};
    use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    let mut set = set(2, "OrderedReady");
    let spec = set.spec.as_mut().unwrap();
    spec.volume_claim_templates = Some(vec![PersistentVolumeClaim {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("data".into()),
            ..Default::default()
        },
        ..PersistentVolumeClaim::default()
    }]);
    let made = identity::pod(&set, &template(), "r", 1);
    let made_spec = made.spec.as_ref().unwrap();
    assert_eq!(made_spec.hostname.as_deref(), Some("db-1"));
    assert_eq!(made_spec.subdomain.as_deref(), Some("db"));
    let volume = &made_spec.volumes.as_ref().unwrap()[0];
    let claim = volume.persistent_volume_claim.as_ref().unwrap();
    assert_eq!(
        (volume.name.as_str(), claim.claim_name.as_str()),
        ("data", "data-db-1")
    );
    let claim = &claims(&set, "db-1")[0];
    assert_eq!(claim.metadata.name.as_deref(), Some("data-db-1"));
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "web");
    assert_eq!(keeper(&set, 1), Keeper::Nobody);
    let spec = set.spec.as_mut().unwrap();
    spec.persistent_volume_claim_retention_policy =
        Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some("Delete".into()),
            when_scaled: Some("Delete".into()),
        });
    assert_eq!(
        (keeper(&set, 1), keeper(&set, 2)),
        (Keeper::Set, Keeper::Pod)
    );
    let owned = owners(&set, None, claim, Keeper::Set).unwrap();
    assert_eq!(owned[0].kind, "StatefulSet");
    let mut kept = claim.clone();
    kept.metadata.owner_references = Some(owned);
    assert_eq!(owners(&set, None, &kept, Keeper::Set), None);
    assert_eq!(owners(&set, None, &kept, Keeper::Nobody), Some(Vec::new()));
    let pod = member(1, "r", true);
    assert_eq!(
        owners(&set, Some(&pod), &kept, Keeper::Pod).unwrap()[0].kind,
        "Pod"
    );
}

#[test]
fn a_pod_that_waits_has_its_claims_looked_after() {
    let mut set = set(2, "OrderedReady");
    let mut waiting = member(0, "r1", false).as_ref().clone();
    waiting.status.as_mut().unwrap().phase = Some("Pending".into());
    let pods = [Arc::new(waiting)];
    assert!(planned(&set, &pods, ("r1", "r1")).is_empty());
    let spec = set.spec.as_mut().unwrap();
    spec.volume_claim_templates = Some(vec![PersistentVolumeClaim::default()]);
    assert_eq!(planned(&set, &pods, ("r1", "r1")), ["claims db-0"]);
}

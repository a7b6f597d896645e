//! Tests of `controllers::volumes`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::*;
use crate::patch::merge_patch;

fn of<T: serde::de::DeserializeOwned>(base: Value, more: &Value) -> T {
    serde_json::from_value(merge_patch(&base, more)).unwrap()
}

fn claim(more: Value) -> PersistentVolumeClaim {
    let base = json!({
        "metadata": {"namespace": "ns", "name": "c", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": {"requests": {"storage": "5Gi"}}},
    });
    of(base, &more)
}

fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
    let base = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": size},
            "hostPath": {"path": "/x"}, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"},
    });
    of(base, &more)
}

fn class(mode: &str) -> StorageClass {
    of(
        json!({"metadata": {"name": "local"}, "provisioner": LOCAL, "volumeBindingMode": mode,
            "reclaimPolicy": "Delete"}),
        &json!({}),
    )
}

fn plan_of(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volumes: &[Arc<PersistentVolume>],
) -> Vec<Change> {
    let named = matching::volume_name(claim);
    claim::plan(&claim::View {
        claim,
        class,
        default_class: None,
        volume: volumes
            .iter()
            .find(|volume| named.is_some() && volume.metadata.name.as_deref() == named)
            .map(Arc::as_ref),
        volumes,
    })
}

#[test]
fn the_smallest_volume_is_bound_step_by_step() {
    let claim = claim(json!({}));
    let volumes = ["50Gi", "10Gi", "1Gi"].map(|size| Arc::new(volume(size, size, json!({}))));
    let [Change::Volume(reserved)] = &plan_of(&claim, None, &volumes)[..] else {
        panic!("the volume is reserved first");
    };
    assert_eq!(reserved.metadata.name.as_deref(), Some("10Gi"));
    assert!(volume::plan(reserved, Some(&claim)).iter().any(
        |change| matches!(change, Change::VolumeStatus(volume) if volume.status.as_ref().unwrap().phase.as_deref() == Some("Bound"))
    ));
    let volumes = [Arc::new(reserved.as_ref().clone())];
    let [Change::Claim(bound)] = &plan_of(&claim, None, &volumes)[..] else {
        panic!("then the claim");
    };
    assert!(matching::is_bound(bound));
    let [Change::ClaimStatus(done)] = &plan_of(bound, None, &volumes)[..] else {
        panic!("then its status");
    };
    let status = done.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Bound"));
    assert_eq!(status.capacity.as_ref().unwrap()["storage"].0, "10Gi");
    assert!(plan_of(done, None, &volumes).is_empty());
}

#[test]
fn why_a_volume_that_is_named_is_not_the_claims_is_told() {
    let claim = claim(json!({"spec": {"volumeName": "v"}}));
    let told = |size: &str, more: Value| {
        let volumes = [Arc::new(volume("v", size, more))];
        let changes = plan_of(&claim, None, &volumes);
        let [Change::Tell(EventType::Warning, "VolumeMismatch", message)] = &changes[..] else {
            panic!("{changes:?}");
        };
        let head = "Cannot bind to requested volume \"v\": ";
        message.strip_prefix(head).unwrap().to_owned()
    };
    assert_eq!(told("1Gi", json!({})), "requested PV is too small");
    for (more, why) in [
        (
            json!({"storageClassName": "slow"}),
            "storageClassName does not match",
        ),
        (
            json!({"volumeAttributesClassName": "gold"}),
            "volumeAttributesClassName does not match",
        ),
        (json!({"volumeMode": "Block"}), "incompatible volumeMode"),
        (
            json!({"accessModes": ["ReadOnlyMany"]}),
            "incompatible accessMode",
        ),
    ] {
        assert_eq!(told("5Gi", json!({"spec": more})), why);
    }
    let going = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    assert_eq!(
        told("5Gi", going),
        "the volume is marked for deletion \"v\""
    );
}

#[test]
fn a_volume_reserved_for_another_is_not_touched() {
    let reserved = json!({"spec": {"claimRef": {"namespace": "ns", "name": "other"}}});
    let volumes = [Arc::new(volume("v", "10Gi", reserved))];
    let claim = claim(json!({}));
    assert!(matches!(
        plan_of(&claim, None, &volumes)[..],
        [Change::Tell(EventType::Normal, "FailedBinding", _)]
    ));
    let mine = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}});
    let volumes = [Arc::new(volume("v", "10Gi", mine))];
    assert!(matches!(
        plan_of(&claim, None, &volumes)[..],
        [Change::Volume(_)]
    ));
}

#[test]
fn a_claim_waits_for_its_first_pod_and_then_gets_a_directory_of_its_node() {
    let class = class("WaitForFirstConsumer");
    let mut claim = claim(json!({"spec": {"storageClassName": "local"}}));
    assert!(matches!(
        plan_of(&claim, Some(&class), &[])[..],
        [Change::Tell(_, "WaitForFirstConsumer", _)]
    ));
    claim.metadata.annotations =
        Some([(matching::SELECTED_NODE.to_owned(), "n1".to_owned())].into());
    let [Change::Claim(noted)] = &plan_of(&claim, Some(&class), &[])[..] else {
        panic!("the provisioner is noted");
    };
    assert!(matches!(
        plan_of(noted, Some(&class), &[])[..],
        [Change::Tell(_, claim::PROVISION, _)]
    ));
    let node: Node = of(
        json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "h1"}}}),
        &json!({}),
    );
    let changes = provision::plan(noted, &class, &[Arc::new(node)], &[]);
    let Change::NewVolume(made) = &changes[0] else {
        panic!("{changes:?}");
    };
    assert_eq!(made.metadata.name.as_deref(), Some("pvc-u"));
    assert!(matching::is_for(made, noted));
    let again = provision::plan(noted, &class, &[], &[Arc::new(made.as_ref().clone())]);
    assert!(again.is_empty());
}

#[test]
fn what_a_directory_cannot_be_is_refused() {
    let claim = claim(json!({"spec": {"accessModes": ["ReadWriteMany"]}}));
    let changes = provision::plan(&claim, &class("Immediate"), &[], &[]);
    let [Change::Tell(EventType::Warning, "ProvisioningFailed", why)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(why.starts_with("failed to provision volume with StorageClass \"local\": "));
}

#[test]
fn a_released_volume_is_kept_or_removed_as_its_policy_says() {
    let released = json!({"spec": {"claimRef": {"namespace": "ns", "name": "c", "uid": "old"}},
        "status": {"phase": "Released"}});
    assert!(volume::plan(&volume("v", "1Gi", released.clone()), None).is_empty());
    let mut local = volume("v", "1Gi", released);
    local.metadata.finalizers = Some(vec![
        LOCAL_FINALIZER.into(),
        "kubernetes.io/pv-protection".into(),
    ]);
    let spec = local.spec.as_mut().unwrap();
    spec.host_path = None;
    spec.persistent_volume_reclaim_policy = Some("Delete".into());
    spec.csi = Some(k8s_openapi::api::core::v1::CSIPersistentVolumeSource {
        driver: LOCAL.into(),
        volume_handle: "v".into(),
        ..Default::default()
    });
    assert_eq!(volume::plan(&local, None), [Change::DeleteVolume]);
    local.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::UNIX_EPOCH,
    ));
    let [Change::Volume(unprotected)] = &volume::plan(&local, None)[..] else {
        panic!("it is nobody's");
    };
    // The node's data is still there.
    assert_eq!(
        unprotected.metadata.finalizers,
        Some(vec![LOCAL_FINALIZER.to_owned()])
    );
}

#[test]
fn what_is_used_stays() {
    let going = claim(json!({"metadata": {"finalizers": ["kubernetes.io/pvc-protection"]}}));
    assert!(claim::unprotect(&going, true).is_none());
    let Some(Change::Claim(free)) = claim::unprotect(&going, false) else {
        panic!("nobody uses it");
    };
    assert_eq!(free.metadata.finalizers, Some(Vec::new()));
}

#[test]
fn a_claim_without_its_volume_is_lost() {
    let bound = claim(
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}),
    );
    let [
        Change::ClaimStatus(lost),
        Change::Tell(EventType::Warning, "ClaimLost", _),
    ] = &plan_of(&bound, None, &[])[..]
    else {
        panic!("its volume is gone");
    };
    assert_eq!(lost.status.as_ref().unwrap().phase.as_deref(), Some("Lost"));
}

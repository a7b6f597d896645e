//! What a pod of a StatefulSet is called, and the claims that belong to it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::controllers::owner::controller_reference;
use crate::controllers::revisions::HASH_LABEL;

pub(super) const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
pub(super) const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

fn name_of(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The ordinal in a pod's name, if it is named as this set's pods are.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let (parent, ordinal) = name.rsplit_once('-')?;
    // Written as it would be: no leading zero or sign.
    let number: i32 = ordinal.parse().ok()?;
    (parent == name_of(set) && number.to_string() == ordinal).then_some(number)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name_of(set))
}

pub(super) fn claim_name(template: &PersistentVolumeClaim, pod: &str) -> String {
    format!(
        "{}-{pod}",
        template.metadata.name.as_deref().unwrap_or_default()
    )
}

/// The pod of this ordinal, of the template of a revision.
pub(super) fn pod(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Pod {
    let name = pod_name(set, ordinal);
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let set_spec = spec(set);
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set_spec
        .service_name
        .clone()
        .filter(|name| !name.is_empty());
    spec.volumes = volumes(&set_spec, spec.volumes, &name);
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The template's volumes, and one for each claim, which takes the place of one of its name.
fn volumes(spec: &StatefulSetSpec, given: Option<Vec<Volume>>, pod: &str) -> Option<Vec<Volume>> {
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let mut all: Vec<Volume> = claims
        .iter()
        .map(|claim| Volume {
            name: claim.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(claim, pod),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    let named: Vec<String> = all.iter().map(|volume| volume.name.clone()).collect();
    all.extend(
        given
            .into_iter()
            .flatten()
            .filter(|volume| !named.contains(&volume.name)),
    );
    (!all.is_empty()).then_some(all)
}

/// The claims of the pod of this name.
pub(super) fn claims(set: &StatefulSet, pod: &str) -> Vec<PersistentVolumeClaim> {
    let spec = spec(set);
    let selected: BTreeMap<String, String> = spec.selector.match_labels.unwrap_or_default();
    let templates = spec.volume_claim_templates.unwrap_or_default();
    templates
        .into_iter()
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selected.clone());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name(&template, pod)),
                    namespace: set.metadata.namespace.clone(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations,
                    ..ObjectMeta::default()
                },
                spec: template.spec,
                status: None,
            }
        })
        .collect()
}

/// Whose end a claim shall share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    Nobody,
    Set,
    Pod,
}

/// Who keeps the claims of a pod of this ordinal, by the set's retention policy.
pub(super) fn keeper(set: &StatefulSet, ordinal: i32) -> Keeper {
    let spec = spec(set);
    let policy = spec.persistent_volume_claim_retention_policy;
    let policy = policy.unwrap_or_default();
    let deletes = |when: Option<&str>| when == Some("Delete");
    let start = spec
        .ordinals
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    let end = start.saturating_add(spec.replicas.unwrap_or(1));
    let condemned = ordinal < start || ordinal >= end;
    if deletes(policy.when_scaled.as_deref()) && condemned {
        Keeper::Pod
    } else if deletes(policy.when_deleted.as_deref()) {
        Keeper::Set
    } else {
        Keeper::Nobody
    }
}

/// The claim's owners as the policy wants them; `None` when they are right. Those of others stay.
pub(super) fn owners(
    set: &StatefulSet,
    pod: Option<&Pod>,
    claim: &PersistentVolumeClaim,
    keeper: Keeper,
) -> Option<Vec<OwnerReference>> {
    let before = claim.metadata.owner_references.clone().unwrap_or_default();
    let is_ours = |owner: &OwnerReference| {
        Some(&owner.uid) == set.metadata.uid.as_ref()
            || (owner.kind == "Pod" && owner.api_version == "v1")
            || (owner.kind == "StatefulSet" && owner.name == name_of(set))
    };
    let mut after: Vec<OwnerReference> = before
        .iter()
        .filter(|owner| !is_ours(owner))
        .cloned()
        .collect();
    match (keeper, pod) {
        (Keeper::Nobody, _) => {}
        (Keeper::Set, _) => after.push(controller_reference(set)),
        (Keeper::Pod, Some(pod)) => after.push(controller_reference(pod)),
        // Without the pod that it would go with, it stays as it is.
        (Keeper::Pod, None) => return None,
    }
    (before != after).then_some(after)
}

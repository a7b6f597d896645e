//! Which ReplicaSet is the new one, how it is named, and the annotations that carry revisions. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::controllers::owner::controller_reference;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Bytes of that annotation at most.
const MOST_HISTORY: usize = 2000;
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations of a Deployment that its ReplicaSets do not inherit.
const OWN: [&str; 6] = [
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
];
/// No vowels, and no digits that look like them: a hash spells no word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The template without the label that only ReplicaSets add.
fn bare(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH_LABEL);
        if labels.is_empty() {
            metadata.labels = None;
        }
    }
    template
}

fn set_template(set: &ReplicaSet) -> PodTemplateSpec {
    bare(set.spec.as_ref().and_then(|spec| spec.template.as_ref()))
}

pub(super) fn same_template(one: &ReplicaSet, other: &ReplicaSet) -> bool {
    set_template(one) == set_template(other)
}

/// The oldest set with the Deployment's template, and all others.
pub(super) fn split<'a>(
    deployment: &Deployment,
    sets: &'a [Arc<ReplicaSet>],
) -> (Option<&'a Arc<ReplicaSet>>, Vec<&'a Arc<ReplicaSet>>) {
    let wanted = bare(deployment.spec.as_ref().map(|spec| &spec.template));
    let mut ordered: Vec<_> = sets.iter().collect();
    ordered.sort_by_key(|set| by_age(set));
    let new = ordered
        .iter()
        .position(|set| set_template(set) == wanted)
        .map(|position| ordered.remove(position));
    (new, ordered)
}

/// Oldest first; names decide between those of one second.
pub(super) fn by_age(set: &ReplicaSet) -> (i64, String) {
    (
        set.metadata
            .creation_timestamp
            .as_ref()
            .map_or(i64::MAX, |time| time.0.as_second()),
        set.metadata.name.clone().unwrap_or_default(),
    )
}

pub(super) fn revision(metadata: &ObjectMeta) -> u64 {
    annotation(metadata, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The number that the new set must have at least.
pub(super) fn next(old: &[&Arc<ReplicaSet>]) -> u64 {
    old.iter()
        .map(|set| revision(&set.metadata))
        .max()
        .unwrap_or(0)
        + 1
}

pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(template).expect("a template serializes"));
    digest.update(collisions.to_be_bytes());
    let digest = digest.finalize();
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// The revisions that a set had before, with one more; of very many only the last ones are kept.
fn longer_history(history: &str, more: &str) -> String {
    let mut kept = history;
    while !kept.is_empty() && kept.len() + 1 + more.len() > MOST_HISTORY {
        kept = kept.split_once(',').map_or("", |(_, rest)| rest);
    }
    if kept.is_empty() {
        more.to_owned()
    } else {
        format!("{kept},{more}")
    }
}

/// Annotations of the new set: the Deployment's, its own revision and the sizes that scaling needs.
fn annotations(
    deployment: &Deployment,
    existing: Option<&BTreeMap<String, String>>,
    revision_number: u64,
) -> BTreeMap<String, String> {
    let mut all = existing.cloned().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            all.insert(key.clone(), value.clone());
        }
    }
    let old: u64 = all
        .get(REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0);
    if old < revision_number {
        if old > 0 {
            let history = all.entry(REVISION_HISTORY.to_owned()).or_default();
            *history = longer_history(history, &old.to_string());
        }
        all.insert(REVISION.to_owned(), revision_number.to_string());
    }
    all
}

/// The set to create for the current template; its size is filled in by the caller.
pub(super) fn new_set(deployment: &Deployment, revision_number: u64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count)
        .unwrap_or(0);
    let mut template = bare(Some(&spec.template));
    let hash = hash(&template, collisions);
    let metadata = template.metadata.get_or_insert_default();
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            namespace: deployment.metadata.namespace.clone(),
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            labels: Some(labels),
            annotations: Some(annotations(deployment, None, revision_number)),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// The existing new set with revision, inherited annotations and minReadySeconds brought up to date.
pub(super) fn refreshed(
    deployment: &Deployment,
    set: &ReplicaSet,
    revision_number: u64,
) -> ReplicaSet {
    let mut set = set.clone();
    set.metadata.annotations = Some(annotations(
        deployment,
        set.metadata.annotations.as_ref(),
        revision_number,
    ));
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .filter(|seconds| *seconds != 0);
    let spec = set.spec.get_or_insert_default();
    if spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
        spec.min_ready_seconds = wanted;
    }
    set
}

/// Old sets beyond the history limit that nothing runs in, the oldest revisions first.
pub(super) fn superfluous(
    deployment: &Deployment,
    old: &[&Arc<ReplicaSet>],
) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit)
        .unwrap_or(10);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut alive: Vec<_> = old
        .iter()
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    if alive.len() <= limit {
        return Vec::new();
    }
    alive.sort_by_key(|set| (revision(&set.metadata), by_age(set)));
    let surplus = alive.len() - limit;
    alive
        .into_iter()
        .take(surplus)
        .filter(|set| {
            let status = set.status.clone().unwrap_or_default();
            status.replicas == 0
                && set
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1)
                    == 0
                && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
        })
        .map(|set| Arc::clone(set))
        .collect()
}

//! ControllerRevisions: what a StatefulSet's or DaemonSet's template was, and which of them is the current one.
//!
//! Pure but for [`Store`], which writes. A revision's data is a strategic merge patch of its owner, so that
//! `kubectl rollout undo` can send it back.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, orphans_of};
use crate::registry::{ApiError, Client, DeleteOptions, Object};

use super::expectations::Expectations;
use super::owner::{Claim, claim, controller_reference, with_claim};
use super::{context_error, selector};

/// On pods (and on a DaemonSet's revisions): of which revision they are.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
/// No vowels, and no digits that look like them: a hash spells no word.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A revision's data for the template, as kubectl and Kubernetes' own controllers write it: `kubectl rollout undo` takes a
/// revision for the current one only if these bytes are those that it would write itself.
pub(super) fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a template serializes");
    without_empty_lists(&mut template);
    template["$patch"] = "replace".into();
    uncreated(&mut template);
    for kind in ["containers", "initContainers"] {
        for container in items(&mut template, &["spec", kind]) {
            with_resources(container);
        }
    }
    for volume in items(&mut template, &["spec", "volumes"]) {
        if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate") {
            uncreated(claim);
            if let Some(spec) = claim.get_mut("spec") {
                with_resources(spec);
            }
        }
    }
    json!({"spec": {"template": template}})
}

/// In Go's types the time of creation is written also where there is none.
fn uncreated(holder: &mut Value) {
    if !holder["metadata"].is_object() {
        holder["metadata"] = json!({});
    }
    holder["metadata"]["creationTimestamp"] = Value::Null;
}

/// In Go's types `resources` is a structure, which is written also when it is empty.
fn with_resources(holder: &mut Value) {
    if !holder["resources"].is_object() {
        holder["resources"] = json!({});
    }
}

fn items<'a>(value: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    path.iter()
        .try_fold(value, |inner, step| inner.get_mut(step))
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Go leaves out lists without elements.
fn without_empty_lists(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
            fields.values_mut().for_each(without_empty_lists);
        }
        Value::Array(list) => list.iter_mut().for_each(without_empty_lists),
        _ => {}
    }
}

fn data_of(revision: &ControllerRevision) -> Option<&Value> {
    revision.data.as_ref().map(|RawExtension(data)| data)
}

/// The template that the revision holds.
pub(super) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = data_of(revision)?.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Whether it is of this template. Compared as [`data`] is written now, whoever wrote the revision.
pub(super) fn is_of(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).is_some_and(|of| of == *template || data(&of) == data(template))
}

pub(super) fn hash(data: &Value, collisions: i32) -> String {
    let mut digest = Sha256::new();
    digest.update(data.to_string());
    digest.update(collisions.to_be_bytes());
    let digest = digest.finalize();
    digest
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// By number, then by age and name.
pub(super) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by_key(|revision| {
        (
            revision.revision,
            revision.metadata.creation_timestamp.clone(),
            revision.metadata.name.clone(),
        )
    });
}

/// What must be done so that the template has a revision, and that one the highest number.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Keep(Arc<ControllerRevision>),
    /// A template that was there before has come back.
    Renumber(Arc<ControllerRevision>, i64),
    Create(i64),
}

/// `sorted` as by [`sort`].
pub(super) fn step(sorted: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Step {
    let next = sorted.last().map_or(1, |last| last.revision + 1);
    let equal = sorted.iter().rposition(|one| is_of(one, template));
    match equal {
        Some(at) if at + 1 == sorted.len() => Step::Keep(Arc::clone(&sorted[at])),
        Some(at) => Step::Renumber(Arc::clone(&sorted[at]), next),
        None => Step::Create(next),
    }
}

/// Revisions beyond the history limit that no pod is of, the oldest first.
pub(super) fn superfluous(
    sorted: &[Arc<ControllerRevision>],
    live: impl Fn(&ControllerRevision) -> bool,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let history: Vec<_> = sorted.iter().filter(|revision| !live(revision)).collect();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let surplus = history.len().saturating_sub(limit);
    history.into_iter().take(surplus).cloned().collect()
}

/// Writes the revisions of one controller's owners.
pub(super) struct Store {
    client: Client,
    cache: Cache,
    expectations: Expectations,
}

/// What a revision is made for.
pub(super) struct Wanted<'a> {
    pub(super) template: &'a PodTemplateSpec,
    pub(super) selector: &'a LabelSelector,
    /// The label under which the hash is on the revision itself.
    pub(super) hash_label: &'static str,
    pub(super) collisions: i32,
}

impl Store {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.clone(),
            cache: cache.clone(),
            expectations: Expectations::default(),
        }
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
    }

    /// The owner's revisions in order, after adoption and release.
    pub(super) async fn claim<K: Object>(
        &self,
        owner: &K,
        chosen: &LabelSelector,
    ) -> Result<Vec<Arc<ControllerRevision>>, ApiError> {
        let key = ObjectKey::of(owner);
        let revisions = &self.cache.controller_revisions;
        let expected = self.expectations.get(&key).revision;
        let lag = std::time::Duration::from_secs(5);
        if !revisions.wait_for(expected, lag).await {
            return Err(context_error(
                "the view of controller revisions lags behind",
            ));
        }
        let metadata = owner.metadata();
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = revisions.indexed(BY_CONTROLLER, uid);
        candidates.extend(revisions.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
        let mut own = Vec::new();
        for revision in candidates {
            let matches = selector::matches(chosen, revision.metadata.labels.as_ref());
            match claim(metadata, &revision.metadata, matches) {
                Claim::Owned => own.push(revision),
                Claim::Ignore => {}
                claim => own.extend(self.write_claim(owner, &revision, claim).await?),
            }
        }
        sort(&mut own);
        Ok(own)
    }

    async fn write_claim<K: Object>(
        &self,
        owner: &K,
        revision: &ControllerRevision,
        claim: Claim,
    ) -> Result<Option<Arc<ControllerRevision>>, ApiError> {
        let key = ObjectKey::of(owner);
        let references = with_claim(&revision.metadata, &controller_reference(owner), claim);
        let patch = json!({"metadata": {
            "uid": revision.metadata.uid,
            "ownerReferences": references,
        }});
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let patched = self
            .client
            .merge_patch::<ControllerRevision>(&key.namespace, name, "", &patch)
            .await;
        match patched {
            Ok(patched) => {
                self.expectations.wrote(&key, &patched);
                Ok((claim == Claim::Adopt).then(|| Arc::new(patched)))
            }
            Err(error) if error.code() == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Carries out [`step`]; `None` when the name that the hash gives is taken by something else, and the
    /// owner's collision count must grow.
    pub(super) async fn ensure<K: Object>(
        &self,
        owner: &K,
        sorted: &mut Vec<Arc<ControllerRevision>>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Arc<ControllerRevision>>, ApiError> {
        let key = ObjectKey::of(owner);
        let current = match step(sorted, wanted.template) {
            Step::Keep(revision) => return Ok(Some(revision)),
            Step::Renumber(revision, number) => {
                let mut changed = revision.as_ref().clone();
                changed.revision = number;
                let changed = Arc::new(self.client.update(&changed).await?);
                sorted.retain(|other| other.metadata.uid != changed.metadata.uid);
                changed
            }
            Step::Create(number) => {
                let made = new(owner, wanted, number);
                match self.client.create(&made).await {
                    Ok(created) => Arc::new(created),
                    Err(error) if error.reason() == "AlreadyExists" => {
                        let name = made.metadata.name.as_deref().unwrap_or_default();
                        let live = self
                            .client
                            .get::<ControllerRevision>(&key.namespace, name)
                            .await?;
                        // Our own, which the view does not show yet.
                        match live.filter(|live| is_of(live, wanted.template)) {
                            Some(live) => Arc::new(live),
                            None => return Ok(None),
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.expectations.wrote(&key, current.as_ref());
        sorted.push(Arc::clone(&current));
        Ok(Some(current))
    }

    pub(super) async fn delete(&self, revision: &ControllerRevision) -> Result<(), ApiError> {
        let options = DeleteOptions {
            uid: revision.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        let key = ObjectKey::of(revision);
        let deleted = self
            .client
            .delete::<ControllerRevision>(&key.namespace, &key.name, options)
            .await;
        match deleted {
            Err(error) if error.code() == 409 => Ok(()),
            result => result,
        }
    }
}

fn new<K: Object>(owner: &K, wanted: &Wanted<'_>, number: i64) -> ControllerRevision {
    let metadata = owner.metadata();
    let data = data(wanted.template);
    let hash = hash(&data, wanted.collisions);
    let mut labels = wanted
        .template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    // It must be found by its owner's selector.
    labels.extend(wanted.selector.match_labels.clone().unwrap_or_default());
    labels.insert(wanted.hash_label.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            namespace: metadata.namespace.clone(),
            name: Some(format!(
                "{}-{hash}",
                metadata.name.as_deref().unwrap_or_default()
            )),
            labels: Some(labels),
            annotations: metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::controllers::fixtures::template;

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        let mut template = template();
        template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        Arc::new(ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("r{number}")),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data(&template))),
            revision: number,
        })
    }

    #[test]
    fn a_template_keeps_its_revision_or_comes_back_under_a_new_number() {
        let sorted = [revision(1, "a"), revision(2, "b"), revision(3, "echo:1")];
        assert_eq!(
            step(&sorted, &template()),
            Step::Keep(Arc::clone(&sorted[2]))
        );
        let sorted = [revision(1, "echo:1"), revision(4, "b")];
        assert_eq!(
            step(&sorted, &template()),
            Step::Renumber(Arc::clone(&sorted[0]), 5)
        );
        assert_eq!(step(&[], &template()), Step::Create(1));
        assert_eq!(step(&[revision(7, "a")], &template()), Step::Create(8));
    }

    /// The bytes that `kubectl rollout undo` of Kubernetes 1.20 to 1.33 compares with.
    #[test]
    fn data_is_what_other_clients_of_the_api_write_for_the_template() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "c", "image": "echo:1", "env": [], "securityContext": {}}],
                "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}],
                "securityContext": {},
            },
        }))
        .unwrap();
        assert_eq!(
            data(&template).to_string(),
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"web"}},"spec":{"containers":[{"image":"echo:1","name":"c","resources":{},"securityContext":{}}],"securityContext":{},"volumes":[{"ephemeral":{"volumeClaimTemplate":{"metadata":{"creationTimestamp":null},"spec":{"resources":{}}}},"name":"v"}]}}}}"#
        );
        let revision = ControllerRevision {
            data: Some(RawExtension(data(&template))),
            ..ControllerRevision::default()
        };
        assert!(is_of(&revision, &template));
    }

    #[test]
    fn history_is_cut_at_its_limit_but_for_what_is_in_use() {
        let sorted = [
            revision(1, "a"),
            revision(2, "b"),
            revision(3, "c"),
            revision(4, "d"),
        ];
        let live = |revision: &ControllerRevision| revision.revision == 1 || revision.revision == 4;
        let numbers = |limit| -> Vec<i64> {
            superfluous(&sorted, live, limit)
                .iter()
                .map(|revision| revision.revision)
                .collect()
        };
        assert_eq!(numbers(Some(1)), [2]);
        assert_eq!(numbers(Some(0)), [2, 3]);
        assert_eq!(numbers(None), [0; 0]);
    }
}

//! What the API server decides about an object by looking at others: the priority of a pod, its runtime's
//! overhead, the class of a claim, whether a claim may grow. As the admission plugins of Kubernetes do that
//! are on by default.

use serde_json::{Value, json};

use super::list::ListOptions;
use super::{ApiError, Registry, object};
use crate::kinds::access::{at, flag, integer, list, map, object_mut, same, text};
use crate::kinds::quantity::Quantity;
use crate::kinds::storage::persistent_volume_claim::KIND as CLAIM;
use crate::kinds::storage::storage_class;
use crate::kinds::{self, Kind};
use crate::store::Freshness;

mod limits;

const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";

fn forbidden(kind: &Kind<'_>, object: &Value, why: &str) -> ApiError {
    ApiError::forbidden(kind.group, kind.plural, object::name(object), why)
}

/// A new node gets no pods before it is ready (the admission plugin TaintNodesByCondition), unless it says that it is.
fn keep_pods_away(node: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let ready = list(node, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let taints = list(node, &["spec", "taints"]);
    let tainted = taints
        .iter()
        .any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule");
    if ready || tainted {
        return;
    }
    let mut taints = taints.to_vec();
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    object_mut(node, &["spec"]).insert("taints".into(), taints.into());
}

impl Registry {
    /// Before the validation of a new object.
    pub(super) async fn admit_create(
        &self,
        kind: &Kind<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        match (kind.group, kind.plural) {
            ("", "pods") => {
                self.admit_limits(kind, object).await?;
                self.admit_priority(kind, object).await?;
                self.admit_runtime(kind, object).await
            }
            ("", "persistentvolumeclaims") => {
                protect(object, CLAIM_PROTECTION);
                self.admit_limits(kind, object).await?;
                self.admit_class(object).await
            }
            ("", "persistentvolumes") => {
                protect(object, VOLUME_PROTECTION);
                Ok(())
            }
            ("scheduling.k8s.io", "priorityclasses") => self.only_default(kind, object).await,
            ("", "nodes") => {
                keep_pods_away(object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Before the validation of a changed object.
    pub(super) async fn admit_update(
        &self,
        kind: &Kind<'_>,
        object: &mut Value,
        old: &Value,
        subresource: &str,
    ) -> Result<(), ApiError> {
        match (kind.group, kind.plural, subresource) {
            ("", "persistentvolumes", "status") => {
                // The time of a change of phase is the server's.
                let phase = |volume: &Value| text(volume, &["status", "phase"]).to_owned();
                if phase(object) != phase(old) {
                    object_mut(object, &["status"])
                        .insert("lastPhaseTransitionTime".into(), object::now().into());
                }
                Ok(())
            }
            ("", "persistentvolumeclaims", "") => self.admit_growth(object, old).await,
            ("", "pods", "resize") => self.admit_resize(kind, object).await,
            ("scheduling.k8s.io", "priorityclasses", "")
                if flag(object, &["globalDefault"]) && !flag(old, &["globalDefault"]) =>
            {
                self.only_default(kind, object).await
            }
            _ => Ok(()),
        }
    }

    /// A named object of another kind; what this member has not seen yet is asked for.
    async fn look_up(
        &self,
        group: &str,
        plural: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let Some(kind) = kinds::by_plural(group, "v1", plural) else {
            return Ok(None);
        };
        for freshness in [Freshness::Local, Freshness::Linearizable] {
            match self.get(kind, "", name, freshness).await {
                Ok(kv) => return Ok(Some(object::decode(&kv))),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn everything(&self, group: &str, plural: &str) -> Result<Vec<Value>, ApiError> {
        let Some(kind) = kinds::by_plural(group, "v1", plural) else {
            return Ok(Vec::new());
        };
        let options = ListOptions {
            resource_version: Some(0),
            ..ListOptions::default()
        };
        let page = self.list(kind, "", &options).await?;
        Ok(page.items.iter().map(|kv| object::decode(kv)).collect())
    }

    async fn admit_priority(&self, kind: &Kind<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let name = text(pod, &["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            let all = self
                .everything("scheduling.k8s.io", "priorityclasses")
                .await?;
            all.into_iter()
                .filter(|class| flag(class, &["globalDefault"]))
                .min_by_key(|class| integer(class, &["value"]).unwrap_or(0))
        } else {
            let found = self
                .look_up("scheduling.k8s.io", "priorityclasses", &name)
                .await?;
            if found.is_none() {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(forbidden(kind, pod, &why));
            }
            found
        };
        let (computed, policy) = class.as_ref().map_or((0, "PreemptLowerPriority"), |class| {
            let policy = match text(class, &["preemptionPolicy"]) {
                "" => "PreemptLowerPriority",
                policy => policy,
            };
            (integer(class, &["value"]).unwrap_or(0), policy)
        });
        if let Some(given) = integer(pod, &["spec", "priority"])
            && given != computed
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {computed} from the given PriorityClass name"
            );
            return Err(forbidden(kind, pod, &why));
        }
        if let Some(given) = at(pod, &["spec", "preemptionPolicy"]).and_then(Value::as_str)
            && given != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                 admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(forbidden(kind, pod, &why));
        }
        let policy = policy.to_owned();
        let spec = object_mut(pod, &["spec"]);
        if let Some(class) = &class {
            spec.insert("priorityClassName".into(), object::name(class).into());
        }
        spec.insert("priority".into(), computed.into());
        spec.insert("preemptionPolicy".into(), policy.into());
        Ok(())
    }

    async fn only_default(&self, kind: &Kind<'_>, class: &Value) -> Result<(), ApiError> {
        if !flag(class, &["globalDefault"]) {
            return Ok(());
        }
        let all = self
            .everything("scheduling.k8s.io", "priorityclasses")
            .await?;
        let other = all
            .iter()
            .filter(|other| flag(other, &["globalDefault"]))
            .map(object::name)
            .find(|name| *name != object::name(class));
        match other {
            None => Ok(()),
            Some(name) => {
                let why = format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                );
                Err(forbidden(kind, class, &why))
            }
        }
    }

    async fn admit_runtime(&self, kind: &Kind<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let name = text(pod, &["spec", "runtimeClassName"]).to_owned();
        if name.is_empty() {
            if map(pod, &["spec", "overhead"]).is_some_and(|overhead| !overhead.is_empty()) {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                return Err(forbidden(kind, pod, why));
            }
            return Ok(());
        }
        let Some(class) = self.look_up("node.k8s.io", "runtimeclasses", &name).await? else {
            let why = format!("pod rejected: RuntimeClass \"{name}\" not found");
            return Err(forbidden(kind, pod, &why));
        };
        with_runtime(pod, &class).map_err(|why| forbidden(kind, pod, &why))
    }

    /// A claim that names no class gets the default one: the newest where there are several.
    async fn admit_class(&self, claim: &mut Value) -> Result<(), ApiError> {
        let old_name = "volume.beta.kubernetes.io/storage-class";
        if at(claim, &["spec", "storageClassName"]).is_some()
            || at(claim, &["metadata", "annotations", old_name]).is_some()
        {
            return Ok(());
        }
        let all = self.everything("storage.k8s.io", "storageclasses").await?;
        if let Some(class) = default_class(&all) {
            let name = object::name(class).to_owned();
            object_mut(claim, &["spec"]).insert("storageClassName".into(), name.into());
        }
        Ok(())
    }

    async fn admit_growth(&self, claim: &Value, old: &Value) -> Result<(), ApiError> {
        let size = |claim: &Value| {
            text(claim, &["spec", "resources", "requests", "storage"])
                .parse::<Quantity>()
                .ok()
        };
        let grows = match (size(claim), size(old)) {
            (Some(new), Some(before)) => new > before,
            _ => false,
        };
        if !grows {
            return Ok(());
        }
        if text(old, &["status", "phase"]) != "Bound" {
            return Err(forbidden(
                &CLAIM,
                claim,
                "Only bound persistent volume claims can be expanded",
            ));
        }
        let name = text(old, &["spec", "storageClassName"]);
        let class = match name {
            "" => None,
            name => {
                self.look_up("storage.k8s.io", "storageclasses", name)
                    .await?
            }
        };
        if class.is_some_and(|class| storage_class::may_grow(&class)) {
            return Ok(());
        }
        Err(forbidden(
            &CLAIM,
            claim,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc \
             must support resize",
        ))
    }
}

/// The class that claims without one get.
pub(crate) fn default_class(classes: &[Value]) -> Option<&Value> {
    classes
        .iter()
        .filter(|class| storage_class::is_default(class))
        .max_by(|a, b| {
            let age = |class: &Value| object::meta(class, "creationTimestamp").to_owned();
            // Of the same second, the first by name.
            age(a)
                .cmp(&age(b))
                .then_with(|| object::name(b).cmp(object::name(a)))
        })
}

fn protect(object: &mut Value, finalizer: &str) {
    let finalizers = object_mut(object, &["metadata"])
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if !finalizers.is_array() {
        *finalizers = json!([]);
    }
    if let Value::Array(list) = finalizers
        && !list.iter().any(|known| known == finalizer)
    {
        list.push(finalizer.into());
    }
}

/// Pure: the pod with what its runtime class adds, or why it is refused.
fn with_runtime(pod: &mut Value, class: &Value) -> Result<(), String> {
    let overhead = at(class, &["overhead", "podFixed"]);
    let given = map(pod, &["spec", "overhead"]).is_some_and(|given| !given.is_empty());
    if given && !same(at(pod, &["spec", "overhead"]), overhead) {
        return Err(
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
        );
    }
    if let Some(overhead) = overhead.cloned() {
        object_mut(pod, &["spec"]).insert("overhead".into(), overhead);
    }
    for (key, value) in map(class, &["scheduling", "nodeSelector"])
        .into_iter()
        .flatten()
    {
        let selector = object_mut(pod, &["spec", "nodeSelector"]);
        match selector.get(key) {
            Some(known) if known != value => {
                let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                     pod.spec.nodeSelector[{key}] = {}",
                    shown(value),
                    shown(known)
                ));
            }
            _ => {
                selector.insert(key.clone(), value.clone());
            }
        }
    }
    let more: Vec<Value> = list(class, &["scheduling", "tolerations"])
        .iter()
        .filter(|toleration| !list(pod, &["spec", "tolerations"]).contains(toleration))
        .cloned()
        .collect();
    if !more.is_empty() {
        let known = object_mut(pod, &["spec"])
            .entry("tolerations")
            .or_insert_with(|| json!([]));
        if let Value::Array(known) = known {
            known.extend(more);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Update of an object or a subresource: read, compute, compare-and-set, again when another write came in
//! between. Patches and the status and scale subresources go through here too.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::judges::{Attempt, Operation};
use super::{
    ApiError, MAX_ATTEMPTS, Registry, WriteOptions, Written, key, node_ranges, object,
    service_alloc,
};
use crate::kinds::{Cause, Kind, meta};
use crate::patch::track_update;
use crate::schema::drop_unset;
use crate::store::{Compare, Freshness, KeyValue, Op, Txn};

/// Kinds whose whole-object updates must name the version they replace.
const CONDITIONAL_ONLY: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Who writes `metadata.managedFields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The write sets the fields that it changes.
    Track,
    /// The same, by way of the scale subresource.
    TrackScale,
    /// Server-side apply has already said who owns what.
    Done,
}

/// The version that a write wants to replace; empty for whichever is there, which "0" says too.
pub(super) fn pinned_version(object: &Value) -> &str {
    match object::meta(object, "resourceVersion") {
        "0" => "",
        version => version,
    }
}

/// Which part of an object is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) kind: &'a Kind<'a>,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) subresource: &'a str,
}

impl Registry {
    /// PUT: the object as the client wants it.
    pub(crate) async fn update(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        check_name(&object, name)?;
        let conditional = kind.is_custom() || CONDITIONAL_ONLY.contains(&(kind.group, kind.plural));
        if conditional && pinned_version(&object).is_empty() {
            return Err(ApiError::invalid_field(
                kind,
                name,
                "metadata.resourceVersion",
                Cause::Invalid,
                "Invalid value: 0: must be specified for an update",
            ));
        }
        let place = Place {
            kind,
            namespace,
            name,
            subresource,
        };
        self.modify(
            place,
            options,
            Ownership::Track,
            move |_| Ok(object.clone()),
        )
        .await
    }

    /// `compute` gets the live object (with its resourceVersion) and returns the wanted one. It runs again
    /// when another write came in between, unless the result names the version that it wants to replace.
    pub(super) async fn modify(
        &self,
        place: Place<'_>,
        options: &WriteOptions,
        ownership: Ownership,
        mut compute: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        let Place {
            kind: served,
            namespace,
            name,
            ..
        } = place;
        let kind = served;
        // Who else is asked may take long, and may write the object itself.
        let _turn = if self.is_judged(kind).await? {
            None
        } else {
            Some(self.turn(&key::object(kind, namespace, name)).await)
        };
        let mut freshness = Freshness::Local;
        for _ in 0..MAX_ATTEMPTS {
            let kv = match self.get(kind, namespace, name, freshness).await {
                // What this member has not seen yet may still be there.
                Err(error) if error.is_not_found() && freshness == Freshness::Local => {
                    freshness = Freshness::Linearizable;
                    continue;
                }
                other => other?,
            };
            let stored = object::decode(&kv);
            // Only a further version of a kind is shown otherwise than it is replaced.
            let kept = kind.strategy.stored().map(|_| stored.clone());
            let live = self.one_to_served(kind, stored).await?;
            let mut wanted = compute(&live)?;
            let pinned = pinned_version(&wanted).to_owned();
            let stale = !pinned.is_empty() && pinned != kv.mod_revision.to_string();
            if stale && freshness == Freshness::Local {
                freshness = Freshness::Linearizable;
                continue;
            }
            if stale {
                return Err(ApiError::modified(kind, name));
            }
            let mut place = place;
            let mut live = live;
            if let Some((kind, stored)) = kind.strategy.stored().zip(kept) {
                // What this version asks for beyond the one that is stored.
                let errors = served
                    .strategy
                    .validate(&wanted, Some(&live), place.subresource);
                if !errors.is_empty() {
                    return Err(ApiError::invalid(served, name, &errors));
                }
                (place.kind, live) = (kind, stored);
                wanted = served.strategy.to_stored(wanted);
            }
            match self
                .replace(place, options, ownership, &kv, live, wanted)
                .await?
            {
                Some(written) => return Ok(written),
                None => freshness = Freshness::Linearizable,
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// `None`: another write came in between.
    async fn replace(
        &self,
        place: Place<'_>,
        options: &WriteOptions,
        ownership: Ownership,
        kv: &Arc<KeyValue>,
        live: Value,
        wanted: Value,
    ) -> Result<Option<Written>, ApiError> {
        let Place {
            kind,
            name,
            subresource,
            ..
        } = place;
        let mut old = live;
        object::remove_meta(&mut old, "resourceVersion");
        let mut new = wanted;
        keep_identity(place, &mut new, &old)?;
        kind.strategy.default(&mut new);
        kind.strategy.prepare_update(&mut new, &old, subresource);
        if service_alloc::concerns(kind) && subresource.is_empty() {
            service_alloc::carry_over(&mut new, &old);
        }
        self.admit_update(kind, &mut new, &old, subresource).await?;
        let requester = options.requester();
        // Who scales is judged by the Scale that is written.
        let scales = ownership == Ownership::TrackScale;
        let before = judged_as(kind, &old, scales);
        let attempt = Attempt {
            kind,
            speaks: scales.then_some(super::scale::SPEAKS),
            requested: None,
            namespace: place.namespace,
            name,
            subresource: if scales { "scale" } else { subresource },
            operation: Operation::Update,
            object: None,
            old: Some(&before),
            dry_run: options.dry_run,
            options: &options.said,
            requester: &requester,
            remarks: &options.remarks,
        };
        let mutated = {
            let wanted = judged_as(kind, &new, scales);
            let object = Some(&*wanted);
            self.mutated(Attempt { object, ..attempt }).await?
        };
        if let Some(mutated) = mutated {
            new = match scales {
                true => super::scale::scaled(kind, &new, &mutated)?,
                false => super::create::accepted(kind, &new, mutated)?,
            };
            object::remove_meta(&mut new, "resourceVersion");
            kind.strategy.prepare_update(&mut new, &old, subresource);
        }
        let mut errors = meta::validate(kind, &new, Some(&old));
        errors.extend(kind.strategy.validate(&new, Some(&old), subresource));
        if !errors.is_empty() {
            return Err(ApiError::invalid(kind, name, &errors));
        }
        options.judge(Some(&old), &new)?;
        {
            let wanted = judged_as(kind, &new, scales);
            let object = Some(&*wanted);
            self.judged(Attempt { object, ..attempt }).await?;
        }
        let mut txn = Txn::default();
        if service_alloc::concerns(kind) && subresource.is_empty() {
            let plan = self.allocate(kind, &mut new, Some(&old)).await?;
            plan.add_to(&mut txn, &new);
        }
        // Where quotas have something to say, the writers of the namespace wait for each other.
        let mut _quota_turn = None;
        let mut charge = self
            .charge(kind, place.namespace, &new, Some(&old), subresource)
            .await?;
        if !charge.is_empty() {
            _quota_turn = self.quota_turn(kind, place.namespace).await?;
            charge = self
                .charge(kind, place.namespace, &new, Some(&old), subresource)
                .await?;
        }
        charge.add_to(&mut txn);
        if node_ranges::concerns(kind, &new, Some(&old)) {
            self.guard_ranges(kind, &new, &mut txn).await?;
        }
        drop_unset(kind, &mut new);
        let through = match ownership {
            Ownership::Track => Some(subresource),
            Ownership::TrackScale => Some("scale"),
            Ownership::Done => None,
        };
        if let Some(through) = through.filter(|_| !options.manager.is_empty()) {
            track_update(
                kind,
                Some(&old),
                &mut new,
                &options.manager,
                through,
                &object::now(),
            );
        }
        if same_but_for_times(&old, &new) {
            return Ok(Some(Written::Stored(Arc::clone(kv))));
        }
        let gone = nothing_holds(&new);
        if options.dry_run {
            object::set_meta(&mut new, "resourceVersion", kv.mod_revision.to_string());
            return Ok(Some(Written::Unstored(new)));
        }
        let object_key = key::object(kind, place.namespace, name);
        txn.compares.insert(
            0,
            Compare {
                key: object_key.clone(),
                mod_revision: kv.mod_revision,
            },
        );
        if gone {
            txn.ops = removal(kind, &object_key, &old);
            object::set_meta(&mut new, "resourceVersion", kv.mod_revision.to_string());
            return Ok(self.commit(txn).await?.ok().map(|_| Written::Unstored(new)));
        }
        let new = self.to_stored(kind, new).await?;
        txn.ops.insert(
            0,
            Op::Put {
                key: object_key,
                value: object::encode(&new),
            },
        );
        let written = self.commit(txn).await?;
        Ok(written
            .ok()
            .and_then(|versions| versions.into_iter().next())
            .map(Written::Stored))
    }
}

fn judged_as<'a>(kind: &Kind<'_>, object: &'a Value, scales: bool) -> Cow<'a, Value> {
    match scales {
        true => Cow::Owned(super::scale::of(kind, object)),
        false => Cow::Borrowed(object),
    }
}

/// The writes that remove an object and what it holds.
pub(super) fn removal(kind: &Kind<'_>, object_key: &str, last: &Value) -> Vec<Op> {
    let mut ops = vec![Op::Delete {
        key: object_key.to_owned(),
    }];
    if service_alloc::concerns(kind) {
        ops.extend(
            service_alloc::held(last)
                .into_iter()
                .map(|key| Op::Delete { key }),
        );
    }
    ops
}

/// An object that is being deleted goes when the last thing that holds it is gone.
pub(super) fn nothing_holds(object: &Value) -> bool {
    object::is_terminating(object)
        && object::finalizers(object).is_empty()
        && !holds_namespace(object)
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
}

pub(super) fn holds_namespace(object: &Value) -> bool {
    object["kind"] == "Namespace"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
}

/// The object has to say its name, and it is the one on the URL.
pub(super) fn check_name(object: &Value, name: &str) -> Result<(), ApiError> {
    match object::name(object) {
        same if same == name => Ok(()),
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        other => Err(ApiError::bad_request(format!(
            "the name of the object ({other}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Identity and what the server owns of the metadata is not for clients to change.
fn keep_identity(place: Place<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let Place {
        kind,
        namespace,
        name,
        ..
    } = place;
    super::create::set_namespace(kind, namespace, new)?;
    let wanted_uid = object::uid(new).to_owned();
    if !wanted_uid.is_empty() && wanted_uid != object::uid(old) {
        return Err(ApiError::uid_mismatch(
            kind,
            name,
            &wanted_uid,
            object::uid(old),
        ));
    }
    new["kind"] = old["kind"].clone();
    new["apiVersion"] = super::create::api_version(kind).into();
    object::set_meta(new, "name", name);
    object::remove_meta(new, "resourceVersion");
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
    ] {
        match old["metadata"].get(field) {
            Some(value) => object::set_meta(new, field, value.clone()),
            None => object::remove_meta(new, field),
        }
    }
    // What a patch leaves of a list when the last entry goes.
    if new["metadata"]["finalizers"]
        .as_array()
        .is_some_and(Vec::is_empty)
    {
        object::remove_meta(new, "finalizers");
    }
    let unmanaged = new["metadata"]["managedFields"]
        .as_array()
        .is_none_or(Vec::is_empty);
    if unmanaged && let Some(entries) = old["metadata"].get("managedFields") {
        object::set_meta(new, "managedFields", entries.clone());
    }
    Ok(())
}

/// A write that changes nothing is no write. Looked at in place: each update passes here.
fn same_but_for_times(old: &Value, new: &Value) -> bool {
    same_without(old.as_object(), new.as_object(), "metadata")
        && same_without(metadata_of(old), metadata_of(new), "managedFields")
        && same_managed(managed_of(old), managed_of(new))
}

fn metadata_of(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

fn managed_of(object: &Value) -> &[Value] {
    let entries = metadata_of(object).and_then(|metadata| metadata.get("managedFields"));
    entries.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether both have the same members but for that one; none is as empty.
fn same_without(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    but: &str,
) -> bool {
    let members = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(but));
    let same = |key: &str, value: &Value| new.is_some_and(|new| new.get(key) == Some(value));
    old.map_or(0, members) == new.map_or(0, members)
        && old
            .into_iter()
            .flatten()
            .all(|(key, value)| key == but || same(key, value))
}

fn same_managed(old: &[Value], new: &[Value]) -> bool {
    let same = |(old, new): (&Value, &Value)| match (old.as_object(), new.as_object()) {
        (Some(old), Some(new)) => same_without(Some(old), Some(new), "time"),
        _ => old == new,
    };
    old.len() == new.len() && old.iter().zip(new).all(same)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_times_of_ownership_make_no_difference() {
        let object = |data: &str, label: &str, manager: &str, time: &str| {
            json!({"kind": "ConfigMap", "data": {"k": data}, "metadata": {
                "name": "n", "labels": {"l": label},
                "managedFields": [{"manager": manager, "time": time, "operation": "Update"}],
            }})
        };
        let old = object("v", "l", "m", "1");
        assert!(same_but_for_times(&old, &old));
        assert!(same_but_for_times(&old, &object("v", "l", "m", "2")));
        assert!(!same_but_for_times(&old, &object("w", "l", "m", "1")));
        assert!(!same_but_for_times(&old, &object("v", "x", "m", "1")));
        assert!(!same_but_for_times(&old, &object("v", "l", "x", "1")));
        let mut other = old.clone();
        other["metadata"]["managedFields"] = json!([]);
        assert!(!same_but_for_times(&old, &other));
        let mut other = old.clone();
        object::remove_meta(&mut other, "labels");
        assert!(!same_but_for_times(&old, &other) && !same_but_for_times(&other, &old));
        let mut other = old.clone();
        other["immutable"] = true.into();
        assert!(!same_but_for_times(&old, &other) && !same_but_for_times(&other, &old));
        // An entry without a time is the same as one with it.
        let mut other = old.clone();
        other["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Update"}]);
        assert!(same_but_for_times(&old, &other));
        assert!(same_but_for_times(&json!({}), &json!({"metadata": {}})));
    }
}

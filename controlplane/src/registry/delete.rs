//! Delete: preconditions, grace periods, finalizers, propagation, Namespace termination, collections.

use std::sync::Arc;

use serde_json::{Value, json};

use super::judges::{Attempt, Operation, Requester};
use super::list::ListOptions;
use super::update::{holds_namespace, nothing_holds, removal};
use super::{ApiError, DeleteOptions, MAX_ATTEMPTS, Registry, Written, key, object};
use crate::kinds::{Cause, Kind, Scope};
use crate::store::{Compare, Freshness, KeyValue, Op, Txn};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Namespaces that the cluster cannot be without.
const PROTECTED_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

/// What a deletion has led to.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// The object waits for its finalizers, its grace period or its content.
    Pending(Written),
}

/// What has to be done to one object.
#[derive(Debug, PartialEq)]
enum Plan {
    Remove,
    Update(Value),
    Unchanged,
}

impl DeleteOptions {
    /// The fields that reviews show.
    fn said(&self) -> Value {
        let mut said = json!({});
        if let Some(seconds) = self.grace_period_seconds {
            said["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = &self.propagation {
            said["propagationPolicy"] = policy.as_str().into();
        }
        for (field, value) in [
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
        ] {
            if let Some(value) = value {
                said["preconditions"][field] = value.as_str().into();
            }
        }
        said
    }
}

impl Registry {
    pub(crate) async fn delete(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deleted, ApiError> {
        check(kind, name, options)?;
        for _ in 0..MAX_ATTEMPTS {
            let kv = self
                .get(kind, namespace, name, Freshness::Linearizable)
                .await?;
            let live = object::decode(&kv);
            check_preconditions(kind, name, &live, options)?;
            if !options.is_eviction && self.is_judged(kind).await? {
                let requester = options
                    .requester
                    .clone()
                    .unwrap_or_else(|| Requester::controller("waggle"));
                let said = options.said();
                let attempt = Attempt {
                    kind,
                    speaks: None,
                    requested: None,
                    namespace,
                    name,
                    subresource: "",
                    operation: Operation::Delete,
                    object: None,
                    old: Some(&live),
                    dry_run,
                    options: &said,
                    requester: &requester,
                    remarks: &options.remarks,
                };
                self.mutated(attempt).await?;
                self.judged(attempt).await?;
            }
            let plan = plan(kind, &live, options, jiff::Timestamp::now());
            let done = self.carry_out(kind, &kv, live, plan, dry_run).await?;
            if let Some(deleted) = done {
                return Ok(deleted);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// `None`: another write came in between.
    async fn carry_out(
        &self,
        kind: &Kind<'_>,
        kv: &Arc<KeyValue>,
        live: Value,
        plan: Plan,
        dry_run: bool,
    ) -> Result<Option<Deleted>, ApiError> {
        let (namespace, name) = (object::namespace(&live), object::name(&live));
        let object_key = key::object(kind, namespace, name);
        let mut txn = Txn {
            compares: vec![Compare {
                key: object_key.clone(),
                mod_revision: kv.mod_revision,
            }],
            ops: Vec::new(),
        };
        match plan {
            Plan::Unchanged => Ok(Some(Deleted::Pending(Written::Stored(Arc::clone(kv))))),
            Plan::Remove => {
                txn.ops = removal(kind, &object_key, &live);
                let done = dry_run || self.commit(txn).await?.is_ok();
                Ok(done.then_some(Deleted::Gone(live)))
            }
            Plan::Update(new) if dry_run => Ok(Some(Deleted::Pending(Written::Unstored(new)))),
            Plan::Update(new) => {
                txn.ops = vec![Op::Put {
                    key: object_key,
                    value: object::encode(&new),
                }];
                let written = self.commit(txn).await?.ok();
                Ok(written
                    .and_then(|versions| versions.into_iter().next())
                    .map(|kv| Deleted::Pending(Written::Stored(kv))))
            }
        }
    }

    /// Deletes what the options select; returns the objects as they were.
    pub(crate) async fn delete_collection(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Vec<Arc<KeyValue>>, ApiError> {
        let page = self.list(kind, namespace, list).await?;
        for kv in &page.items {
            let (namespace, name) = match (kind.scope, key::parse(kind, &kv.key)) {
                (Scope::Cluster, Some((_, name))) => ("", name),
                (Scope::Namespaced, Some(parts)) => parts,
                (_, None) => continue,
            };
            match self.delete(kind, namespace, name, options, dry_run).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(page.items)
    }
}

fn check(kind: &Kind<'_>, name: &str, options: &DeleteOptions) -> Result<(), ApiError> {
    if kind.group.is_empty() && kind.plural == "namespaces" && PROTECTED_NAMESPACES.contains(&name)
    {
        return Err(ApiError::forbidden(
            "",
            "namespaces",
            name,
            "this namespace may not be deleted",
        ));
    }
    match options.propagation.as_deref() {
        None | Some("Background" | "Foreground" | "Orphan") => Ok(()),
        Some(other) => Err(ApiError::invalid_named(
            "meta.k8s.io",
            "DeleteOptions",
            "",
            &[super::error::field_error(
                "propagationPolicy",
                Cause::NotSupported,
                format!(
                    "Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
                ),
            )],
        )),
    }
}

pub(super) fn check_preconditions(
    kind: &Kind<'_>,
    name: &str,
    live: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    if let Some(uid) = options
        .uid
        .as_deref()
        .filter(|uid| *uid != object::uid(live))
    {
        return Err(ApiError::uid_mismatch(kind, name, uid, object::uid(live)));
    }
    let version = object::meta(live, "resourceVersion");
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|wanted| *wanted != version)
    {
        return Err(ApiError::conflict(
            kind,
            name,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object \
                 meta: {version}"
            ),
        ));
    }
    Ok(())
}

/// Finalizers after the propagation policy has had its say.
fn finalizers_after(live: &Value, propagation: Option<&str>) -> Vec<String> {
    let mut list: Vec<String> = object::finalizers(live)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let wanted = match propagation {
        None => return list,
        Some("Foreground") => Some(FOREGROUND),
        Some("Orphan") => Some(ORPHAN),
        Some(_) => None,
    };
    list.retain(|name| (name != FOREGROUND && name != ORPHAN) || Some(name.as_str()) == wanted);
    if let Some(wanted) = wanted
        && !list.iter().any(|name| name == wanted)
    {
        list.push(wanted.to_owned());
    }
    list
}

/// The policy that holds: the one asked for; else what the object's finalizers say already; else the kind's.
fn propagation<'a>(kind: &Kind, live: &Value, options: &'a DeleteOptions) -> Option<&'a str> {
    let said = object::finalizers(live)
        .iter()
        .any(|name| *name == FOREGROUND || *name == ORPHAN);
    let orphans = kind.strategy.default_propagation() == "Orphan";
    match options.propagation.as_deref() {
        None if orphans && !said && !object::is_terminating(live) => Some("Orphan"),
        asked => asked,
    }
}

/// Seconds that the object still has to end by itself.
fn grace(kind: &Kind<'_>, live: &Value, options: &DeleteOptions) -> i64 {
    let Some(default) = kind.strategy.default_grace_period(live) else {
        return 0;
    };
    let unbound = live["spec"]["nodeName"].as_str().unwrap_or("").is_empty();
    let finished = matches!(
        live["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if kind.plural == "pods" && (unbound || finished) {
        return 0;
    }
    match options.grace_period_seconds {
        Some(seconds) if seconds < 0 => 1,
        Some(seconds) => seconds,
        None => default.max(0),
    }
}

fn plan(kind: &Kind<'_>, live: &Value, options: &DeleteOptions, now: jiff::Timestamp) -> Plan {
    let mut new = live.clone();
    object::remove_meta(&mut new, "resourceVersion");
    let before = new.clone();
    let finalizers = finalizers_after(live, propagation(kind, live, options));
    if finalizers.is_empty() {
        object::remove_meta(&mut new, "finalizers");
    } else {
        object::set_meta(&mut new, "finalizers", finalizers);
    }
    let mut grace = grace(kind, live, options);
    if object::is_terminating(live) {
        let left = live["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        // A deletion may be hurried, not delayed, and only by those who say so.
        let asked = options.grace_period_seconds.is_some() || grace == 0;
        grace = if asked { grace.min(left) } else { left };
        if grace < left {
            mark(&mut new, grace, now);
        }
    } else {
        mark(&mut new, grace, now);
        bump_generation(&mut new);
        kind.strategy.prepare_delete(&mut new);
        if new["kind"] == "Namespace" {
            new["status"]["phase"] = "Terminating".into();
        }
    }
    if nothing_holds(&new) && !holds_namespace(&new) {
        Plan::Remove
    } else if new == before {
        Plan::Unchanged
    } else {
        Plan::Update(new)
    }
}

fn mark(object: &mut Value, grace: i64, now: jiff::Timestamp) {
    let at = now
        .checked_add(jiff::SignedDuration::from_secs(grace))
        .unwrap_or(now);
    object::set_meta(object, "deletionTimestamp", object::rfc3339(at));
    object::set_meta(object, "deletionGracePeriodSeconds", grace);
}

fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|g| *g > 0) {
        object::set_meta(object, "generation", generation + 1);
    }
}

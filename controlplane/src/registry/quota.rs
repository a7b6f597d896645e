//! Quotas of a namespace: a write that takes from them says so in its own transaction, so that two writers never take
//! the same rest. What is given back is counted by `controllers::quota`.

use serde_json::{Map, Value};

use super::{ApiError, Registry, key, object};
use crate::kinds::access::{map, text};
use crate::kinds::quantity::Quantity;
use crate::kinds::resource_quota::KIND;
use crate::kinds::{Kind, Scope};
use crate::store::{Compare, Freshness, Op, RangeRequest, Txn};

pub(crate) mod usage;

#[cfg(test)]
mod tests;

use usage::Usage;

/// Writers of one namespace with quotas take turns.
pub(super) const TURNS: usize = 64;

/// Quotas that have to be written with an object.
#[derive(Debug, Default)]
pub(super) struct Charge {
    quotas: Vec<Value>,
}

impl Charge {
    pub(super) fn is_empty(&self) -> bool {
        self.quotas.is_empty()
    }

    pub(super) fn add_to(&self, txn: &mut Txn) {
        for quota in &self.quotas {
            let quota_key = key::object(&KIND, object::namespace(quota), object::name(quota));
            let version = object::meta(quota, "resourceVersion").parse().unwrap_or(0);
            txn.compares.push(Compare {
                key: quota_key.clone(),
                mod_revision: version,
            });
            txn.ops.push(Op::Put {
                key: quota_key,
                value: object::encode(quota),
            });
        }
    }
}

/// Whether a write of the kind can concern a quota at all.
fn concerns(kind: &Kind<'_>, subresource: &str) -> bool {
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    // Events are many, and go by themselves.
    kind.scope == Scope::Namespaced
        && (subresource.is_empty() || (is_pod && subresource == "resize"))
        && !(kind.plural == "events" && matches!(kind.group, "" | "events.k8s.io"))
}

impl Registry {
    /// Waits for the turn of a namespace, if it has quotas.
    pub(super) async fn quota_turn(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, ApiError> {
        use std::hash::BuildHasher;
        if !concerns(kind, "") || self.quotas(namespace).await?.is_empty() {
            return Ok(None);
        }
        let hash = self.inner.hasher.hash_one(namespace);
        let at = usize::try_from(hash % TURNS as u64).unwrap_or(0);
        Ok(Some(self.inner.quota_turns[at].lock().await))
    }

    pub(crate) async fn quotas(&self, namespace: &str) -> Result<Vec<Value>, ApiError> {
        let page = self
            .store()
            .range(RangeRequest {
                prefix: key::prefix(&KIND, namespace),
                after: None,
                limit: 0,
                revision: None,
                freshness: Freshness::Local,
            })
            .await?;
        Ok(page.items.iter().map(|kv| object::decode(kv)).collect())
    }

    /// What the quotas of the namespace say to a write, and what has to be written with it.
    pub(super) async fn charge(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        new: &Value,
        old: Option<&Value>,
        subresource: &str,
    ) -> Result<Charge, ApiError> {
        if !concerns(kind, subresource) {
            return Ok(Charge::default());
        }
        let mut charge = Charge::default();
        for quota in self.quotas(namespace).await? {
            let name = object::name(new);
            let said = charged(&quota, kind, new, old)
                .map_err(|why| ApiError::forbidden(kind.group, kind.plural, name, &why))?;
            charge.quotas.extend(said);
        }
        Ok(charge)
    }
}

fn hard(quota: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    map(quota, &["spec", "hard"]).unwrap_or(&NONE)
}

fn shown(usage: &Usage) -> String {
    let parts: Vec<String> = usage
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    parts.join(",")
}

/// Pure: the quota with what the write takes from it; `None` when that is nothing.
fn charged(
    quota: &Value,
    kind: &Kind<'_>,
    new: &Value,
    old: Option<&Value>,
) -> Result<Option<Value>, String> {
    if !usage::is_in_scope(quota, kind, new) {
        return Ok(None);
    }
    let hard = hard(quota);
    let quota_name = object::name(quota);
    if old.is_none() && (kind.group, kind.plural) == ("", "pods") {
        let names: Vec<&str> = hard.keys().map(String::as_str).collect();
        let unsaid = usage::unsaid(&names, new);
        if !unsaid.is_empty() {
            return Err(format!(
                "failed quota: {quota_name}: must specify {}",
                unsaid.join("; ")
            ));
        }
    }
    let before = old
        .filter(|old| usage::is_in_scope(quota, kind, old))
        .map(|old| usage::of(kind, old))
        .unwrap_or_default();
    let mut wanted = usage::of(kind, new);
    wanted.retain(|name, amount| {
        if let Some(had) = before.get(name) {
            *amount = *amount - *had;
        }
        hard.contains_key(name) && !amount.is_zero() && !amount.is_negative()
    });
    if wanted.is_empty() {
        return Ok(None);
    }
    let unknown: Vec<&str> = wanted
        .keys()
        .filter(|name| text(quota, &["status", "used", name]).is_empty())
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(format!(
            "status unknown for quota: {quota_name}, resources: {}",
            unknown.join(",")
        ));
    }
    let amount = |part: &[&str]| {
        text(quota, part)
            .parse::<Quantity>()
            .unwrap_or_else(|_| usage::whole(0))
    };
    let (mut requested, mut used, mut limited) = (Usage::new(), Usage::new(), Usage::new());
    let mut changed = quota.clone();
    for (name, wanted) in &wanted {
        let has = amount(&["status", "used", name]);
        let most = amount(&["spec", "hard", name]);
        if has + *wanted > most {
            requested.insert(name.clone(), *wanted);
            used.insert(name.clone(), has);
            limited.insert(name.clone(), most);
        }
        changed["status"]["used"][name.as_str()] = (has + *wanted).to_string().into();
    }
    if requested.is_empty() {
        return Ok(Some(changed));
    }
    Err(format!(
        "exceeded quota: {quota_name}, requested: {}, used: {}, limited: {}",
        shown(&requested),
        shown(&used),
        shown(&limited)
    ))
}

//! ClusterRoles that are the sum of others, by label (`aggregationRule`).

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client};

use super::selector;
use super::worker::Next;

pub(super) const NAME: &str = "clusterrole-aggregation-controller";

pub(super) struct Controller {
    client: Client,
    cache: Cache,
}

/// Any role may be part of any sum.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let (roles, queue) = (cache.cluster_roles.clone(), queue.clone());
    vec![cache.cluster_roles.subscribe(move |delta| {
        queue.add(delta.key.clone());
        for role in roles.list("") {
            if role.aggregation_rule.is_some() {
                queue.add(ObjectKey::of(role.as_ref()));
            }
        }
    })]
}

/// The rules that the role should have, in the order of the parts' names, each once. Pure.
fn sum<'a>(role: &ClusterRole, all: impl Iterator<Item = &'a ClusterRole>) -> Vec<PolicyRule> {
    let selectors = role
        .aggregation_rule
        .as_ref()
        .and_then(|rule| rule.cluster_role_selectors.as_deref())
        .unwrap_or_default();
    let mut parts: Vec<&ClusterRole> = all
        .filter(|part| part.metadata.name != role.metadata.name)
        .filter(|part| {
            selectors
                .iter()
                .any(|wanted| selector::matches(wanted, part.metadata.labels.as_ref()))
        })
        .collect();
    parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in parts.iter().flat_map(|part| part.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(role) = self.cache.cluster_roles.get_key(&key) else {
            return Ok(Next::Wait);
        };
        if role.aggregation_rule.is_none() || role.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let all = self.cache.cluster_roles.list("");
        let rules = sum(&role, all.iter().map(AsRef::as_ref));
        if role.rules.as_deref().unwrap_or_default() != rules {
            let mut changed = role.as_ref().clone();
            changed.rules = Some(rules);
            match self.client.update(&changed).await {
                Err(error) if error.code() == 404 => {}
                result => drop(result?),
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn role(value: serde_json::Value) -> ClusterRole {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_sum_has_the_rules_of_its_parts_once() {
        let part = |name: &str, label: &str, verb: &str| {
            role(json!({"metadata": {"name": name, "labels": {"to": label}},
                "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]}))
        };
        let whole = role(json!({
            "metadata": {"name": "whole", "labels": {"to": "x"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]},
            "rules": [{"verbs": ["own"]}],
        }));
        let all = [
            part("b", "x", "get"),
            part("a", "x", "list"),
            part("c", "x", "get"),
            part("d", "y", "delete"),
            whole.clone(),
        ];
        let verbs: Vec<String> = sum(&whole, all.iter())
            .into_iter()
            .map(|rule| rule.verbs.join(","))
            .collect();
        assert_eq!(verbs, ["list", "get"]);
    }
}

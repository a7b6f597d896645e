//! Whether a webhook or a policy is about a write: rules, selectors, conditions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::review;
use crate::kinds::access::{at, list, text};
use crate::kinds::custom::expressions::{self, Authorizer, Budget, Question};
use crate::kinds::{Kind, KindRef, Scope, by_plural, selector};
use crate::registry::judges::Attempt;
use crate::registry::{ApiError, Registry, object};
use crate::store::Freshness;

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, &[field])
        .iter()
        .any(|value| value == "*" || value == wanted)
}

fn resource_matches(rule: &Value, plural: &str, subresource: &str) -> bool {
    list(rule, &["resources"])
        .iter()
        .filter_map(Value::as_str)
        .any(|wanted| {
            let (resource, below) = wanted.split_once('/').unwrap_or((wanted, ""));
            let of = resource == "*" || resource == plural;
            of && (below == subresource || below == "*")
                && (!subresource.is_empty() || !wanted.contains('/') || below == "*")
        })
}

fn scope_matches(rule: &Value, kind: &Kind<'_>) -> bool {
    match text(rule, &["scope"]) {
        "Cluster" => kind.scope == Scope::Cluster,
        "Namespaced" => kind.scope == Scope::Namespaced,
        _ => true,
    }
}

/// Whether the rules could match any write of the kind.
pub(super) fn may_match(matching: &Value, rules: &str, kind: &Kind<'_>) -> bool {
    list(matching, &[rules]).iter().any(|rule| {
        has(rule, "apiGroups", kind.group)
            && list(rule, &["resources"])
                .iter()
                .filter_map(Value::as_str)
                .any(|wanted| {
                    let resource = wanted.split('/').next().unwrap_or("");
                    resource == "*" || resource == kind.plural
                })
    })
}

/// In which version the write is what the rules are about; `None` when they are not. With the policy `Equivalent` that
/// may be another one than that of the request.
pub(super) fn rules_match(
    registry: &Registry,
    matching: &Value,
    rules: &str,
    attempt: Attempt<'_>,
) -> Option<Seen> {
    let excluded = list(matching, &["excludeResourceRules"]);
    if versions_match(registry, matching, excluded, attempt).is_some() {
        return None;
    }
    versions_match(registry, matching, list(matching, &[rules]), attempt)
}

/// A version in which a write is looked at; none is its own.
pub(super) type Seen = Option<KindRef>;

/// What a webhook or a policy gets to see.
#[derive(Debug)]
pub(super) struct Shown {
    version: Seen,
    object: Option<Value>,
    old: Option<Value>,
}

impl Shown {
    pub(super) async fn of(
        registry: &Registry,
        attempt: Attempt<'_>,
        version: Seen,
    ) -> Result<Self, ApiError> {
        let (mut object, mut old) = (None, None);
        if let Some(other) = &version {
            let kind = &other.get();
            for (from, to) in [(attempt.object, &mut object), (attempt.old, &mut old)] {
                *to = match from {
                    // What a subresource speaks has the same form everywhere.
                    Some(from) if attempt.speaks.is_none() => {
                        Some(registry.one_to_served(kind, from.clone()).await?)
                    }
                    from => from.cloned(),
                };
            }
        }
        Ok(Self {
            version,
            object,
            old,
        })
    }

    pub(super) fn kind<'a>(&'a self, own: &'a Kind<'a>) -> Kind<'a> {
        self.version.as_ref().map_or(*own, KindRef::get)
    }

    pub(super) fn attempt<'a>(&'a self, kind: &'a Kind<'a>, attempt: Attempt<'a>) -> Attempt<'a> {
        match self.version {
            None => attempt,
            Some(_) => Attempt {
                kind,
                requested: Some(attempt.kind),
                object: self.object.as_ref(),
                old: self.old.as_ref(),
                ..attempt
            },
        }
    }

    /// An object that was changed, as the request has it.
    pub(super) async fn back(
        &self,
        registry: &Registry,
        attempt: Attempt<'_>,
        changed: Value,
    ) -> Result<Value, ApiError> {
        match &self.version {
            Some(_) if attempt.speaks.is_some() => Ok(changed),
            None => Ok(changed),
            Some(KindRef::BuiltIn(kind)) => Ok(kind.strategy.to_stored(changed)),
            Some(KindRef::Custom(_)) => registry.one_to_served(attempt.kind, changed).await,
        }
    }
}

fn versions_match(
    registry: &Registry,
    matching: &Value,
    rules: &[Value],
    attempt: Attempt<'_>,
) -> Option<Seen> {
    if rules.iter().any(|rule| is_about(rule, attempt)) {
        return Some(None);
    }
    if rules.is_empty() || text(matching, &["matchPolicy"]) == "Exact" {
        return None;
    }
    let others = registry.equivalents(attempt.kind);
    rules.iter().find_map(|rule| {
        let other = others.iter().find(|other| {
            let kind = &other.get();
            is_about(rule, Attempt { kind, ..attempt })
        });
        other.cloned().map(Some)
    })
}

/// The same for what a binding says, where no rule is about everything.
pub(super) fn restricts_to(registry: &Registry, resources: &Value, attempt: Attempt<'_>) -> bool {
    if !list(resources, &["resourceRules"]).is_empty() {
        return rules_match(registry, resources, "resourceRules", attempt).is_some();
    }
    let excluded = list(resources, &["excludeResourceRules"]);
    versions_match(registry, resources, excluded, attempt).is_none()
}

fn is_about(rule: &Value, attempt: Attempt<'_>) -> bool {
    let kind = attempt.kind;
    has(rule, "operations", attempt.operation.name())
        && has(rule, "apiGroups", kind.group)
        && has(rule, "apiVersions", kind.version)
        && resource_matches(rule, kind.plural, attempt.subresource)
        && scope_matches(rule, kind)
        && names_match(rule, attempt.name)
}

fn names_match(rule: &Value, name: &str) -> bool {
    let names = list(rule, &["resourceNames"]);
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// `namespaceSelector` and `objectSelector`.
pub(super) async fn selectors_match(
    registry: &Registry,
    matching: &Value,
    attempt: Attempt<'_>,
) -> Result<bool, ApiError> {
    if let Some(wanted) = at(matching, &["objectSelector"])
        && !selector::is_empty(wanted)
    {
        let labels = |object: Option<&Value>| {
            // What a connection is made with has no metadata, so that nothing selects it.
            object.is_some_and(|object| {
                object.get("metadata").is_some()
                    && selector::matches(wanted, at(object, &["metadata", "labels"]))
            })
        };
        if !labels(attempt.object) && !labels(attempt.old) {
            return Ok(false);
        }
    }
    let Some(wanted) =
        at(matching, &["namespaceSelector"]).filter(|wanted| !selector::is_empty(wanted))
    else {
        return Ok(true);
    };
    let namespace = if (attempt.kind.group, attempt.kind.plural) == ("", "namespaces") {
        attempt.object.or(attempt.old).cloned()
    } else if attempt.namespace.is_empty() {
        return Ok(true);
    } else {
        namespace(registry, attempt.namespace).await?
    };
    let labels = namespace
        .as_ref()
        .and_then(|namespace| at(namespace, &["metadata", "labels"]));
    Ok(selector::matches(wanted, labels))
}

pub(super) async fn namespace(registry: &Registry, name: &str) -> Result<Option<Value>, ApiError> {
    let Some(kind) = by_plural("", "v1", "namespaces") else {
        return Ok(None);
    };
    match registry.get(kind, "", name, Freshness::Local).await {
        Ok(kv) => Ok(Some(object::decode(&kv))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What expressions about a write can refer to.
pub(super) fn variables(
    registry: &Registry,
    attempt: Attempt<'_>,
) -> Vec<(&'static str, cel::Value)> {
    let request = review::request("", attempt);
    let value = |object: Option<&Value>| expressions::plain(object.unwrap_or(&Value::Null));
    let mut variables = vec![
        ("object", value(attempt.object)),
        ("oldObject", value(attempt.old)),
        ("request", expressions::plain(&without_objects(request))),
    ];
    if let Some(access) = registry.access() {
        let who = attempt.requester;
        let user = Question {
            user: who.name.clone(),
            uid: who.uid.clone(),
            groups: who.groups.clone(),
            ..Question::default()
        };
        let resource = Question {
            group: attempt.kind.group.to_owned(),
            resource: attempt.kind.plural.to_owned(),
            subresource: attempt.subresource.to_owned(),
            namespace: attempt.namespace.to_owned(),
            name: attempt.name.to_owned(),
            ..user.clone()
        };
        let about = Authorizer::of_request(Arc::clone(access), resource);
        let authorizer = Authorizer::new(Arc::clone(access), user);
        variables.push(("authorizer", cel::Value::Opaque(Arc::new(authorizer))));
        variables.push((
            "authorizer.requestResource",
            cel::Value::Opaque(Arc::new(about)),
        ));
    }
    variables
}

fn without_objects(mut request: Value) -> Value {
    for field in ["object", "oldObject"] {
        request[field] = json!(null);
    }
    request
}

/// Whether all `matchConditions` hold; one that is false counts more than one that fails.
pub(super) fn conditions_hold(
    holder: &Value,
    variables: &[(&'static str, cel::Value)],
) -> Result<bool, String> {
    let mut budget = Budget::of_conditions();
    let mut problems = Vec::new();
    for condition in list(holder, &["matchConditions"]) {
        let source = text(condition, &["expression"]);
        let holds = expressions::compiled(source).and_then(|program| {
            program
                .holds(variables, &mut budget)
                .map_err(|error| expressions::failure(source, &error))
        });
        match holds {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_subresources_match_as_rules_say() {
        let rule = |resources: &[&str]| json!({"resources": resources});
        for (resources, plural, subresource, wanted) in [
            (&["pods"][..], "pods", "", true),
            (&["pods"], "pods", "status", false),
            (&["pods/status"], "pods", "status", true),
            (&["pods/status"], "pods", "", false),
            (&["pods/*"], "pods", "status", true),
            (&["*"], "pods", "", true),
            (&["*"], "pods", "status", false),
            (&["*/*"], "pods", "status", true),
            (&["*/*"], "pods", "", true),
            (&["*/scale"], "pods", "scale", true),
            (&["services"], "pods", "", false),
        ] {
            assert_eq!(
                resource_matches(&rule(resources), plural, subresource),
                wanted,
                "{resources:?} {plural}/{subresource}"
            );
        }
    }
}

//! Whether a webhook or a policy is about a write: rules, selectors, conditions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::review;
use crate::kinds::access::{at, list, text};
use crate::kinds::custom::expressions::{self, Authorizer, Budget, Question};
use crate::kinds::{Kind, Scope, by_plural, selector};
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

/// With the policy `Equivalent`, a rule about another version of the same resource matches as well.
pub(super) fn rules_match(matching: &Value, rules: &str, attempt: Attempt<'_>) -> bool {
    let one = |rule: &Value| is_about(matching, rule, attempt);
    list(matching, &[rules]).iter().any(one)
        && !list(matching, &["excludeResourceRules"]).iter().any(one)
}

/// The same for what a binding says, where no rule is about everything.
pub(super) fn restricts_to(resources: &Value, attempt: Attempt<'_>) -> bool {
    if !list(resources, &["resourceRules"]).is_empty() {
        return rules_match(resources, "resourceRules", attempt);
    }
    !list(resources, &["excludeResourceRules"])
        .iter()
        .any(|rule| is_about(resources, rule, attempt))
}

fn is_about(matching: &Value, rule: &Value, attempt: Attempt<'_>) -> bool {
    let kind = attempt.kind;
    let exact = text(matching, &["matchPolicy"]) == "Exact";
    has(rule, "operations", attempt.operation.name())
        && has(rule, "apiGroups", kind.group)
        && (!exact || has(rule, "apiVersions", kind.version))
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
            object.is_some_and(|object| {
                selector::matches(wanted, at(object, &["metadata", "labels"]))
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
    let request = review::request("", attempt)["request"].clone();
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
    registry: &Registry,
    holder: &Value,
    attempt: Attempt<'_>,
) -> Result<bool, String> {
    let conditions = list(holder, &["matchConditions"]);
    if conditions.is_empty() {
        return Ok(true);
    }
    let variables = variables(registry, attempt);
    let mut budget = Budget::of_conditions();
    let mut problem = None;
    for condition in conditions {
        let holds = expressions::compiled(text(condition, &["expression"])).and_then(|program| {
            program
                .holds(&variables, &mut budget)
                .map_err(|error| error.to_string())
        });
        match holds {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                let name = text(condition, &["name"]);
                problem = Some(format!("match condition {name:?}: {error}"));
            }
        }
    }
    problem.map_or(Ok(true), Err)
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

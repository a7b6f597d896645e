//! ValidatingAdmissionPolicies: rules in CEL, in force where they are bound.

use serde_json::Value;

use super::{all, matching};
use crate::kinds::access::{at, list, text};
use crate::kinds::admission::validating_policy::{BINDING, KIND};
use crate::kinds::custom::expressions;
use crate::registry::judges::Attempt;
use crate::registry::{ApiError, Registry, object};
use crate::store::Freshness;

pub(super) async fn validate(registry: &Registry, attempt: Attempt<'_>) -> Result<(), ApiError> {
    let bindings = all(registry, &BINDING).await?;
    if bindings.is_empty() {
        return Ok(());
    }
    let policies = all(registry, &KIND).await?;
    for binding in &bindings {
        let name = text(binding, &["spec", "policyName"]);
        let Some(policy) = policies.iter().find(|policy| object::name(policy) == name) else {
            continue;
        };
        if !applies(registry, policy, binding, attempt).await? {
            continue;
        }
        let Some(refusal) = judge(registry, policy, binding, attempt).await? else {
            continue;
        };
        let said = format!(
            "ValidatingAdmissionPolicy '{name}' with binding '{}' denied request: {}",
            object::name(binding),
            refusal.message
        );
        let actions = list(binding, &["spec", "validationActions"]);
        let does = |action: &str| actions.iter().any(|known| known == action);
        if does("Warn") {
            attempt.warnings.add(format!(
                "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{}': {}",
                object::name(binding),
                refusal.message
            ));
        }
        if does("Deny") {
            let kind = attempt.kind;
            return Err(
                ApiError::forbidden(kind.group, kind.plural, attempt.name, &said)
                    .with_reason(refusal.reason, &said),
            );
        }
    }
    Ok(())
}

struct Refusal {
    message: String,
    reason: &'static str,
}

async fn applies(
    registry: &Registry,
    policy: &Value,
    binding: &Value,
    attempt: Attempt<'_>,
) -> Result<bool, ApiError> {
    let constraints = &policy["spec"]["matchConstraints"];
    if !matching::rules_match(constraints, "resourceRules", attempt)
        || !matching::selectors_match(registry, constraints, attempt).await?
    {
        return Ok(false);
    }
    let Some(resources) = at(binding, &["spec", "matchResources"]) else {
        return Ok(true);
    };
    let has_rules = !list(resources, &["resourceRules"]).is_empty();
    Ok(
        (!has_rules || matching::rules_match(resources, "resourceRules", attempt))
            && matching::selectors_match(registry, resources, attempt).await?,
    )
}

/// The first validation that does not hold.
async fn judge(
    registry: &Registry,
    policy: &Value,
    binding: &Value,
    attempt: Attempt<'_>,
) -> Result<Option<Refusal>, ApiError> {
    let spec = &policy["spec"];
    let insists = text(spec, &["failurePolicy"]) != "Ignore";
    let failed = |message: String| {
        insists.then_some(Refusal {
            message,
            reason: "Invalid",
        })
    };
    match matching::conditions_hold(spec, attempt) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(problem) => return Ok(failed(problem)),
    }
    let mut variables = matching::variables(attempt);
    if let Some(namespace) = matching::namespace(registry, attempt.namespace).await? {
        variables.push(("namespaceObject", expressions::plain(&namespace)));
    }
    if let Some(kind) = at(spec, &["paramKind"]) {
        let Some(found) = parameters(registry, kind, binding, attempt).await? else {
            let allows = text(binding, &["spec", "paramRef", "parameterNotFoundAction"]) == "Allow";
            let why = "failed to configure binding: no params found for policy binding with `Deny` \
                parameterNotFoundAction";
            return Ok(if allows { None } else { failed(why.to_owned()) });
        };
        variables.push(("params", expressions::plain(&found)));
    }
    Ok(evaluate(spec, variables).unwrap_or_else(failed))
}

/// `Err` is an expression that failed, which is for the failure policy to judge.
fn evaluate(
    spec: &Value,
    mut variables: Vec<(&'static str, cel::Value)>,
) -> Result<Option<Refusal>, String> {
    let mut own = std::collections::HashMap::new();
    for variable in list(spec, &["variables"]) {
        let program = expressions::compile(text(variable, &["expression"]))?;
        let value = program.evaluate(&variables);
        // One that fails matters to those who use it.
        if let Ok(value) = value {
            own.insert(text(variable, &["name"]).to_owned(), value);
        }
        variables.retain(|(name, _)| *name != "variables");
        variables.push(("variables", own.clone().into()));
    }
    for validation in list(spec, &["validations"]) {
        let source = text(validation, &["expression"]);
        let program = expressions::compile(source)?;
        let holds = program
            .holds(&variables)
            .map_err(|error| format!("expression '{source}' resulted in error: {error}"))?;
        if holds {
            continue;
        }
        let made = expressions::compile(text(validation, &["messageExpression"]))
            .ok()
            .filter(|_| !text(validation, &["messageExpression"]).is_empty())
            .and_then(|program| program.text(&variables).ok());
        let message = match (made, text(validation, &["message"])) {
            (Some(made), _) if !made.trim().is_empty() => made.trim().to_owned(),
            (_, "") => format!("failed expression: {}", source.trim()),
            (_, message) => message.trim().to_owned(),
        };
        return Ok(Some(Refusal {
            message,
            reason: match text(validation, &["reason"]) {
                "Unauthorized" => "Unauthorized",
                "Forbidden" => "Forbidden",
                "RequestEntityTooLarge" => "RequestEntityTooLarge",
                _ => "Invalid",
            },
        }));
    }
    Ok(None)
}

async fn parameters(
    registry: &Registry,
    of: &Value,
    binding: &Value,
    attempt: Attempt<'_>,
) -> Result<Option<Value>, ApiError> {
    let api_version = text(of, &["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(handle) = registry.kind_named(group, version, text(of, &["kind"])) else {
        return Ok(None);
    };
    let kind = &handle.get();
    let reference = &binding["spec"]["paramRef"];
    let namespace = match text(reference, &["namespace"]) {
        _ if !kind.is_namespaced() => "",
        "" => attempt.namespace,
        given => given,
    };
    let found = registry
        .get(
            kind,
            namespace,
            text(reference, &["name"]),
            Freshness::Local,
        )
        .await;
    match found {
        Ok(kv) => registry
            .one_to_served(kind, object::decode(&kv))
            .await
            .map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

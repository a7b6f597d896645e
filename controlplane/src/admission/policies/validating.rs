//! ValidatingAdmissionPolicies: rules about writes.

use serde_json::Value;

use super::{Applies, Bound, Evaluation, bound};
use crate::kinds::access::{list, text};
use crate::kinds::admission::validating_policy::{BINDING, KIND};
use crate::registry::judges::Attempt;
use crate::registry::{ApiError, Registry, object};

pub(in crate::admission) async fn validate(
    registry: &Registry,
    attempt: Attempt<'_>,
) -> Result<(), ApiError> {
    for bound in bound(registry, &KIND, &BINDING).await? {
        let refusal = match bound.applies(registry, attempt).await? {
            Applies::Not => None,
            Applies::Failed(why) => bound.failed(why),
            Applies::With(evaluations) => evaluations.into_iter().find_map(|evaluation| {
                judge(bound.spec(), evaluation).unwrap_or_else(|why| bound.failed(why))
            }),
        };
        if let Some(refusal) = refusal {
            act(&bound, &refusal, attempt)?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    message: String,
    reason: &'static str,
}

impl Bound {
    /// What an expression that failed means.
    fn failed(&self, message: String) -> Option<Refusal> {
        self.insists().then_some(Refusal {
            message,
            reason: "Invalid",
        })
    }
}

/// Warns and denies, as the binding says.
fn act(bound: &Bound, refusal: &Refusal, attempt: Attempt<'_>) -> Result<(), ApiError> {
    let actions = list(&bound.binding, &["spec", "validationActions"]);
    let does = |action: &str| actions.iter().any(|known| known == action);
    let name = object::name(&bound.policy);
    let binding = object::name(&bound.binding);
    let message = &refusal.message;
    if does("Warn") {
        attempt.warnings.add(format!(
            "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{binding}': {message}"
        ));
    }
    if !does("Deny") {
        return Ok(());
    }
    let said = format!(
        "ValidatingAdmissionPolicy '{name}' with binding '{binding}' denied request: {message}"
    );
    let kind = attempt.kind;
    let error = ApiError::forbidden(kind.group, kind.plural, attempt.name, &said);
    Err(error.with_reason(refusal.reason, &said))
}

/// The first validation that does not hold. `Err` is an expression that failed.
fn judge(spec: &Value, mut evaluation: Evaluation) -> Result<Option<Refusal>, String> {
    evaluation.define(spec)?;
    for validation in list(spec, &["validations"]) {
        let source = text(validation, &["expression"]);
        if evaluation.holds(source)? {
            continue;
        }
        let made = match text(validation, &["messageExpression"]) {
            "" => None,
            source => evaluation.text(source),
        };
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

//! ValidatingAdmissionPolicies: rules about writes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Applies, Bound, Evaluation, bound};
use crate::kinds::access::{list, text};
use crate::kinds::admission::validating_policy::{BINDING, KIND};
use crate::registry::judges::Attempt;
use crate::registry::{ApiError, Registry, object};

pub(in crate::admission) async fn validate(
    registry: &Registry,
    attempt: Attempt<'_>,
) -> Result<(), ApiError> {
    let (mut annotations, mut failures) = (Annotations::new(), Vec::new());
    let mut verdict = Ok(());
    for bound in bound(registry, &KIND, &BINDING).await? {
        let refusal = match bound.applies(registry, attempt).await? {
            Applies::Not => None,
            Applies::Failed(why) => bound.failed(why),
            Applies::With(evaluations) => {
                let mut refusal = None;
                for evaluation in evaluations {
                    let judged = judge(&bound, evaluation, &mut annotations);
                    refusal = refusal.or(judged.unwrap_or_else(|why| bound.failed(why)));
                }
                refusal
            }
        };
        if let Some(refusal) = refusal {
            if bound.does("Audit") {
                failures.push(failure(&bound, &refusal));
            }
            verdict = verdict.and(act(&bound, &refusal, attempt));
        }
    }
    for (name, values) in annotations {
        attempt.remarks.annotate(name, values.join(", "));
    }
    if !failures.is_empty() {
        let name = "validation.policy.admission.k8s.io/validation_failure";
        let all = Value::Array(failures).to_string();
        attempt.remarks.annotate(name.to_owned(), all);
    }
    verdict
}

/// For the audit log: what policies want to be said, by the annotation's name. Each value once.
type Annotations = BTreeMap<String, Vec<String>>;

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    message: String,
    reason: &'static str,
    /// Which of the policy's validations; none if another part of it failed.
    validation: Option<usize>,
}

/// What the audit log says of a refusal that its binding wants there.
fn failure(bound: &Bound, refusal: &Refusal) -> Value {
    let mut failure = json!({
        "message": refusal.message,
        "policy": object::name(&bound.policy),
        "binding": object::name(&bound.binding),
        "validationActions": bound.binding["spec"]["validationActions"],
    });
    if let Some(index) = refusal.validation {
        failure["expressionIndex"] = index.into();
    }
    failure
}

impl Bound {
    /// What an expression that failed means.
    fn failed(&self, message: String) -> Option<Refusal> {
        self.insists().then_some(Refusal {
            message,
            reason: "Invalid",
            validation: None,
        })
    }

    /// Whether the binding wants that done about what is not valid.
    fn does(&self, action: &str) -> bool {
        let actions = list(&self.binding, &["spec", "validationActions"]);
        actions.iter().any(|known| known == action)
    }
}

/// Warns and denies, as the binding says.
fn act(bound: &Bound, refusal: &Refusal, attempt: Attempt<'_>) -> Result<(), ApiError> {
    let name = object::name(&bound.policy);
    let binding = object::name(&bound.binding);
    let message = &refusal.message;
    if bound.does("Warn") {
        attempt.remarks.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{binding}': {message}"
        ));
    }
    if !bound.does("Deny") {
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
fn judge(
    bound: &Bound,
    mut evaluation: Evaluation,
    annotations: &mut Annotations,
) -> Result<Option<Refusal>, String> {
    let spec = bound.spec();
    evaluation.define(spec)?;
    for annotation in list(spec, &["auditAnnotations"]) {
        let said = evaluation.value(text(annotation, &["valueExpression"]))?;
        // Null: nothing is said.
        let cel::Value::String(value) = said else {
            continue;
        };
        let name = format!(
            "{}/{}",
            object::name(&bound.policy),
            text(annotation, &["key"])
        );
        let values = annotations.entry(name).or_default();
        if !value.trim().is_empty() && !values.contains(&value) {
            values.push(value.to_string());
        }
    }
    for (index, validation) in list(spec, &["validations"]).iter().enumerate() {
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
            validation: Some(index),
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

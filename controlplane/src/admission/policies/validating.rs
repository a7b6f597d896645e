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
    let mut denials = Vec::new();
    for bound in bound(registry, &KIND, &BINDING).await? {
        let evaluations = match bound.applies(registry, attempt).await? {
            Applies::Not => continue,
            // Whatever its binding wants done about what is not valid: this is another matter.
            Applies::Misconfigured(why) => {
                denials.extend(bound.failed(why).map(|it| denial(&bound, &it, attempt)));
                continue;
            }
            Applies::With(_, evaluations) => evaluations,
        };
        for evaluation in evaluations {
            let judged = match evaluation {
                Ok(evaluation) => judge(&bound, evaluation, &mut annotations),
                Err(why) => Judged {
                    refusals: bound.failed(why).into_iter().collect(),
                    ..Judged::default()
                },
            };
            for refusal in &judged.refusals {
                if bound.does("Audit") {
                    failures.push(failure(&bound, refusal));
                }
                denials.extend(act(&bound, refusal, attempt));
            }
            let unsaid = judged.unsaid.iter();
            denials.extend(unsaid.map(|refusal| denial(&bound, refusal, attempt)));
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
    denials.into_iter().next().map_or(Ok(()), Err)
}

/// For the audit log: what policies want to be said, by the annotation's name. Each value once.
type Annotations = BTreeMap<String, Vec<String>>;

/// What a policy says of a write.
#[derive(Debug, Default)]
struct Judged {
    refusals: Vec<Refusal>,
    /// Annotations that could not be made. They deny, whatever the binding does about what is not valid.
    unsaid: Vec<Refusal>,
}

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    message: String,
    reason: &'static str,
    /// Which of the policy's validations; the first one stands for other parts of it.
    validation: usize,
}

/// What the audit log says of a refusal that its binding wants there.
fn failure(bound: &Bound, refusal: &Refusal) -> Value {
    json!({
        "message": refusal.message,
        "policy": object::name(&bound.policy),
        "binding": object::name(&bound.binding),
        "validationActions": bound.binding["spec"]["validationActions"],
        "expressionIndex": refusal.validation,
    })
}

impl Bound {
    /// What an expression that failed means.
    fn failed(&self, message: String) -> Option<Refusal> {
        self.insists().then_some(Refusal {
            message,
            reason: "Invalid",
            validation: 0,
        })
    }

    /// Whether the binding wants that done about what is not valid.
    fn does(&self, action: &str) -> bool {
        let actions = list(&self.binding, &["spec", "validationActions"]);
        actions.iter().any(|known| known == action)
    }
}

/// Warns and denies, as the binding says.
fn act(bound: &Bound, refusal: &Refusal, attempt: Attempt<'_>) -> Option<ApiError> {
    if bound.does("Warn") {
        attempt.remarks.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
            object::name(&bound.policy),
            object::name(&bound.binding),
            refusal.message
        ));
    }
    bound.does("Deny").then(|| denial(bound, refusal, attempt))
}

fn denial(bound: &Bound, refusal: &Refusal, attempt: Attempt<'_>) -> ApiError {
    let said = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
        object::name(&bound.policy),
        object::name(&bound.binding),
        refusal.message
    );
    let kind = attempt.kind;
    let error = ApiError::forbidden(kind.group, kind.plural, attempt.shown_name(), &said);
    error.with_reason(refusal.reason, &said)
}

/// All validations that do not hold, and what is to be said of the write.
fn judge(bound: &Bound, mut evaluation: Evaluation, annotations: &mut Annotations) -> Judged {
    let spec = bound.spec();
    let mut judged = Judged::default();
    if let Err(why) = evaluation.define(spec) {
        judged.refusals.extend(bound.failed(why));
        return judged;
    }
    for (index, validation) in list(spec, &["validations"]).iter().enumerate() {
        let source = text(validation, &["expression"]);
        let refusal = match evaluation.holds(source) {
            Ok(true) => None,
            Ok(false) => Some(Refusal {
                message: message(validation, &mut evaluation),
                validation: index,
                reason: reason(validation),
            }),
            Err(why) => bound.failed(why).map(|refusal| Refusal {
                validation: index,
                ..refusal
            }),
        };
        judged.refusals.extend(refusal);
    }
    for annotation in list(spec, &["auditAnnotations"]) {
        let source = text(annotation, &["valueExpression"]);
        let problem = match evaluation.value(source) {
            // Null: nothing is said.
            Ok(cel::Value::Null) => None,
            Ok(cel::Value::String(value)) => {
                let name = format!(
                    "{}/{}",
                    object::name(&bound.policy),
                    text(annotation, &["key"])
                );
                note(annotations, name, value.trim());
                None
            }
            Ok(other) => Some(Refusal {
                message: format!(
                    "valueExpression '{source}' resulted in unsupported return type: {}. Return type must be either \
                     string or null.",
                    other.type_of()
                ),
                reason: "Invalid",
                validation: 0,
            }),
            Err(why) => bound.failed(why),
        };
        judged.unsaid.extend(problem);
    }
    judged
}

/// Longest value of an annotation.
const MAX_ANNOTATION: usize = 10 << 10;

fn note(annotations: &mut Annotations, name: String, value: &str) {
    if value.is_empty() {
        return;
    }
    let mut end = value.len().min(MAX_ANNOTATION);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let values = annotations.entry(name).or_default();
    if !values.iter().any(|known| *known == value[..end]) {
        values.push(value[..end].to_owned());
    }
}

/// Longest message that an expression may make.
const MAX_MESSAGE: usize = 5 << 10;

/// What is said of a validation that does not hold: what its expression makes, if that is one line, else its message.
fn message(validation: &Value, evaluation: &mut Evaluation) -> String {
    let made = match text(validation, &["messageExpression"]) {
        "" => None,
        source => evaluation.text(source),
    };
    let usable =
        |made: &&str| !made.is_empty() && made.len() <= MAX_MESSAGE && !made.contains('\n');
    if let Some(made) = made.as_deref().map(str::trim).filter(usable) {
        return made.to_owned();
    }
    match text(validation, &["message"]).trim() {
        "" => format!(
            "failed expression: {}",
            text(validation, &["expression"]).trim()
        ),
        message => message.to_owned(),
    }
}

fn reason(validation: &Value) -> &'static str {
    match text(validation, &["reason"]) {
        "Unauthorized" => "Unauthorized",
        "Forbidden" => "Forbidden",
        "RequestEntityTooLarge" => "RequestEntityTooLarge",
        _ => "Invalid",
    }
}

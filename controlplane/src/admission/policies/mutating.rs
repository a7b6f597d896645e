//! MutatingAdmissionPolicies: changes of objects that are written, as configurations that are applied or as patches.

use serde_json::{Value, json};

use super::{Applies, Bound, Evaluation, bound};
use crate::kinds::access::{list, text};
use crate::kinds::admission::mutating_policy::{BINDING, KIND};
use crate::kinds::custom::expressions;
use crate::patch::{apply_configuration, json_patch};
use crate::registry::judges::{Attempt, Operation};
use crate::registry::{ApiError, Registry, object};

/// All policies that are bound.
pub(in crate::admission) async fn policies(registry: &Registry) -> Result<Vec<Bound>, ApiError> {
    bound(registry, &KIND, &BINDING).await
}

impl Bound {
    /// Whether it wants to see what others change after it.
    pub(in crate::admission) fn is_asked_again(&self) -> bool {
        text(self.spec(), &["reinvocationPolicy"]) == "IfNeeded"
    }

    /// The object as the policy wants it; `None` when the policy is not about the write.
    pub(in crate::admission) async fn change(
        &self,
        registry: &Registry,
        attempt: Attempt<'_>,
    ) -> Result<Option<Value>, ApiError> {
        let Some(object) = attempt
            .object
            .filter(|_| attempt.operation != Operation::Delete)
        else {
            return Ok(None);
        };
        let problem = match self.applies(registry, attempt).await? {
            Applies::Not => return Ok(None),
            Applies::Misconfigured(problem) => problem,
            Applies::With(shown, evaluations) => {
                let changed = {
                    let kind = shown.kind(attempt.kind);
                    let seen = shown.attempt(&kind, attempt);
                    let object = seen.object.unwrap_or(object).clone();
                    evaluations
                        .into_iter()
                        .try_fold(object, |object, evaluation| {
                            mutated(self.spec(), evaluation?, seen, &object)
                        })
                };
                match changed {
                    Ok(changed) => return shown.back(registry, attempt, changed).await.map(Some),
                    Err(problem) => problem,
                }
            }
        };
        if !self.insists() {
            tracing::warn!(
                policy = object::name(&self.policy),
                problem,
                "a policy failed, which it does not mind"
            );
            return Ok(None);
        }
        let said = format!(
            "policy '{}' with binding '{}' denied request: {problem}",
            object::name(&self.policy),
            object::name(&self.binding)
        );
        let kind = attempt.kind;
        let error = ApiError::forbidden(kind.group, kind.plural, attempt.shown_name(), &said);
        Err(error.with_reason("Invalid", &said))
    }
}

/// The object after all mutations, each of which sees what those before it did.
fn mutated(
    spec: &Value,
    mut evaluation: Evaluation,
    attempt: Attempt<'_>,
    object: &Value,
) -> Result<Value, String> {
    evaluation.see(object);
    let mut object = object.clone();
    // Variables may be about the object as the last mutation left it.
    evaluation.define(spec)?;
    for mutation in list(spec, &["mutations"]) {
        let (field, configures) = match text(mutation, &["patchType"]) {
            "ApplyConfiguration" => ("applyConfiguration", true),
            _ => ("jsonPatch", false),
        };
        let made = evaluation.value(text(mutation, &[field, "expression"]))?;
        let made = expressions::to_json(&made)?;
        object = if configures {
            configured(attempt, &object, made)?
        } else {
            patched(&object, &made)?
        };
        evaluation.see(&object);
        evaluation.define(spec)?;
    }
    Ok(object)
}

impl Evaluation {
    /// From now on this is the object.
    fn see(&mut self, object: &Value) {
        self.variables.retain(|(name, _)| *name != "object");
        self.variables.push(("object", expressions::plain(object)));
        self.own.clear();
    }
}

fn configured(attempt: Attempt<'_>, object: &Value, mut made: Value) -> Result<Value, String> {
    if !made.is_object() {
        return Err("the expression of an ApplyConfiguration must make an Object".to_owned());
    }
    for field in ["apiVersion", "kind"] {
        made[field] = object[field].clone();
    }
    let applied = match attempt.speaks {
        None => apply_configuration(attempt.kind, object, &made),
        Some((group, version, kind)) => {
            let group = match group.split('.').next() {
                None | Some("") => "core",
                Some(group) => group,
            };
            let definition = format!("io.k8s.api.{group}.{version}.{kind}");
            apply_configuration(definition.as_str(), object, &made)
        }
    };
    applied.map_err(|error| error.to_string())
}

fn patched(object: &Value, made: &Value) -> Result<Value, String> {
    let Some(operations) = made.as_array() else {
        return Err("the expression of a JSONPatch must make a list of JSONPatch".to_owned());
    };
    json_patch(object, &json!(operations)).map_err(|error| format!("JSON Patch: {error}"))
}

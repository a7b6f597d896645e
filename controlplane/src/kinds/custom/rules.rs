//! `x-kubernetes-validations`: rules in CEL that a part of a custom resource must follow.

use std::sync::Arc;

use serde_json::Value;

use super::super::access::{at, flag, text};
use super::super::errors::{Errors, quote};
use super::super::{Cause, FieldError};
use super::expressions::{self, Budget, EvaluationError, Program};
use super::structural::{Structural, Type};

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) source: String,
    message: String,
    message_source: String,
    message_expression: Option<Arc<Program>>,
    reason: Cause,
    field_path: String,
    /// Evaluated without an old value too; `oldSelf` is then an optional.
    optional_old: bool,
    pub(crate) program: Result<Arc<Program>, String>,
    /// Compares with the value before; said of updates alone.
    pub(crate) is_transition: bool,
}

/// What may still be asked after a rule that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Further {
    Rules,
    /// The rules together may not cost more.
    Nothing,
}

/// A message that an expression makes is no longer, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

impl Rule {
    pub(crate) fn read(said: &Value) -> Self {
        let source = text(said, &["rule"]).to_owned();
        let program = expressions::compile(&source).map(Arc::new);
        let message_source = text(said, &["messageExpression"]).to_owned();
        let message_expression = match message_source.as_str() {
            "" => None,
            given => expressions::compile(given).ok().map(Arc::new),
        };
        Self {
            message: text(said, &["message"]).to_owned(),
            message_source,
            message_expression,
            reason: match text(said, &["reason"]) {
                "FieldValueForbidden" => Cause::Forbidden,
                "FieldValueRequired" => Cause::Required,
                "FieldValueDuplicate" => Cause::Duplicate,
                _ => Cause::Invalid,
            },
            field_path: text(said, &["fieldPath"]).to_owned(),
            optional_old: at(said, &["optionalOldSelf"]).is_some()
                && flag(said, &["optionalOldSelf"]),
            is_transition: program
                .as_ref()
                .is_ok_and(|program| program.mentions("oldSelf")),
            program,
            source,
        }
    }

    /// `None` when the rule holds, or does not apply.
    pub(super) fn check(
        &self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        budget: &mut Budget,
    ) -> Option<(FieldError, Further)> {
        if self.is_transition && old.is_none() && !self.optional_old {
            return None;
        }
        let program = self.program.as_ref().ok()?;
        let mut variables = vec![("self", expressions::from_schema(value, schema))];
        if self.is_transition {
            let old = old.map(|old| expressions::from_schema(old, schema));
            variables.push(("oldSelf", expressions::old_value(old, self.optional_old)));
        }
        let (problem, further) = match program.holds(&variables, budget) {
            Ok(true) => return None,
            Ok(false) => match self.said(&variables, budget) {
                Ok(detail) => {
                    return Some((self.broken(schema, value, path, &detail), Further::Rules));
                }
                Err(problem) => (problem, Further::Nothing),
            },
            Err(EvaluationError::Failed(why)) => {
                let rule = self.shown();
                let problem = if why.to_lowercase().starts_with("no such overload") {
                    format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {rule}"
                    )
                } else {
                    format!("{why} evaluating rule: {rule}")
                };
                (problem, Further::Rules)
            }
            Err(error @ EvaluationError::Cost) => (
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    self.shown()
                ),
                Further::Nothing,
            ),
            Err(error @ EvaluationError::Budget) => (error.to_string(), Further::Nothing),
        };
        let kind = match schema.kind {
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            _ => "object",
        };
        let mut errors = Errors::new();
        errors.invalid(path, kind, &problem);
        errors.into_vec().pop().map(|error| (error, further))
    }

    /// How the rule is called when something is wrong with it.
    fn shown(&self) -> &str {
        match self.message.as_str() {
            "" => self.source.trim(),
            message => message.trim(),
        }
    }

    /// What is said of a value that breaks the rule. Objects and lists are not shown.
    fn broken(&self, schema: &Structural, value: &Value, path: &str, detail: &str) -> FieldError {
        let hidden = matches!(schema.kind, Type::Object | Type::Array);
        let shown = match value {
            _ if hidden => String::new(),
            Value::String(text) => format!(": {}", quote(text)),
            other => format!(": {other}"),
        };
        let message = match self.reason {
            Cause::Forbidden => format!("Forbidden: {detail}"),
            Cause::Required => format!("Required value: {detail}"),
            Cause::Duplicate => format!("Duplicate value{shown}"),
            _ => format!("Invalid value{shown}: {detail}"),
        };
        let below = super::field_path::normalized(&self.field_path, schema).unwrap_or_default();
        FieldError {
            field: format!("{path}{below}").trim_start_matches('.').to_owned(),
            cause: self.reason,
            message,
        }
    }

    /// What is said of it; the error is that no more may be evaluated.
    fn said(
        &self,
        variables: &[(&str, cel::Value)],
        budget: &mut Budget,
    ) -> Result<String, String> {
        let made = match &self.message_expression {
            None => None,
            Some(program) => match program.text(variables, budget) {
                Ok(text) => Some(text.trim().to_owned()),
                Err(EvaluationError::Failed(_)) => None,
                Err(EvaluationError::Cost) => {
                    return Err(format!(
                        "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                        quote(&self.message_source)
                    ));
                }
                Err(EvaluationError::Budget) => {
                    return Err(
                        "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                            .to_owned(),
                    );
                }
            },
        };
        let usable = |text: &String| {
            !text.is_empty() && !text.contains(['\n', '\r']) && text.len() <= LONGEST_MESSAGE
        };
        Ok(made
            .filter(usable)
            .unwrap_or_else(|| match self.message.trim() {
                "" => format!("failed rule: {}", self.source.trim()),
                message => message.to_owned(),
            }))
    }
}

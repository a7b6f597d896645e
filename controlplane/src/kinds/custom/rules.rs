//! `x-kubernetes-validations`: rules in CEL that a part of a custom resource must follow.

use std::sync::Arc;

use serde_json::Value;

use super::super::access::{at, flag, text};
use super::super::{Cause, FieldError};
use super::expressions::{self, Budget, EvaluationError, Program};
use super::structural::{Structural, Type};

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) source: String,
    message: String,
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

impl Rule {
    pub(crate) fn read(said: &Value) -> Self {
        let source = text(said, &["rule"]).to_owned();
        let program = expressions::compile(&source).map(Arc::new);
        let message_expression = match text(said, &["messageExpression"]) {
            "" => None,
            given => expressions::compile(given).ok().map(Arc::new),
        };
        Self {
            message: text(said, &["message"]).to_owned(),
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
        let mut further = Further::Rules;
        let problem = match program.holds(&variables, budget) {
            Ok(true) => return None,
            Ok(false) => self.said(&variables, budget),
            Err(EvaluationError::Failed(why)) => format!("{why} evaluating rule: {}", self.source),
            Err(error @ EvaluationError::Cost) => {
                further = Further::Nothing;
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    self.source
                )
            }
            Err(error @ EvaluationError::Budget) => {
                further = Further::Nothing;
                error.to_string()
            }
        };
        let shown = match schema.kind {
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
            _ => "object",
        };
        let message = match self.reason {
            Cause::Forbidden => format!("Forbidden: {problem}"),
            Cause::Required => format!("Required value: {problem}"),
            Cause::Duplicate => format!("Duplicate value: \"{shown}\""),
            _ => format!("Invalid value: \"{shown}\": {problem}"),
        };
        let error = FieldError {
            field: format!("{path}{}", self.field_path)
                .trim_start_matches('.')
                .to_owned(),
            cause: self.reason,
            message,
        };
        Some((error, further))
    }

    fn said(&self, variables: &[(&str, cel::Value)], budget: &mut Budget) -> String {
        let made = self.message_expression.as_ref();
        made.and_then(|program| program.text(variables, budget).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty() && !text.contains('\n'))
            .or_else(|| Some(self.message.trim().to_owned()).filter(|text| !text.is_empty()))
            .unwrap_or_else(|| format!("failed rule: {}", self.source))
    }
}

//! Whether a custom resource is what its schema says, in the sentences of Kubernetes' schema validation. What an
//! update leaves as it was is not judged again (ratcheting), so that a schema can become stricter.

use serde_json::Value;

use super::super::access::text;
use super::super::errors::Errors;
use super::super::{Cause, FieldError};
use super::expressions::Budget;
use super::formats;
use super::rules::{Further, Rule};
use super::structural::{Additional, Structural, Type};

/// So many errors of one object are told.
const MOST: usize = 100;
const DEEPEST: usize = 200;

pub(in super::super) fn validate(
    schema: &Structural,
    object: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let mut check = Check {
        errors: Errors::new(),
        rules: Vec::new(),
        has_rules: false,
        budget: Some(Budget::of_rules()),
    };
    check.value(schema, object, old, "", 0);
    let mut errors = check.errors.into_vec();
    // Rules are asked about objects of the right shape only.
    if errors.is_empty() {
        errors = check.rules;
    } else if check.has_rules && errors.iter().any(blocks_rules) {
        errors.push(FieldError {
            field: "<nil>".to_owned(),
            cause: Cause::Invalid,
            message: "Invalid value: null: some validation rules were not checked because the object was \
                invalid; correct the existing errors to complete validation"
                .to_owned(),
        });
    } else {
        errors.extend(check.rules);
    }
    errors.truncate(MOST);
    errors
}

/// The same for a value somewhere, without its rules.
pub(super) fn validate_at(schema: &Structural, value: &Value, path: &str) -> Vec<FieldError> {
    let mut check = Check {
        errors: Errors::new(),
        rules: Vec::new(),
        has_rules: false,
        budget: Some(Budget::of_rules()),
    };
    check.value(schema, value, None, path, 0);
    check.errors.into_vec()
}

fn blocks_rules(error: &FieldError) -> bool {
    error.message.contains("in body must be of type")
        || matches!(
            error.cause,
            Cause::Required
                | Cause::TooLong
                | Cause::TooMany
                | Cause::NotSupported
                | Cause::Duplicate
        )
}

struct Check {
    errors: Errors,
    rules: Vec<FieldError>,
    has_rules: bool,
    /// What rules may still cost; `None` once no more are asked.
    budget: Option<Budget>,
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_whole(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn fits(kind: Type, value: &Value) -> bool {
    match kind {
        Type::Any => true,
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Integer => value.as_number().is_some_and(is_whole),
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
        Type::IntOrString => value.is_string() || value.as_number().is_some_and(is_whole),
    }
}

fn expected(kind: Type) -> &'static str {
    match kind {
        Type::Any => "any",
        Type::Object => "object",
        Type::Array => "array",
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::IntOrString => "integer,string",
    }
}

impl Check {
    fn invalid(&mut self, path: &str, value: &Value, detail: &str) {
        self.errors
            .invalid(path, value.clone(), &format!("{path} in body {detail}"));
    }

    fn value(
        &mut self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        depth: usize,
    ) {
        self.has_rules |= !schema.rules.is_empty();
        if depth > DEEPEST {
            self.invalid(path, &Value::Null, "is nested too deeply");
            return;
        }
        let unchanged = old == Some(value);
        if unchanged {
            self.transitions(schema, value, old, path);
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        if !fits(schema.kind, value) {
            let (found, wanted) = (type_name(value), expected(schema.kind));
            let detail = format!("{path} in body must be of type {wanted}: \"{found}\"");
            self.errors.invalid(path, found, &detail);
            return;
        }
        self.limits(schema, value, path);
        self.junctors(schema, value, path, depth);
        match value {
            Value::Object(map) => self.object(schema, map, old, path, depth),
            Value::Array(list) => self.list(schema, list, old, path, depth),
            _ => {}
        }
        for rule in &schema.rules {
            self.rule(rule, schema, value, old, path);
        }
    }

    fn rule(
        &mut self,
        rule: &Rule,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) {
        let Some(budget) = &mut self.budget else {
            return;
        };
        if let Some((error, further)) = rule.check(schema, value, old, path, budget) {
            self.rules.push(error);
            if further == Further::Nothing {
                self.budget = None;
            }
        }
    }

    /// Of what did not change only the rules about change are asked.
    fn transitions(&mut self, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        if value.is_null() {
            return;
        }
        for rule in schema.rules.iter().filter(|rule| rule.is_transition) {
            self.rule(rule, schema, value, old, path);
        }
    }

    fn object(
        &mut self,
        schema: &Structural,
        map: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        depth: usize,
    ) {
        for name in &schema.required {
            if !map.contains_key(name) {
                self.errors.required(joined(path, name), "");
            }
        }
        if schema.embedded {
            for name in ["apiVersion", "kind"] {
                if text(&map.get(name).cloned().unwrap_or_default(), &[]).is_empty() {
                    self.errors
                        .required(joined(path, name), "must not be empty");
                }
            }
        }
        let map_of = matches!(schema.additional, Additional::Schema(_));
        for (name, value) in map {
            let is_meta =
                schema.is_resource() && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            let Some(member) = schema.member(name) else {
                continue;
            };
            // What `metadata` may be is checked for every kind in one place; names may be limited here.
            if is_meta && name == "metadata" {
                self.metadata(member, value, path, depth);
                continue;
            }
            let _ = map_of;
            let before = old.and_then(|old| old.get(name));
            self.value(member, value, before, &joined(path, name), depth + 1);
        }
    }

    fn metadata(&mut self, schema: &Structural, value: &Value, path: &str, depth: usize) {
        for name in ["name", "generateName"] {
            if let (Some(member), Some(value)) = (schema.properties.get(name), value.get(name)) {
                let path = joined(&joined(path, "metadata"), name);
                self.value(member, value, None, &path, depth + 2);
            }
        }
    }

    fn list(
        &mut self,
        schema: &Structural,
        list: &[Value],
        old: Option<&Value>,
        path: &str,
        depth: usize,
    ) {
        let key = |entry: &Value| -> Value {
            let keys = schema.list_keys.iter();
            keys.map(|key| {
                let default = schema
                    .items
                    .as_ref()
                    .and_then(|items| items.properties.get(key))
                    .and_then(|property| property.default.clone());
                let value = entry.get(key).cloned().or(default).unwrap_or_default();
                (key.clone(), value)
            })
            .collect::<serde_json::Map<String, Value>>()
            .into()
        };
        match schema.list_type.as_str() {
            "set" => self.duplicates(list.iter().cloned(), path),
            "map" => self.duplicates(list.iter().map(key), path),
            _ => {}
        }
        let Some(items) = &schema.items else { return };
        let before = old.and_then(Value::as_array);
        for (at, entry) in list.iter().enumerate() {
            let old = match schema.list_type.as_str() {
                "map" => before.and_then(|old| old.iter().find(|old| key(old) == key(entry))),
                // An entry of another list has no identity; one that was there before is not new, though.
                _ => before.and_then(|old| old.iter().find(|old| *old == entry)),
            };
            self.value(items, entry, old, &format!("{path}[{at}]"), depth + 1);
        }
    }

    fn duplicates(&mut self, keys: impl Iterator<Item = Value>, path: &str) {
        let mut seen = std::collections::HashSet::new();
        for (at, key) in keys.enumerate() {
            if !seen.insert(key.to_string()) {
                self.errors.duplicate(format!("{path}[{at}]"), key);
            }
        }
    }

    fn limits(&mut self, schema: &Structural, value: &Value, path: &str) {
        let limits = &schema.limits;
        if !limits.allowed.is_empty() && !limits.allowed.contains(value) {
            let allowed: Vec<String> = limits
                .allowed
                .iter()
                .map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                })
                .collect();
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            self.errors.not_supported(path, value.clone(), &allowed);
        }
        match value {
            Value::Number(_) => self.number(schema, value, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Array(list) => {
                let count = list.len();
                if let Some(most) = limits.max_items.and_then(|most| usize::try_from(most).ok())
                    && count > most
                {
                    self.errors.too_many(path, count, most);
                }
                if let Some(least) = limits.min_items.filter(|least| (count as u64) < *least) {
                    self.invalid(
                        path,
                        &count.into(),
                        &format!("should have at least {least} items"),
                    );
                }
                if limits.unique && (1..count).any(|at| list[..at].contains(&list[at])) {
                    self.invalid(path, value, "shouldn't contain duplicates");
                }
            }
            Value::Object(map) => {
                let count = map.len();
                if let Some(most) = limits
                    .max_properties
                    .and_then(|most| usize::try_from(most).ok())
                    && count > most
                {
                    self.errors.too_many(path, count, most);
                }
                if let Some(least) = limits
                    .min_properties
                    .filter(|least| (count as u64) < *least)
                {
                    self.invalid(
                        path,
                        &count.into(),
                        &format!("should have at least {least} properties"),
                    );
                }
            }
            _ => {}
        }
    }

    fn number(&mut self, schema: &Structural, value: &Value, path: &str) {
        let limits = &schema.limits;
        let Some(number) = value.as_f64() else { return };
        if let Some(most) = limits.maximum {
            if limits.exclusive_maximum && number >= most {
                self.invalid(path, value, &format!("should be less than {most}"));
            } else if number > most {
                self.invalid(
                    path,
                    value,
                    &format!("should be less than or equal to {most}"),
                );
            }
        }
        if let Some(least) = limits.minimum {
            if limits.exclusive_minimum && number <= least {
                self.invalid(path, value, &format!("should be greater than {least}"));
            } else if number < least {
                self.invalid(
                    path,
                    value,
                    &format!("should be greater than or equal to {least}"),
                );
            }
        }
        if let Some(factor) = limits.multiple_of.filter(|factor| *factor > 0.0) {
            let ratio = number / factor;
            if (ratio - ratio.round()).abs() > 1e-9 {
                self.invalid(path, value, &format!("should be a multiple of {factor}"));
            }
        }
        let range = match schema.format.as_str() {
            "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            _ => None,
        };
        if range.is_some_and(|(least, most)| number < least || number > most) {
            let detail = format!("must be of type {}: {value}", schema.format);
            self.invalid(path, value, &detail);
        }
    }

    fn text(&mut self, schema: &Structural, text: &str, path: &str) {
        let limits = &schema.limits;
        let length = text.chars().count() as u64;
        if let Some(most) = limits.max_length.filter(|most| length > *most) {
            self.errors
                .too_long(path, usize::try_from(most).unwrap_or(usize::MAX));
        }
        if let Some(least) = limits.min_length.filter(|least| length < *least) {
            self.invalid(
                path,
                &text.into(),
                &format!("should be at least {least} chars long"),
            );
        }
        if let Some((source, pattern)) = &limits.pattern
            && !pattern.is_match(text)
        {
            self.invalid(path, &text.into(), &format!("should match '{source}'"));
        }
        if schema.kind == Type::String && !formats::is(&schema.format, text) {
            let detail = format!("must be of type {}: \"{text}\"", schema.format);
            self.invalid(path, &text.into(), &detail);
        }
    }

    fn junctors(&mut self, schema: &Structural, value: &Value, path: &str, depth: usize) {
        let holds = |schema: &Structural| {
            let mut check = Check {
                errors: Errors::new(),
                rules: Vec::new(),
                has_rules: false,
                // Where schemas are joined, no rules may be.
                budget: None,
            };
            check.value(schema, value, None, path, depth + 1);
            check.errors.into_vec()
        };
        for part in &schema.all_of {
            for error in holds(part) {
                self.errors.add(error);
            }
        }
        if !schema.any_of.is_empty() && !schema.any_of.iter().any(|part| holds(part).is_empty()) {
            let detail = format!("\"{path}\" must validate at least one schema (anyOf)");
            self.errors.invalid(path, "", &detail);
            if let Some(part) = schema.any_of.first() {
                for error in holds(part) {
                    self.errors.add(error);
                }
            }
        }
        if !schema.one_of.is_empty() {
            let valid = schema
                .one_of
                .iter()
                .filter(|part| holds(part).is_empty())
                .count();
            if valid != 1 {
                let found = if valid == 0 {
                    "none valid".to_owned()
                } else {
                    format!("{valid} valid alternatives")
                };
                let detail = format!(
                    "\"{path}\" must validate one and only one schema (oneOf). Found {found}"
                );
                self.errors.invalid(path, "", &detail);
            }
        }
        if let Some(part) = &schema.not
            && holds(part).is_empty()
        {
            let detail = format!("\"{path}\" must not validate the schema (not)");
            self.errors.invalid(path, "", &detail);
        }
    }
}

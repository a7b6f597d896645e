//! Whether a schema is structural: every field has one type, said in one place, so that values can be pruned,
//! defaulted and merged by it.

use serde_json::Value;

use super::super::access::{at, flag, list, map, text};
use super::super::custom::structural::{DEEPEST, Structural, pattern};
use super::super::custom::{self};
use super::super::errors::Errors;
use super::rules;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// What JSON Schema has and structural schemas do not.
const FORBIDDEN: &[(&str, &str)] = &[
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("id", "id is not supported"),
];
/// What rules may say of values that break them.
const REASONS: &[&str] = &[
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
/// What may only be said outside of logical junctors.
const OUTSIDE: &[&str] = &[
    "description",
    "type",
    "title",
    "default",
    "nullable",
    "additionalProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];
const JUNCTORS: &[&str] = &["allOf", "anyOf", "oneOf"];

/// `is_new` is a schema that was not there before; only of such it is asked whether its rules can be evaluated.
pub(super) fn validate(schema: &Value, path: &str, is_new: bool, errors: &mut Errors) {
    let mut found = Errors::new();
    shape(schema, path, &mut found);
    if is_new && found.is_empty() {
        rules::validate(schema, path, &mut found);
    }
    for error in found.into_vec() {
        errors.add(error);
    }
}

fn shape(schema: &Value, path: &str, errors: &mut Errors) {
    match text(schema, &["type"]) {
        "object" => {}
        "" => errors.required(format!("{path}.type"), "must not be empty at the root"),
        other => errors.invalid(format!("{path}.type"), other, "must be object at the root"),
    }
    if let Some(metadata) = at(schema, &["properties", "metadata"]) {
        let others = map(metadata, &["properties"]).into_iter().flatten();
        if others
            .clone()
            .any(|(name, _)| name != "name" && name != "generateName")
        {
            errors.forbidden(
                format!("{path}.properties[metadata]"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            );
        }
    }
    let mut check = Check { errors };
    check.node(schema, path, "at the root", 0);
}

struct Check<'a> {
    errors: &'a mut Errors,
}

impl Check<'_> {
    fn node(&mut self, schema: &Value, path: &str, place: &str, depth: usize) {
        if depth > DEEPEST {
            self.errors
                .invalid(path, Value::Null, "is nested too deeply");
            return;
        }
        let kind = text(schema, &["type"]);
        let int_or_string = flag(schema, &["x-kubernetes-int-or-string"]);
        let preserve = flag(schema, &["x-kubernetes-preserve-unknown-fields"]);
        if kind.is_empty() && !int_or_string && !preserve && place != "at the root" {
            self.errors.required(
                format!("{path}.type"),
                &format!("must not be empty {place}"),
            );
        }
        if !kind.is_empty() && !TYPES.contains(&kind) {
            self.errors
                .not_supported(format!("{path}.type"), kind, TYPES);
        }
        self.keywords(schema, path);
        self.extensions(schema, path, kind);
        self.default(schema, path);
        self.below(schema, path, depth);
        if !int_or_string {
            for junctor in JUNCTORS {
                for (at, part) in list(schema, &[junctor]).iter().enumerate() {
                    self.inside(part, &format!("{path}.{junctor}[{at}]"), depth + 1);
                }
            }
            if let Some(part) = at(schema, &["not"]) {
                self.inside(part, &format!("{path}.not"), depth + 1);
            }
        }
    }

    fn keywords(&mut self, schema: &Value, path: &str) {
        for (keyword, why) in FORBIDDEN {
            if at(schema, &[keyword])
                .is_some_and(|value| !value.as_str().is_some_and(str::is_empty))
            {
                self.errors.forbidden(format!("{path}.{keyword}"), why);
            }
        }
        if flag(schema, &["uniqueItems"]) {
            self.errors.forbidden(
                format!("{path}.uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        let given = text(schema, &["pattern"]);
        if let Err(problem) = pattern(given) {
            let path = format!("{path}.pattern");
            self.errors.invalid(
                path,
                given,
                &format!("must be a valid regular expression, but isn't: {problem}"),
            );
        }
        match at(schema, &["additionalProperties"]) {
            Some(Value::Bool(false)) => self.errors.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties cannot be set to false",
            ),
            Some(_) if map(schema, &["properties"]).is_some_and(|all| !all.is_empty()) => {
                self.errors.forbidden(
                    format!("{path}.additionalProperties"),
                    "additionalProperties and properties are mutual exclusive",
                );
            }
            _ => {}
        }
        if text(schema, &["type"]) == "array" && !schema["items"].is_object() {
            self.errors
                .required(format!("{path}.items"), "must be specified");
        }
    }

    fn extensions(&mut self, schema: &Value, path: &str, kind: &str) {
        if flag(schema, &["x-kubernetes-embedded-resource"]) {
            if kind != "object" {
                self.errors.invalid(
                    format!("{path}.type"),
                    kind,
                    "must be object if x-kubernetes-embedded-resource is true",
                );
            }
            let known = map(schema, &["properties"]).is_some_and(|all| !all.is_empty());
            if !known && !flag(schema, &["x-kubernetes-preserve-unknown-fields"]) {
                self.errors.required(
                    format!("{path}.properties"),
                    "must not be empty if x-kubernetes-embedded-resource is true without \
                     x-kubernetes-preserve-unknown-fields",
                );
            }
        }
        self.list_type(schema, path, kind);
        if at(schema, &["x-kubernetes-preserve-unknown-fields"]) == Some(&Value::Bool(false)) {
            self.errors.invalid(
                format!("{path}.x-kubernetes-preserve-unknown-fields"),
                false,
                "must be true or undefined",
            );
        }
        let map_type = text(schema, &["x-kubernetes-map-type"]);
        let given = at(schema, &["x-kubernetes-map-type"]).is_some();
        if given && kind != "object" {
            self.errors.invalid(
                format!("{path}.type"),
                kind,
                "must be object if x-kubernetes-map-type is specified",
            );
        }
        if given && !matches!(map_type, "atomic" | "granular") {
            self.errors.not_supported(
                format!("{path}.x-kubernetes-map-type"),
                map_type,
                &["atomic", "granular"],
            );
        }
        let rules = list(schema, &["x-kubernetes-validations"]);
        for (number, rule) in rules.iter().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{number}]");
            self.rule(schema, rule, &path);
        }
    }

    /// What a rule is written as; whether it can be evaluated is asked when the whole schema is in order.
    fn rule(&mut self, schema: &Value, rule: &Value, path: &str) {
        let errors = &mut *self.errors;
        let given = |field: &str| text(rule, &[field]);
        let (source, message) = (given("rule"), given("message"));
        let has_lines = |text: &str| text.contains(['\n', '\r']);
        if source.trim().is_empty() {
            errors.required(format!("{path}.rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            let field = format!("{path}.message");
            errors.invalid(field, message, "must be non-empty if specified");
        } else if has_lines(message.trim()) {
            let field = format!("{path}.message");
            errors.invalid(field, message, "must not contain line breaks");
        } else if has_lines(source.trim()) && message.is_empty() {
            errors.required(
                format!("{path}.message"),
                "message must be specified if rule contains line breaks",
            );
        } else if let Err(problem) = custom::expressions::compile(source) {
            errors.invalid(format!("{path}.rule"), source, &problem);
        }
        let made = given("messageExpression");
        if !made.is_empty() && made.trim().is_empty() {
            errors.required(
                format!("{path}.messageExpression"),
                "messageExpression must be non-empty if specified",
            );
        }
        if at(rule, &["reason"]).is_some() && !REASONS.contains(&given("reason")) {
            errors.not_supported(format!("{path}.reason"), given("reason"), REASONS);
        }
        let (field, blamed) = (format!("{path}.fieldPath"), given("fieldPath"));
        if blamed.is_empty() {
            return;
        }
        if blamed.trim().is_empty() {
            errors.invalid(&*field, blamed, "must be non-empty if specified");
        }
        if has_lines(blamed) {
            errors.invalid(&*field, blamed, "must not contain line breaks");
        }
        let known = Structural::shape(schema).map_or(true, |shape| {
            custom::field_path::normalized(blamed, &shape).is_ok()
        });
        if !known {
            errors.invalid(field, blamed, "must be a valid path");
        }
    }

    fn list_type(&mut self, schema: &Value, path: &str, kind: &str) {
        let list_type = text(schema, &["x-kubernetes-list-type"]);
        let field = format!("{path}.x-kubernetes-list-type");
        match list_type {
            "" if at(schema, &["x-kubernetes-list-type"]).is_none() => {
                if at(schema, &["x-kubernetes-list-map-keys"]).is_some() {
                    self.errors.required(
                        field,
                        "must be map if x-kubernetes-list-map-keys is non-empty",
                    );
                }
                return;
            }
            "atomic" | "set" | "map" => {}
            other => {
                self.errors
                    .not_supported(field, other, &["atomic", "map", "set"]);
                return;
            }
        }
        if kind != "array" {
            self.errors.invalid(
                format!("{path}.type"),
                kind,
                "must be array if x-kubernetes-list-type is specified",
            );
        }
        let keys = list(schema, &["x-kubernetes-list-map-keys"]);
        if list_type != "map" {
            if !keys.is_empty() {
                self.errors.invalid(
                    field,
                    list_type,
                    "must be map if x-kubernetes-list-map-keys is non-empty",
                );
            }
            return;
        }
        let field = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.errors
                .required(field, "must not be empty if x-kubernetes-list-type is map");
            return;
        }
        if text(schema, &["items", "type"]) != "object" {
            self.errors.invalid(
                format!("{path}.items.type"),
                text(schema, &["items", "type"]),
                "must be object if parent array's x-kubernetes-list-type is map",
            );
        }
        if (1..keys.len()).any(|at| keys[..at].contains(&keys[at])) {
            let all = keys.to_vec();
            self.errors.invalid(
                &*field,
                Value::Array(all),
                "must not contain duplicate entries",
            );
        }
        let required = list(schema, &["items", "required"]);
        for (number, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or("");
            match at(schema, &["items", "properties", name]) {
                None => self.errors.invalid(
                    format!("{field}[{number}]"),
                    name,
                    "entries must all be names of item properties",
                ),
                Some(property) => {
                    if at(property, &["default"]).is_none() && !required.contains(key) {
                        self.errors.required(
                            format!("{path}.items.properties[{name}].default"),
                            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                        );
                    }
                }
            }
        }
    }

    /// A default must be a value that the schema allows, and keeps.
    fn default(&mut self, schema: &Value, path: &str) {
        let Some(default) = at(schema, &["default"]) else {
            return;
        };
        let Ok(structural) = Structural::shape(schema) else {
            return;
        };
        let path = format!("{path}.default");
        let mut pruned = default.clone();
        if !custom::prune(&structural, &mut pruned).is_empty() {
            self.errors
                .invalid(&*path, default.clone(), "must not have unknown fields");
        }
        for error in custom::check(&structural, default, &path) {
            self.errors.add(error);
        }
    }

    fn below(&mut self, schema: &Value, path: &str, depth: usize) {
        for (name, property) in map(schema, &["properties"]).into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            self.node(property, &path, "for specified object fields", depth + 1);
        }
        if let Some(items) = at(schema, &["items"]).filter(|items| items.is_object()) {
            self.node(
                items,
                &format!("{path}.items"),
                "for specified array items",
                depth + 1,
            );
        }
        if let Some(values) =
            at(schema, &["additionalProperties"]).filter(|values| values.is_object())
        {
            let path = format!("{path}.additionalProperties");
            self.node(values, &path, "for specified object fields", depth + 1);
        }
    }

    /// Inside of a junctor values are limited, not described.
    fn inside(&mut self, schema: &Value, path: &str, depth: usize) {
        if depth > DEEPEST {
            return;
        }
        for keyword in OUTSIDE {
            let said = at(schema, &[keyword]).is_some_and(|value| value != &Value::Bool(false));
            if said {
                self.errors.forbidden(
                    format!("{path}.{keyword}"),
                    "must be empty to be structural",
                );
            }
        }
        self.keywords(schema, path);
        for (name, property) in map(schema, &["properties"]).into_iter().flatten() {
            self.inside(property, &format!("{path}.properties[{name}]"), depth + 1);
        }
        if let Some(items) = at(schema, &["items"]) {
            self.inside(items, &format!("{path}.items"), depth + 1);
        }
        for junctor in JUNCTORS {
            for (at, part) in list(schema, &[junctor]).iter().enumerate() {
                self.inside(part, &format!("{path}.{junctor}[{at}]"), depth + 1);
            }
        }
    }
}

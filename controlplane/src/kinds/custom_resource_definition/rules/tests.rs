//! Tests of what rules a definition may have, and of what they say of objects.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::super::schema;
use crate::kinds::custom;
use crate::kinds::custom::structural::Structural;
use crate::kinds::errors::Errors;

/// A schema with one property `p` and a rule there, or at the root.
fn schema_with(property: Value, rule: Value, at_root: bool) -> Value {
    let mut schema = json!({"type": "object", "properties": {"p": property}});
    let holder = if at_root {
        &mut schema
    } else {
        &mut schema["properties"]["p"]
    };
    holder["x-kubernetes-validations"] = json!([rule]);
    schema
}

fn problems(schema: &Value) -> Vec<String> {
    let mut errors = Errors::new();
    schema::validate(schema, "s", true, &mut errors);
    let all = errors.into_vec().into_iter();
    all.map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

#[test]
fn a_number_or_text_may_say_which_it_is() {
    let port = json!({"type": "integer", "x-kubernetes-int-or-string": true});
    let schema = json!({"type": "object", "properties": {"port": port}});
    assert_eq!(problems(&schema), Vec::<String>::new());
}

#[test]
fn rules_that_cannot_be_evaluated_are_refused() {
    let text = || json!({"type": "string", "maxLength": 5});
    let rule = |source: &str| json!({"rule": source});
    let of = |rule: Value| schema_with(text(), rule, false);
    let path = "s.properties[p].x-kubernetes-validations[0]";
    for (schema, wanted) in [
        (
            of(rule("self > 1")),
            ".rule: Invalid value: \"self > 1\": compilation failed: ERROR: <input>:1:6: found no matching overload for '_>_' applied to '(string, int)'\n | self > 1\n | .....^",
        ),
        (
            of(rule("self.size()")),
            ".rule: Invalid value: \"self.size()\": cel expression must evaluate to a bool",
        ),
        (
            of(json!({"rule": "true", "messageExpression": "self + 1"})),
            ".messageExpression: Invalid value: \"self + 1\": messageExpression compilation failed: ERROR: <input>:1:6: found no matching",
        ),
        (
            of(json!({"rule": "true", "messageExpression": "size(self)"})),
            ".messageExpression: Invalid value: \"size(self)\": messageExpression must evaluate to a string",
        ),
        (
            of(json!({"rule": "true", "messageExpression": " "})),
            ".messageExpression: Required value: messageExpression must be non-empty if specified",
        ),
        (
            of(json!({"rule": "true", "message": " "})),
            ".message: Invalid value: \" \": must be non-empty if specified",
        ),
        (
            of(json!({"rule": "true", "message": "a\nb"})),
            ".message: Invalid value: \"a\\nb\": must not contain line breaks",
        ),
        (
            of(json!({"rule": "true\n&& true"})),
            ".message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            of(json!({"rule": "true", "reason": "Because"})),
            ".reason: Unsupported value: \"Because\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
        ),
        (
            of(json!({"rule": "true", "fieldPath": ".nope"})),
            ".fieldPath: Invalid value: \".nope\": must be a valid path",
        ),
        (
            of(json!({"rule": "true", "optionalOldSelf": true})),
            ".optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
    ] {
        let said = problems(&schema);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with(&format!("{path}{wanted}")),
            "{}",
            said[0]
        );
    }
    for right in [
        json!({"rule": "self == oldSelf.orValue('x')", "optionalOldSelf": true}),
        json!({"rule": "self.size() < 3 || self == oldSelf", "messageExpression": "'not ' + self"}),
    ] {
        assert_eq!(problems(&of(right)), Vec::<String>::new());
    }
}

#[test]
fn rules_without_limits_are_too_dear() {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let within = json!({"rule": "self.all(x, self.all(y, x == y))"});
    let said = problems(&schema_with(texts, within.clone(), false));
    let path = "s.properties[p].x-kubernetes-validations[0].rule";
    let advice = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    assert_eq!(
        said,
        [
            format!(
                "{path}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {advice}"
            ),
            format!(
                "{path}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            format!(
                "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {advice}"
            ),
        ]
    );
    let few =
        json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}});
    assert!(problems(&schema_with(few, within, false)).is_empty());
    // A rule of an entry is evaluated for each of as many as there may be.
    let entries = |limits: Value| {
        let mut list = json!({"type": "array", "items": {
            "type": "object", "properties": {"a": {"type": "string", "maxLength": 100}},
            "x-kubernetes-validations": [{"rule": "!has(self.a) || self.a.contains('some text that is not short')"}],
        }});
        list.as_object_mut()
            .unwrap()
            .extend(limits.as_object().unwrap().clone());
        json!({"type": "object", "properties": {"p": list}})
    };
    let said = problems(&entries(json!({})));
    assert!(
        said[0].contains("estimated rule cost exceeds budget by factor of"),
        "{said:?}"
    );
    assert!(problems(&entries(json!({"maxItems": 100}))).is_empty());
    // Before, nobody asked.
    let mut errors = Errors::new();
    schema::validate(&entries(json!({})), "s", false, &mut errors);
    assert!(errors.is_empty());
}

#[test]
fn only_what_can_be_matched_with_its_like_before_may_ask_for_it() {
    let list = |kind: Value| {
        let mut list = json!({"type": "array", "maxItems": 3, "items": {
            "type": "object", "required": ["name"],
            "properties": {"name": {"type": "string", "maxLength": 3}, "n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "!has(self.n) || self.n == oldSelf.n"}],
        }});
        list.as_object_mut()
            .unwrap()
            .extend(kind.as_object().unwrap().clone());
        json!({"type": "object", "properties": {"p": list}})
    };
    let by_name =
        list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}));
    assert_eq!(problems(&by_name), Vec::<String>::new());
    let said = problems(&list(json!({})));
    assert_eq!(
        said,
        [
            "s.properties[p].items.x-kubernetes-validations[0].rule: Invalid value: \"!has(self.n) || self.n == oldSelf.n\": \
          oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[p]"
        ]
    );
    let whole = json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]},
    }});
    let said = problems(&json!({"type": "object", "properties": {"p": whole}}));
    assert!(
        said[0].ends_with("uncorrelatable portion of the schema within s.properties[p]"),
        "{said:?}"
    );
}

#[test]
fn what_breaks_a_rule_is_said_as_the_rule_wants() {
    let numbers = || {
        json!({"type": "object", "properties": {"a.b": {"type": "integer"}, "m": {
            "type": "object", "additionalProperties": {"type": "integer"},
        }}})
    };
    let said = |property: Value, rule: Value, value: Value| {
        let schema = Structural::read(&schema_with(property, rule, false)).unwrap();
        let errors = custom::judge(&schema, &json!({"p": value}), None).into_iter();
        errors
            .map(|error| format!("{}: {}", error.field, error.message))
            .collect::<Vec<_>>()
    };
    let number = || json!({"type": "integer"});
    for (property, rule, value, wanted) in [
        (
            number(),
            json!({"rule": "self > 5", "message": "too small"}),
            json!(3),
            "p: Invalid value: 3: too small",
        ),
        (
            number(),
            json!({"rule": "self > 5"}),
            json!(3),
            "p: Invalid value: 3: failed rule: self > 5",
        ),
        (
            number(),
            json!({"rule": "self > 5", "message": "small", "messageExpression": "'is ' + string(self)"}),
            json!(3),
            "p: Invalid value: 3: is 3",
        ),
        // An expression that makes no good message leaves it to the message.
        (
            number(),
            json!({"rule": "self > 5", "message": "small", "messageExpression": "'a\\nb'"}),
            json!(3),
            "p: Invalid value: 3: small",
        ),
        (
            number(),
            json!({"rule": "self > 5", "message": "small", "messageExpression": "string(1 / (self - 3))"}),
            json!(3),
            "p: Invalid value: 3: small",
        ),
        (
            number(),
            json!({"rule": "self > 5", "reason": "FieldValueDuplicate"}),
            json!(3),
            "p: Duplicate value: 3",
        ),
        (
            number(),
            json!({"rule": "self / 0 == 1", "message": "m"}),
            json!(3),
            "p: Invalid value: \"integer\": division by zero evaluating rule: m",
        ),
        (
            numbers(),
            json!({"rule": "false", "message": "no", "fieldPath": "['a.b']", "reason": "FieldValueForbidden"}),
            json!({"a.b": 1}),
            "p.a.b: Forbidden: no",
        ),
        (
            numbers(),
            json!({"rule": "false", "message": "no", "fieldPath": ".m['x/y']"}),
            json!({}),
            "p.m[x/y]: Invalid value: no",
        ),
    ] {
        assert_eq!(said(property, rule.clone(), value), [wanted], "{rule}");
    }
    // What is null has no rules, and times, durations and bytes are what they say.
    let nullable = json!({"type": "integer", "nullable": true});
    assert!(said(nullable, json!({"rule": "self > 5"}), Value::Null).is_empty());
    for (format, rule, value) in [
        ("duration", "self < duration('2h')", "1h30m"),
        ("byte", "size(self) == 5", "aGVsbG8="),
        ("date", "self.getFullYear() == 2026", "2026-11-23"),
        ("date-time", "self.getHours() == 3", "2026-11-23T03:00:00Z"),
    ] {
        let property = json!({"type": "string", "format": format});
        assert!(
            problems(&schema_with(property.clone(), json!({"rule": rule}), false)).is_empty(),
            "{format}"
        );
        assert_eq!(
            said(property, json!({"rule": rule}), json!(value)),
            Vec::<String>::new(),
            "{format}"
        );
    }
}

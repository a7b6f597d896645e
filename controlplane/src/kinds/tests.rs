//! Tests of `kinds`.

#![allow(clippy::unwrap_used)]

mod defaults;
mod given;
mod invalid;
mod pod_fields;
mod quantities;
mod rows;
mod rules;
mod storage;
mod updates;

use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use serde_json::{Map, Value};

use super::*;

/// JSON that has the fields that our kinds have, with anything in them.
pub(crate) fn arbitrary_json() -> impl proptest::strategy::Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.:/%_-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(
            &[
                "10Mi",
                "-1",
                "Always",
                "None",
                "ClusterIP",
                "NodePort",
                "TCP",
                "Exists",
                "In",
                "a",
                "10.0.0.1",
                "latest",
                "a:1@sha256:",
                "2026-01-02T03:04:05Z",
                "25%"
            ][..]
        )
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 96, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(field_names()), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Names of fields of all types, and a few that nothing has.
fn field_names() -> Vec<String> {
    let mut all: Vec<String> = crate::schema::schema()
        .field_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    all.extend(["", "a", "x y", "$patch", "..", "app.kubernetes.io/name"].map(str::to_owned));
    // What validation looks at is drawn more often.
    for name in [
        "spec",
        "status",
        "metadata",
        "containers",
        "ports",
        "template",
        "selector",
        "volumes",
    ] {
        all.extend(std::iter::repeat_n(name.to_owned(), 60));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_panics_and_defaults_are_stable(object in arbitrary_json(), old in arbitrary_json()) {
        for kind in all() {
            let strategy = kind.strategy;
            for subresource in ["", "status", "scale", "resize", "finalize"] {
                let mut new = object.clone();
                strategy.default(&mut new);
                let once = new.clone();
                strategy.default(&mut new);
                prop_assert_eq!(&new, &once, "{} defaults twice", kind.kind);
                meta::validate(kind, &new, None);
                meta::validate(kind, &new, Some(&old));
                strategy.validate(&new, None, subresource);
                strategy.prepare_update(&mut new, &old, subresource);
                strategy.validate(&new, Some(&old), subresource);
                strategy.warnings(&new);
                prop_assert_eq!(strategy.row(&new, 1_800_000_000).len(), strategy.columns().len());
                strategy.selectable(&new);
                strategy.default_grace_period(&new);
                strategy.prepare_create(&mut new);
            }
        }
    }
}

fn kind(name: &str) -> &'static Kind<'static> {
    all()
        .iter()
        .find(|kind| kind.kind == name)
        .copied()
        .unwrap()
}

/// The object as a create leaves it.
fn created(kind: &Kind, mut object: Value) -> Value {
    if kind.is_namespaced() {
        object["metadata"]["namespace"] = "default".into();
    }
    kind.strategy.default(&mut object);
    kind.strategy.prepare_create(&mut object);
    object
}

fn shown(errors: Vec<FieldError>) -> Vec<String> {
    errors
        .into_iter()
        .map(|error| format!("{}: {}", error.field, error.message))
        .collect()
}

/// What is wrong with a new object.
fn problems(kind: &Kind, object: Value) -> Vec<String> {
    let object = created(kind, object);
    let mut errors = meta::validate(kind, &object, None);
    errors.extend(kind.strategy.validate(&object, None, ""));
    shown(errors)
}

/// What is wrong with turning `old` (as it was created) into `new`, and the object that would be stored.
fn changed(kind: &Kind, old: Value, new: Value, subresource: &str) -> (Vec<String>, Value) {
    let old = created(kind, old);
    let mut new = new;
    if kind.is_namespaced() {
        new["metadata"]["namespace"] = "default".into();
    }
    kind.strategy.default(&mut new);
    kind.strategy.prepare_update(&mut new, &old, subresource);
    let mut errors = meta::validate(kind, &new, Some(&old));
    errors.extend(kind.strategy.validate(&new, Some(&old), subresource));
    (shown(errors), new)
}

#[test]
fn kinds_are_found_by_plural_and_by_kind() {
    for kind in all() {
        let found = by_plural(kind.group, kind.version, kind.plural).unwrap();
        assert!(std::ptr::eq(*kind, found));
        assert!(std::ptr::eq(
            *kind,
            by_kind(kind.group, kind.version, kind.kind).unwrap()
        ));
        assert!(groups().contains(&(kind.group, kind.version)));
    }
    assert_eq!(kind("Deployment").api_version(), "apps/v1");
    assert_eq!(kind("Pod").api_version(), "v1");
    assert!(by_plural("", "v1", "deployments").is_none());
}

#[test]
fn events_have_two_forms() {
    let core = serde_json::json!({
        "apiVersion": "v1", "kind": "Event", "message": "m", "count": 2,
        "involvedObject": {"kind": "Pod"}, "source": {"component": "c"}, "reason": "r",
    });
    let other = event::to_events(&core);
    assert_eq!(other["note"], "m");
    assert_eq!(other["regarding"]["kind"], "Pod");
    assert_eq!(other["deprecatedSource"]["component"], "c");
    assert_eq!(event::to_core(&other), core);
}

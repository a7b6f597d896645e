#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Map, Value, json};

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

#[test]
fn smoke() {
    let _ = json!({});
}

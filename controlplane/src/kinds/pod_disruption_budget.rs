//! PodDisruptionBudget (policy/v1), and as v1beta1 for clients from before 1.25.

use serde_json::{Value, json};

use super::access::{at, integer, list, object_mut, text};
use super::errors::Errors;
use super::served_version::ServedVersion;
use super::table;
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, int_or_percent, meta, names, selector,
};

const V1: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.policy.v1.PodDisruptionBudget",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &PodDisruptionBudget,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::policy::v1::PodDisruptionBudget>();
    },
};

pub(super) static KIND: Kind = V1;

pub(super) static BETA: Kind = Kind {
    version: "v1beta1",
    strategy: &ServedVersion {
        of: &KIND,
        api_version: "policy/v1beta1",
        deprecated: true,
        to_stored: |budget| {
            // It selected nothing then, and everything now.
            if at(budget, &["spec", "selector"]).is_some_and(selector::is_empty) {
                budget["spec"]["selector"] = json!({"matchExpressions": [nothing()]});
            }
        },
        to_served: |budget| {
            let expressions = list(budget, &["spec", "selector", "matchExpressions"]);
            if expressions == [nothing()] {
                budget["spec"]["selector"] = json!({});
            }
        },
    },
    ..V1
};

/// How v1 says what an empty selector said in v1beta1; the words are Kubernetes'.
fn nothing() -> Value {
    json!({"key": "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match", "operator": "Exists"})
}

#[derive(Debug)]
struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        let status = json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
        });
        object_mut(object, &[]).insert("status".into(), status);
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, _old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            status(object, &mut errors);
            return errors.into_vec();
        }
        let wanted = ["minAvailable", "maxUnavailable"].map(|field| at(object, &["spec", field]));
        if wanted.iter().all(Option::is_some) {
            errors.invalid(
                "spec",
                object["spec"].clone(),
                "minAvailable and maxUnavailable cannot be both set",
            );
        }
        for (field, value) in ["minAvailable", "maxUnavailable"].into_iter().zip(wanted) {
            if let Some(value) = value {
                amount(value, &format!("spec.{field}"), &mut errors);
            }
        }
        if let Some(chosen) = at(object, &["spec", "selector"]) {
            selector::validate(chosen, "spec.selector", &mut errors);
        }
        let policy = text(object, &["spec", "unhealthyPodEvictionPolicy"]);
        if !matches!(policy, "" | "AlwaysAllow" | "IfHealthyBudget") {
            errors.not_supported(
                "spec.unhealthyPodEvictionPolicy",
                policy,
                &["AlwaysAllow", "IfHealthyBudget"],
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Min Available", "string", "Pods that must stay."),
            table::column("Max Unavailable", "string", "Pods that may be missing."),
            table::column("Allowed Disruptions", "integer", "Evictions allowed now."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let shown = |field: &str| -> Value {
            match at(object, &["spec", field]) {
                None => "N/A".into(),
                Some(Value::String(text)) => text.clone().into(),
                Some(other) => other.to_string().into(),
            }
        };
        vec![
            table::name(object),
            shown("minAvailable"),
            shown("maxUnavailable"),
            integer(object, &["status", "disruptionsAllowed"])
                .unwrap_or(0)
                .into(),
            table::age(object, now),
        ]
    }
}

/// A number that is not negative, or a percentage up to 100.
fn amount(value: &Value, field: &str, errors: &mut Errors) {
    match value {
        Value::String(text) => {
            let messages = names::percent(text);
            if messages.is_empty() {
                if int_or_percent::resolve(value, 100, false).is_some_and(|part| part > 100) {
                    errors.invalid(field, value.clone(), "must not be greater than 100%");
                }
            } else {
                errors.format(field, text, messages);
            }
        }
        other => {
            if other.as_i64().is_some_and(|number| number < 0) {
                errors.invalid(field, other.clone(), "must be greater than or equal to 0");
            }
        }
    }
}

fn status(object: &Value, errors: &mut Errors) {
    for field in [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ] {
        if let Some(number) = integer(object, &["status", field])
            && number < 0
        {
            errors.invalid(
                format!("status.{field}"),
                number,
                "must be greater than or equal to 0",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_selector_of_v1beta1_selects_nothing() {
        let old = json!({"apiVersion": "policy/v1beta1", "spec": {"selector": {}}});
        let stored = BETA.strategy.to_stored(old.clone());
        assert_eq!(stored["apiVersion"], "policy/v1");
        assert!(!selector::matches(
            &stored["spec"]["selector"],
            Some(&json!({"a": "b"}))
        ));
        assert_eq!(BETA.strategy.to_served(stored), old);
        let plain =
            json!({"apiVersion": "policy/v1", "spec": {"selector": {"matchLabels": {"a": "b"}}}});
        let served = BETA.strategy.to_served(plain.clone());
        assert_eq!(served["spec"], plain["spec"]);
    }
}

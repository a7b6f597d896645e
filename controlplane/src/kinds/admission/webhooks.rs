//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use serde_json::Value;

use super::super::access::{at, fill_absent, integer, list, list_mut, object_mut, text};
use super::super::custom::expressions::admission::{About, scope};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, table};
use super::cel::validate_conditions;
use super::{GROUP, default_matching, validate_failure_policy, validate_rules, validate_selectors};

pub(crate) static MUTATING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Webhooks { mutating: true },
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration>();
    },
};

pub(crate) static VALIDATING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Webhooks { mutating: false },
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration>();
    },
};

#[derive(Debug)]
struct Webhooks {
    mutating: bool,
}

impl Strategy for Webhooks {
    fn default(&self, object: &mut Value) {
        for webhook in list_mut(object, &["webhooks"]) {
            default_matching(webhook, "rules");
            super::super::custom_resource_definition::default_client_config(
                webhook.get_mut("clientConfig"),
            );
            let map = object_mut(webhook, &[]);
            fill_absent(map, "failurePolicy", "Fail");
            if map.get("timeoutSeconds").is_none_or(Value::is_null) {
                map.insert("timeoutSeconds".into(), 10.into());
            }
            if self.mutating {
                fill_absent(map, "reinvocationPolicy", "Never");
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &["metadata"]).insert("generation".into(), 1.into());
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        let before = integer(old, &["metadata", "generation"]).unwrap_or(0);
        let changed = object.get("webhooks") != old.get("webhooks");
        object_mut(object, &["metadata"]).insert(
            "generation".into(),
            before.saturating_add(i64::from(changed)).into(),
        );
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut seen = std::collections::HashSet::new();
        for (number, webhook) in list(object, &["webhooks"]).iter().enumerate() {
            let path = format!("webhooks[{number}]");
            let name = text(webhook, &["name"]);
            if !seen.insert(name) {
                errors.duplicate(format!("{path}.name"), name);
            }
            validate_webhook(webhook, &path, self.mutating, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Webhooks", "integer", "How many webhooks there are."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            list(object, &["webhooks"]).len().into(),
            table::age(object, now),
        ]
    }
}

fn validate_webhook(webhook: &Value, path: &str, mutating: bool, errors: &mut Errors) {
    let name = text(webhook, &["name"]);
    let field = format!("{path}.name");
    if name.is_empty() {
        errors.required(field, "");
    } else {
        errors.format(&field, name, names::dns_subdomain(name));
        if name.split('.').count() < 3 {
            errors.invalid(
                field,
                name,
                "should be a domain with at least three segments separated by dots",
            );
        }
    }
    validate_rules(webhook, "rules", path, errors);
    validate_failure_policy(webhook, path, errors);
    validate_selectors(webhook, path, errors);
    let effects = text(webhook, &["sideEffects"]);
    if effects.is_empty() {
        errors.required(
            format!("{path}.sideEffects"),
            "must specify one of None, NoneOnDryRun",
        );
    } else if !matches!(effects, "None" | "NoneOnDryRun") {
        errors.not_supported(
            format!("{path}.sideEffects"),
            effects,
            &["None", "NoneOnDryRun"],
        );
    }
    if let Some(seconds) = integer(webhook, &["timeoutSeconds"])
        && !(1..=30).contains(&seconds)
    {
        errors.invalid(
            format!("{path}.timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    let reviews = list(webhook, &["admissionReviewVersions"]);
    let field = format!("{path}.admissionReviewVersions");
    let mut seen = std::collections::HashSet::new();
    for (number, version) in reviews.iter().filter_map(Value::as_str).enumerate() {
        let field = format!("{field}[{number}]");
        if seen.insert(version) {
            errors.format(
                &field,
                version,
                super::super::names::dns_label_1035(version),
            );
        } else {
            errors.invalid(field, version, "duplicate version");
        }
    }
    if reviews.is_empty() {
        errors.required(field, "must specify one of v1, v1beta1");
    } else if !reviews
        .iter()
        .any(|version| version == "v1" || version == "v1beta1")
    {
        errors.invalid(
            field,
            webhook["admissionReviewVersions"].clone(),
            "must include at least one of v1, v1beta1",
        );
    }
    match at(webhook, &["clientConfig"]) {
        None => errors.required(
            format!("{path}.clientConfig"),
            "exactly one of url or service is required",
        ),
        Some(config) => {
            super::super::webhook_client::validate(config, &format!("{path}.clientConfig"), errors);
        }
    }
    let reinvocation = text(webhook, &["reinvocationPolicy"]);
    let given = at(webhook, &["reinvocationPolicy"]).is_some();
    if mutating && given && !matches!(reinvocation, "Never" | "IfNeeded") {
        errors.not_supported(
            format!("{path}.reinvocationPolicy"),
            reinvocation,
            &["IfNeeded", "Never"],
        );
    }
    validate_conditions(webhook, path, &scope(&About::default()), errors);
}

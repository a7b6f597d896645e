//! ReplicaSet (apps/v1).

use serde_json::Value;

use super::access::{at, fill, integer, object_mut, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, pod, selector};

pub(super) static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    subresources: &["status", "scale"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ReplicaSet,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::ReplicaSet>();
    },
};

#[derive(Debug)]
struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill(spec, "replicas", 1);
        pod::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), serde_json::json!({"replicas": 0}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(object, "replicas", &mut errors);
        not_negative(object, "minReadySeconds", &mut errors);
        selector_and_template(object, "replicaset", &mut errors);
        if let Some(old) = old {
            errors.immutable(
                "spec.selector",
                at(object, &["spec", "selector"]),
                at(old, &["spec", "selector"]),
            );
        }
        counts(object, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let chosen = selector::shown(at(object, &["spec", "selector"]));
        row(object, now, chosen.into())
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        selectable(object)
    }
}

/// As ReplicationControllers show themselves too.
pub(super) const COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Desired", "integer", "Pods asked for."),
    table::column("Current", "integer", "Pods there are."),
    table::column("Ready", "integer", "Pods that are ready."),
    table::AGE,
    table::wide("Containers", "string", "Names of the containers."),
    table::wide("Images", "string", "Images of the containers."),
    table::wide("Selector", "string", "Which pods belong to it."),
];

/// The cells of [`COLUMNS`]; `chosen` is the last of them.
pub(super) fn row(object: &Value, now: i64, chosen: Value) -> Vec<Value> {
    let count = |path: &[&str]| Value::from(integer(object, path).unwrap_or(0));
    let (containers, images) = table::containers(object);
    vec![
        table::name(object),
        count(&["spec", "replicas"]),
        count(&["status", "replicas"]),
        count(&["status", "readyReplicas"]),
        table::age(object, now),
        containers,
        images,
        chosen,
    ]
}

pub(super) fn selectable(object: &Value) -> Vec<(&'static str, String)> {
    let replicas = integer(object, &["status", "replicas"]).unwrap_or(0);
    vec![("status.replicas", replicas.to_string())]
}

/// `spec.<field>` is absent or at least 0.
pub(super) fn not_negative(object: &Value, field: &str, errors: &mut Errors) {
    if let Some(number) = integer(object, &["spec", field])
        && number < 0
    {
        errors.invalid(
            format!("spec.{field}"),
            number,
            "must be greater than or equal to 0",
        );
    }
}

/// The selector is there, selects something, and the template's labels match it.
pub(super) fn selector_and_template(object: &Value, owner: &str, errors: &mut Errors) {
    let chosen = at(object, &["spec", "selector"]);
    match chosen {
        None => errors.required("spec.selector", ""),
        Some(chosen) => {
            selector::validate(chosen, "spec.selector", errors);
            if selector::is_empty(chosen) {
                errors.invalid(
                    "spec.selector",
                    chosen.clone(),
                    &format!("empty selector is invalid for {owner}"),
                );
            }
        }
    }
    let Some(template) = at(object, &["spec", "template"]) else {
        errors.required("spec.template", "");
        return;
    };
    template_matches(chosen, template, errors);
    pod::validate_template(template, "spec.template", errors);
    let named = match owner {
        "statefulset" => "StatefulSet",
        "daemonset" => "DaemonSet",
        _ => "ReplicaSet",
    };
    long_lived(template, named, errors);
}

/// The template's labels match the selector, where there is one.
pub(super) fn template_matches(chosen: Option<&Value>, template: &Value, errors: &mut Errors) {
    let empty = Value::Object(serde_json::Map::new());
    let labels = at(template, &["metadata", "labels"]);
    if let Some(chosen) = chosen
        && !selector::is_empty(chosen)
        && !selector::matches(chosen, labels)
    {
        errors.invalid(
            "spec.template.metadata.labels",
            labels.unwrap_or(&empty).clone(),
            "`selector` does not match template `labels`",
        );
    }
}

/// Pods that are meant to run for ever are restarted always and have no deadline.
pub(super) fn long_lived(template: &Value, owner: &str, errors: &mut Errors) {
    let policy = text(template, &["spec", "restartPolicy"]);
    if !policy.is_empty() && policy != "Always" {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if at(template, &["spec", "activeDeadlineSeconds"]).is_some() {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            &format!("activeDeadlineSeconds in {owner} is not Supported"),
        );
    }
}

pub(super) fn counts(object: &Value, errors: &mut Errors) {
    let all = integer(object, &["status", "replicas"]).unwrap_or(0);
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ] {
        let Some(count) = integer(object, &["status", field]) else {
            continue;
        };
        if count < 0 {
            errors.invalid(
                format!("status.{field}"),
                count,
                "must be greater than or equal to 0",
            );
        } else if field != "observedGeneration" && count > all {
            errors.invalid(
                format!("status.{field}"),
                count,
                "cannot be greater than status.replicas",
            );
        }
    }
}

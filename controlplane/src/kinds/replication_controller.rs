//! ReplicationController (core/v1).

use serde_json::Value;

use super::access::{at, fill, integer, map, object_mut};
use super::errors::Errors;
use super::replica_set::{counts, long_lived, not_negative};
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, pod, selector, table};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ReplicationController",
    subresources: &["status", "scale"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ReplicationController,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ReplicationController>();
    },
};

#[derive(Debug)]
struct ReplicationController;

fn is_empty(object: &Value, path: &[&str]) -> bool {
    map(object, path).is_none_or(serde_json::Map::is_empty)
}

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        fill(object_mut(object, &["spec"]), "replicas", 1);
        let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned();
        if let Some(labels) = labels.filter(|labels| labels.is_object()) {
            if is_empty(object, &["spec", "selector"]) {
                object_mut(object, &["spec"]).insert("selector".into(), labels.clone());
            }
            if is_empty(object, &["metadata", "labels"]) {
                object_mut(object, &["metadata"]).insert("labels".into(), labels);
            }
        }
        pod::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), serde_json::json!({"replicas": 0}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
        } else {
            meta::keep_status(object, old);
            meta::set_generation(object, Some(old));
        }
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(object, "replicas", &mut errors);
        not_negative(object, "minReadySeconds", &mut errors);
        if is_empty(object, &["spec", "selector"]) {
            errors.required("spec.selector", "");
        }
        match at(object, &["spec", "template"]) {
            None => errors.required("spec.template", ""),
            Some(template) => {
                let labels = at(template, &["metadata", "labels"]);
                let chosen = serde_json::json!({"matchLabels": at(object, &["spec", "selector"])});
                if !selector::is_empty(&chosen) && !selector::matches(&chosen, labels) {
                    errors.invalid(
                        "spec.template.metadata.labels",
                        labels.cloned().unwrap_or_else(|| serde_json::json!({})),
                        "`selector` does not match template `labels`",
                    );
                }
                pod::validate_template(template, "spec.template", &mut errors);
                long_lived(template, "ReplicationController", &mut errors);
            }
        }
        counts(object, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Desired", "integer", "Pods asked for."),
            table::column("Current", "integer", "Pods there are."),
            table::column("Ready", "integer", "Pods that are ready."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
            table::wide("Selector", "string", "Which pods belong to it."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
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
            table::labels(object, &["spec", "selector"]),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let replicas = integer(object, &["status", "replicas"]).unwrap_or(0);
        vec![("status.replicas", replicas.to_string())]
    }

    fn default_propagation(&self) -> &'static str {
        // What the oldest clients expect of a deletion that does not say.
        "Orphan"
    }
}

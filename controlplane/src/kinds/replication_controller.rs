//! ReplicationController (core/v1).

use serde_json::Value;

use super::access::{at, fill, map, object_mut};
use super::errors::Errors;
use super::replica_set::{self, counts, long_lived, not_negative, template_matches};
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, pod, table};

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
        meta::keep_status_apart(object, old, subresource);
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
                let chosen = serde_json::json!({"matchLabels": at(object, &["spec", "selector"])});
                template_matches(Some(&chosen), template, &mut errors);
                pod::validate_template(template, "spec.template", &mut errors);
                long_lived(template, "ReplicationController", &mut errors);
            }
        }
        counts(object, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        replica_set::COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let chosen = table::labels(object, &["spec", "selector"]);
        replica_set::row(object, now, chosen)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        replica_set::selectable(object)
    }

    fn default_propagation(&self) -> &'static str {
        // What the oldest clients expect of a deletion that does not say.
        "Orphan"
    }
}

//! Namespace (core/v1). Its deletion is in two phases; the namespace controller empties it and then removes
//! the finalizer through the `finalize` subresource.

use serde_json::{Value, json};

use super::access::{fill, list, object_mut, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.Namespace",
    subresources: &["status", "finalize"],
    name_rule: NameRule::DnsLabel,
    strategy: &Namespace,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Namespace>();
    },
};

#[derive(Debug)]
struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = text(object, &["metadata", "name"]).to_owned();
        if !name.is_empty() {
            object_mut(object, &["metadata", "labels"])
                .insert("kubernetes.io/metadata.name".into(), name.into());
        }
        fill(object_mut(object, &["status"]), "phase", "Active");
    }

    fn prepare_create(&self, object: &mut Value) {
        let fields = object_mut(object, &[]);
        fields.insert("status".into(), json!({"phase": "Active"}));
        let finalizers = object_mut(object, &["spec"])
            .entry("finalizers")
            .or_insert_with(|| json!([]));
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Value::Array(list) = finalizers
            && !list.iter().any(|finalizer| finalizer == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        match subresource {
            "status" => meta::keep_all_but_status_and_labels(object, old),
            "finalize" => meta::keep_status(object, old),
            _ => {
                meta::keep_status(object, old);
                let fields = object_mut(object, &[]);
                match old.get("spec") {
                    Some(spec) => fields.insert("spec".into(), spec.clone()),
                    None => fields.remove("spec"),
                };
            }
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for (at, finalizer) in list(object, &["spec", "finalizers"]).iter().enumerate() {
            let finalizer = finalizer.as_str().unwrap_or("");
            let field = format!("spec.finalizers[{at}]");
            errors.format(&field, finalizer, names::qualified_name(finalizer));
            if !finalizer.contains('/') && finalizer != "kubernetes" {
                errors.invalid(
                    field,
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
        if let Some(old) = old
            && subresource == "status"
        {
            let phase = text(object, &["status", "phase"]);
            let deleting = !text(old, &["metadata", "deletionTimestamp"]).is_empty();
            if deleting && phase != "Terminating" {
                errors.invalid(
                    "status.Phase",
                    phase,
                    "may only be 'Terminating' if `deletionTimestamp` is not empty",
                );
            } else if !deleting && phase != "Active" {
                errors.invalid(
                    "status.Phase",
                    phase,
                    "may only be 'Active' if `deletionTimestamp` is empty",
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Status", "string", "Active or Terminating."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["status", "phase"]).into(),
            table::age(object, now),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "status.phase",
            text(object, &["status", "phase"]).to_owned(),
        )]
    }
}

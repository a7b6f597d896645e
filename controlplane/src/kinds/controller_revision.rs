//! ControllerRevision (apps/v1): what a StatefulSet or DaemonSet was like.

use serde_json::Value;

use super::access::{at, flag, integer, list, text};
use super::errors::Errors;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, table};

pub(super) static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.ControllerRevision",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ControllerRevision,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::ControllerRevision>();
    },
};

#[derive(Debug)]
struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match at(object, &["data"]) {
            None => errors.required("data", "data is mandatory"),
            Some(data) if !data.is_object() => {
                errors.invalid(
                    "data",
                    data.clone(),
                    "error parsing data: it must be an object",
                );
            }
            Some(_) => {}
        }
        if let Some(revision) = integer(object, &["revision"]).filter(|revision| *revision < 0) {
            errors.invalid("revision", revision, "must be greater than or equal to 0");
        }
        if let Some(old) = old {
            errors.immutable("data", at(object, &["data"]), at(old, &["data"]));
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Controller", "string", "Whose history it is."),
            table::column("Revision", "string", "Its number."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let owner = list(object, &["metadata", "ownerReferences"])
            .iter()
            .find(|owner| flag(owner, &["controller"]))
            .map_or_else(
                || "<none>".to_owned(),
                |owner| {
                    let kind = text(owner, &["kind"]).to_lowercase();
                    let name = text(owner, &["name"]);
                    match text(owner, &["apiVersion"]).split_once('/') {
                        Some((group, _)) => format!("{kind}.{group}/{name}"),
                        None => format!("{kind}/{name}"),
                    }
                },
            );
        vec![
            table::name(object),
            owner.into(),
            integer(object, &["revision"])
                .unwrap_or(0)
                .to_string()
                .into(),
            table::age(object, now),
        ]
    }
}

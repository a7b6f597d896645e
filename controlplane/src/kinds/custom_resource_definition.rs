//! CustomResourceDefinition (apiextensions.k8s.io/v1). What it defines is in [`super::custom`]; whether its names are
//! free, and what becomes of the resources when it is deleted, is the work of `controllers::definitions`.

use serde_json::{Value, json};

use super::access::{at, fill, flag, list, list_mut, object_mut, text};
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};

mod rules;
pub(crate) mod schema;
mod validate;

pub(crate) static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Definition,
    register: |generator| {
        generator.subschema_for::<
            k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        >();
    },
};

/// Holds a definition until its resources are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

#[derive(Debug)]
struct Definition;

fn storage_version(object: &Value) -> Option<&str> {
    let versions = list(object, &["spec", "versions"]);
    let storage = versions
        .iter()
        .find(|version| flag(version, &["storage"]))?;
    Some(text(storage, &["name"]))
}

/// Objects are stored in this version from now on, and may be found in it until somebody says otherwise.
fn note_storage_version(object: &mut Value) {
    let Some(version) = storage_version(object).map(str::to_owned) else {
        return;
    };
    let mut known = list(object, &["status", "storedVersions"]).to_vec();
    if !known.contains(&Value::from(version.as_str())) {
        known.push(version.into());
    }
    object_mut(object, &["status"]).insert("storedVersions".into(), known.into());
}

/// Port of a webhook's Service.
pub(crate) fn default_client_config(config: Option<&mut Value>) {
    if let Some(service) = config.and_then(|config| config.get_mut("service"))
        && let Some(service) = service.as_object_mut()
        && service.get("port").is_none_or(Value::is_null)
    {
        service.insert("port".into(), 443.into());
    }
}

impl Strategy for Definition {
    fn default(&self, object: &mut Value) {
        let kind = text(object, &["spec", "names", "kind"]).to_owned();
        if !kind.is_empty() {
            let names = object_mut(object, &["spec", "names"]);
            fill(names, "singular", kind.to_lowercase());
            fill(names, "listKind", format!("{kind}List"));
        }
        if at(object, &["spec", "conversion"]).is_none() {
            object_mut(object, &["spec"]).insert("conversion".into(), json!({"strategy": "None"}));
        }
        let webhook = object.pointer_mut("/spec/conversion/webhook/clientConfig");
        default_client_config(webhook);
        for version in list_mut(object, &["spec", "versions"]) {
            if let Some(version) = version.as_object_mut() {
                for flag in ["served", "storage"] {
                    if version.get(flag).is_none_or(Value::is_null) {
                        version.insert(flag.into(), false.into());
                    }
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        note_storage_version(object);
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status(object, old);
            return;
        }
        meta::keep_status(object, old);
        note_storage_version(object);
        meta::set_generation(object, Some(old));
    }

    fn prepare_delete(&self, object: &mut Value) {
        let since = text(object, &["metadata", "deletionTimestamp"]).to_owned();
        let mut finalizers = list(object, &["metadata", "finalizers"]).to_vec();
        if !finalizers.contains(&FINALIZER.into()) {
            finalizers.push(FINALIZER.into());
        }
        object_mut(object, &["metadata"]).insert("finalizers".into(), finalizers.into());
        let mut conditions = list(object, &["status", "conditions"]).to_vec();
        conditions.retain(|condition| text(condition, &["type"]) != "Terminating");
        conditions.push(json!({
            "type": "Terminating", "status": "True", "lastTransitionTime": since,
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        }));
        object_mut(object, &["status"]).insert("conditions".into(), conditions.into());
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        if subresource == "status" {
            return validate::status(object);
        }
        validate::definition(object, old)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column(
                "Created At",
                "date",
                "CreationTimestamp is a timestamp representing the server time when this object was created.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["metadata", "creationTimestamp"]).into(),
        ]
    }
}

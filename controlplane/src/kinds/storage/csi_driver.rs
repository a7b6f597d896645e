//! CSIDriver (storage.k8s.io/v1).

use serde_json::{Value, json};

use super::super::access::{at, fill_absent, flag, integer, list, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};
use super::{GROUP, validate_driver_name};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.CSIDriver",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &CsiDriver,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::CSIDriver>();
    },
};

#[derive(Debug)]
struct CsiDriver;

const MODES: &[&str] = &["Ephemeral", "Persistent"];
const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        for (field, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            if spec.get(field).is_none_or(Value::is_null) {
                spec.insert(field.into(), value.into());
            }
        }
        fill_absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        let modes = spec.get("volumeLifecycleModes").and_then(Value::as_array);
        if modes.is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::set_generation(object, Some(old));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if old.is_none() {
            validate_driver_name(
                text(object, &["metadata", "name"]),
                "metadata.name",
                &mut errors,
            );
        }
        for mode in list(object, &["spec", "volumeLifecycleModes"]) {
            let mode = mode.as_str().unwrap_or("");
            if !MODES.contains(&mode) {
                errors.not_supported("spec.volumeLifecycleModes", mode, MODES);
            }
        }
        let policy = text(object, &["spec", "fsGroupPolicy"]);
        if !GROUP_POLICIES.contains(&policy) {
            errors.not_supported("spec.fsGroupPolicy", policy, GROUP_POLICIES);
        }
        let mut audiences = std::collections::HashSet::new();
        for (index, token) in list(object, &["spec", "tokenRequests"]).iter().enumerate() {
            let field = format!("spec.tokenRequests[{index}]");
            if !audiences.insert(text(token, &["audience"])) {
                errors.duplicate(format!("{field}.audience"), text(token, &["audience"]));
            }
            if let Some(seconds) = integer(token, &["expirationSeconds"])
                && !(600..=1 << 32).contains(&seconds)
            {
                errors.invalid(
                    format!("{field}.expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            }
        }
        if let Some(old) = old {
            for field in ["attachRequired", "volumeLifecycleModes"] {
                errors.immutable(
                    &format!("spec.{field}"),
                    at(object, &["spec", field]),
                    at(old, &["spec", field]),
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            super::NAME,
            table::column(
                "AttachRequired",
                "boolean",
                "Whether volumes are attached first.",
            ),
            table::column(
                "PodInfoOnMount",
                "boolean",
                "Whether it is told of the pod.",
            ),
            table::column("StorageCapacity", "boolean", "Whether it reports capacity."),
            table::column("TokenRequests", "string", "Tokens that it asks for."),
            table::column(
                "RequiresRepublish",
                "boolean",
                "Whether it is called again.",
            ),
            table::column("Modes", "string", "Lifecycles of its volumes."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let join = |items: Vec<&str>, none: &str| -> Value {
            if items.is_empty() {
                none.to_owned()
            } else {
                items.join(",")
            }
            .into()
        };
        let modes = list(object, &["spec", "volumeLifecycleModes"]);
        let tokens = list(object, &["spec", "tokenRequests"]);
        vec![
            table::name(object),
            flag(object, &["spec", "attachRequired"]).into(),
            flag(object, &["spec", "podInfoOnMount"]).into(),
            flag(object, &["spec", "storageCapacity"]).into(),
            join(
                tokens.iter().map(|t| text(t, &["audience"])).collect(),
                "<unset>",
            ),
            flag(object, &["spec", "requiresRepublish"]).into(),
            join(modes.iter().filter_map(Value::as_str).collect(), "<none>"),
            table::age(object, now),
        ]
    }
}

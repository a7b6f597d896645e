//! StatefulSet (apps/v1).

use serde_json::{Value, json};

use super::access::{at, fill, fill_absent, integer, list, list_mut, object_mut, same, text};
use super::errors::Errors;
use super::replica_set::{not_negative, selector_and_template};
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, int_or_percent, meta, names, pod, table,
};

pub(super) static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.StatefulSet",
    subresources: &["status", "scale"],
    // Names of pods, which are host names, are made of it.
    name_rule: NameRule::DnsLabel,
    strategy: &StatefulSet,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::StatefulSet>();
    },
};

const ROLLING: &[&str] = &["spec", "updateStrategy", "rollingUpdate"];
const RETENTION: &[&str] = &["spec", "persistentVolumeClaimRetentionPolicy"];
/// What of the spec may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

#[derive(Debug)]
struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "podManagementPolicy", "OrderedReady");
        let retention = object_mut(object, RETENTION);
        fill(retention, "whenDeleted", "Retain");
        fill(retention, "whenScaled", "Retain");
        fill(
            object_mut(object, &["spec", "updateStrategy"]),
            "type",
            "RollingUpdate",
        );
        if text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
            let rolling = object_mut(object, ROLLING);
            fill(rolling, "partition", 0);
            fill(rolling, "maxUnavailable", 1);
        }
        for claim in list_mut(object, &["spec", "volumeClaimTemplates"]) {
            let fields = object_mut(claim, &[]);
            fill(fields, "apiVersion", "v1");
            fill(fields, "kind", "PersistentVolumeClaim");
            fill_absent(object_mut(claim, &["spec"]), "volumeMode", "Filesystem");
            fill(object_mut(claim, &["status"]), "phase", "Pending");
        }
        pod::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert(
            "status".into(),
            json!({"replicas": 0, "availableReplicas": 0}),
        );
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            not_negative(object, field, &mut errors);
        }
        one_of(
            object,
            &["spec", "podManagementPolicy"],
            &["OrderedReady", "Parallel"],
            &mut errors,
        );
        update_strategy(object, &mut errors);
        for field in ["whenDeleted", "whenScaled"] {
            one_of(
                object,
                &["spec", "persistentVolumeClaimRetentionPolicy", field],
                &["Retain", "Delete"],
                &mut errors,
            );
        }
        if let Some(start) =
            integer(object, &["spec", "ordinals", "start"]).filter(|start| *start < 0)
        {
            errors.invalid(
                "spec.ordinals.start",
                start,
                "must be greater than or equal to 0",
            );
        }
        let service = text(object, &["spec", "serviceName"]);
        if !service.is_empty() && old.is_none() {
            errors.format("spec.serviceName", service, names::dns_label(service));
        }
        selector_and_template(&with_claims(object), "statefulset", &mut errors);
        if let Some(old) = old {
            immutable(object, old, &mut errors);
        }
        counts(object, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Ready", "string", "Ready pods of those asked for."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let count = |path: &[&str]| integer(object, path).unwrap_or(0);
        let (containers, images) = table::containers(object);
        vec![
            table::name(object),
            format!(
                "{}/{}",
                count(&["status", "readyReplicas"]),
                count(&["spec", "replicas"])
            )
            .into(),
            table::age(object, now),
            containers,
            images,
        ]
    }
}

/// Where it is set, the text at `path` is one of those.
pub(super) fn one_of(object: &Value, path: &[&str], supported: &[&str], errors: &mut Errors) {
    let value = text(object, path);
    if at(object, path).is_some() && !supported.contains(&value) {
        errors.not_supported(path.join("."), value, supported);
    }
}

fn update_strategy(object: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.updateStrategy";
    let rolling = at(object, ROLLING);
    match (text(object, &["spec", "updateStrategy", "type"]), rolling) {
        ("", _) => errors.required(FIELD, ""),
        ("OnDelete", Some(rolling)) => errors.invalid(
            format!("{FIELD}.rollingUpdate"),
            rolling.clone(),
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            let field = format!("{FIELD}.rollingUpdate");
            if let Some(partition) = integer(rolling, &["partition"]).filter(|number| *number < 0) {
                errors.invalid(
                    format!("{field}.partition"),
                    partition,
                    "must be greater than or equal to 0",
                );
            }
            if let Some(most) = at(rolling, &["maxUnavailable"]) {
                let field = format!("{field}.maxUnavailable");
                int_or_percent::validate(most, &field, errors);
                int_or_percent::at_most_all(most, &field, errors);
                if int_or_percent::resolve(most, 100, true) == Some(0) {
                    errors.invalid(field, most.clone(), "cannot be 0");
                }
            }
        }
        (other, _) => errors.invalid(FIELD, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// The object with a volume in its template for every claim template that has none: that is what its pods
/// get, so containers may mount them.
fn with_claims(object: &Value) -> Value {
    let claims = list(object, &["spec", "volumeClaimTemplates"]);
    let mut object = object.clone();
    if claims.is_empty() || at(&object, &["spec", "template"]).is_none() {
        return object;
    }
    let names: Vec<String> = claims
        .iter()
        .map(|claim| text(claim, &["metadata", "name"]).to_owned())
        .collect();
    let spec = object_mut(&mut object, &["spec", "template", "spec"]);
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Value::Array(volumes) = volumes {
        // The claim takes the place of a volume of its name.
        volumes.retain(|volume| !names.iter().any(|name| text(volume, &["name"]) == name));
        volumes.extend(
            names
                .iter()
                .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
        );
    }
    object
}

fn immutable(object: &Value, old: &Value, errors: &mut Errors) {
    let rest = |object: &Value| {
        let mut spec = at(object, &["spec"]).cloned().unwrap_or_default();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|field, _| !MUTABLE.contains(&field.as_str()));
        }
        spec
    };
    if !same(Some(&rest(object)), Some(&rest(old))) {
        errors.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden",
        );
    }
}

fn counts(object: &Value, errors: &mut Errors) {
    let count = |field: &str| integer(object, &["status", field]).unwrap_or(0);
    for field in [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ] {
        if count(field) < 0 {
            errors.invalid(
                format!("status.{field}"),
                count(field),
                "must be greater than or equal to 0",
            );
        }
    }
    for field in [
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
    ] {
        if count(field) > count("replicas") {
            errors.invalid(
                format!("status.{field}"),
                count(field),
                "cannot be greater than status.replicas",
            );
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        errors.invalid(
            "status.availableReplicas",
            count("availableReplicas"),
            "cannot be greater than status.readyReplicas",
        );
    }
}

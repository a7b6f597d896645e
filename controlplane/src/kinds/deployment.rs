//! Deployment (apps/v1).

use serde_json::{Value, json};

use super::access::{at, fill, fill_absent, integer, object_mut, text};
use super::errors::Errors;
use super::replica_set::{not_negative, selector_and_template};
use super::table;
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, int_or_percent, meta, pod, selector,
};

pub(super) static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.Deployment",
    subresources: &["status", "scale"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Deployment,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::Deployment>();
    },
};

const ROLLING: &[&str] = &["spec", "strategy", "rollingUpdate"];

const REVISION: &[&str] = &[
    "metadata",
    "annotations",
    "deployment.kubernetes.io/revision",
];

#[derive(Debug)]
struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let strategy = object_mut(object, &["spec", "strategy"]);
        fill(strategy, "type", "RollingUpdate");
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = object_mut(object, ROLLING);
            fill_absent(rolling, "maxUnavailable", "25%");
            fill_absent(rolling, "maxSurge", "25%");
        }
        pod::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            let revision = at(object, REVISION).cloned();
            meta::keep_all_but_status(object, old);
            // The controller counts revisions as it reports: that is no new generation.
            if let (Some(revision), Some(name)) = (revision, REVISION.last()) {
                object_mut(object, &["metadata", "annotations"])
                    .insert((*name).to_owned(), revision);
            }
            return;
        }
        meta::keep_status(object, old);
        meta::set_generation(object, Some(old));
        // Annotations of a deployment are copied to its ReplicaSets, so they count as a change of the spec.
        let annotations = |object: &Value| at(object, &["metadata", "annotations"]).cloned();
        let unchanged = integer(object, &["metadata", "generation"])
            == integer(old, &["metadata", "generation"]);
        if unchanged
            && !super::access::same(annotations(object).as_ref(), annotations(old).as_ref())
        {
            let before = integer(old, &["metadata", "generation"]).unwrap_or(0);
            object_mut(object, &["metadata"])
                .insert("generation".into(), before.saturating_add(1).into());
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(object, "replicas", &mut errors);
        selector_and_template(object, "deployment", &mut errors);
        strategy(object, &mut errors);
        not_negative(object, "minReadySeconds", &mut errors);
        not_negative(object, "revisionHistoryLimit", &mut errors);
        not_negative(object, "progressDeadlineSeconds", &mut errors);
        if let Some(deadline) = integer(object, &["spec", "progressDeadlineSeconds"])
            && deadline <= integer(object, &["spec", "minReadySeconds"]).unwrap_or(0)
        {
            errors.invalid(
                "spec.progressDeadlineSeconds",
                deadline,
                "must be greater than minReadySeconds",
            );
        }
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
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Ready", "string", "Ready pods of those asked for."),
            table::column("Up-to-date", "string", "Pods of the current template."),
            table::column("Available", "string", "Pods that are available."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
            table::wide("Selector", "string", "Which pods belong to it."),
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
            count(&["status", "updatedReplicas"]).into(),
            count(&["status", "availableReplicas"]).into(),
            table::age(object, now),
            containers,
            images,
            selector::shown(at(object, &["spec", "selector"])).into(),
        ]
    }
}

fn strategy(object: &Value, errors: &mut Errors) {
    let rolling = at(object, ROLLING);
    match text(object, &["spec", "strategy", "type"]) {
        "Recreate" => {
            if rolling.is_some() {
                errors.forbidden(
                    "spec.strategy.rollingUpdate",
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => match rolling {
            None => errors.required(
                "spec.strategy.rollingUpdate",
                "this should be defaulted and never be nil",
            ),
            Some(rolling) => rolling_update(rolling, errors),
        },
        "" => errors.required("spec.strategy", ""),
        other => errors.not_supported("spec.strategy", other, &["Recreate", "RollingUpdate"]),
    }
}

fn rolling_update(rolling: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.strategy.rollingUpdate";
    let zero = Value::from(0);
    let unavailable = rolling.get("maxUnavailable").unwrap_or(&zero);
    let surge = rolling.get("maxSurge").unwrap_or(&zero);
    int_or_percent::validate(unavailable, &format!("{FIELD}.maxUnavailable"), errors);
    int_or_percent::validate(surge, &format!("{FIELD}.maxSurge"), errors);
    let is_zero = |value: &Value| int_or_percent::resolve(value, 100, false) == Some(0);
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(
            format!("{FIELD}.maxUnavailable"),
            unavailable.clone(),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    int_or_percent::at_most_all(unavailable, &format!("{FIELD}.maxUnavailable"), errors);
}

fn counts(object: &Value, errors: &mut Errors) {
    let count = |field: &str| integer(object, &["status", field]).unwrap_or(0);
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
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
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
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
            "cannot be greater than readyReplicas",
        );
    }
}

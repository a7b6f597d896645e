//! DaemonSet (apps/v1).

use serde_json::{Value, json};

use super::access::{at, fill, fill_absent, integer, object_mut, same, text};
use super::errors::Errors;
use super::replica_set::{not_negative, selector_and_template};
use super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, int_or_percent, meta, pod, selector, table,
};

pub(super) static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.DaemonSet",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &DaemonSet,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::apps::v1::DaemonSet>();
    },
};

const ROLLING: &[&str] = &["spec", "updateStrategy", "rollingUpdate"];
/// How often the template has changed; the server counts.
const GENERATION: &str = "deprecated.daemonset.template.generation";

#[derive(Debug)]
struct DaemonSet;

fn template_generation(object: &Value) -> i64 {
    text(object, &["metadata", "annotations", GENERATION])
        .parse()
        .unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    object_mut(object, &["metadata", "annotations"])
        .insert(GENERATION.into(), generation.to_string().into());
}

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        fill(object_mut(object, &["spec"]), "revisionHistoryLimit", 10);
        fill(
            object_mut(object, &["spec", "updateStrategy"]),
            "type",
            "RollingUpdate",
        );
        if text(object, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
            let rolling = object_mut(object, ROLLING);
            fill_absent(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
        pod::default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        let status = json!({
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        });
        object_mut(object, &[]).insert("status".into(), status);
        meta::set_generation(object, None);
        let given = template_generation(object);
        set_template_generation(object, given.max(1));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
            return;
        }
        meta::keep_status(object, old);
        meta::set_generation(object, Some(old));
        let template = |object: &Value| at(object, &["spec", "template"]).cloned();
        let before = template_generation(old);
        let changed = !same(template(object).as_ref(), template(old).as_ref());
        set_template_generation(object, before + i64::from(changed));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        not_negative(object, "minReadySeconds", &mut errors);
        not_negative(object, "revisionHistoryLimit", &mut errors);
        selector_and_template(object, "daemonset", &mut errors);
        update_strategy(object, &mut errors);
        if let Some(old) = old {
            errors.immutable(
                "spec.selector",
                at(object, &["spec", "selector"]),
                at(old, &["spec", "selector"]),
            );
        }
        for (field, count) in object
            .get("status")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if let Some(count) = count.as_i64().filter(|count| *count < 0) {
                errors.invalid(
                    format!("status.{field}"),
                    count,
                    "must be greater than or equal to 0",
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Desired", "integer", "Nodes that should run a pod."),
            table::column("Current", "integer", "Nodes that should and do."),
            table::column("Ready", "integer", "Nodes whose pod is ready."),
            table::column(
                "Up-to-date",
                "integer",
                "Nodes whose pod is of the current template.",
            ),
            table::column("Available", "integer", "Nodes whose pod is available."),
            table::column("Node Selector", "string", "Which nodes run a pod."),
            table::AGE,
            table::wide("Containers", "string", "Names of the containers."),
            table::wide("Images", "string", "Images of the containers."),
            table::wide("Selector", "string", "Which pods belong to it."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let count = |field: &str| Value::from(integer(object, &["status", field]).unwrap_or(0));
        let (containers, images) = table::containers(object);
        vec![
            table::name(object),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            table::labels(object, &["spec", "template", "spec", "nodeSelector"]),
            table::age(object, now),
            containers,
            images,
            selector::shown(at(object, &["spec", "selector"])).into(),
        ]
    }
}

fn update_strategy(object: &Value, errors: &mut Errors) {
    match text(object, &["spec", "updateStrategy", "type"]) {
        "OnDelete" => {}
        "RollingUpdate" => match at(object, ROLLING) {
            None => errors.required("spec.updateStrategy.rollingUpdate", ""),
            Some(rolling) => rolling_update(rolling, errors),
        },
        other => errors.not_supported(
            "spec.updateStrategy.type",
            other,
            &["OnDelete", "RollingUpdate"],
        ),
    }
}

fn rolling_update(rolling: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.updateStrategy.rollingUpdate";
    let zero = Value::from(0);
    let is_zero = |value: &Value| int_or_percent::resolve(value, 100, true) == Some(0);
    let unavailable = rolling.get("maxUnavailable").unwrap_or(&zero);
    let surge = rolling.get("maxSurge").unwrap_or(&zero);
    for (name, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        let field = format!("{FIELD}.{name}");
        int_or_percent::validate(value, &field, errors);
        int_or_percent::at_most_all(value, &field, errors);
    }
    match (is_zero(unavailable), is_zero(surge)) {
        (true, true) => errors.required(
            format!("{FIELD}.maxUnavailable"),
            "cannot be 0 when maxSurge is 0",
        ),
        (false, false) => errors.invalid(
            format!("{FIELD}.maxSurge"),
            surge.clone(),
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
}

//! HorizontalPodAutoscaler: stored as autoscaling/v2, also shown as autoscaling/v1 (`v1`).

mod v1;
mod validate;

use serde_json::{Value, json};

#[cfg(test)]
pub(crate) use v1::{to_v1, to_v2};

use super::access::{at, integer, list, object_mut, text};
use super::errors::Errors;
use super::served_version::ServedVersion;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta};

const fn kind(
    version: &'static str,
    definition: &'static str,
    strategy: &'static dyn Strategy,
    register: fn(&mut schemars::SchemaGenerator),
) -> Kind<'static> {
    Kind {
        group: "autoscaling",
        version,
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        scope: Scope::Namespaced,
        definition,
        subresources: &["status"],
        name_rule: NameRule::DnsSubdomain,
        strategy,
        register,
    }
}

pub(crate) static KIND: Kind = kind(
    "v2",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    &HorizontalPodAutoscaler,
    |generator| {
        generator.subschema_for::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>();
    },
);

pub(crate) static V1_KIND: Kind = kind(
    "v1",
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    &ServedVersion {
        of: &KIND,
        api_version: "autoscaling/v1",
        deprecated: false,
        to_stored: |object| *object = v1::to_v2(object),
        to_served: |object| *object = v1::to_v1(object),
    },
    |generator| {
        generator.subschema_for::<k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler>();
    },
);

#[derive(Debug)]
struct HorizontalPodAutoscaler;

/// Up: whatever is faster of 100 % and 4 pods each 15 s. Down: all at once, after five minutes.
fn rules(down: bool) -> Value {
    if down {
        json!({
            "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        })
    } else {
        json!({
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ],
        })
    }
}

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        if object["apiVersion"] == "autoscaling/v1" {
            return;
        }
        let spec = object_mut(object, &["spec"]);
        if spec.get("minReplicas").is_none_or(Value::is_null) {
            spec.insert("minReplicas".into(), 1.into());
        }
        if spec
            .get("metrics")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
        {
            let metric = json!([{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
            }}]);
            spec.insert("metrics".into(), metric);
        }
        if at(object, &["spec", "behavior"]).is_some() {
            for (side, down) in [("scaleUp", false), ("scaleDown", true)] {
                let given = object_mut(object, &["spec", "behavior", side]);
                for (name, value) in rules(down).as_object().into_iter().flatten() {
                    if given.get(name).is_none_or(Value::is_null) {
                        given.insert(name.clone(), value.clone());
                    }
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let status = json!({"desiredReplicas": 0});
        object_mut(object, &[]).insert("status".into(), status);
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, _old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            for field in ["currentReplicas", "desiredReplicas"] {
                if let Some(count) = integer(object, &["status", field])
                    && count < 0
                {
                    errors.invalid(
                        format!("status.{field}"),
                        count,
                        "must be greater than or equal to 0",
                    );
                }
            }
        } else {
            validate::spec(object, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Reference", "string", "What it scales."),
            table::column("Targets", "string", "Present and wanted values."),
            table::column("MinPods", "string", "Pods at least."),
            table::column("MaxPods", "string", "Pods at most."),
            table::column("Replicas", "string", "Pods there are."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let count = |path: &[&str]| integer(object, path).unwrap_or(0);
        let reference = format!(
            "{}/{}",
            text(object, &["spec", "scaleTargetRef", "kind"]),
            text(object, &["spec", "scaleTargetRef", "name"])
        );
        let least = integer(object, &["spec", "minReplicas"])
            .map_or("<unset>".into(), |least| least.to_string());
        vec![
            table::name(object),
            reference.into(),
            targets(object).into(),
            least.into(),
            count(&["spec", "maxReplicas"]).to_string().into(),
            count(&["status", "currentReplicas"]).to_string().into(),
            table::age(object, now),
        ]
    }
}

/// The key under which a metric of a type has its data.
fn source(metric_type: &str) -> &'static str {
    match metric_type {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        _ => "external",
    }
}

/// `cpu: 12%/80%, memory: 100Mi/200Mi + 1 more...`
fn targets(object: &Value) -> String {
    let specs = list(object, &["spec", "metrics"]);
    if specs.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let source = source(text(spec, &["type"]));
        let current = list(object, &["status", "currentMetrics"])
            .get(index)
            .and_then(|status| at(status, &[source, "current"]));
        let target = &spec[source]["target"];
        let name = match source {
            "resource" => format!("{}: ", text(spec, &[source, "name"])),
            "containerResource" => format!(
                "{}/{}: ",
                text(spec, &[source, "container"]),
                text(spec, &[source, "name"])
            ),
            _ => String::new(),
        };
        let pair = |field: &str| {
            let shown = |value: Option<&Value>| match value {
                Some(Value::Number(percent)) => format!("{percent}%"),
                Some(Value::String(amount)) => amount.clone(),
                _ => "<unknown>".into(),
            };
            let now = current.and_then(|current| at(current, &[field]));
            (shown(now), shown(at(target, &[field])))
        };
        let (now, wanted) = if at(target, &["averageUtilization"]).is_some() {
            pair("averageUtilization")
        } else if at(target, &["averageValue"]).is_some() {
            pair("averageValue")
        } else {
            pair("value")
        };
        // Of a resource or of pods it always is.
        let share =
            matches!(source, "object" | "external") && at(target, &["averageValue"]).is_some();
        let share = if share { " (avg)" } else { "" };
        all.push(format!("{name}{now}/{wanted}{share}"));
    }
    let more = all.len().saturating_sub(2);
    all.truncate(2);
    let shown = all.join(", ");
    if more > 0 {
        format!("{shown} + {more} more...")
    } else {
        shown
    }
}

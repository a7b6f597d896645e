//! The scale subresource: `autoscaling/v1` Scale of a workload, read and written in place of its replicas.

use serde_json::{Value, json};

use super::error::field_error;
use super::patch::{Judge, PatchRequest, patched};
use super::update::{Ownership, Place, check_name};
use super::{ApiError, Registry, WriteOptions, Written, object};
use crate::kinds::{self, Cause, Kind, KindRef};
use crate::store::Freshness;

/// The Scale of a workload. Pure.
pub(crate) fn of(kind: &Kind<'_>, workload: &Value) -> Value {
    let metadata = &workload["metadata"];
    let (spec_replicas, status_replicas, selector) = numbers(kind, workload);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {},
        "status": {"replicas": status_replicas},
    });
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        scale["metadata"][field] = metadata[field].clone();
    }
    if spec_replicas != 0 {
        scale["spec"]["replicas"] = spec_replicas.into();
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    object::strip_nulls(&mut scale);
    scale
}

/// Replicas that are wanted and that there are, and which pods they are.
fn numbers(kind: &Kind<'_>, workload: &Value) -> (i64, i64, String) {
    let custom = kind
        .strategy
        .custom()
        .and_then(|version| version.scale.as_ref());
    let Some(paths) = custom else {
        let count = |part: &str| workload[part]["replicas"].as_i64().unwrap_or(0);
        return (
            count("spec"),
            count("status"),
            selector_text(&workload["spec"]["selector"]),
        );
    };
    let find = |path: &[String]| {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        kinds::access::at(workload, &steps)
            .cloned()
            .unwrap_or_default()
    };
    let selector = paths.selector.as_deref().map(find).unwrap_or_default();
    (
        find(&paths.spec_replicas).as_i64().unwrap_or(0),
        find(&paths.status_replicas).as_i64().unwrap_or(0),
        selector.as_str().unwrap_or("").to_owned(),
    )
}

/// A LabelSelector, or the plain map of a ReplicationController, in the text form of `-l`.
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    let is_plain = selector.as_object().is_some_and(|all| {
        !all.contains_key("matchLabels") && !all.contains_key("matchExpressions")
    });
    let labels = if is_plain {
        selector
    } else {
        &selector["matchLabels"]
    };
    for (key, value) in labels.as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or("")));
    }
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or("");
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match expression["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}

/// The workload with the replicas of the Scale.
pub(super) fn scaled(kind: &Kind<'_>, workload: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if i32::try_from(replicas).is_err() || replicas < 0 {
        return Err(ApiError::invalid_named(
            "autoscaling",
            "Scale",
            object::name(workload),
            &[field_error(
                "spec.replicas",
                Cause::Invalid,
                format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            )],
        ));
    }
    let mut workload = workload.clone();
    let custom = kind
        .strategy
        .custom()
        .and_then(|version| version.scale.as_ref());
    let path: Vec<&str> = match custom {
        Some(paths) => paths.spec_replicas.iter().map(String::as_str).collect(),
        None => vec!["spec", "replicas"],
    };
    if let Some((last, holders)) = path.split_last() {
        kinds::access::object_mut(&mut workload, holders)
            .insert((*last).to_owned(), replicas.into());
    }
    // A Scale without a version is written unconditionally.
    match object::meta(scale, "resourceVersion") {
        "" => object::remove_meta(&mut workload, "resourceVersion"),
        version => object::set_meta(&mut workload, "resourceVersion", version),
    }
    Ok(workload)
}

impl Registry {
    /// An object that can be scaled, of a kind that is built in or defined, as this member knows it; `None` if
    /// there is no such kind or it has no scale.
    pub(crate) async fn scalable(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(KindRef, Value)>, ApiError> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self.kind_named(group, version, kind);
        let Some(kind) = found.filter(|kind| kind.get().has_subresource("scale")) else {
            return Ok(None);
        };
        let kv = self
            .get(&kind.get(), namespace, name, Freshness::Local)
            .await?;
        let live = self.one_to_served(&kind.get(), object::decode(&kv)).await?;
        Ok(Some((kind, live)))
    }

    pub(crate) async fn update_scale(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        check_name(scale, name)?;
        let place = Place {
            kind,
            namespace,
            name,
            subresource: "",
        };
        self.modify(place, options, Ownership::TrackScale, |live| {
            scaled(kind, live, scale)
        })
        .await
    }

    pub(crate) async fn patch_scale(
        &self,
        request: PatchRequest<'_>,
        options: &WriteOptions,
        judge: Judge<'_>,
    ) -> Result<Written, ApiError> {
        let place = Place {
            kind: request.kind,
            namespace: request.namespace,
            name: request.name,
            subresource: "",
        };
        let scale_request = PatchRequest {
            kind: &SCALE,
            ..request
        };
        self.modify(place, options, Ownership::TrackScale, |live| {
            let scale = patched(&scale_request, &of(request.kind, live), options, judge)?;
            scaled(request.kind, live, &scale)
        })
        .await
    }
}

pub(super) const SPEAKS: super::judges::GroupKind<'static> = ("autoscaling", "v1", "Scale");

/// Scale is stored nowhere; this is what patches need to know of it.
pub(crate) static SCALE: Kind = Kind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
    scope: kinds::Scope::Namespaced,
    definition: "io.k8s.api.autoscaling.v1.Scale",
    subresources: &[],
    name_rule: kinds::NameRule::DnsSubdomain,
    strategy: &NoStrategy,
    register: |_| {},
};

/// Scale has no life of its own: its workload's strategy does the work.
#[derive(Debug)]
struct NoStrategy;

impl kinds::Strategy for NoStrategy {
    fn default(&self, _object: &mut Value) {}
    fn prepare_create(&self, _object: &mut Value) {}
    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}
    fn validate(
        &self,
        _object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<kinds::FieldError> {
        Vec::new()
    }
    fn columns(&self) -> &'static [kinds::Column] {
        &[]
    }
    fn row(&self, _object: &Value, _now: i64) -> Vec<Value> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn deployments() -> &'static Kind<'static> {
        kinds::by_plural("apps", "v1", "deployments").unwrap()
    }

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let scale = of(
            deployments(),
            &json!({
                "metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "5"},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"x": "y"},
                    "matchExpressions": [{"key": "k", "operator": "In", "values": ["1", "2"]}]}},
                "status": {"replicas": 2},
            }),
        );
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(
            scale["status"],
            json!({"replicas": 2, "selector": "k in (1,2),x=y"})
        );
    }

    #[test]
    fn a_plain_map_is_a_selector() {
        let kind = kinds::by_plural("", "v1", "replicationcontrollers").unwrap();
        let scale = of(
            kind,
            &json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "selector": {"x": "y", "a": "b"}}}),
        );
        assert_eq!(scale["status"]["selector"], "a=b,x=y");
    }

    #[test]
    fn negative_replicas_are_refused() {
        let workload =
            json!({"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {"replicas": 1}});
        let error =
            scaled(deployments(), &workload, &json!({"spec": {"replicas": -1}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Scale.autoscaling \"a\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let done = scaled(deployments(), &workload, &json!({"spec": {"replicas": 4}})).unwrap();
        assert_eq!(done["spec"]["replicas"], 4);
        assert_eq!(object::meta(&done, "resourceVersion"), "");
    }
}

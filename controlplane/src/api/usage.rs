//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, from the reports of the nodes. Read only, stored
//! nowhere.

use axum::body::Body;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::read::{Wish, list_options};
use super::request::{Query, Target};
use super::{Api, respond};
use crate::kinds;
use crate::registry::{ApiError, object};
use crate::store::Freshness;
use crate::usage::{Amount, NodeUsage, PodUsage};

pub(super) const GROUP: &str = "metrics.k8s.io";
pub(super) const VERSION: &str = "v1beta1";

fn amount(amount: &Amount) -> Value {
    json!({
        "cpu": format!("{}n", amount.cpu_nanos),
        "memory": format!("{}Ki", amount.memory_bytes / 1024),
    })
}

fn head(kind: &str, about: &Value, at: Timestamp, window: std::time::Duration) -> Value {
    let mut metadata = json!({
        "name": object::name(about),
        "creationTimestamp": object::rfc3339(at),
    });
    for field in ["namespace", "labels"] {
        if let Some(value) = about["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata,
        "timestamp": object::rfc3339(at),
        "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

fn node_metrics(node: &Value, usage: &NodeUsage) -> Value {
    let mut out = head("NodeMetrics", node, usage.at, usage.window);
    out["usage"] = amount(&usage.amount);
    out
}

fn pod_metrics(pod: &Value, usage: &PodUsage) -> Value {
    let mut out = head("PodMetrics", pod, usage.at, usage.window);
    let containers = usage.containers.iter();
    out["containers"] = containers
        .map(|(name, used)| json!({"name": name, "usage": amount(used)}))
        .collect();
    out
}

impl Api {
    pub(super) async fn usage(
        &self,
        method: &Method,
        target: &Target,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let pods = match target.resource.as_str() {
            "pods" => true,
            "nodes" if target.namespace.is_empty() => false,
            _ => return Err(ApiError::no_such_resource()),
        };
        if !target.subresource.is_empty() || target.version != VERSION {
            return Err(ApiError::no_such_resource());
        }
        if !matches!(*method, Method::GET | Method::HEAD) || query.flag("watch") {
            return Err(ApiError::method_not_allowed());
        }
        let body = if target.name.is_empty() {
            self.usage_list(pods, target, query).await?
        } else {
            self.usage_of(pods, target).await?
        };
        respond::object(
            StatusCode::OK,
            wish.format.encoding,
            body.to_string().into(),
        )
    }

    /// Objects are selected as they are stored; those without a measurement are left out.
    async fn usage_list(
        &self,
        pods: bool,
        target: &Target,
        query: &Query,
    ) -> Result<Value, ApiError> {
        let kind =
            kinds::by_plural("", "v1", &target.resource).ok_or_else(ApiError::no_such_resource)?;
        let mut options = list_options(kind, query)?;
        // The list is of measurements: it has no pages and no versions.
        (options.limit, options.resource_version) = (0, None);
        let page = self
            .registry
            .list(kind, &target.namespace, &options)
            .await?;
        let items = page.items.iter().map(|kv| object::decode(kv));
        let now = Timestamp::now();
        let items: Vec<Value> = if pods {
            let usage = self.streams.usage.pods(&target.namespace, now).await;
            let by_uid: std::collections::HashMap<&str, &PodUsage> =
                usage.iter().map(|one| (one.uid.as_str(), one)).collect();
            items
                .filter_map(|pod| Some(pod_metrics(&pod, by_uid.get(object::uid(&pod))?)))
                .collect()
        } else {
            let usage = self.streams.usage.nodes(now).await;
            items
                .filter_map(|node| {
                    let name = object::name(&node);
                    let used = usage.iter().find(|used| used.name == name)?;
                    Some(node_metrics(&node, used))
                })
                .collect()
        };
        Ok(json!({
            "kind": if pods { "PodMetricsList" } else { "NodeMetricsList" },
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": {},
            "items": items,
        }))
    }

    async fn usage_of(&self, pods: bool, target: &Target) -> Result<Value, ApiError> {
        let missing = || {
            let resource = if pods { "podmetrics" } else { "nodemetrics" };
            let name = if pods {
                format!("{}/{}", target.namespace, target.name)
            } else {
                target.name.clone()
            };
            ApiError::not_found_named(GROUP, resource, &name)
        };
        let kind =
            kinds::by_plural("", "v1", &target.resource).ok_or_else(ApiError::no_such_resource)?;
        let found = self
            .registry
            .get(kind, &target.namespace, &target.name, Freshness::Local)
            .await
            .map_err(|error| {
                if error.is_not_found() {
                    missing()
                } else {
                    error
                }
            })?;
        let about = object::decode(&found);
        let now = Timestamp::now();
        let answer = if pods {
            let usage = self.streams.usage.pods(&target.namespace, now).await;
            let mut usage = usage.iter();
            usage
                .find(|used| used.uid == object::uid(&about))
                .map(|used| pod_metrics(&about, used))
        } else {
            let usage = self.streams.usage.nodes(now).await;
            let mut usage = usage.iter();
            usage
                .find(|used| used.name == target.name)
                .map(|used| node_metrics(&about, used))
        };
        answer.ok_or_else(missing)
    }
}

//! `componentstatuses`: the parts that Kubernetes has as processes of their own, as this member knows them. Deprecated
//! since 1.19, read only, stored nowhere; old clients and dashboards still ask.

use std::collections::BTreeMap;

use axum::body::Body;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::negotiate::Shape;
use super::read::Wish;
use super::request::{Query, Target};
use super::{Api, respond};
use crate::registry::ApiError;
use crate::registry::selector::{parse_fields, parse_labels};
use crate::store::Freshness;

pub(super) const KIND: &str = "ComponentStatus";
pub(super) const PLURAL: &str = "componentstatuses";
pub(super) const SHORT: &str = "cs";
const WARNING: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// Their names in Kubernetes, and whether they work: all run inside of each member, and all need the store's leader.
fn statuses(has_leader: bool) -> Vec<Value> {
    ["controller-manager", "etcd-0", "scheduler"]
        .iter()
        .map(|name| {
            let (status, message) = if has_leader {
                ("True", "ok")
            } else {
                ("False", "the store has no leader")
            };
            json!({
                "kind": KIND,
                "apiVersion": "v1",
                "metadata": {"name": name},
                "conditions": [{"type": "Healthy", "status": status, "message": message}],
            })
        })
        .collect()
}

fn row(status: &Value, shape: &str) -> Value {
    let condition = &status["conditions"][0];
    let (shown, error) = match condition["status"].as_str() {
        Some("True") => ("Healthy", ""),
        _ => ("Unhealthy", condition["message"].as_str().unwrap_or("")),
    };
    let message = condition["message"].as_str().unwrap_or("");
    json!({
        "cells": [status["metadata"]["name"], shown, if error.is_empty() { message } else { "" }, error],
        "object": {
            "kind": "PartialObjectMetadata",
            "apiVersion": format!("meta.k8s.io/{shape}"),
            "metadata": status["metadata"],
        },
    })
}

fn shown(shape: Shape, found: Vec<Value>, list: bool) -> Value {
    let column = |name: &str, description: &str| {
        let format = if name == "Name" { "name" } else { "" };
        json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0})
    };
    match shape {
        Shape::Table(version) => json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": {},
            "columnDefinitions": [
                column("Name", "Name of the component."),
                column("Status", "Whether it works."),
                column("Message", "What it says."),
                column("Error", "What is wrong."),
            ],
            "rows": found.iter().map(|status| row(status, version)).collect::<Vec<_>>(),
        }),
        Shape::PartialMetadata(version) => {
            let partial: Vec<Value> = found
                .iter()
                .map(|status| row(status, version)["object"].clone())
                .collect();
            match (list, partial) {
                (false, mut partial) if !partial.is_empty() => partial.remove(0),
                (_, partial) => json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {},
                    "items": partial,
                }),
            }
        }
        Shape::Object => match (list, found) {
            (false, mut found) if !found.is_empty() => found.remove(0),
            (_, found) => json!({
                "kind": "ComponentStatusList",
                "apiVersion": "v1",
                "metadata": {},
                "items": found,
            }),
        },
    }
}

impl Api {
    pub(super) async fn component_status(
        &self,
        method: &Method,
        target: &Target,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        if !target.namespace.is_empty() || !target.subresource.is_empty() {
            return Err(ApiError::no_such_resource());
        }
        if !matches!(*method, Method::GET | Method::HEAD) || target.watch || query.flag("watch") {
            return Err(ApiError::method_not_allowed());
        }
        let bad = |why: String| ApiError::bad_request(why);
        let labels = parse_labels(query.get("labelSelector")).map_err(bad)?;
        parse_fields(query.get("fieldSelector")).map_err(bad)?;
        // A key that nobody has: what counts is that the leader answers.
        let asked = self
            .registry
            .store()
            .get("/", Freshness::Linearizable)
            .await;
        let mut found = statuses(asked.is_ok());
        let list = target.name.is_empty();
        if list {
            // They have no labels.
            let unlabelled = BTreeMap::new();
            found.retain(|_| labels.iter().all(|wanted| wanted.matches(&unlabelled)));
        } else {
            found.retain(|status| status["metadata"]["name"] == target.name.as_str());
            if found.is_empty() {
                return Err(ApiError::not_found_named("", PLURAL, &target.name));
            }
        }
        let body = shown(wish.format.shape, found, list);
        let mut response = respond::object(
            StatusCode::OK,
            wish.format.encoding,
            body.to_string().into(),
        )?;
        respond::warn(&mut response, &[WARNING.to_owned()]);
        Ok(response)
    }
}

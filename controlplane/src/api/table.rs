//! Tables for `kubectl get`, and objects that are cut down to their metadata. Pure.

use serde_json::{Value, json};

use super::negotiate::Shape;
use crate::kinds::KindRef;
use crate::registry::{ApiError, object};

/// How much of each object its row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(ApiError::bad_request(format!(
                "includeObject: Unsupported value: \"{other}\": supported values: \"Metadata\", \"None\", \"Object\""
            ))),
        }
    }
}

/// How objects of one request are shown.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The kind that was asked for.
    pub(super) kind: KindRef,
    pub(super) shape: Shape,
    pub(super) include: Include,
}

impl View {
    /// One object, in the version that was asked for, in this view.
    pub(super) fn one(&self, object: Value, now: i64) -> Value {
        match self.shape {
            Shape::Object => object,
            Shape::PartialMetadata(version) => partial(&object, version),
            Shape::Table(_) => {
                let metadata = json!({"resourceVersion": object::meta(&object, "resourceVersion")});
                let rows = vec![self.row(&object, now)];
                self.table(metadata, true, rows)
            }
        }
    }

    /// A list of objects, in the version that was asked for, in this view.
    pub(super) fn list(&self, metadata: Value, objects: Vec<Value>, now: i64) -> Value {
        let kind = self.kind.get();
        match self.shape {
            Shape::Object => json!({
                "kind": kind.list_kind(),
                "apiVersion": kind.api_version(),
                "metadata": metadata,
                "items": objects,
            }),
            Shape::PartialMetadata(version) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": objects.iter().map(|object| partial(object, version)).collect::<Vec<_>>(),
            }),
            Shape::Table(_) => {
                let rows = objects.iter().map(|object| self.row(object, now)).collect();
                self.table(metadata, true, rows)
            }
        }
    }

    /// An event of a watch; only the first Table carries the column definitions.
    pub(super) fn watched(&self, object: Value, first: bool, now: i64) -> Value {
        let mut shown = self.one(object, now);
        if matches!(self.shape, Shape::Table(_)) && !first {
            shown["columnDefinitions"] = Value::Null;
        }
        shown
    }

    /// A bookmark in this view.
    pub(super) fn bookmark(&self, metadata: Value) -> Value {
        match self.shape {
            Shape::Object => json!({
                "kind": self.kind.get().kind,
                "apiVersion": self.kind.get().api_version(),
                "metadata": metadata,
            }),
            Shape::PartialMetadata(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            Shape::Table(_) => self.table(metadata, false, Vec::new()),
        }
    }

    fn version(&self) -> &'static str {
        match self.shape {
            Shape::Table(version) | Shape::PartialMetadata(version) => version,
            Shape::Object => "v1",
        }
    }

    fn table(&self, metadata: Value, columns: bool, rows: Vec<Value>) -> Value {
        let definitions: Vec<Value> = if columns {
            self.kind.get().strategy.column_definitions()
        } else {
            Vec::new()
        };
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.version()),
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        })
    }

    fn row(&self, object: &Value, now: i64) -> Value {
        let mut row = json!({"cells": self.kind.get().strategy.row(object, now)});
        match self.include {
            Include::None => {}
            Include::Metadata => row["object"] = partial(object, self.version()),
            Include::Object => row["object"] = object.clone(),
        }
        row
    }
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

//! The path of a write without HTTP: default, validate, allocate, propose, and the mapping of store
//! results to Kubernetes answers. The API server and the controllers use the same path.
//!
//! [`Registry`] is dynamic (kind + JSON) and serves the API; [`Client`] is the typed view of it that
//! controllers, scheduler and node sync use.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An error that a client sees: always a complete `Status`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: Box<Status>,
}

impl ApiError {
    pub(crate) fn code(&self) -> u16 {
        self.status
            .code
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(500)
    }
    /// `NotFound`, `AlreadyExists`, `Conflict`…
    pub(crate) fn reason(&self) -> &str {
        self.status.reason.as_deref().unwrap_or("")
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.status.message.as_deref().unwrap_or("unknown error"))
    }
}
impl std::error::Error for ApiError {}

/// Kubernetes types that the typed client can move.
pub(crate) trait Object:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
}
impl<K> Object for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static
{
}

#[derive(Debug, Clone)]
pub(crate) enum Change<K> {
    /// Added or modified.
    Applied(Arc<K>),
    Deleted(Arc<K>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// "Background", "Foreground" or "Orphan".
    pub(crate) propagation: Option<String>,
}

/// Typed access to the registry; writes are made as `manager` (the field manager and user agent of a
/// controller, e.g. `deployment-controller`).
#[derive(Debug, Clone)]
pub(crate) struct Client {}

#[allow(unused_variables, clippy::unused_async)]
impl Client {
    pub(crate) fn with_manager(&self, manager: &'static str) -> Self {
        todo!()
    }
    pub(crate) async fn get<K: Object>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, ApiError> {
        todo!()
    }
    /// All objects of the kind (all namespaces when empty) and the revision of the list.
    pub(crate) async fn list<K: Object>(
        &self,
        namespace: &str,
    ) -> Result<(Vec<Arc<K>>, u64), ApiError> {
        todo!()
    }
    pub(crate) async fn create<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        todo!()
    }
    /// Compare-and-set on the object's resourceVersion when it has one.
    pub(crate) async fn update<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        todo!()
    }
    pub(crate) async fn update_status<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        todo!()
    }
    /// RFC 7386 merge patch of the main resource (`subresource` empty) or a subresource.
    pub(crate) async fn merge_patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<K, ApiError> {
        todo!()
    }
    /// `Ok` also when it was gone already.
    pub(crate) async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        todo!()
    }
    /// Sets `spec.nodeName` of a pod that has none (the binding subresource), many in one transaction.
    /// One result per pod, in order.
    pub(crate) async fn bind(&self, bindings: &[Binding]) -> Vec<Result<(), ApiError>> {
        todo!()
    }
    /// Changes after `revision`; an `Err` item ends the stream and the caller lists again.
    pub(crate) fn watch<K: Object>(
        &self,
        revision: u64,
    ) -> futures::stream::BoxStream<'static, Result<(Vec<Change<K>>, u64), ApiError>> {
        todo!()
    }
    /// Records an event (aggregated by involved object, reason and message).
    pub(crate) fn event<K: Object>(&self, about: &K, kind: EventType, reason: &str, message: &str) {
        todo!()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) node: String,
}

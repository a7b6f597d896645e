//! The typed view of the registry that controllers, scheduler and node sync use.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::events::Report;
use super::list::ListOptions;
use super::patch::{PatchRequest, PatchType};
use super::{
    ApiError, Binding, DeleteOptions, EventType, Object, Registry, WriteOptions, Written, object,
};
use crate::kinds::{self, Kind};
use crate::store::{Freshness, KeyValue};

/// Typed access to the registry; writes are made as `manager` (the field manager and user agent of a
/// controller, e.g. `deployment-controller`).
#[derive(Debug, Clone)]
pub(crate) struct Client {
    registry: Registry,
    manager: &'static str,
}

fn kind_of<K: Object>() -> Result<&'static Kind<'static>, ApiError> {
    kinds::by_kind(K::GROUP, K::VERSION, K::KIND)
        .ok_or_else(|| ApiError::internal(format!("kind {} is not served", K::KIND)))
}

/// From the stored bytes: what is rendered for clients need not exist, and stay, for this.
fn typed<K: Object>(kv: &KeyValue) -> Result<K, ApiError> {
    typed_from(kv, &kv.value)
}

fn typed_from<K: Object>(kv: &KeyValue, bytes: &[u8]) -> Result<K, ApiError> {
    let mut object: K = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::internal(format!("{}: {error}", kv.key)))?;
    object.metadata_mut().resource_version = Some(kv.mod_revision.to_string());
    Ok(object)
}

/// The object for those who only read it, and keep it: without who manages which of its fields. An update with it
/// leaves those as they are. A copy: lists that grow while they are read keep room for up to four times as many, and an
/// entry of some kinds takes a KiB.
pub(crate) fn lean<K: Object>(kv: &KeyValue) -> Result<K, ApiError> {
    let read: K = typed_from(kv, &object::without_managers(&kv.value))?;
    Ok(read.clone())
}

fn typed_written<K: Object>(written: Written) -> Result<K, ApiError> {
    match written {
        Written::Stored(kv) => typed(&kv),
        Written::Unstored(value) => serde_json::from_value(value).map_err(ApiError::internal),
    }
}

/// The object as the API would get it.
fn untyped<K: Object>(object: &K) -> Result<Value, ApiError> {
    let mut value = serde_json::to_value(object).map_err(ApiError::internal)?;
    object::strip_typed(K::KIND, &mut value);
    Ok(value)
}

fn namespace_of<K: Object>(object: &K) -> &str {
    object.metadata().namespace.as_deref().unwrap_or("")
}

fn name_of<K: Object>(object: &K) -> &str {
    object.metadata().name.as_deref().unwrap_or("")
}

impl Client {
    pub(super) fn new(registry: Registry, manager: &'static str) -> Self {
        Self { registry, manager }
    }

    pub(crate) fn with_manager(&self, manager: &'static str) -> Self {
        Self::new(self.registry.clone(), manager)
    }

    /// The dynamic registry below.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    fn options(&self) -> WriteOptions {
        WriteOptions {
            dry_run: false,
            manager: self.manager.to_owned(),
            ..WriteOptions::default()
        }
    }

    pub(crate) async fn get<K: Object>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, ApiError> {
        let kind = kind_of::<K>()?;
        match self
            .registry
            .get(kind, namespace, name, Freshness::Linearizable)
            .await
        {
            Ok(kv) => typed(&kv).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of the kind (all namespaces when empty) and the revision of the list.
    pub(crate) async fn list<K: Object>(
        &self,
        namespace: &str,
    ) -> Result<(Vec<Arc<K>>, u64), ApiError> {
        let (stored, revision) = self.list_stored::<K>(namespace).await?;
        let items = stored.iter().map(|kv| typed(kv).map(Arc::new));
        Ok((items.collect::<Result<_, _>>()?, revision))
    }

    /// The same as the store has them: [`lean`] reads them.
    pub(crate) async fn list_stored<K: Object>(
        &self,
        namespace: &str,
    ) -> Result<(Vec<Arc<KeyValue>>, u64), ApiError> {
        let kind = kind_of::<K>()?;
        let all = ListOptions::default();
        let page = self.registry.list(kind, namespace, &all).await?;
        Ok((page.items, page.revision))
    }

    pub(crate) async fn create<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        let kind = kind_of::<K>()?;
        let value = untyped(object)?;
        self.registry
            .create(kind, namespace_of(object), value, &self.options())
            .await
            .and_then(typed_written)
    }

    /// Compare-and-set on the object's resourceVersion when it has one.
    pub(crate) async fn update<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        self.update_part(object, "").await
    }

    pub(crate) async fn update_status<K: Object>(&self, object: &K) -> Result<K, ApiError> {
        self.update_part(object, "status").await
    }

    pub(crate) async fn update_subresource<K: Object>(
        &self,
        object: &K,
        subresource: &str,
    ) -> Result<K, ApiError> {
        self.update_part(object, subresource).await
    }

    async fn update_part<K: Object>(&self, object: &K, subresource: &str) -> Result<K, ApiError> {
        let kind = kind_of::<K>()?;
        let value = untyped(object)?;
        self.registry
            .update(
                kind,
                namespace_of(object),
                name_of(object),
                subresource,
                value,
                &self.options(),
            )
            .await
            .and_then(typed_written)
    }

    /// RFC 7386 merge patch of the main resource (`subresource` empty) or a subresource.
    pub(crate) async fn merge_patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<K, ApiError> {
        self.merged::<K>(namespace, name, subresource, patch)
            .await
            .and_then(typed_written)
    }

    /// The same for those who do not look at what comes of it.
    pub(crate) async fn merge_patch_unread<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError> {
        self.merged::<K>(namespace, name, "", patch).await.map(drop)
    }

    async fn merged<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Written, ApiError> {
        let request = PatchRequest {
            kind: kind_of::<K>()?,
            namespace,
            name,
            subresource,
            patch_type: PatchType::Merge,
            patch,
        };
        let patched = self
            .registry
            .patch(request, &self.options(), &|_| Ok(()))
            .await;
        patched.map(|(written, _)| written)
    }

    /// Strategic merge patch of the main resource.
    pub(crate) async fn strategic_patch<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<K, ApiError> {
        let request = PatchRequest {
            kind: kind_of::<K>()?,
            namespace,
            name,
            subresource: "",
            patch_type: PatchType::Strategic,
            patch,
        };
        let (written, _) = self
            .registry
            .patch(request, &self.options(), &|_| Ok(()))
            .await?;
        typed_written(written)
    }

    /// `Ok` also when it was gone already.
    pub(crate) async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        let kind = kind_of::<K>()?;
        match self
            .registry
            .delete(kind, namespace, name, &options, false)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sets `spec.nodeName` of a pod that has none (the binding subresource), many in one transaction.
    /// One result per pod, in order.
    pub(crate) async fn bind(&self, bindings: &[Binding]) -> Vec<Result<(), ApiError>> {
        self.registry.bind(bindings).await
    }

    /// Records an event (aggregated by involved object, reason and message).
    pub(crate) fn event<K: Object>(&self, about: &K, kind: EventType, reason: &str, message: &str) {
        let metadata: &ObjectMeta = about.metadata();
        let reference = ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
            field_path: None,
        };
        self.event_about(reference, kind, reason, message, "");
    }

    /// The same about an object that is only referred to, seen on `host` (empty: by the control plane).
    pub(crate) fn event_about(
        &self,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
        host: &str,
    ) {
        self.registry.report_event(Report {
            about,
            event_type: kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            component: self.manager.to_owned(),
            host: host.to_owned(),
        });
    }
}

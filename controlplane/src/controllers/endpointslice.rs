//! EndpointSlices (and the older Endpoints) of Services.
//!
//! A Service with a selector gets both from its pods. Hand-made Endpoints of a Service without one are
//! mirrored to slices. Slices that nobody of us manages are left alone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cache::{
    self, BY_NODE, BY_SERVICE, Cache, ObjectKey, Queue, Subscription, selects, services_of,
};
use crate::registry::{ApiError, Client, DeleteOptions, EventType};

use super::context_error;
use super::expectations::Expectations;
use super::worker::Next;

mod endpoint;
mod hints;
mod legacy;
mod mirror;
mod pack;

#[cfg(test)]
mod tests;

pub(super) const NAME: &str = "endpointslice-controller";
const VIEW_LAG: Duration = Duration::from_secs(5);

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    expectations: Expectations,
}

/// Feeds the queue with the Services that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let services = {
        let queue = queue.clone();
        cache
            .services
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let endpoints = {
        let queue = queue.clone();
        cache
            .endpoints
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let slices = {
        let queue = queue.clone();
        cache.endpoint_slices.subscribe(move |delta| {
            for slice in [delta.old, delta.new].into_iter().flatten() {
                if let Some(service) = pack::service_of(slice) {
                    queue.add(ObjectKey::new(&delta.key.namespace, service));
                }
            }
        })
    };
    let pods = {
        let (queue, services) = (queue.clone(), cache.services.clone());
        cache.pods.subscribe(move |delta| {
            if let (Some(old), Some(new)) = (delta.old, delta.new)
                && !endpoint::differs(old, new)
            {
                return;
            }
            for pod in [delta.old, delta.new].into_iter().flatten() {
                for service in services_of(&services, pod) {
                    queue.add(ObjectKey::of(service.as_ref()));
                }
            }
        })
    };
    vec![services, endpoints, slices, pods, nodes(cache, queue)]
}

/// A node's zone is in the endpoints of its pods, which go with it; its CPUs weigh for the Services that ask for that.
fn nodes(cache: &Cache, queue: &Queue<ObjectKey>) -> Subscription {
    let (queue, services, pods) = (queue.clone(), cache.services.clone(), cache.pods.clone());
    cache.nodes.subscribe(move |delta| {
        let (old, new) = (delta.old.map(Arc::as_ref), delta.new.map(Arc::as_ref));
        let moved = old.and_then(hints::zone_of) != new.and_then(hints::zone_of);
        if moved || old.is_none() != new.is_none() {
            for pod in pods.indexed(BY_NODE, &delta.key.name) {
                for service in services_of(&services, &pod) {
                    queue.add(ObjectKey::of(service.as_ref()));
                }
            }
        }
        if old.and_then(hints::share_of) != new.and_then(hints::share_of) {
            for service in services.list("") {
                if hints::is_auto(&service) {
                    queue.add(ObjectKey::of(service.as_ref()));
                }
            }
        }
    })
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            expectations: Expectations::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(service) = self.cache.services.get_key(&key) else {
            // Slices go by their owner references; the Endpoints that we made, and what was mirrored, here.
            self.expectations.forget(&key);
            if let Some(endpoints) = self
                .cache
                .endpoints
                .get_key(&key)
                .filter(|live| legacy::is_ours(live))
            {
                let options = DeleteOptions {
                    uid: endpoints.metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                self.client
                    .delete::<Endpoints>(&key.namespace, &key.name, options)
                    .await?;
            }
            return self
                .apply(&key, None, &mirror::none(&self.existing(&key)))
                .await;
        };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let expected = self.expectations.get(&key);
        if !self
            .cache
            .endpoint_slices
            .wait_for(expected.revision, VIEW_LAG)
            .await
        {
            return Err(context_error("the view of endpoint slices lags behind"));
        }
        let existing = self.existing(&key);
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return self
                .apply(&key, Some(&service), &pack::nothing(&existing))
                .await;
        }
        if spec
            .selector
            .as_ref()
            .is_none_or(std::collections::BTreeMap::is_empty)
        {
            let endpoints = self.cache.endpoints.get_key(&key);
            let changes = mirror::plan(&service, endpoints.as_deref(), &existing);
            return self.apply(&key, Some(&service), &changes).await;
        }
        let pods = self.pods(&service);
        let changes = self.plan(&service, &pods, &existing);
        self.apply(&key, Some(&service), &changes).await?;
        self.write_endpoints(&key, &service, &pods).await
    }

    fn plan(
        &self,
        service: &Service,
        pods: &[Arc<Pod>],
        existing: &[Arc<EndpointSlice>],
    ) -> pack::Changes {
        let node = |node: &str| {
            let node = self.cache.nodes.get("", node)?;
            let zone = hints::zone_of(&node).cloned();
            Some(endpoint::Place { zone })
        };
        let topology = endpoint::Topology {
            node: &node,
            cpus: hints::is_auto(service)
                .then(|| hints::cpus(&self.cache.nodes.list("")))
                .flatten(),
        };
        endpoint::plan(service, pods, existing, &topology)
    }

    fn existing(&self, key: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.cache
            .endpoint_slices
            .indexed(BY_SERVICE, &format!("{}/{}", key.namespace, key.name))
    }

    /// Pods that the selector selects, found through its rarest pair.
    fn pods(&self, service: &Service) -> Vec<Arc<Pod>> {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            return Vec::new();
        };
        let mut pods = cache::candidates(&self.cache.pods, namespace, selector);
        pods.retain(|pod| selects(service, pod));
        pods
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        service: Option<&Service>,
        changes: &pack::Changes,
    ) -> Result<Next, ApiError> {
        let result = self.apply_slices(key, changes).await;
        if let (Err(error), Some(service)) = (&result, service)
            && error.code() != 409
            && error.code() != 404
        {
            self.client.event(
                service,
                EventType::Warning,
                "FailedToUpdateEndpointSlices",
                &format!("Error updating Endpoint Slices for Service {key}: {error}"),
            );
        }
        result.map(|()| Next::Wait)
    }

    /// Updates first: they are what moves traffic; then additions, and removals last.
    async fn apply_slices(&self, key: &ObjectKey, changes: &pack::Changes) -> Result<(), ApiError> {
        for slice in &changes.update {
            let updated = self.client.update(slice).await?;
            self.expectations.wrote(key, &updated);
        }
        for slice in &changes.create {
            let created = self.client.create(slice).await?;
            self.expectations.wrote(key, &created);
        }
        for slice in &changes.delete {
            let options = DeleteOptions {
                uid: slice.metadata.uid.clone(),
                ..DeleteOptions::default()
            };
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            self.client
                .delete::<EndpointSlice>(&key.namespace, name, options)
                .await?;
        }
        Ok(())
    }

    async fn write_endpoints(
        &self,
        key: &ObjectKey,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Result<Next, ApiError> {
        let live = self.cache.endpoints.get_key(key);
        match legacy::plan(service, pods, live.as_deref()) {
            legacy::Change::Keep => {}
            legacy::Change::Create(endpoints) => {
                match self.client.create::<Endpoints>(&endpoints).await {
                    // The view lags: the change that shows it comes and starts this again.
                    Err(error) if error.reason() == "AlreadyExists" => {}
                    result => {
                        result?;
                    }
                }
            }
            legacy::Change::Update(endpoints) => {
                self.client.update::<Endpoints>(&endpoints).await?;
            }
        }
        Ok(Next::Wait)
    }
}

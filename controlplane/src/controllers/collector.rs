//! Garbage collection by owner references: background, foreground and orphan deletion.
//!
//! [`graph`] holds who owns whom, filled by [`feed`]; [`plan`] decides for one object; this loop executes.
//! Because one watch feeds it in order, an owner is in the graph before what it owns; an owner
//! that is not there is asked for in the store all the same before anything is deleted.

use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::cache::{ObjectKey, Queue};
use crate::kinds::Scope;
use crate::registry::patch::{PatchRequest, PatchType};
use crate::registry::{ApiError, Client, DeleteOptions, EventType, WriteOptions, object};
use crate::store::Freshness;

use super::worker::Next;

mod feed;
mod graph;
mod plan;

#[cfg(test)]
mod tests;

use graph::{Graph, Item};
use plan::{Action, Owner};

pub(super) const NAME: &str = "garbage-collector";

pub(super) struct Controller {
    client: Client,
    graph: Arc<Mutex<Graph>>,
}

/// The queue's keys are uids: namespace empty, name the uid.
fn uid_key(uid: &str) -> ObjectKey {
    ObjectKey::cluster(uid)
}

impl Controller {
    /// The second part fills the graph; it runs beside the worker.
    pub(super) fn new(
        client: &Client,
        queue: &Queue<ObjectKey>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let graph = Arc::default();
        let feed = feed::Feed {
            registry: client.registry().clone(),
            graph: Arc::clone(&graph),
            queue: queue.clone(),
        };
        let controller = Self {
            client: client.with_manager(NAME),
            graph,
        };
        (controller, feed.run())
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().expect("no panic while held")
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let uid = key.name.as_ref();
        let Some(item) = self.graph().get(uid).cloned() else {
            return Ok(Next::Wait);
        };
        let mut owners = Vec::with_capacity(item.owners.len());
        for reference in &item.owners {
            let owner = self.owner(&item, reference).await?;
            owners.push((reference.clone(), owner));
        }
        let dependents = self.graph().dependents(uid);
        for action in plan::plan(&item, &owners, &dependents) {
            self.execute(&item, action).await?;
        }
        Ok(Next::Wait)
    }

    async fn owner(&self, item: &Item, reference: &OwnerReference) -> Result<Owner, ApiError> {
        if let Some(owner) = self.graph().get(&reference.uid)
            && owner.is_owner(reference, item)
        {
            return Ok(if owner.waits_for_dependents() {
                Owner::Waiting
            } else {
                Owner::Solid
            });
        }
        let elsewhere = self
            .graph()
            .get(&reference.uid)
            .is_some_and(|owner| !owner.namespace.is_empty() && owner.namespace != item.namespace);
        if elsewhere {
            self.warn(item, reference);
        }
        let (group, version) = reference
            .api_version
            .split_once('/')
            .unwrap_or(("", &reference.api_version));
        let registry = self.client.registry();
        let Some(handle) = registry.kind_named(group, version, &reference.kind) else {
            // Of a kind that is not served: it cannot be known to be absent.
            return Ok(Owner::Solid);
        };
        let kind = &handle.get();
        let namespace = match kind.scope {
            Scope::Cluster => "",
            // A cluster-wide object cannot be owned by one in a namespace.
            Scope::Namespaced if item.namespace.is_empty() => return Ok(Owner::Solid),
            Scope::Namespaced => &item.namespace,
        };
        let found = registry
            .get(kind, namespace, &reference.name, Freshness::Linearizable)
            .await;
        match found {
            Ok(kv) if object::uid(&object::decode(&kv)) == reference.uid => Ok(Owner::Solid),
            Ok(_) => Ok(Owner::Absent),
            Err(error) if error.code() == 404 => Ok(Owner::Absent),
            Err(error) => Err(error),
        }
    }

    /// An owner in another namespace is none: what says so is about to go, and whoever made it should know why.
    fn warn(&self, item: &Item, reference: &OwnerReference) {
        let kind = item.kind.get();
        let about = ObjectReference {
            api_version: Some(kind.api_version()),
            kind: Some(kind.kind.to_owned()),
            namespace: Some(item.namespace.clone()),
            name: Some(item.name.clone()),
            uid: Some(item.uid.clone()),
            ..ObjectReference::default()
        };
        let namespace = &item.namespace;
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            reference.api_version, reference.kind, reference.name, reference.uid
        );
        let reason = "OwnerRefInvalidNamespace";
        self.client
            .event_about(about, EventType::Warning, reason, &message, "");
    }

    async fn execute(&self, item: &Item, action: Action) -> Result<(), ApiError> {
        match action {
            Action::Delete { propagation } => self.delete(item, propagation).await,
            Action::DeleteDependent(dependent) => {
                self.delete(&dependent, plan::inherited(&dependent)).await
            }
            Action::RemoveFinalizer(finalizer) => {
                self.modify(item, |live| {
                    let left: Vec<_> = object::finalizers(live)
                        .into_iter()
                        .filter(|name| *name != finalizer)
                        .collect();
                    json!({"metadata": {"finalizers": left}})
                })
                .await
            }
            Action::RemoveOwners(uids) => self.disown(item, &uids).await,
            Action::Orphan(dependent) => {
                self.disown(&dependent, std::slice::from_ref(&item.uid))
                    .await
            }
        }
    }

    async fn delete(&self, item: &Item, propagation: &'static str) -> Result<(), ApiError> {
        let options = DeleteOptions {
            uid: Some(item.uid.clone()),
            propagation: Some(propagation.to_owned()),
            ..DeleteOptions::default()
        };
        let registry = self.client.registry();
        let deleted = registry
            .delete(
                &item.kind.get(),
                &item.namespace,
                &item.name,
                &options,
                false,
            )
            .await;
        ignore_gone(deleted.map(drop))
    }

    async fn disown(&self, item: &Item, uids: &[String]) -> Result<(), ApiError> {
        self.modify(item, |live| {
            let owners = live["metadata"]["ownerReferences"].as_array();
            let left: Vec<_> = owners
                .into_iter()
                .flatten()
                .filter(|owner| {
                    let uid = owner["uid"].as_str().unwrap_or_default();
                    !uids.iter().any(|gone| gone == uid)
                })
                .collect();
            json!({"metadata": {"ownerReferences": left}})
        })
        .await
    }

    /// A merge patch of the live object, which must still be the same one.
    async fn modify(&self, item: &Item, patch: impl Fn(&Value) -> Value) -> Result<(), ApiError> {
        let registry = self.client.registry();
        let kv = registry
            .get(
                &item.kind.get(),
                &item.namespace,
                &item.name,
                Freshness::Linearizable,
            )
            .await;
        let live = match kv {
            Ok(kv) => object::decode(&kv),
            Err(error) => return ignore_gone(Err(error)),
        };
        if object::uid(&live) != item.uid {
            return Ok(());
        }
        let mut patch = patch(&live);
        // Compare-and-set: what the patch was made from must still be true.
        patch["metadata"]["resourceVersion"] = object::meta(&live, "resourceVersion").into();
        let request = PatchRequest {
            kind: &item.kind.get(),
            namespace: &item.namespace,
            name: &item.name,
            subresource: "",
            patch_type: PatchType::Merge,
            patch: &patch,
        };
        let options = WriteOptions {
            manager: NAME.to_owned(),
            ..WriteOptions::default()
        };
        ignore_gone(
            registry
                .patch(request, &options, &|_| Ok(()))
                .await
                .map(drop),
        )
    }
}

/// Gone already, or another object has the name.
fn ignore_gone(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.code() == 404 => Ok(()),
        Err(error) if error.code() == 409 && error.to_string().contains("UID in precondition") => {
            Ok(())
        }
        result => result,
    }
}

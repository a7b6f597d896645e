//! CustomResourceDefinitions: accepts their names where nobody else has them, and empties what they define before
//! they go. [`plan`] decides; what is defined is then served by every member that sees the new status
//! (`registry::definitions`).

use std::time::Duration;

use serde_json::{Value, json};

use super::worker::Next;
use crate::cache::{ObjectKey, Queue};
use crate::kinds::access::{flag, list, text};
use crate::kinds::custom::versions;
use crate::kinds::custom_resource_definition::{FINALIZER, KIND};
use crate::kinds::{Kind, KindRef};
use crate::registry::list::ListOptions;
use crate::registry::patch::{PatchRequest, PatchType};
use crate::registry::watch::{Frame, WatchOptions};
use crate::registry::{ApiError, Client, DeleteOptions, Registry, WriteOptions, object};
use crate::store::{Freshness, KeyValue};

mod plan;

pub(super) const NAME: &str = "crd-controller";
const RETRY: Duration = Duration::from_millis(500);
/// Resources with finalizers report no end by themselves.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Controller {
    registry: Registry,
    queue: Queue<ObjectKey>,
}

/// Tells the queue of every definition that changes, for ever.
pub(super) async fn follow(client: &Client, queue: &Queue<ObjectKey>) {
    loop {
        if let Err(error) = watch(client.registry(), queue).await {
            tracing::debug!(%error, "definitions are listed again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(registry: &Registry, queue: &Queue<ObjectKey>) -> Result<(), ApiError> {
    let mut watch = registry
        .watch(&KindRef::BuiltIn(&KIND), "", WatchOptions::default())
        .await?;
    while let Some(frames) = watch.next().await? {
        for frame in frames {
            match frame {
                Frame::Added(kv) | Frame::Modified(kv) | Frame::Deleted(kv, _) => {
                    queue.add(ObjectKey::cluster(object::name(&object::decode(&kv))));
                }
                Frame::InitialEnd(_) => {}
            }
        }
    }
    Ok(())
}

fn options() -> WriteOptions {
    WriteOptions {
        manager: NAME.to_owned(),
        ..WriteOptions::default()
    }
}

impl Controller {
    pub(super) fn new(client: &Client, queue: &Queue<ObjectKey>) -> Self {
        Self {
            registry: client.registry().clone(),
            queue: queue.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let name = key.name.as_ref();
        let definition = match self
            .registry
            .get(&KIND, "", name, Freshness::Linearizable)
            .await
        {
            Ok(kv) => object::decode(&kv),
            Err(error) if error.is_not_found() => {
                self.names_are_free(name).await?;
                return Ok(Next::Wait);
            }
            Err(error) => return Err(error),
        };
        if object::is_terminating(&definition) {
            return self.empty(definition).await;
        }
        let all = self
            .registry
            .list(&KIND, "", &ListOptions::default())
            .await?;
        let others: Vec<Value> = decoded(&all.items)
            .filter(|other| object::name(other) != name)
            .collect();
        if let Some(changed) = plan::status(&definition, &others, &object::now()) {
            self.write_status(changed).await?;
        }
        Ok(Next::Wait)
    }

    async fn write_status(&self, changed: Value) -> Result<(), ApiError> {
        let name = object::name(&changed).to_owned();
        let written = self
            .registry
            .update(&KIND, "", &name, "status", changed, &options())
            .await;
        match written {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(drop),
        }
    }

    /// Others may have waited for the names of the one that is gone.
    async fn names_are_free(&self, name: &str) -> Result<(), ApiError> {
        let group = name.split_once('.').map_or("", |(_, group)| group);
        let all = self
            .registry
            .list(&KIND, "", &ListOptions::default())
            .await?;
        for other in decoded(&all.items) {
            if text(&other, &["spec", "group"]) == group && !plan::names_accepted(&other) {
                self.queue.add(ObjectKey::cluster(object::name(&other)));
            }
        }
        Ok(())
    }

    /// Deletes every resource of the definition, then lets it go.
    async fn empty(&self, definition: Value) -> Result<Next, ApiError> {
        if !object::finalizers(&definition).contains(&FINALIZER) {
            return Ok(Next::Wait);
        }
        let storage = list(&definition, &["spec", "versions"])
            .iter()
            .find(|version| flag(version, &["storage"]))
            .map(|version| text(version, &["name"]).to_owned());
        let all = versions(&definition);
        let stored = all
            .iter()
            .find(|version| Some(&version.name) == storage.as_ref());
        if let Some(version) = stored
            && plan::is_established(&definition)
            && !self.delete_all(&version.kind()).await?
        {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let name = object::name(&definition).to_owned();
        self.write_status(plan::emptied(&definition, &object::now()))
            .await?;
        let left: Vec<&str> = object::finalizers(&definition)
            .into_iter()
            .filter(|finalizer| *finalizer != FINALIZER)
            .collect();
        let patch = json!({"metadata": {"uid": object::uid(&definition), "finalizers": left}});
        let request = PatchRequest {
            kind: &KIND,
            namespace: "",
            name: &name,
            subresource: "",
            patch_type: PatchType::Merge,
            patch: &patch,
        };
        match self.registry.patch(request, &options(), &|_| Ok(())).await {
            Err(error) if error.is_not_found() || error.code() == 409 => Ok(Next::Wait),
            result => result.map(|_| Next::Wait),
        }
    }

    /// Whether nothing is left.
    async fn delete_all(&self, kind: &Kind<'_>) -> Result<bool, ApiError> {
        let all = ListOptions::default();
        let found = self
            .registry
            .delete_collection(kind, "", &all, &DeleteOptions::default(), false)
            .await?;
        Ok(found.is_empty() || self.registry.list(kind, "", &all).await?.items.is_empty())
    }
}

fn decoded(items: &[std::sync::Arc<KeyValue>]) -> impl Iterator<Item = Value> {
    items.iter().map(|kv| object::decode(kv))
}

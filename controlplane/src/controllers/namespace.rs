//! Deletion of namespaces: delete all that is in them, say what is left, then let them go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use crate::cache::{Cache, Informer, ObjectKey, Queue, Subscription};
use crate::kinds::{Kind, Scope};
use crate::registry::list::ListOptions;
use crate::registry::{ApiError, Client, DeleteOptions, Object, object};

use super::worker::Next;

mod plan;

pub(super) const NAME: &str = "namespace-controller";
/// Content that reports no end by itself is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Controller {
    client: Client,
    cache: Cache,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let namespaces = {
        let queue = queue.clone();
        cache.namespaces.subscribe(move |delta| {
            if delta.new.is_some_and(|new| is_terminating(new)) {
                queue.add(delta.key.clone());
            }
        })
    };
    vec![namespaces, ended(cache, &cache.pods, queue)]
}

/// The last pod's end is what most deletions wait for.
fn ended<K: Object>(
    cache: &Cache,
    informer: &Informer<K>,
    queue: &Queue<ObjectKey>,
) -> Subscription {
    let (queue, namespaces) = (queue.clone(), cache.namespaces.clone());
    informer.subscribe(move |delta| {
        let key = ObjectKey::cluster(&delta.key.namespace);
        if delta.new.is_none()
            && namespaces
                .get_key(&key)
                .is_some_and(|found| is_terminating(&found))
        {
            queue.add(key);
        }
    })
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(namespace) = self
            .cache
            .namespaces
            .get_key(&key)
            .filter(|found| is_terminating(found))
        else {
            return Ok(Next::Wait);
        };
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.clone());
        let finalizers = finalizers.unwrap_or_default();
        if !finalizers
            .iter()
            .any(|finalizer| finalizer == plan::FINALIZER)
        {
            return Ok(Next::Wait);
        }
        let (left, failure) = self.empty(&key.name).await;
        let changed = plan::with_conditions(&namespace, &left, failure.as_ref(), Timestamp::now());
        if let Some(changed) = changed {
            match self.client.update_status(&changed).await {
                Err(error) if error.code() == 404 => return Ok(Next::Wait),
                result => drop(result?),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if !left.is_empty() {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let others: Vec<_> = finalizers
            .iter()
            .filter(|finalizer| *finalizer != plan::FINALIZER)
            .collect();
        let patch = json!({"spec": {"finalizers": others}});
        match self
            .client
            .merge_patch::<Namespace>("", &key.name, "finalize", &patch)
            .await
        {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(Next::Wait),
        }
    }

    /// Asks for the deletion of everything; returns what is still there, by kind.
    ///
    /// What runs goes first, and until it has gone nothing else does: a pod must not outlive the policies that keep it
    /// from others.
    async fn empty(
        &self,
        namespace: &str,
    ) -> (BTreeMap<plan::Resource, plan::Left>, Option<ApiError>) {
        let mut left = BTreeMap::new();
        let mut failure = None;
        let all = self.client.registry().stored_kinds();
        let is_pods = |kind: &Kind<'_>| kind.group.is_empty() && kind.plural == "pods";
        let (pods, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|handle| is_pods(&handle.get()));
        for kinds in [pods, others] {
            for handle in kinds {
                let kind = &handle.get();
                if kind.scope != Scope::Namespaced {
                    continue;
                }
                match self.empty_of(kind, namespace).await {
                    Ok(None) => {}
                    Ok(Some(found)) => {
                        left.insert((kind.plural.to_owned(), kind.group.to_owned()), found);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if !left.is_empty() || failure.is_some() {
                break;
            }
        }
        (left, failure)
    }

    async fn empty_of(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
    ) -> Result<Option<plan::Left>, ApiError> {
        let registry = self.client.registry();
        let all = ListOptions::default();
        let background = DeleteOptions {
            propagation: Some("Background".to_owned()),
            ..DeleteOptions::default()
        };
        let found = registry
            .delete_collection(kind, namespace, &all, &background, false)
            .await?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut left = plan::Left::default();
        for kv in registry.list(kind, namespace, &all).await?.items {
            let object = object::decode(&kv);
            left.count += 1;
            for finalizer in object::finalizers(&object) {
                *left.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
        Ok((left.count > 0).then_some(left))
    }
}

//! What every namespace has: the ServiceAccount `default` and the ConfigMap with the cluster CA.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, Object};

use super::worker::Next;

pub(super) const NAME: &str = "serviceaccount-controller";
const ACCOUNT: &str = "default";
const CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    ca_pem: String,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let namespaces = {
        let queue = queue.clone();
        cache
            .namespaces
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let accounts = {
        let queue = queue.clone();
        cache.service_accounts.subscribe(move |delta| {
            if delta.key.name.as_ref() == ACCOUNT && delta.new.is_none() {
                queue.add(ObjectKey::cluster(&delta.key.namespace));
            }
        })
    };
    let config_maps = {
        let queue = queue.clone();
        cache.config_maps.subscribe(move |delta| {
            if delta.key.name.as_ref() == CA {
                queue.add(ObjectKey::cluster(&delta.key.namespace));
            }
        })
    };
    vec![namespaces, accounts, config_maps]
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// The ConfigMap to write over what is there; `None` when it is right. Pure.
fn root_ca(namespace: &str, live: Option<&ConfigMap>, ca_pem: &str) -> Option<ConfigMap> {
    let mut map = live.cloned().unwrap_or_else(|| ConfigMap {
        metadata: metadata(namespace, CA),
        ..ConfigMap::default()
    });
    let data = [(CA_KEY.to_owned(), ca_pem.to_owned())].into();
    if live.is_some() && map.data.as_ref() == Some(&data) {
        return None;
    }
    map.data = Some(data);
    Some(map)
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache, ca_pem: &str) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            ca_pem: ca_pem.to_owned(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let namespace = key.name.as_ref();
        let active = self
            .cache
            .namespaces
            .get_key(&key)
            .is_some_and(|found| found.metadata.deletion_timestamp.is_none());
        if !active {
            return Ok(Next::Wait);
        }
        if self
            .cache
            .service_accounts
            .get(namespace, ACCOUNT)
            .is_none()
        {
            let account = ServiceAccount {
                metadata: metadata(namespace, ACCOUNT),
                ..ServiceAccount::default()
            };
            self.create(&account).await?;
        }
        let live = self.cache.config_maps.get(namespace, CA);
        if let Some(map) = root_ca(namespace, live.as_deref(), &self.ca_pem) {
            if live.is_some() {
                self.client.update(&map).await?;
            } else {
                self.create(&map).await?;
            }
        }
        Ok(Next::Wait)
    }

    /// There already, or the namespace has begun to terminate: the view lags, nothing is wrong.
    async fn create<K: Object>(&self, object: &K) -> Result<(), ApiError> {
        match self.client.create(object).await {
            Err(error) if error.reason() == "AlreadyExists" || error.code() == 403 => Ok(()),
            result => result.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_ca_is_written_when_missing_or_changed() {
        let made = root_ca("ns", None, "A").unwrap();
        assert_eq!(root_ca("ns", Some(&made), "A"), None);
        let mut edited = made.clone();
        edited.data.as_mut().unwrap().insert("x".into(), "y".into());
        assert_eq!(root_ca("ns", Some(&edited), "A").unwrap().data, made.data);
        assert!(root_ca("ns", Some(&made), "B").is_some());
    }
}

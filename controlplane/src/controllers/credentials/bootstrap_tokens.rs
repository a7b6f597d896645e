//! Bootstrap tokens that have ended are removed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;

use crate::auth::token::bootstrap;
use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client, DeleteOptions};

pub(super) const NAME: &str = "token-cleaner";

pub(super) struct Controller {
    client: Client,
    cache: Cache,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let queue = queue.clone();
    vec![cache.secrets.subscribe(move |delta| {
        let concerns = delta.key.namespace.as_ref() == bootstrap::NAMESPACE
            && delta
                .new
                .is_some_and(|secret| secret.type_.as_deref() == Some(bootstrap::TYPE));
        if concerns {
            queue.add(delta.key.clone());
        }
    })]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(secret) = self.cache.secrets.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let value = serde_json::to_value(secret.as_ref()).map_err(ApiError::internal)?;
        let Some(end) = bootstrap::expiration(&value) else {
            return Ok(Next::Wait);
        };
        let left = end.as_second() - jiff::Timestamp::now().as_second();
        if left > 0 {
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1);
            return Ok(Next::After(left));
        }
        let options = DeleteOptions {
            uid: secret.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        self.client
            .delete::<Secret>(&key.namespace, &key.name, options)
            .await?;
        Ok(Next::Wait)
    }
}

//! ValidatingAdmissionPolicies: says in their status what their expressions could not do with the objects that they
//! are about (`kinds::admission::type_check`), once for each change of their spec.

use std::time::Duration;

use serde_json::{Value, json};

use super::worker::Next;
use crate::cache::{ObjectKey, Queue};
use crate::kinds::KindRef;
use crate::kinds::access::{at, integer, text};
use crate::kinds::admission::type_check::{self, Checked};
use crate::kinds::admission::validating_policy::KIND;
use crate::registry::watch::{Frame, WatchOptions};
use crate::registry::{ApiError, Client, Registry, WriteOptions, object};
use crate::schema::expression_type;
use crate::store::Freshness;

pub(super) const NAME: &str = "validatingadmissionpolicy-status-controller";
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Controller {
    registry: Registry,
}

/// Tells the queue of every policy that changes, for ever.
pub(super) async fn follow(client: &Client, queue: &Queue<ObjectKey>) {
    loop {
        if let Err(error) = watch(client.registry(), queue).await {
            tracing::debug!(%error, "policies are listed again");
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
            if let Frame::Added(kv) | Frame::Modified(kv) = frame {
                queue.add(ObjectKey::cluster(object::name(&object::decode(&kv))));
            }
        }
    }
    Ok(())
}

impl Controller {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            registry: client.registry().clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let name = key.name.as_ref();
        let found = self
            .registry
            .get(&KIND, "", name, Freshness::Linearizable)
            .await;
        let mut policy = match found {
            Ok(kv) => object::decode(&kv),
            Err(error) if error.is_not_found() => return Ok(Next::Wait),
            Err(error) => return Err(error),
        };
        let generation = integer(&policy, &["metadata", "generation"]);
        if integer(&policy, &["status", "observedGeneration"]) >= generation {
            return Ok(Next::Wait);
        }
        policy["status"]["observedGeneration"] = json!(generation);
        policy["status"]["typeChecking"] = self.checked(&policy);
        let options = WriteOptions {
            manager: NAME.to_owned(),
            ..WriteOptions::default()
        };
        let written = self
            .registry
            .update(&KIND, "", name, "status", policy, &options)
            .await;
        match written {
            Err(error) if error.is_not_found() => Ok(Next::Wait),
            result => result.map(|_| Next::Wait),
        }
    }

    fn checked(&self, policy: &Value) -> Value {
        let mut kinds = Vec::new();
        for (group, version, resource) in type_check::resources(policy) {
            if let Some(kind) = self.registry.kind(&group, &version, &resource) {
                kinds.extend(named(&kind));
            }
        }
        kinds.sort_by(|a, b| a.name.cmp(&b.name));
        kinds.dedup_by(|a, b| a.name == b.name);
        let params = at(policy, &["spec", "paramKind"]).and_then(|of| {
            let api_version = text(of, &["apiVersion"]);
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let kind = self
                .registry
                .kind_named(group, version, text(of, &["kind"]))?;
            expression_type(&kind.get())
        });
        match type_check::warnings(policy, &kinds, params.as_ref()) {
            none if none.is_empty() => json!({}),
            warnings => json!({"expressionWarnings": warnings}),
        }
    }
}

/// A kind with its type, if its fields are known.
fn named(kind: &KindRef) -> Option<Checked> {
    let kind = kind.get();
    Some(Checked {
        name: format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind),
        kind: expression_type(&kind)?,
    })
}

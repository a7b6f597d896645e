//! What a pod gets from the account that it runs as: the volume with its token, the cluster's CA and its
//! namespace, and the account's pull secrets. A pod whose account is missing is refused. Source: the Kubernetes
//! documentation, "Managing Service Accounts", ServiceAccount admission controller.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::generated_name::generate_name;
use super::{ApiError, Registry, object};
use crate::kinds::{self, Kind};
use crate::store::Freshness;

const VOLUME: &str = "kube-api-access-";
/// Where programs look for their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ROOT_CA: &str = "kube-root-ca.crt";
/// An odd hour: it tells these tokens from those that somebody asked for.
const SECONDS: i64 = 3607;
const DEFAULT: &str = "default";
/// The account `default` is made soon after its namespace: pods that come as soon wait for it.
const DEFAULT_ATTEMPTS: usize = 20;
const DEFAULT_WAIT: Duration = Duration::from_millis(100);

pub(super) fn concerns(kind: &Kind<'_>) -> bool {
    (kind.group, kind.plural) == ("", "pods")
}

impl Registry {
    /// Completes a pod that is about to be created.
    pub(super) async fn admit_account(
        &self,
        namespace: &str,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        let name = pod["spec"]["serviceAccountName"]
            .as_str()
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT)
            .to_owned();
        let account = self.account(namespace, &name).await.map_err(|error| {
            if !error.is_not_found() {
                return error;
            }
            let why = format!("error looking up service account {namespace}/{name}: {error}");
            ApiError::forbidden("", "pods", object::name(pod), &why)
        })?;
        complete(pod, &account, &generate_name(VOLUME));
        Ok(())
    }

    async fn account(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let kind =
            kinds::by_plural("", "v1", "serviceaccounts").ok_or_else(ApiError::no_such_resource)?;
        if let Ok(kv) = self.get(kind, namespace, name, Freshness::Local).await {
            return Ok(object::decode(&kv));
        }
        let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
        for attempt in 1.. {
            match self
                .get(kind, namespace, name, Freshness::Linearizable)
                .await
            {
                Err(error) if error.is_not_found() && attempt < attempts => {
                    tokio::time::sleep(DEFAULT_WAIT).await;
                }
                found => return found.map(|kv| object::decode(&kv)),
            }
        }
        Err(ApiError::not_found(kind, name))
    }
}

/// Pure; `volume` is the name for a new volume.
fn complete(pod: &mut Value, account: &Value, volume: &str) {
    let switch = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if switch(&pod["spec"]).or(switch(account)).unwrap_or(true) {
        mount(&mut pod["spec"], volume);
    }
    let has_secrets = pod["spec"]["imagePullSecrets"]
        .as_array()
        .is_some_and(|secrets| !secrets.is_empty());
    if !has_secrets && account["imagePullSecrets"].is_array() {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
}

fn mount(spec: &mut Value, volume: &str) {
    let own = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|own| {
            own["projected"].is_object()
                && own["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(VOLUME))
        });
    let own = own.and_then(|own| own["name"].as_str()).map(str::to_owned);
    let name = own.clone().unwrap_or_else(|| volume.to_owned());
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            mounted |= mount_in(container, &name);
        }
    }
    if own.is_none()
        && mounted
        && let Value::Object(spec) = spec
    {
        push(spec, "volumes", projected(&name));
    }
}

fn mount_in(container: &mut Value, volume: &str) -> bool {
    let mut mounts = container["volumeMounts"].as_array().into_iter().flatten();
    if mounts.any(|mount| mount["mountPath"] == MOUNT) {
        return false;
    }
    let Value::Object(container) = container else {
        return false;
    };
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT});
    push(container, "volumeMounts", mount);
    true
}

fn push(object: &mut Map<String, Value>, field: &str, value: Value) {
    match object.get_mut(field) {
        Some(Value::Array(list)) => list.push(value),
        _ => {
            object.insert(field.to_owned(), json!([value]));
        }
    }
}

fn projected(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": SECONDS, "path": "token"}},
                {"configMap": {
                    "name": ROOT_CA,
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

#[cfg(test)]
mod tests;

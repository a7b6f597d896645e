//! Binding pods to nodes: many in one transaction, so that the scheduler pays one commit for a batch.

use serde_json::{Value, json};

use super::{ApiError, Binding, MAX_ATTEMPTS, Registry, key, object};
use crate::kinds::{self, Kind};
use crate::store::{Compare, Freshness, Op, Txn};

/// Pods per transaction: bounds the size of one Raft entry.
const BATCH: usize = 256;

impl Registry {
    /// One result per binding, in order.
    pub(crate) async fn bind(&self, bindings: &[Binding]) -> Vec<Result<(), ApiError>> {
        let mut results = Vec::with_capacity(bindings.len());
        for batch in bindings.chunks(BATCH) {
            results.extend(self.bind_batch(batch).await);
        }
        results
    }

    async fn bind_batch(&self, batch: &[Binding]) -> Vec<Result<(), ApiError>> {
        let Some(pods) = kinds::by_plural("", "v1", "pods") else {
            let error = ApiError::internal("the Pod kind is not served");
            return batch.iter().map(|_| Err(error.clone())).collect();
        };
        for _ in 0..MAX_ATTEMPTS {
            let mut results = Vec::with_capacity(batch.len());
            let mut txn = Txn::default();
            for binding in batch {
                results.push(self.prepare_binding(pods, binding, &mut txn).await);
            }
            if txn.ops.is_empty() {
                return results;
            }
            match self.commit(txn).await {
                Ok(Ok(_)) => return results,
                // One pod moved meanwhile: look at all of them again.
                Ok(Err(_)) => {}
                Err(error) => return batch.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        batch
            .iter()
            .map(|binding| Err(ApiError::modified(pods, &binding.pod)))
            .collect()
    }

    async fn prepare_binding(
        &self,
        pods: &Kind<'_>,
        binding: &Binding,
        txn: &mut Txn,
    ) -> Result<(), ApiError> {
        let kv = self
            .get(pods, &binding.namespace, &binding.pod, Freshness::Local)
            .await?;
        let mut pod = object::decode(&kv);
        bound(pods, &mut pod, binding)?;
        let key = key::object(pods, &binding.namespace, &binding.pod);
        if txn.compares.iter().any(|compare| compare.key == key) {
            return Err(binding_conflict(binding, "bound twice in one batch"));
        }
        txn.compares.push(Compare {
            key: key.clone(),
            mod_revision: kv.mod_revision,
        });
        txn.ops.push(Op::Put {
            key,
            value: object::encode(&pod),
        });
        Ok(())
    }
}

fn binding_conflict(binding: &Binding, why: &str) -> ApiError {
    let mut error = ApiError::new(
        409,
        "Conflict",
        format!(
            "Operation cannot be fulfilled on pods/binding \"{}\": {why}",
            binding.pod
        ),
    );
    error.status.details = Some(
        k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails {
            name: Some(binding.pod.clone()),
            kind: Some("pods/binding".to_owned()),
            ..Default::default()
        },
    );
    error
}

/// Pure: the pod on its node.
fn bound(pods: &Kind, pod: &mut Value, binding: &Binding) -> Result<(), ApiError> {
    if !binding.uid.is_empty() && binding.uid != object::uid(pod) {
        return Err(ApiError::uid_mismatch(
            pods,
            &binding.pod,
            &binding.uid,
            object::uid(pod),
        ));
    }
    if object::is_terminating(pod) {
        let why = format!(
            "pod {} is being deleted, cannot be assigned to a host",
            binding.pod
        );
        return Err(binding_conflict(binding, &why));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if !present.is_empty() {
        let why = format!(
            "pod {} is already assigned to node \"{present}\"",
            binding.pod
        );
        return Err(binding_conflict(binding, &why));
    }
    pod["spec"]["nodeName"] = binding.node.clone().into();
    // What was only expected is true now.
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    set_scheduled(pod);
    Ok(())
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": object::now(),
    });
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.retain(|known| known["type"] != "PodScheduled");
    conditions.push(condition);
    pod["status"]["conditions"] = Value::Array(conditions);
    object::strip_nulls(&mut pod["status"]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn binding(uid: &str) -> Binding {
        Binding {
            namespace: "default".into(),
            pod: "a".into(),
            uid: uid.into(),
            node: "n1".into(),
        }
    }

    #[test]
    fn a_pod_is_bound_once() {
        let mut pod = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {},
            "status": {"nominatedNodeName": "n1", "conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let kind = kinds::by_plural("", "v1", "pods").unwrap();
        bound(kind, &mut pod, &binding("u")).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert!(pod["status"].get("nominatedNodeName").is_none());
        assert_eq!(pod["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let again = bound(kind, &mut pod, &binding("u")).unwrap_err();
        assert_eq!(
            again.to_string(),
            "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
        );
        assert_eq!(
            bound(kind, &mut pod, &binding("other")).unwrap_err().code(),
            409
        );
    }
}

//! Autoscalers that are about the same pods: each would undo what the other does, so none of them scales. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::plan::Unselected;
use crate::cache::ObjectKey;
use crate::registry::selector::Requirement;

pub(super) fn selects(selector: &[Requirement], pod: &Pod) -> bool {
    let none = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    selector.iter().all(|one| one.matches(labels))
}

/// Which pods each autoscaler was about when it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Rivals(HashMap<ObjectKey, Vec<Requirement>>);

impl Rivals {
    pub(super) fn put(&mut self, key: &ObjectKey, selector: Vec<Requirement>) {
        self.0.insert(key.clone(), selector);
    }

    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// What is wrong with one that is about these pods, by `selector`, and not alone.
    pub(super) fn check(
        &self,
        key: &ObjectKey,
        selector: &str,
        pods: &[Arc<Pod>],
    ) -> Result<(), Unselected> {
        let of_namespace = self
            .0
            .iter()
            .filter(|(other, _)| other.namespace == key.namespace);
        let mut all: Vec<&ObjectKey> = of_namespace
            .filter(|(_, selector)| pods.iter().any(|pod| selects(selector, pod)))
            .map(|(other, _)| other)
            .collect();
        if all.len() < 2 {
            return Ok(());
        }
        // Itself and one other are enough.
        all.sort_by_key(|other| (*other != key, other.name.clone()));
        let named: Vec<String> = all
            .iter()
            .take(2)
            .map(|other| format!("{{{} {}}}", other.name, other.namespace))
            .collect();
        let message = format!(
            "pods by selector {selector} are controlled by more than one HPA (e.g. [{}])",
            named.join(" ")
        );
        Err(Unselected {
            reason: "AmbiguousSelector",
            message: message.clone(),
            event: ("AmbiguousSelector", message),
        })
    }
}

//! Pods that are being deleted: what the cache says of them, for [`Holds`](super::super::hold::Holds) to
//! decide, and what nodes are sent of them.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proto::node::v1::PodChange;
use tokio::time::Instant;

use super::super::hold::{Leaving, Nodes, Offer, Outcome};
use super::super::register;
use super::dirty::Dirty;
use super::{Hub, state};
use crate::cache::{BY_SERVICE, Cache, ObjectKey, services_of};

impl Hub {
    /// The pod as its node is to see it.
    pub(super) fn pod(&mut self, pod: &Pod) -> PodChange {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(leaving) = leaving(pod) {
            // Known already, unless the cache is ahead of the last flush.
            self.holds.observe(uid, leaving, Instant::now());
        }
        state::pod(&self.cache, pod, self.holds.is_held(uid))
    }

    /// Takes note of the pods among what is dirty that are being deleted or gone.
    pub(super) fn observe(&mut self, dirty: &Dirty) {
        let now = Instant::now();
        for ((_, key), uids) in &dirty.pods {
            let present = self.cache.pods.get_key(key);
            let present_uid = present.as_ref().and_then(|pod| pod.metadata.uid.as_deref());
            for uid in uids.iter().filter(|uid| Some(uid.as_str()) != present_uid) {
                self.holds.forget(uid);
            }
            if let Some(pod) = &present
                && let Some(leaving) = leaving(pod)
            {
                self.holds
                    .observe(present_uid.unwrap_or_default(), leaving, now);
            }
        }
    }

    /// Adds the pods whose nodes are to be told of the deletion to what is dirty.
    pub(super) fn release(&mut self, dirty: &mut Dirty) {
        if self.holds.waiting() > 0 {
            let nodes = Nodes {
                applied: self.least_applied(),
                current: self.revision,
            };
            let cache = &self.cache;
            let released = self
                .holds
                .step(Instant::now(), nodes, |key, uid| offer(cache, key, uid));
            for pod in released {
                self.metrics.released(pod.outcome, pod.after);
                if pod.outcome == Outcome::TimedOut {
                    tracing::warn!(pod = %pod.leaving.key, waited = ?pod.after, nodes = ?self.behind(),
                        "a pod is stopped although not all nodes have let go of its endpoints");
                }
                let place = (pod.leaving.node, pod.leaving.key);
                dirty.pods.entry(place).or_default().insert(pod.uid);
            }
        }
        self.metrics.held(self.holds.waiting());
    }

    /// Between flushes: an acknowledgement came, or time has passed. What changed in the cache meanwhile is
    /// left to the next flush, which alone may claim its revision.
    pub(super) fn let_go(&mut self) {
        let mut dirty = Dirty::default();
        self.release(&mut dirty);
        if !dirty.pods.is_empty() {
            self.send(&dirty, self.revision);
        }
    }

    /// Of the connected nodes and, for a while after this member's start, of those that it knows as ready
    /// and that have not come back yet: their kernels go on with what they had.
    fn least_applied(&self) -> u64 {
        if Instant::now() < self.settled && self.is_anybody_absent() {
            return 0;
        }
        self.applied.least()
    }

    fn is_anybody_absent(&self) -> bool {
        self.cache.nodes.list("").iter().any(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            register::readiness(node) == Some("True")
                && !self.came_back.contains(name)
                && !self.applied.is_elsewhere(name)
        })
    }

    /// The nodes that are furthest behind.
    fn behind(&self) -> Vec<String> {
        let least = self.applied.least();
        let revisions = self.applied.revisions();
        let slow = revisions.into_iter().filter(|(_, told)| *told == least);
        slow.map(|(node, _)| node).take(8).collect()
    }
}

/// `None` for a pod that is not being deleted, or has no node to be told.
fn leaving(pod: &Pod) -> Option<Leaving> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    Some(Leaving {
        key: ObjectKey::of(pod),
        node,
        grace: Duration::from_secs(u64::try_from(grace).unwrap_or(0)),
        serves: conditions
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
    })
}

/// What the slices of the Services that select the pod say of it.
fn offer(cache: &Cache, key: &ObjectKey, uid: &str) -> Offer {
    let Some(pod) = cache.pods.get_key(key) else {
        return Offer::Nowhere;
    };
    let services = services_of(&cache.services, &pod);
    let slices = services.iter().flat_map(|service| {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        cache
            .endpoint_slices
            .indexed(BY_SERVICE, &format!("{}/{name}", key.namespace))
    });
    let mut found = Offer::Nowhere;
    for slice in slices {
        match (offer_of(&slice, uid), found) {
            (Offer::Open, _) => return Offer::Open,
            (Offer::Closed(one), Offer::Closed(other)) => found = Offer::Closed(one.max(other)),
            (Offer::Closed(one), _) => found = Offer::Closed(one),
            (Offer::Nowhere, _) => {}
        }
    }
    found
}

fn offer_of(slice: &EndpointSlice, uid: &str) -> Offer {
    let mine = slice.endpoints.iter().flatten().filter(|endpoint| {
        let target = endpoint.target_ref.as_ref();
        target.and_then(|target| target.uid.as_deref()) == Some(uid)
    });
    let mut found = Offer::Nowhere;
    for endpoint in mine {
        let conditions = endpoint.conditions.as_ref();
        if conditions.and_then(|conditions| conditions.terminating) != Some(true) {
            return Offer::Open;
        }
        let revision = slice.metadata.resource_version.as_deref();
        let revision = revision.and_then(|text| text.parse().ok());
        found = Offer::Closed(revision.unwrap_or(0));
    }
    found
}

//! A [`Reporter`] that remembers, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::sync::watch;

use super::{PodEvent, PodKey, Reporter};

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    statuses: Mutex<BTreeMap<String, Vec<PodStatus>>>,
    terminated: Mutex<Vec<String>>,
    events: Mutex<Vec<PodEvent>>,
    changed: watch::Sender<u64>,
}

impl Recorder {
    pub(crate) fn statuses(&self, uid: &str) -> Vec<PodStatus> {
        let all = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid).cloned().unwrap_or_default()
    }

    pub(crate) fn events(&self) -> Vec<(&'static str, String)> {
        let all = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|event| (event.reason, event.message.clone()))
            .collect()
    }

    pub(crate) fn is_terminated(&self, uid: &str) -> bool {
        let all = self
            .terminated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|known| known == uid)
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                changed.borrow_and_update();
                if holds() {
                    return;
                }
                changed.changed().await.expect("the recorder lives");
            }
        };
        // Long by the clock of the tests that pause it; a real test ends well before.
        if tokio::time::timeout(Duration::from_secs(3_000), waiting)
            .await
            .is_err()
        {
            panic!("waited in vain for {what}; events: {:#?}", self.events());
        }
    }

    /// The first status from now on, or the latest, for which `holds`.
    pub(crate) async fn status_when(
        &self,
        uid: &str,
        what: &str,
        holds: impl Fn(&PodStatus) -> bool,
    ) -> PodStatus {
        let latest = || self.statuses(uid).last().cloned();
        self.until(what, || latest().is_some_and(|status| holds(&status)))
            .await;
        latest().expect("it was just there")
    }

    pub(crate) async fn terminated_when(&self, uid: &str) {
        self.until("the end of the pod", || self.is_terminated(uid))
            .await;
    }

    fn announce(&self) {
        self.changed.send_modify(|counter| *counter += 1);
    }
}

impl Reporter for Recorder {
    fn status(&self, pod: &PodKey, status: &PodStatus) {
        self.statuses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(pod.uid.clone())
            .or_default()
            .push(status.clone());
        self.announce();
    }

    fn terminated(&self, pod: &PodKey) {
        self.terminated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pod.uid.clone());
        self.announce();
    }

    fn event(&self, event: PodEvent) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event);
        self.announce();
    }
}

/// The status of one container.
pub(crate) fn container<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten()
        .find(|container| container.name == name)
        .expect("the container is in the status")
}

pub(crate) fn is_ready(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The reason for which a container waits.
pub(crate) fn waits_for(status: &PodStatus, name: &str, reason: &str) -> bool {
    container(status, name)
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref())
        .and_then(|waiting| waiting.reason.as_deref())
        == Some(reason)
}

//! Keeps the condition `Available` of APIServices: whether the Service behind a group version is there, has endpoints,
//! and says what it serves. What this server answers itself is always available.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceStatus,
};
use tokio_util::sync::CancellationToken;

use super::ControllerMetrics;
use super::worker::{self, Next};
use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::dialer::NoEndpoint;
use crate::extension::{self, ExtensionError, Extensions};
use crate::registry::{ApiError, Client};

const NAME: &str = "apiservice-availability-controller";
const AVAILABLE: &str = "Available";
/// What answers is asked again after this time.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// What does not answer, after this.
const RETRY: Duration = Duration::from_secs(2);

struct Controller {
    client: Client,
    cache: Cache,
    extensions: Extensions,
}

/// Runs until `shutdown`. Call it while this member leads.
pub(crate) async fn run(
    client: Client,
    cache: Cache,
    extensions: Extensions,
    metrics: ControllerMetrics,
    shutdown: CancellationToken,
) {
    let all = async {
        cache.synced().await;
        let queue = Queue::default();
        let _subscriptions = subscribe(&cache, &queue);
        let controller = Controller {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            extensions,
        };
        let reconcile = |key| controller.reconcile(key);
        worker::work(NAME, queue, 4, metrics, reconcile).await;
    };
    tokio::select! { () = all => {}, () = shutdown.cancelled() => {} }
}

fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let apis = {
        let queue = queue.clone();
        cache.api_services.subscribe(move |delta| {
            // The status is what this controller writes.
            let spec = |api: Option<&Arc<APIService>>| api.map(|api| api.spec.clone());
            if spec(delta.old) != spec(delta.new) {
                queue.add(delta.key.clone());
            }
        })
    };
    let services = {
        let (queue, apis) = (queue.clone(), cache.api_services.clone());
        cache.services.subscribe(move |delta| {
            concerned(
                &apis.list(""),
                &delta.key.namespace,
                &delta.key.name,
                &queue,
            );
        })
    };
    let slices = {
        let (queue, apis) = (queue.clone(), cache.api_services.clone());
        cache.endpoint_slices.subscribe(move |delta| {
            let slice = delta.new.or(delta.old);
            let labels = slice.and_then(|slice| slice.metadata.labels.as_ref());
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            if let Some(service) = service {
                concerned(&apis.list(""), &delta.key.namespace, service, &queue);
            }
        })
    };
    vec![apis, services, slices]
}

/// Queues those that the Service is behind.
fn concerned(apis: &[Arc<APIService>], namespace: &str, service: &str, queue: &Queue<ObjectKey>) {
    for api in apis {
        let place = extension::service(api).map(extension::place);
        if place.is_some_and(|(within, name, _)| (within, name) == (namespace, service)) {
            queue.add(ObjectKey::of(api.as_ref()));
        }
    }
}

/// Status, reason and message of the condition. Pure.
fn verdict(answer: Option<Result<(), ExtensionError>>) -> (&'static str, &'static str, String) {
    match answer {
        None => (
            "True",
            "Local",
            "Local APIServices are always available".to_owned(),
        ),
        Some(Ok(())) => ("True", "Passed", "all checks passed".to_owned()),
        Some(Err(error)) => {
            let reason = match &error {
                ExtensionError::NoEndpoint(NoEndpoint::Service { .. }) => "ServiceNotFound",
                ExtensionError::NoEndpoint(NoEndpoint::Port { .. }) => "ServicePortError",
                ExtensionError::NoEndpoint(NoEndpoint::Endpoints { .. }) => "MissingEndpoints",
                ExtensionError::NoEndpoint(NoEndpoint::Unread(_)) => "ServiceAccessError",
                ExtensionError::Unreachable(_) | ExtensionError::Status { .. } => {
                    "FailedDiscoveryCheck"
                }
            };
            ("False", reason, error.to_string())
        }
    }
}

/// The status with that condition; `None` when it has it. The time moves when the answer does. Pure.
fn updated(
    api: &APIService,
    (status, reason, message): (&str, &str, String),
    now: jiff::Timestamp,
) -> Option<APIServiceStatus> {
    let mut conditions = api
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let known = conditions
        .iter()
        .position(|condition| condition.type_ == AVAILABLE);
    let mut since = Some(Time(now));
    if let Some(known) = known {
        let known = conditions.remove(known);
        if known.status == status {
            if known.reason.as_deref() == Some(reason) && known.message.as_ref() == Some(&message) {
                return None;
            }
            since = known.last_transition_time;
        }
    }
    conditions.push(APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since,
    });
    Some(APIServiceStatus {
        conditions: Some(conditions),
    })
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(api) = self.cache.api_services.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let is_local = extension::service(&api).is_none();
        let answer = if is_local {
            None
        } else {
            let spec = api.spec.as_ref();
            let group = spec.and_then(|spec| spec.group.as_deref());
            let version = spec.and_then(|spec| spec.version.as_deref());
            let path = format!(
                "/apis/{}/{}",
                group.unwrap_or_default(),
                version.unwrap_or_default()
            );
            Some(self.extensions.get(&api, &path).await.map(drop))
        };
        let next = match &answer {
            None => Next::Wait,
            Some(Ok(())) => Next::After(GOOD_FOR),
            Some(Err(_)) => Next::After(RETRY),
        };
        if let Some(status) = updated(&api, verdict(answer), jiff::Timestamp::now()) {
            let mut changed = api.as_ref().clone();
            changed.status = Some(status);
            match self.client.update_status(&changed).await {
                // The watch brings what it is now.
                Err(error) if matches!(error.code(), 404 | 409) => {}
                other => drop(other?),
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_condition_says_why_and_since_when() {
        let at = |seconds| jiff::Timestamp::from_second(seconds).unwrap();
        let missing = || {
            let gone = NoEndpoint::Service {
                namespace: "ns".to_owned(),
                name: "api".to_owned(),
            };
            verdict(Some(Err(gone.into())))
        };
        let shown = |status: &APIServiceStatus| {
            let condition = status.conditions.as_ref().unwrap()[0].clone();
            let since = condition.last_transition_time.unwrap().0.as_second();
            (condition.status, condition.reason.unwrap(), since)
        };
        let mut api = APIService::default();
        let first = updated(&api, missing(), at(1)).unwrap();
        assert_eq!(
            shown(&first),
            ("False".to_owned(), "ServiceNotFound".to_owned(), 1)
        );
        api.status = Some(first);
        assert!(updated(&api, missing(), at(2)).is_none());
        let empty = NoEndpoint::Endpoints {
            name: "api".to_owned(),
        };
        let second = updated(&api, verdict(Some(Err(empty.into()))), at(3)).unwrap();
        assert_eq!(
            shown(&second),
            ("False".to_owned(), "MissingEndpoints".to_owned(), 1)
        );
        api.status = Some(second);
        let third = updated(&api, verdict(Some(Ok(()))), at(4)).unwrap();
        assert_eq!(shown(&third), ("True".to_owned(), "Passed".to_owned(), 4));
        assert!(extension::is_available(&APIService {
            status: Some(third),
            ..api
        }));
    }
}

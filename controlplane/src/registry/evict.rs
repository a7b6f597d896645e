//! The eviction subresource: a deletion that asks the pod's disruption budget first. What the budget allows is
//! taken from it by compare-and-set before the pod is deleted, so that two evictions cannot share one.

use serde_json::{Value, json};

use super::delete::check_preconditions;
use super::list::ListOptions;
use super::update::{Ownership, Place};
use super::{ApiError, DeleteOptions, MAX_ATTEMPTS, Registry, WriteOptions, Written, object};
use crate::kinds::access::{at, integer, list, map, text};
use crate::kinds::{self, Kind, selector};
use crate::store::Freshness;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that the controller has not seen through.
const MOST_DISRUPTED: usize = 2000;

fn kind(group: &str, plural: &str) -> Result<&'static Kind<'static>, ApiError> {
    kinds::by_plural(group, "v1", plural)
        .ok_or_else(|| ApiError::internal(format!("{plural} are not served")))
}

/// What allows an eviction.
#[derive(Debug, PartialEq, Eq)]
enum Grant {
    /// Whatever becomes of the pod.
    Given,
    /// Only what the pod is: one that is ready would have to ask its budget. The budget's name, where it was asked.
    AsSeen(Option<String>),
}

impl Registry {
    pub(crate) async fn evict(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        write: &WriteOptions,
    ) -> Result<(), ApiError> {
        let pods = kind("", "pods")?;
        for _ in 0..MAX_ATTEMPTS {
            let kv = self
                .get(pods, namespace, name, Freshness::Linearizable)
                .await?;
            let pod = object::decode(&kv);
            // Before anything is taken from the budget for nothing.
            check_preconditions(pods, name, &pod, options)?;
            let grant = match without_budget(&pod) {
                Some(grant) => grant,
                None => self.take_from_budget(namespace, &pod, write).await?,
            };
            let given = options.resource_version.is_some();
            // Another pod of the same name is not meant, nor this one once it is what the grant is not for.
            let mut options = DeleteOptions {
                uid: Some(object::uid(&pod).to_owned()),
                // Judges are asked about the eviction, not about the deletion that follows.
                is_eviction: true,
                ..options.clone()
            };
            if matches!(grant, Grant::AsSeen(_)) && !given {
                options.resource_version = Some(object::meta(&pod, "resourceVersion").to_owned());
            }
            let done = self.let_go(pods, namespace, &pod, options, write).await;
            match (done, grant) {
                (Err(error), Grant::AsSeen(budget)) if error.code() == 409 && !given => {
                    if let Some(budget) = budget {
                        return Err(not_looked_at(&budget));
                    }
                }
                (done, _) => return done,
            }
        }
        Err(ApiError::modified(pods, name))
    }

    async fn let_go(
        &self,
        pods: &'static Kind<'static>,
        namespace: &str,
        pod: &Value,
        mut options: DeleteOptions,
        write: &WriteOptions,
    ) -> Result<(), ApiError> {
        let name = object::name(pod);
        if !write.dry_run && !object::is_terminating(pod) {
            let marked = self
                .mark_evicted(pods, namespace, name, &options, write)
                .await?;
            // The mark has made another version of it.
            if let Some(version) = &mut options.resource_version {
                *version = object::meta(&marked.to_value(), "resourceVersion").to_owned();
            }
        }
        self.delete(pods, namespace, name, &options, write.dry_run)
            .await
            .map(drop)
    }

    async fn take_from_budget(
        &self,
        namespace: &str,
        pod: &Value,
        write: &WriteOptions,
    ) -> Result<Grant, ApiError> {
        let budgets = kind("policy", "poddisruptionbudgets")?;
        let page = self
            .list(budgets, namespace, &ListOptions::default())
            .await?;
        let mut about = page
            .items
            .iter()
            .map(|kv| object::decode(kv))
            .filter(|budget| is_about(budget, pod));
        let Some(budget) = about.next() else {
            return Ok(Grant::Given);
        };
        if about.next().is_some() {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        if !is_ready(pod) && unhealthy_may_go(&budget) {
            return Ok(Grant::AsSeen(Some(object::name(&budget).to_owned())));
        }
        let place = Place {
            kind: budgets,
            namespace,
            name: object::name(&budget),
            subresource: "status",
        };
        let now = object::now();
        self.modify(place, write, Ownership::Track, |live| {
            taken(live, object::name(pod), &now)
        })
        .await
        .map(|_| Grant::Given)
    }

    async fn mark_evicted(
        &self,
        pods: &'static Kind<'static>,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
        write: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let place = Place {
            kind: pods,
            namespace,
            name,
            subresource: "status",
        };
        let now = object::now();
        self.modify(place, write, Ownership::Track, |live| {
            check_preconditions(pods, name, live, options)?;
            let mut pod = live.clone();
            let mut conditions = list(live, &["status", "conditions"]).to_vec();
            conditions.retain(|known| known["type"] != "DisruptionTarget");
            let mut target = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "EvictionByEvictionAPI",
                "message": "Eviction API: evicting",
                "lastTransitionTime": now,
            });
            if let Some(generation) = integer(live, &["metadata", "generation"]) {
                target["observedGeneration"] = generation.into();
            }
            conditions.push(target);
            pod["status"]["conditions"] = conditions.into();
            Ok(pod)
        })
        .await
    }
}

/// The grant of what is no loss to anybody; one that is about to begin may be one soon.
fn without_budget(pod: &Value) -> Option<Grant> {
    match text(pod, &["status", "phase"]) {
        "Succeeded" | "Failed" => Some(Grant::Given),
        _ if object::is_terminating(pod) => Some(Grant::Given),
        "Pending" => Some(Grant::AsSeen(None)),
        _ => None,
    }
}

fn is_about(budget: &Value, pod: &Value) -> bool {
    at(budget, &["spec", "selector"])
        .is_some_and(|chosen| selector::matches(chosen, at(pod, &["metadata", "labels"])))
}

fn is_ready(pod: &Value) -> bool {
    list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A pod that is not ready may go by the budget's policy, whatever is left of it.
fn unhealthy_may_go(budget: &Value) -> bool {
    if text(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" {
        return true;
    }
    let number = |field: &str| integer(budget, &["status", field]).unwrap_or(0);
    number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

fn not_looked_at(budget: &str) -> ApiError {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    ApiError::too_many_requests(REFUSED, "DisruptionBudget", &why, 10)
}

/// What keeps the budget's controller from working it out.
fn sync_failure(budget: &Value) -> Option<&str> {
    list(budget, &["status", "conditions"])
        .iter()
        .find(|condition| {
            condition["type"] == "DisruptionAllowed" && condition["reason"] == "SyncFailed"
        })
        .map(|condition| text(condition, &["message"]))
}

/// Pure: the budget after one more pod has gone, or why it may not.
fn taken(budget: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let name = object::name(budget);
    let number = |path: &[&str]| integer(budget, path).unwrap_or(0);
    if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
        return Err(not_looked_at(name));
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    let forbidden = |why: &str| {
        Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudgets",
            name,
            why,
        ))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = map(budget, &["status", "disruptedPods"]);
    if disrupted.is_some_and(|all| all.len() > MOST_DISRUPTED) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        let why = match sync_failure(budget) {
            Some(problem) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {problem}"
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number(&["status", "desiredHealthy"]),
                number(&["status", "currentHealthy"])
            ),
        };
        return Err(ApiError::too_many_requests(
            REFUSED,
            "DisruptionBudget",
            &why,
            0,
        ));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod] = now.into();
    if allowed == 1 {
        let mut conditions = list(&budget, &["status", "conditions"]).to_vec();
        for condition in &mut conditions {
            if condition["type"] == "DisruptionAllowed" && condition["status"] == "True" {
                condition["status"] = "False".into();
                condition["reason"] = "InsufficientPods".into();
                condition["lastTransitionTime"] = now.into();
            }
        }
        budget["status"]["conditions"] = conditions.into();
    }
    Ok(budget)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_budget_is_used_up_and_says_so() {
        let budget = json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3,
                "desiredHealthy": 2, "conditions": [{"type": "DisruptionAllowed", "status": "True"}]},
        });
        let once = taken(&budget, "p", "now").unwrap();
        assert_eq!(once["status"]["disruptionsAllowed"], 0);
        assert_eq!(once["status"]["disruptedPods"]["p"], "now");
        assert_eq!(
            once["status"]["conditions"][0]["reason"],
            "InsufficientPods"
        );
        let error = taken(&once, "q", "now").unwrap_err();
        assert_eq!((error.code(), error.reason()), (429, "TooManyRequests"));
        assert_eq!(error.to_string(), REFUSED);
        let cause = &error.status.details.unwrap().causes.unwrap()[0];
        assert_eq!(cause.reason.as_deref(), Some("DisruptionBudget"));
        assert_eq!(
            cause.message.as_deref(),
            Some("The disruption budget b needs 2 healthy pods and has 3 currently")
        );
    }

    #[test]
    fn a_budget_that_was_not_looked_at_yet_allows_nothing() {
        let budget = json!({"metadata": {"name": "b", "generation": 2},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        let error = taken(&budget, "p", "now").unwrap_err();
        assert_eq!(error.retry_after(), Some(10));
    }

    #[test]
    fn a_budget_that_cannot_be_worked_out_says_why() {
        let budget = json!({"metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 0, "conditions": [
                {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale"}]}});
        let error = taken(&budget, "p", "now").unwrap_err();
        let cause = &error.status.details.unwrap().causes.unwrap()[0];
        assert_eq!(
            cause.message.as_deref(),
            Some(
                "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"
            )
        );
    }

    #[test]
    fn who_has_not_begun_goes_without_a_budget_only_as_long_as_that_is_so() {
        let pod = |phase: &str| json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
        assert_eq!(without_budget(&pod("Pending")), Some(Grant::AsSeen(None)));
        assert_eq!(without_budget(&pod("Failed")), Some(Grant::Given));
        assert_eq!(without_budget(&pod("Running")), None);
    }

    #[test]
    fn unhealthy_pods_go_as_the_policy_says() {
        let budget = |policy: &str, healthy: i64| {
            json!({"spec": {"unhealthyPodEvictionPolicy": policy},
                "status": {"currentHealthy": healthy, "desiredHealthy": 2}})
        };
        assert!(unhealthy_may_go(&budget("AlwaysAllow", 0)));
        assert!(unhealthy_may_go(&budget("IfHealthyBudget", 2)));
        assert!(!unhealthy_may_go(&budget("IfHealthyBudget", 1)));
    }
}

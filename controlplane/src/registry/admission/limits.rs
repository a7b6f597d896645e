//! LimitRanges: defaults for containers, and limits of containers, pods and claims.

use serde_json::Value;

use crate::kinds::Kind;
use crate::kinds::access::{list, list_mut, map, object_mut, text};
use crate::kinds::limit_range::KIND;
use crate::kinds::quantity::Quantity;
use crate::registry::quota::usage;
use crate::registry::{ApiError, Registry, key, object};
use crate::store::{Freshness, RangeRequest};

const SET: &str = "kubernetes.io/limit-ranger";

impl Registry {
    pub(super) async fn admit_limits(
        &self,
        kind: &Kind<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        for range in self.limit_ranges(object).await? {
            if kind.plural == "pods" {
                fill(&range, object);
            }
            hold(kind, &range, object)?;
        }
        Ok(())
    }

    /// Of a pod that is resized: what it has is its own, and only what it asks for is judged.
    pub(super) async fn admit_resize(&self, kind: &Kind<'_>, pod: &Value) -> Result<(), ApiError> {
        for range in self.limit_ranges(pod).await? {
            hold(kind, &range, pod)?;
        }
        Ok(())
    }

    async fn limit_ranges(&self, object: &Value) -> Result<Vec<Value>, ApiError> {
        let page = self
            .store()
            .range(RangeRequest {
                prefix: key::prefix(&KIND, object::namespace(object)),
                after: None,
                limit: 0,
                revision: None,
                freshness: Freshness::Local,
            })
            .await?;
        Ok(page.items.iter().map(|kv| object::decode(kv)).collect())
    }
}

fn hold(kind: &Kind<'_>, range: &Value, object: &Value) -> Result<(), ApiError> {
    let problems = judge(kind, range, object);
    let said = match problems.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(ApiError::forbidden(
        kind.group,
        kind.plural,
        object::name(object),
        &said,
    ))
}

/// Gives containers the defaults of a range, and notes it in the annotation that Kubernetes uses.
fn fill(range: &Value, pod: &mut Value) {
    let mut notes = Vec::new();
    for limit in list(range, &["spec", "limits"]) {
        if text(limit, &["type"]) != "Container" {
            continue;
        }
        for (field, kind) in [
            ("containers", "container"),
            ("initContainers", "init container"),
        ] {
            for container in list_mut(pod, &["spec", field]) {
                let name = text(container, &["name"]).to_owned();
                for (part, default, called) in [
                    ("requests", "defaultRequest", "request"),
                    ("limits", "default", "limit"),
                ] {
                    let mut set = Vec::new();
                    for (resource, amount) in map(limit, &[default]).into_iter().flatten() {
                        let has = map(container, &["resources", part])
                            .is_some_and(|all| all.contains_key(resource));
                        if !has {
                            set.push(resource.clone());
                            object_mut(container, &["resources", part])
                                .insert(resource.clone(), amount.clone());
                        }
                    }
                    if !set.is_empty() {
                        notes.push(format!("{} {called} for {kind} {name}", set.join(", ")));
                    }
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        object_mut(pod, &["metadata", "annotations"]).insert(SET.into(), note.into());
    }
}

fn quantity(holder: &Value, path: &[&str]) -> Option<Quantity> {
    text(holder, path).parse().ok()
}

/// What a range has against an object.
fn judge(kind: &Kind<'_>, range: &Value, object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for limit in list(range, &["spec", "limits"]) {
        match (text(limit, &["type"]), kind.plural) {
            ("Container", "pods") => {
                for field in ["containers", "initContainers"] {
                    for container in list(object, &["spec", field]) {
                        let asked = |part: &str, name: &str| {
                            quantity(container, &["resources", part, name])
                        };
                        bounds(limit, "Container", asked, &mut problems);
                    }
                }
            }
            ("Pod", "pods") => {
                let requests = usage::of_pod(object, "requests");
                let limits = usage::of_pod(object, "limits");
                let asked = |part: &str, name: &str| {
                    let all = if part == "requests" {
                        &requests
                    } else {
                        &limits
                    };
                    all.get(name).copied()
                };
                bounds(limit, "Pod", asked, &mut problems);
            }
            ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                claim(limit, object, &mut problems)
            }
            _ => {}
        }
    }
    problems
}

fn claim(limit: &Value, claim: &Value, problems: &mut Vec<String>) {
    let asked = quantity(claim, &["spec", "resources", "requests", "storage"]);
    for (bound, word) in [("min", "minimum"), ("max", "maximum")] {
        let Some(bounded) = quantity(limit, &[bound, "storage"]) else {
            continue;
        };
        let head = format!("{word} storage usage per PersistentVolumeClaim is {bounded}");
        match asked {
            None => problems.push(format!("{head}.  No request is specified")),
            Some(asked)
                if (bound == "min" && asked < bounded) || (bound == "max" && asked > bounded) =>
            {
                problems.push(format!("{head}, but request is {asked}"));
            }
            Some(_) => {}
        }
    }
}

fn bounds(
    limit: &Value,
    of: &str,
    asked: impl Fn(&str, &str) -> Option<Quantity>,
    problems: &mut Vec<String>,
) {
    let amounts = |field: &'static str| {
        map(limit, &[field])
            .into_iter()
            .flatten()
            .filter_map(|(name, amount)| {
                Some((name.clone(), amount.as_str()?.parse::<Quantity>().ok()?))
            })
    };
    for (name, least) in amounts("min") {
        let head = format!("minimum {name} usage per {of} is {least}");
        match (asked("requests", &name), asked("limits", &name)) {
            (None, _) => problems.push(format!("{head}.  No request is specified")),
            (Some(request), _) if request < least => {
                problems.push(format!("{head}, but request is {request}"))
            }
            (_, Some(most)) if most < least => {
                problems.push(format!("{head}, but limit is {most}"))
            }
            _ => {}
        }
    }
    for (name, most) in amounts("max") {
        let head = format!("maximum {name} usage per {of} is {most}");
        match (asked("requests", &name), asked("limits", &name)) {
            (_, None) => problems.push(format!("{head}.  No limit is specified")),
            (_, Some(given)) if given > most => {
                problems.push(format!("{head}, but limit is {given}"))
            }
            (Some(request), _) if request > most => {
                problems.push(format!("{head}, but request is {request}"))
            }
            _ => {}
        }
    }
    for (name, ratio) in amounts("maxLimitRequestRatio") {
        let head = format!("{name} max limit to request ratio per {of} is {ratio}");
        match (asked("requests", &name), asked("limits", &name)) {
            (None, _) => problems.push(format!(
                "{head}, but no request is specified or request is 0"
            )),
            (_, None) => problems.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(given)) if !request.is_zero() => {
                #[allow(clippy::cast_precision_loss)]
                let (given, wanted) = (
                    given.millis() as f64 / request.millis().max(1) as f64,
                    ratio.millis() as f64 / 1000.0,
                );
                if given > wanted {
                    problems.push(format!("{head}, but provided ratio is {given:.6}"));
                }
            }
            _ => problems.push(format!(
                "{head}, but no request is specified or request is 0"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn containers_get_defaults_and_are_bounded() {
        let range = json!({"spec": {"limits": [{"type": "Container",
            "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
            "min": {"cpu": "50m"}, "max": {"cpu": "1"}}]}});
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "2"}}}]}});
        fill(&range, &mut pod);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][SET],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a"
        );
        let pods = crate::kinds::by_plural("", "v1", "pods").unwrap();
        assert_eq!(
            judge(pods, &range, &pod),
            [
                "minimum cpu usage per Container is 50m, but request is 10m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
    }
}

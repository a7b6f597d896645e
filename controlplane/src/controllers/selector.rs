//! Label selectors. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// An empty selector matches nothing here: a workload that selects everything is a mistake, and the
/// registry refuses it.
pub(super) fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    if exact.clone().next().is_none() && expressions.clone().next().is_none() {
        return false;
    }
    let get = |key: &str| labels.and_then(|labels| labels.get(key));
    exact
        .into_iter()
        .all(|(key, value)| get(key) == Some(value))
        && expressions.into_iter().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            match (requirement.operator.as_str(), get(&requirement.key)) {
                ("In", Some(value)) => values.contains(value),
                ("NotIn", Some(value)) => !values.contains(value),
                ("NotIn" | "DoesNotExist", None) | ("Exists", Some(_)) => true,
                _ => false,
            }
        })
}

/// All pairs are there; an empty map matches nothing (a Service without selector has no pods).
pub(super) fn contains(labels: Option<&Labels>, selector: &Labels) -> bool {
    !selector.is_empty()
        && labels.is_some_and(|labels| {
            selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        })
}

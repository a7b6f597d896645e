//! Label selectors, worked out once per pod, and terms of pod affinity. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(super) type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    requirements: Vec<(String, Operator, Vec<String>)>,
    /// It can never match: it is absent, or has an operator that there is not.
    never: bool,
}

impl Selector {
    /// An absent selector matches nothing, an empty one everything.
    pub(crate) fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else {
            return Self {
                never: true,
                ..Self::default()
            };
        };
        let mut compiled = Self::default();
        for (key, value) in selector.match_labels.iter().flatten() {
            compiled.with(key, Operator::In, vec![value.clone()]);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => {
                    compiled.never = true;
                    continue;
                }
            };
            let values = expression.values.clone().unwrap_or_default();
            compiled.with(&expression.key, operator, values);
        }
        compiled
    }

    fn with(&mut self, key: &str, operator: Operator, values: Vec<String>) {
        self.requirements.push((key.to_owned(), operator, values));
    }

    /// Adds what the pod's own labels say: `matchLabelKeys`.
    pub(super) fn with_keys(&mut self, keys: Option<&Vec<String>>, labels: &Labels, equal: bool) {
        for key in keys.into_iter().flatten() {
            if let Some(value) = labels.get(key) {
                let operator = if equal { Operator::In } else { Operator::NotIn };
                self.with(key, operator, vec![value.clone()]);
            }
        }
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        !self.never
            && self.requirements.iter().all(|(key, operator, values)| {
                let found = labels.get(key);
                match operator {
                    Operator::In => found.is_some_and(|found| values.contains(found)),
                    Operator::NotIn => found.is_none_or(|found| !values.contains(found)),
                    Operator::Exists => found.is_some(),
                    Operator::DoesNotExist => found.is_none(),
                }
            })
    }
}

/// One term of pod affinity or anti-affinity.
#[derive(Debug, Clone)]
pub(super) struct Term {
    selector: Selector,
    namespaces: Vec<String>,
    /// Namespaces by their labels.
    chosen: Option<Selector>,
    pub(super) key: String,
}

impl Term {
    pub(super) fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut selector = Selector::new(term.label_selector.as_ref());
        selector.with_keys(term.match_label_keys.as_ref(), labels, true);
        selector.with_keys(term.mismatch_label_keys.as_ref(), labels, false);
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        let chosen = term.namespace_selector.as_ref();
        if namespaces.is_empty() && chosen.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            selector,
            namespaces,
            chosen: chosen.map(|chosen| Selector::new(Some(chosen))),
            key: term.topology_key.clone(),
        }
    }

    /// Whether it is about a pod with these labels in that namespace, which has `of_namespace`.
    pub(super) fn matches(&self, namespace: &str, of_namespace: &Labels, labels: &Labels) -> bool {
        (self.namespaces.iter().any(|known| known == namespace)
            || self
                .chosen
                .as_ref()
                .is_some_and(|chosen| chosen.matches(of_namespace)))
            && self.selector.matches(labels)
    }
}

pub(super) fn weighted(
    terms: Option<&Vec<WeightedPodAffinityTerm>>,
    sign: i64,
    namespace: &str,
    labels: &Labels,
) -> Vec<(i64, Term)> {
    terms
        .into_iter()
        .flatten()
        .map(|term| {
            let weight = sign * i64::from(term.weight);
            (
                weight,
                Term::new(&term.pod_affinity_term, namespace, labels),
            )
        })
        .collect()
}

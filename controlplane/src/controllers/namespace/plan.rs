//! What a terminating namespace's conditions say. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::registry::ApiError;

pub(super) const FINALIZER: &str = "kubernetes";

/// Plural and group of a kind.
pub(super) type Resource = (String, String);

/// Objects of one kind that are not gone yet.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) count: usize,
    /// How many of them wait for each finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

struct Says {
    kind: &'static str,
    yes: bool,
    reason: &'static str,
    message: String,
}

fn says(left: &BTreeMap<Resource, Left>, failure: Option<&ApiError>) -> Vec<Says> {
    let of = |kind, yes, reason, message| Says {
        kind,
        yes,
        reason,
        message,
    };
    let mut all = vec![
        of(
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        of(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        match failure {
            Some(error) => of(
                "NamespaceDeletionContentFailure",
                true,
                "ContentDeletionFailed",
                format!("Failed to delete all resource types: {error}"),
            ),
            None => of(
                "NamespaceDeletionContentFailure",
                false,
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
        },
    ];
    if left.is_empty() {
        let message = "All content successfully removed".to_owned();
        all.push(of(
            "NamespaceContentRemaining",
            false,
            "ContentRemoved",
            message,
        ));
    } else {
        let parts: Vec<String> = left
            .iter()
            .map(|((plural, group), left)| {
                // The group of the core kinds is empty, and the dot before it stands all the same.
                format!("{plural}.{group} has {} resource instances", left.count)
            })
            .collect();
        let message = format!("Some resources are remaining: {}", parts.join(", "));
        all.push(of(
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            message,
        ));
    }
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in left.values().flat_map(|left| &left.finalizers) {
        *finalizers.entry(finalizer).or_default() += count;
    }
    if finalizers.is_empty() {
        let message = "All content-preserving finalizers finished".to_owned();
        all.push(of(
            "NamespaceFinalizersRemaining",
            false,
            "ContentHasNoFinalizers",
            message,
        ));
    } else {
        let parts: Vec<String> = finalizers
            .iter()
            .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
            .collect();
        let message = format!(
            "Some content in the namespace has finalizers remaining: {}",
            parts.join(", ")
        );
        all.push(of(
            "NamespaceFinalizersRemaining",
            true,
            "SomeFinalizersRemain",
            message,
        ));
    }
    all
}

/// The namespace with its conditions brought up to date; `None` when they say all that already.
pub(super) fn with_conditions(
    namespace: &Namespace,
    left: &BTreeMap<Resource, Left>,
    failure: Option<&ApiError>,
    now: Timestamp,
) -> Option<Namespace> {
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Terminating".to_owned());
    let conditions = status.conditions.get_or_insert_default();
    for say in says(left, failure) {
        let new = NamespaceCondition {
            type_: say.kind.to_owned(),
            status: if say.yes { "True" } else { "False" }.to_owned(),
            reason: Some(say.reason.to_owned()),
            message: Some(say.message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|old| old.type_ == new.type_) {
            Some(old) if old.status == new.status => {
                let since = old.last_transition_time.take();
                *old = NamespaceCondition {
                    last_transition_time: since,
                    ..new
                };
            }
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
    (changed.status != namespace.status).then_some(changed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::controllers::fixtures::at;

    #[test]
    fn conditions_tell_what_is_left_and_change_only_when_it_does() {
        let namespace = Namespace::default();
        let mut left = BTreeMap::new();
        left.insert(
            ("pods".to_owned(), String::new()),
            Left {
                count: 3,
                finalizers: [("a.b/c".to_owned(), 1)].into(),
            },
        );
        let first = with_conditions(&namespace, &left, None, at(1)).unwrap();
        let message = |namespace: &Namespace, kind: &str| {
            let status = namespace.status.as_ref().unwrap();
            let conditions = status.conditions.as_ref().unwrap();
            let found = conditions
                .iter()
                .find(|condition| condition.type_ == kind)
                .unwrap();
            (found.status.clone(), found.message.clone().unwrap())
        };
        assert_eq!(
            message(&first, "NamespaceContentRemaining"),
            (
                "True".to_owned(),
                "Some resources are remaining: pods. has 3 resource instances".to_owned()
            )
        );
        assert!(
            message(&first, "NamespaceFinalizersRemaining")
                .1
                .ends_with("a.b/c in 1 resource instances")
        );
        assert_eq!(with_conditions(&first, &left, None, at(2)), None);
        let second = with_conditions(&first, &BTreeMap::new(), None, at(3)).unwrap();
        assert_eq!(message(&second, "NamespaceContentRemaining").0, "False");
    }
}

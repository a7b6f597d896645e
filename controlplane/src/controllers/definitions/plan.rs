//! Which names a definition gets, and what its conditions say. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds;
use crate::kinds::access::{list, text};

const APPROVED: &str = "api-approved.kubernetes.io";

fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = list(definition, &["status", "conditions"]);
    conditions
        .iter()
        .find(|condition| text(condition, &["type"]) == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| text(condition, &["status"]) == "True")
}

pub(super) fn names_accepted(definition: &Value) -> bool {
    is_true(definition, "NamesAccepted")
}

pub(super) fn is_established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

/// The names that others of the group have: of resources, and of kinds.
fn taken(group: &str, others: &[Value]) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut resources, mut all_kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in others
        .iter()
        .filter(|other| text(other, &["spec", "group"]) == group)
    {
        let names = &other["status"]["acceptedNames"];
        for field in ["plural", "singular"] {
            resources.insert(text(names, &[field]).to_owned());
        }
        for name in list(names, &["shortNames"])
            .iter()
            .filter_map(Value::as_str)
        {
            resources.insert(name.to_owned());
        }
        for field in ["kind", "listKind"] {
            all_kinds.insert(text(names, &[field]).to_owned());
        }
    }
    for kind in kinds::all().iter().filter(|kind| kind.group == group) {
        resources.extend([kind.plural.to_owned(), kind.singular.to_owned()]);
        resources.extend(kind.short_names.iter().map(|name| (*name).to_owned()));
        all_kinds.extend([kind.kind.to_owned(), kind.list_kind()]);
    }
    (resources, all_kinds)
}

/// Accepted names, and the conflict if there is one: reason and message.
fn accept(definition: &Value, others: &[Value]) -> (Value, Option<(&'static str, String)>) {
    let wanted = &definition["spec"]["names"];
    let (resources, all_kinds) = taken(text(definition, &["spec", "group"]), others);
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    for (field, reason, taken) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("kind", "KindConflict", &all_kinds),
        ("listKind", "ListKindConflict", &all_kinds),
    ] {
        let name = text(wanted, &[field]);
        if !name.is_empty() && taken.contains(name) {
            conflict = conflict.or(Some((reason, format!("{name:?} is already in use"))));
        } else {
            accepted[field] = name.into();
        }
    }
    let used = list(wanted, &["shortNames"])
        .iter()
        .filter_map(Value::as_str);
    let used: Vec<String> = used
        .filter(|name| resources.contains(*name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    match (used.as_slice(), wanted.get("shortNames")) {
        ([], Some(names)) => accepted["shortNames"] = names.clone(),
        ([], None) => drop(
            accepted
                .as_object_mut()
                .map(|names| names.remove("shortNames")),
        ),
        ([one], _) => conflict = conflict.or(Some(("ShortNamesConflict", one.clone()))),
        (many, _) => {
            conflict = conflict.or(Some((
                "ShortNamesConflict",
                format!("[{}]", many.join(", ")),
            )));
        }
    }
    match wanted.get("categories") {
        Some(categories) => accepted["categories"] = categories.clone(),
        None => drop(
            accepted
                .as_object_mut()
                .map(|names| names.remove("categories")),
        ),
    }
    (accepted, conflict)
}

fn set(definition: &mut Value, kind: &str, status: bool, reason: &str, message: &str, now: &str) {
    let status = if status { "True" } else { "False" };
    let since = condition(definition, kind)
        .filter(|condition| text(condition, &["status"]) == status)
        .map_or(now, |condition| text(condition, &["lastTransitionTime"]))
        .to_owned();
    let new = json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since,
    });
    let mut conditions = list(definition, &["status", "conditions"]).to_vec();
    match conditions
        .iter_mut()
        .find(|condition| text(condition, &["type"]) == kind)
    {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    definition["status"]["conditions"] = conditions.into();
}

/// The definition with its status brought up to date; `None` when it says all that already.
pub(super) fn status(definition: &Value, others: &[Value], now: &str) -> Option<Value> {
    let (accepted, conflict) = accept(definition, others);
    let mut changed = definition.clone();
    changed["status"]["acceptedNames"] = accepted;
    match &conflict {
        None => set(
            &mut changed,
            "NamesAccepted",
            true,
            "NoConflicts",
            "no conflicts found",
            now,
        ),
        Some((reason, message)) => set(&mut changed, "NamesAccepted", false, reason, message, now),
    }
    if conflict.is_none() {
        let message = "the initial names have been accepted";
        set(
            &mut changed,
            "Established",
            true,
            "InitialNamesAccepted",
            message,
            now,
        );
    } else if !is_established(definition) {
        set(
            &mut changed,
            "Established",
            false,
            "NotAccepted",
            "not all names are accepted",
            now,
        );
    }
    approval(&mut changed, now);
    (changed != *definition).then_some(changed)
}

/// Groups of the Kubernetes community say who has approved them.
fn approval(definition: &mut Value, now: &str) {
    let group = text(definition, &["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")));
    if !protected {
        return;
    }
    let given = text(definition, &["metadata", "annotations", APPROVED]).to_owned();
    let approved = given.starts_with("https://");
    let (reason, message) = if approved {
        ("ApprovedAnnotation", format!("approved in {given}"))
    } else {
        ("UnapprovedAnnotation", format!("not approved: {given:?}"))
    };
    set(
        definition,
        "KubernetesAPIApprovalPolicyConformant",
        approved,
        reason,
        &message,
        now,
    );
}

/// All resources are gone.
pub(super) fn emptied(definition: &Value, now: &str) -> Value {
    let mut changed = definition.clone();
    let message = "removed all instances";
    set(
        &mut changed,
        "Terminating",
        false,
        "InstanceDeletionCompleted",
        message,
        now,
    );
    changed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({
            "metadata": {"name": format!("{plural}.example.com")},
            "spec": {"group": "example.com", "names": {"plural": plural, "singular": kind.to_lowercase(),
                "kind": kind, "listKind": format!("{kind}List"), "shortNames": short}},
        })
    }

    #[test]
    fn names_are_accepted_once() {
        let first = status(&definition("foos", "Foo", &["f"]), &[], NOW).unwrap();
        assert!(is_established(&first) && names_accepted(&first));
        assert_eq!(first["status"]["acceptedNames"]["shortNames"], json!(["f"]));
        assert_eq!(status(&first, &[], "2027-01-01T00:00:00Z"), None);

        let second = status(
            &definition("bars", "Foo", &["f"]),
            std::slice::from_ref(&first),
            NOW,
        )
        .unwrap();
        assert!(!is_established(&second));
        let names = condition(&second, "NamesAccepted").unwrap();
        assert_eq!(names["reason"], "SingularConflict");
        assert_eq!(names["message"], "\"foo\" is already in use");
        // Free again.
        let later = status(&second, &[], NOW).unwrap();
        assert!(is_established(&later));
    }

    #[test]
    fn what_was_established_stays_so() {
        let first = status(&definition("foos", "Foo", &[]), &[], NOW).unwrap();
        let other = status(&definition("bars", "Bar", &["b"]), &[], NOW).unwrap();
        let mut renamed = first;
        renamed["spec"]["names"]["shortNames"] = json!(["b"]);
        let changed = status(&renamed, &[other], NOW).unwrap();
        assert!(is_established(&changed) && !names_accepted(&changed));
        assert_eq!(
            condition(&changed, "NamesAccepted").unwrap()["reason"],
            "ShortNamesConflict"
        );
    }
}

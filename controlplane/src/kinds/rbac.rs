//! The four kinds of rbac.authorization.k8s.io/v1, one file each; here is what they share.

pub(super) mod cluster_role;
pub(super) mod cluster_role_binding;
pub(super) mod role;
pub(super) mod role_binding;

use serde_json::Value;

use super::access::{list, object_mut, text};
use super::errors::Errors;
use super::table;
use super::{Column, names};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Problems of the rules of a Role (`namespaced`) or ClusterRole.
fn validate_rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    for (index, rule) in list(object, &["rules"]).iter().enumerate() {
        let field = format!("rules[{index}]");
        if list(rule, &["verbs"]).is_empty() {
            errors.required(
                format!("{field}.verbs"),
                "verbs must contain at least one value",
            );
        }
        let is_empty = |name: &str| list(rule, &[name]).is_empty();
        if !is_empty("nonResourceURLs") {
            let shown = rule["nonResourceURLs"].clone();
            if namespaced {
                errors.invalid(
                    format!("{field}.nonResourceURLs"),
                    shown.clone(),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
                errors.invalid(
                    format!("{field}.nonResourceURLs"),
                    shown,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if is_empty("apiGroups") {
            errors.required(
                format!("{field}.apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if is_empty("resources") {
            errors.required(
                format!("{field}.resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
}

/// `roleRef.apiGroup`, and the API group that each kind of subject has.
fn default_binding(object: &mut Value) {
    let reference = object_mut(object, &["roleRef"]);
    let group = reference.get("apiGroup").and_then(Value::as_str);
    if group.unwrap_or("").is_empty() {
        reference.insert("apiGroup".into(), GROUP.into());
    }
    let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) else {
        return;
    };
    for subject in subjects {
        let of_group = matches!(text(subject, &["kind"]), "User" | "Group");
        if of_group
            && text(subject, &["apiGroup"]).is_empty()
            && let Some(subject) = subject.as_object_mut()
        {
            subject.insert("apiGroup".into(), GROUP.into());
        }
    }
}

fn validate_binding(
    object: &Value,
    old: Option<&Value>,
    roles: &[&str],
    namespaced: bool,
    errors: &mut Errors,
) {
    let reference = |field: &str| text(object, &["roleRef", field]);
    if reference("apiGroup") != GROUP {
        errors.not_supported("roleRef.apiGroup", reference("apiGroup"), &[GROUP]);
    }
    if !roles.contains(&reference("kind")) {
        errors.not_supported("roleRef.kind", reference("kind"), roles);
    }
    if reference("name").is_empty() {
        errors.required("roleRef.name", "");
    } else {
        let wrong = names::path_segment(reference("name"));
        errors.format("roleRef.name", reference("name"), wrong);
    }
    for (index, subject) in list(object, &["subjects"]).iter().enumerate() {
        validate_subject(subject, &format!("subjects[{index}]"), namespaced, errors);
    }
    if let Some(old) = old
        && ["apiGroup", "kind", "name"]
            .iter()
            .any(|field| reference(field) != text(old, &["roleRef", field]))
    {
        errors.invalid(
            "roleRef",
            object["roleRef"].clone(),
            "cannot change roleRef",
        );
    }
}

fn validate_subject(subject: &Value, field: &str, namespaced: bool, errors: &mut Errors) {
    let name = text(subject, &["name"]);
    if name.is_empty() {
        errors.required(format!("{field}.name"), "");
    }
    let group = text(subject, &["apiGroup"]);
    match text(subject, &["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.format(&format!("{field}.name"), name, names::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(format!("{field}.apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, &["namespace"]).is_empty() {
                errors.required(format!("{field}.namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(format!("{field}.apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(
            format!("{field}.kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        ),
    }
}

const ROLE_COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Created At", "date", "When the object was created."),
];

fn role_row(object: &Value) -> Vec<Value> {
    vec![
        table::name(object),
        text(object, &["metadata", "creationTimestamp"]).into(),
    ]
}

const BINDING_COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Role", "string", "The role that is given."),
    table::AGE,
    table::wide("Users", "string", "Users that it is given to."),
    table::wide("Groups", "string", "Groups that it is given to."),
    table::wide("ServiceAccounts", "string", "Accounts that it is given to."),
];

fn binding_row(object: &Value, now: i64) -> Vec<Value> {
    let subjects = list(object, &["subjects"]);
    let joined = |kind: &str| {
        let names: Vec<String> = subjects
            .iter()
            .filter(|subject| text(subject, &["kind"]) == kind)
            .map(|subject| match kind {
                "ServiceAccount" => format!(
                    "{}/{}",
                    text(subject, &["namespace"]),
                    text(subject, &["name"])
                ),
                _ => text(subject, &["name"]).to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    let role = format!(
        "{}/{}",
        text(object, &["roleRef", "kind"]),
        text(object, &["roleRef", "name"])
    );
    vec![
        table::name(object),
        role.into(),
        table::age(object, now),
        joined("User"),
        joined("Group"),
        joined("ServiceAccount"),
    ]
}

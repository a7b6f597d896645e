//! admissionregistration.k8s.io/v1: who else has a say about writes. Webhooks are called by `admission`, policies
//! evaluated there.

use serde_json::Value;

use super::access::{at, fill_absent, list, object_mut, text};
use super::errors::Errors;

mod cel;
pub(crate) mod mutating_policy;
pub(crate) mod type_check;
pub(crate) mod validating_policy;
pub(crate) mod webhooks;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const POLICIES: &[&str] = &["Fail", "Ignore"];

/// What matching has where nothing is said.
fn default_matching(matching: &mut Value, rules: &str) {
    let map = object_mut(matching, &[]);
    fill_absent(map, "matchPolicy", "Equivalent");
    for selector in ["namespaceSelector", "objectSelector"] {
        map.entry(selector).or_insert_with(|| serde_json::json!({}));
    }
    for rule in super::access::list_mut(matching, &[rules]) {
        fill_absent(object_mut(rule, &[]), "scope", "*");
    }
}

fn validate_rules(matching: &Value, field: &str, path: &str, errors: &mut Errors) {
    for (number, rule) in list(matching, &[field]).iter().enumerate() {
        let path = format!("{path}.{field}[{number}]");
        let operations = list(rule, &["operations"]);
        if operations.is_empty() {
            errors.required(format!("{path}.operations"), "");
        }
        if operations.len() > 1 && operations.iter().any(|operation| operation == "*") {
            errors.invalid(
                format!("{path}.operations"),
                rule["operations"].clone(),
                "if '*' is present, must not specify other operations",
            );
        }
        for (number, operation) in operations.iter().enumerate() {
            if !operation
                .as_str()
                .is_some_and(|name| OPERATIONS.contains(&name))
            {
                errors.not_supported(
                    format!("{path}.operations[{number}]"),
                    operation.clone(),
                    OPERATIONS,
                );
            }
        }
        for (field, named) in [
            ("apiGroups", "API groups"),
            ("apiVersions", "API versions"),
            ("resources", ""),
        ] {
            let given = list(rule, &[field]);
            let path = format!("{path}.{field}");
            if given.is_empty() {
                errors.required(&*path, "");
            }
            if field != "resources" && given.len() > 1 && given.iter().any(|one| one == "*") {
                let why = format!("if '*' is present, must not specify other {named}");
                errors.invalid(&*path, rule[field].clone(), &why);
            }
            // The core group has no name.
            for (number, one) in given.iter().enumerate() {
                if field != "apiGroups" && one == "" {
                    errors.required(format!("{path}[{number}]"), "");
                }
            }
        }
        validate_resources(rule, &format!("{path}.resources"), errors);
        let scope = text(rule, &["scope"]);
        if !matches!(scope, "*" | "Cluster" | "Namespaced") {
            errors.not_supported(
                format!("{path}.scope"),
                scope,
                &["*", "Cluster", "Namespaced"],
            );
        }
    }
}

/// What covers something else in a rule does not stand beside it.
fn validate_resources(rule: &Value, path: &str, errors: &mut Errors) {
    let given: Vec<&str> = list(rule, &["resources"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let (mut all_below, mut below_all) = (Vec::new(), Vec::new());
    for (number, name) in given.iter().enumerate() {
        let Some((resource, below)) = name.split_once('/') else {
            continue;
        };
        let path = format!("{path}[{number}]");
        if all_below.contains(&resource) {
            let why = format!("if '{resource}/*' is present, must not specify {name}");
            errors.invalid(&*path, *name, &why);
        }
        if below_all.contains(&below) {
            let why = format!("if '*/{below}' is present, must not specify {name}");
            errors.invalid(path, *name, &why);
        }
        if below == "*" {
            all_below.push(resource);
        }
        if resource == "*" {
            below_all.push(below);
        }
    }
    if given.len() > 1 && given.contains(&"*/*") {
        errors.invalid(
            path,
            rule["resources"].clone(),
            "if '*/*' is present, must not specify other resources",
        );
    }
    let plain = given.iter().filter(|name| !name.contains('/'));
    if given.contains(&"*") && plain.clone().any(|name| *name != "*" && !name.is_empty()) {
        errors.invalid(
            path,
            rule["resources"].clone(),
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

fn validate_selectors(matching: &Value, path: &str, errors: &mut Errors) {
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(chosen) = super::access::at(matching, &[field]) {
            super::selector::validate(chosen, &format!("{path}.{field}"), errors);
        }
    }
    let policy = text(matching, &["matchPolicy"]);
    let given = at(matching, &["matchPolicy"]).is_some();
    if given && !matches!(policy, "Exact" | "Equivalent") {
        errors.not_supported(
            format!("{path}.matchPolicy"),
            policy,
            &["Equivalent", "Exact"],
        );
    }
}

fn validate_failure_policy(holder: &Value, path: &str, errors: &mut Errors) {
    let policy = text(holder, &["failurePolicy"]);
    let given = at(holder, &["failurePolicy"]).is_some();
    if given && !POLICIES.contains(&policy) {
        errors.not_supported(format!("{path}.failurePolicy"), policy, POLICIES);
    }
}

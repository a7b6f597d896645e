//! Validation of what containers and pods ask for: amounts by resource, and what may change without a restart.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::access::{list, strings, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

/// Those that every node has, in amounts that may be fractions.
fn is_standard(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// Whether requests and limits of it may differ.
pub(super) fn is_overcommitted(name: &str) -> bool {
    !name.contains('/') && !is_huge_pages(name)
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// `resources` of the container at `field`.
pub(super) fn container(container: &Value, field: &str, errors: &mut Errors) {
    let field = format!("{field}.resources");
    let mut given = HashSet::new();
    for kind in ["limits", "requests"] {
        for (name, amount) in strings(container, &["resources", kind]) {
            given.insert(name);
            let field = format!("{field}.{kind}[{name}]");
            resource_name(name, &field, errors);
            quantity(name, amount, &field, errors);
        }
    }
    for (name, request) in strings(container, &["resources", "requests"]) {
        let limit = text(container, &["resources", "limits", name]);
        within_limit(name, request, limit, &field, errors);
        if limit.is_empty() && !is_overcommitted(name) {
            errors.required(
                format!("{field}.limits"),
                "Limit must be set for non overcommitable resources",
            );
        }
    }
    if given.iter().any(|name| is_huge_pages(name))
        && !given.contains("cpu")
        && !given.contains("memory")
    {
        errors.forbidden(field, "HugePages require cpu or memory");
    }
}

/// `resources` of the pod as a whole.
pub(super) fn pod(spec: &Value, field: &str, errors: &mut Errors) {
    let field = format!("{field}.resources");
    for kind in ["limits", "requests"] {
        for (name, amount) in strings(spec, &["resources", kind]) {
            let field = format!("{field}.{kind}[{name}]");
            if !matches!(name, "cpu" | "memory") && !is_huge_pages(name) {
                errors.not_supported(field, name, &["cpu", "hugepages-", "memory"]);
                continue;
            }
            quantity(name, amount, &field, errors);
        }
    }
    for (name, request) in strings(spec, &["resources", "requests"]) {
        let limit = text(spec, &["resources", "limits", name]);
        within_limit(name, request, limit, &field, errors);
    }
}

/// What a pod's runtime takes.
pub(super) fn overhead(spec: &Value, field: &str, errors: &mut Errors) {
    for (name, amount) in strings(spec, &["overhead"]) {
        let field = format!("{field}.overhead.limits[{name}]");
        resource_name(name, &field, errors);
        quantity(name, amount, &field, errors);
    }
}

fn quantity(name: &str, amount: &str, field: &str, errors: &mut Errors) {
    let Ok(read) = amount.parse::<Quantity>() else {
        return;
    };
    if read.is_negative() {
        errors.invalid(field, amount, "must be greater than or equal to 0");
    }
    if !is_standard(name) && !is_huge_pages(name) && !read.is_whole() {
        errors.invalid(field, amount, "must be an integer");
    }
}

fn within_limit(name: &str, request: &str, limit: &str, field: &str, errors: &mut Errors) {
    let (Ok(asked), Ok(most)) = (request.parse::<Quantity>(), limit.parse::<Quantity>()) else {
        return;
    };
    let rule = if !is_overcommitted(name) && asked != most {
        "must be equal to"
    } else if asked > most {
        "must be less than or equal to"
    } else {
        return;
    };
    errors.invalid(
        format!("{field}.requests"),
        request,
        &format!("{rule} {name} limit of {most}"),
    );
}

pub(super) fn resource_name(name: &str, field: &str, errors: &mut Errors) {
    errors.format(field, name, names::qualified_name(name));
    if !name.contains('/') && !is_standard(name) && !is_huge_pages(name) {
        errors.invalid(field, name, "must be a standard resource for containers");
    }
    // With `requests.` before it, a quota counts what is asked for of it.
    if name.contains('/') && name.starts_with("requests.") {
        let why = "doesn't follow extended resource name standard";
        errors.invalid(field, name, why);
    }
}

/// `resizePolicy` of the container at `field`; `never_restarts`: the pod's containers are not started again.
pub(super) fn resize_policy(
    container: &Value,
    never_restarts: bool,
    field: &str,
    errors: &mut Errors,
) {
    let field = format!("{field}.resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in list(container, &["resizePolicy"]).iter().enumerate() {
        let name = text(policy, &["resourceName"]);
        if !seen.insert(name) {
            errors.duplicate(format!("{field}[{index}]"), name);
        }
        match name {
            "cpu" | "memory" => {}
            "" => errors.required(&*field, ""),
            other => errors.not_supported(&*field, other, &["cpu", "memory"]),
        }
        let restart = text(policy, &["restartPolicy"]);
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(&*field, ""),
            other => errors.not_supported(&*field, other, &["NotRequired", "RestartContainer"]),
        }
        if never_restarts && restart != "NotRequired" {
            errors.invalid(
                &*field,
                restart,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
    }
}

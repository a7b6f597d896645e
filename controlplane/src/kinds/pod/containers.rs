//! Validation of containers of all three sorts.

use std::collections::HashSet;

use serde_json::Value;

use super::{environment, probes};
use crate::kinds::access::{at, flag, integer, list, strings, text};
use crate::kinds::endpoints::protocol;
use crate::kinds::errors::Errors;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

/// Checks the containers in `spec.<kind>`, `field` being the path of the pod spec. `volumes` are the names of
/// the pod's volumes, `names_seen` the names of containers checked before.
pub(super) fn validate<'a>(
    spec: &'a Value,
    kind: &str,
    field: &str,
    volumes: &HashSet<&str>,
    names_seen: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    for (index, container) in list(spec, &[kind]).iter().enumerate() {
        let field = format!("{field}.{kind}[{index}]");
        let name = text(container, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else {
            errors.format(&format!("{field}.name"), name, names::dns_label(name));
            if !names_seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            }
        }
        image(container, &field, errors);
        ports(container, &field, errors);
        environment::validate(container, &field, errors);
        mounts(container, volumes, &field, errors);
        hooks(container, kind, &field, errors);
        resources(container, &field, errors);
        security(container, &field, errors);
        match text(container, &["terminationMessagePolicy"]) {
            "" => errors.required(format!("{field}.terminationMessagePolicy"), ""),
            "File" | "FallbackToLogsOnError" => {}
            other => errors.not_supported(
                format!("{field}.terminationMessagePolicy"),
                other,
                &["File", "FallbackToLogsOnError"],
            ),
        }
    }
}

fn image(container: &Value, field: &str, errors: &mut Errors) {
    if text(container, &["image"]).is_empty() {
        errors.required(format!("{field}.image"), "");
    }
    match text(container, &["imagePullPolicy"]) {
        "" => errors.required(format!("{field}.imagePullPolicy"), ""),
        "Always" | "IfNotPresent" | "Never" => {}
        other => errors.not_supported(
            format!("{field}.imagePullPolicy"),
            other,
            &["Always", "IfNotPresent", "Never"],
        ),
    }
}

fn ports(container: &Value, field: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, port) in list(container, &["ports"]).iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = text(port, &["name"]);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            }
            errors.format(&format!("{field}.name"), name, messages);
        }
        match integer(port, &["containerPort"]).unwrap_or(0) {
            0 => errors.required(format!("{field}.containerPort"), ""),
            number => {
                for message in names::port_number(number) {
                    errors.invalid(format!("{field}.containerPort"), number, &message);
                }
            }
        }
        let host = integer(port, &["hostPort"]).unwrap_or(0);
        if host != 0 {
            for message in names::port_number(host) {
                errors.invalid(format!("{field}.hostPort"), host, &message);
            }
        }
        protocol(
            text(port, &["protocol"]),
            &format!("{field}.protocol"),
            errors,
        );
    }
}

fn mounts(container: &Value, volumes: &HashSet<&str>, field: &str, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let name = text(mount, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(format!("{field}.name"), name);
        }
        let path = text(mount, &["mountPath"]);
        if path.is_empty() {
            errors.required(format!("{field}.mountPath"), "");
        } else if !paths.insert(path) {
            errors.invalid(format!("{field}.mountPath"), path, "must be unique");
        }
        for sub in ["subPath", "subPathExpr"] {
            let path = text(mount, &[sub]);
            if path.starts_with('/') {
                errors.invalid(format!("{field}.{sub}"), path, "must be a relative path");
            }
            if path.split('/').any(|step| step == "..") {
                errors.invalid(format!("{field}.{sub}"), path, "must not contain '..'");
            }
        }
        if !text(mount, &["subPath"]).is_empty() && !text(mount, &["subPathExpr"]).is_empty() {
            errors.invalid(
                format!("{field}.subPathExpr"),
                text(mount, &["subPathExpr"]),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        let propagation = text(mount, &["mountPropagation"]);
        if !matches!(
            propagation,
            "" | "None" | "HostToContainer" | "Bidirectional"
        ) {
            errors.not_supported(
                format!("{field}.mountPropagation"),
                propagation,
                &["Bidirectional", "HostToContainer", "None"],
            );
        }
        if propagation == "Bidirectional" && !flag(container, &["securityContext", "privileged"]) {
            errors.forbidden(
                format!("{field}.mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
}

fn hooks(container: &Value, kind: &str, field: &str, errors: &mut Errors) {
    let policy = text(container, &["restartPolicy"]);
    let is_sidecar = policy == "Always";
    // Containers that run to their end before the others start, or that are added later, have no hooks.
    let why = match kind {
        "initContainers" if !is_sidecar => {
            "may not be set for init containers without restartPolicy=Always"
        }
        "ephemeralContainers" => "cannot be set for an Ephemeral Container",
        _ => "",
    };
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(given) = at(container, &[probe]) {
            let field = format!("{field}.{probe}");
            if why.is_empty() {
                probes::probe(given, probe, &field, errors);
            } else {
                errors.forbidden(field, why);
            }
        }
    }
    if let Some(given) = at(container, &["lifecycle"]) {
        let field = format!("{field}.lifecycle");
        if why.is_empty() {
            probes::lifecycle(given, &field, errors);
        } else {
            errors.forbidden(field, why);
        }
    }
    if kind == "ephemeralContainers" {
        ephemeral(container, field, why, errors);
    }
    if !matches!(policy, "" | "Always" | "OnFailure" | "Never") {
        errors.not_supported(
            format!("{field}.restartPolicy"),
            policy,
            &["Always", "Never", "OnFailure"],
        );
    }
}

/// Nothing is reserved or listened on for a container that was not there when its pod was placed.
fn ephemeral(container: &Value, field: &str, why: &str, errors: &mut Errors) {
    for name in ["ports", "resizePolicy"] {
        if !list(container, &[name]).is_empty() {
            errors.forbidden(format!("{field}.{name}"), why);
        }
    }
    for kind in ["limits", "requests"] {
        if strings(container, &["resources", kind]).next().is_some() {
            errors.forbidden(format!("{field}.resources"), why);
        }
    }
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        for sub in ["subPath", "subPathExpr"] {
            if !text(mount, &[sub]).is_empty() {
                errors.forbidden(format!("{field}.volumeMounts[{index}].{sub}"), why);
            }
        }
    }
}

fn resources(container: &Value, field: &str, errors: &mut Errors) {
    for kind in ["limits", "requests"] {
        for (name, amount) in strings(container, &["resources", kind]) {
            let field = format!("{field}.resources.{kind}[{name}]");
            resource_name(name, &field, errors);
            let Ok(amount_read) = amount.parse::<Quantity>() else {
                continue;
            };
            if amount_read.is_negative() {
                errors.invalid(&*field, amount, "must be greater than or equal to 0");
            }
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage")
                && !name.starts_with("hugepages-")
                && !amount_read.is_whole()
            {
                errors.invalid(&*field, amount, "must be an integer");
            }
        }
    }
    for (name, request) in strings(container, &["resources", "requests"]) {
        let limit = text(container, &["resources", "limits", name]);
        if let (Ok(asked), Ok(most)) = (request.parse::<Quantity>(), limit.parse::<Quantity>()) {
            let field = format!("{field}.resources.requests");
            let overcommits = matches!(name, "cpu" | "memory" | "ephemeral-storage");
            if !overcommits && asked != most {
                errors.invalid(
                    field,
                    request,
                    &format!("must be equal to {name} limit of {most}"),
                );
            } else if asked > most {
                errors.invalid(
                    field,
                    request,
                    &format!("must be less than or equal to {name} limit of {most}"),
                );
            }
        } else if limit.is_empty()
            && !matches!(name, "cpu" | "memory" | "ephemeral-storage")
            && name.contains('/')
        {
            errors.required(
                format!("{field}.resources.limits"),
                "Limit must be set for non overcommitable resources",
            );
        }
    }
}

fn resource_name(name: &str, field: &str, errors: &mut Errors) {
    errors.format(field, name, names::qualified_name(name));
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(field, name, "must be a standard resource for containers");
    }
}

fn security(container: &Value, field: &str, errors: &mut Errors) {
    let Some(context) = at(container, &["securityContext"]) else {
        return;
    };
    let field = format!("{field}.securityContext");
    user_and_group(context, &field, errors);
    if let Some(false) = at(context, &["allowPrivilegeEscalation"]).and_then(Value::as_bool) {
        if flag(context, &["privileged"]) {
            errors.invalid(
                &*field,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if list(context, &["capabilities", "add"])
            .iter()
            .any(|capability| matches!(capability.as_str(), Some("CAP_SYS_ADMIN")))
        {
            errors.invalid(
                &*field,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    let mount = text(context, &["procMount"]);
    if !matches!(mount, "" | "Default" | "Unmasked") {
        errors.not_supported(
            format!("{field}.procMount"),
            mount,
            &["Default", "Unmasked"],
        );
    }
}

/// `runAsUser` and `runAsGroup`, and the seccomp profile.
pub(super) fn user_and_group(context: &Value, field: &str, errors: &mut Errors) {
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = integer(context, &[name])
            && !(0..=i64::from(i32::MAX)).contains(&id)
        {
            errors.invalid(
                format!("{field}.{name}"),
                id,
                "must be between 0 and 2147483647, inclusive",
            );
        }
    }
    let Some(profile) = at(context, &["seccompProfile"]) else {
        return;
    };
    let local = text(profile, &["localhostProfile"]);
    match text(profile, &["type"]) {
        "Localhost" if local.is_empty() => errors.required(
            format!("{field}.seccompProfile.localhostProfile"),
            "must be set when seccomp type is Localhost",
        ),
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" => {
            if !local.is_empty() {
                errors.invalid(
                    format!("{field}.seccompProfile.localhostProfile"),
                    local,
                    "can only be set when seccomp type is Localhost",
                );
            }
        }
        "" => errors.required(
            format!("{field}.seccompProfile.type"),
            "type is required when seccompProfile is set",
        ),
        other => errors.not_supported(
            format!("{field}.seccompProfile.type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

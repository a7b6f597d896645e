//! Validation of containers of all three sorts.

use std::collections::HashSet;

use serde_json::Value;

use super::volumes::{Volumes, descending};
use super::{environment, probes, resources, security};
use crate::kinds::access::{at, flag, integer, list, strings, text};
use crate::kinds::endpoints::protocol;
use crate::kinds::errors::Errors;
use crate::kinds::names;

/// As many rules a container may have, and as many exit codes each of them.
const MOST_RESTART_RULES: usize = 20;
const MOST_EXIT_CODES: usize = 255;

/// Checks the containers in `spec.<kind>`, `field` being the path of the pod spec. `volumes` are the pod's,
/// `names_seen` the names of containers checked before.
pub(super) fn validate<'a>(
    spec: &'a Value,
    kind: &str,
    field: &str,
    volumes: &Volumes<'_>,
    names_seen: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    let host_users = at(spec, &["hostUsers"]).and_then(Value::as_bool) != Some(false);
    let never_restarts = text(spec, &["restartPolicy"]) == "Never";
    let grace = integer(spec, &["terminationGracePeriodSeconds"]).unwrap_or(30);
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
        devices(container, volumes, host_users, &field, errors);
        hooks(container, kind, grace, &field, errors);
        resources::container(container, &field, errors);
        resources::resize_policy(container, never_restarts, &field, errors);
        security::container(container, host_users, &field, errors);
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

fn mounts(container: &Value, volumes: &Volumes<'_>, field: &str, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let name = text(mount, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else if !volumes.contains_key(name) {
            errors.not_found(format!("{field}.name"), name);
        }
        let path = text(mount, &["mountPath"]);
        if path.is_empty() {
            errors.required(format!("{field}.mountPath"), "");
        } else if !paths.insert(path) {
            errors.invalid(format!("{field}.mountPath"), path, "must be unique");
        }
        for sub in ["subPath", "subPathExpr"] {
            descending(text(mount, &[sub]), &format!("{field}.{sub}"), errors);
        }
        if !text(mount, &["subPath"]).is_empty() && !text(mount, &["subPathExpr"]).is_empty() {
            errors.invalid(
                format!("{field}.subPathExpr"),
                text(mount, &["subPathExpr"]),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        let propagation = text(mount, &["mountPropagation"]);
        let given = at(mount, &["mountPropagation"]).is_some();
        if given && !matches!(propagation, "None" | "HostToContainer" | "Bidirectional") {
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
        recursively_read_only(mount, &format!("{field}.recursiveReadOnly"), errors);
    }
}

fn recursively_read_only(mount: &Value, field: &str, errors: &mut Errors) {
    match text(mount, &["recursiveReadOnly"]) {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(mount, &["readOnly"]) {
                errors.forbidden(field, "may only be specified when readOnly is true");
            }
            if !matches!(text(mount, &["mountPropagation"]), "" | "None") {
                errors.forbidden(
                    field,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
        other => errors.not_supported(field, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// Volumes that a container has as devices.
fn devices(
    container: &Value,
    volumes: &Volumes<'_>,
    host_users: bool,
    field: &str,
    errors: &mut Errors,
) {
    let field = format!("{field}.volumeDevices");
    let devices = list(container, &["volumeDevices"]);
    if !devices.is_empty() && !host_users {
        errors.forbidden(&*field, "when `hostUsers` is false");
    }
    let mounts = list(container, &["volumeMounts"]);
    let mounted = |key: &str, value: &str| mounts.iter().any(|mount| text(mount, &[key]) == value);
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (index, device) in devices.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = text(device, &["name"]);
        let at_name = format!("{field}.name");
        if name.is_empty() {
            errors.required(&*at_name, "");
        } else if !names.insert(name) {
            errors.invalid(&*at_name, name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&*at_name, name),
            Some(volume)
                if ["persistentVolumeClaim", "ephemeral"]
                    .iter()
                    .all(|kind| at(volume, &[kind]).is_none()) =>
            {
                errors.invalid(
                    &*at_name,
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        if !name.is_empty() && mounted("name", name) {
            errors.invalid(at_name, name, "must not already exist in volumeMounts");
        }
        let path = text(device, &["devicePath"]);
        let at_path = format!("{field}.devicePath");
        if path.is_empty() {
            errors.required(&*at_path, "");
        } else if path.split('/').any(|step| step == "..") {
            errors.invalid(&*at_path, path, "can not contain backsteps ('..')");
        } else if !paths.insert(path) {
            errors.invalid(&*at_path, path, "must be unique");
        }
        if !path.is_empty() && mounted("mountPath", path) {
            errors.invalid(
                at_path,
                path,
                "must not already exist as a path in volumeMounts",
            );
        }
    }
}

/// `grace`: seconds that the pod has for its end.
fn hooks(container: &Value, kind: &str, grace: i64, field: &str, errors: &mut Errors) {
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
            probes::lifecycle(given, grace, &field, errors);
        } else {
            errors.forbidden(field, why);
        }
    }
    if kind == "ephemeralContainers" {
        ephemeral(container, field, why, errors);
    }
    let resizes = list(container, &["resizePolicy"]);
    if kind == "initContainers" && !is_sidecar && !resizes.is_empty() {
        errors.invalid(
            format!("{field}.resizePolicy"),
            resizes.to_vec(),
            "must not be set for init containers",
        );
    }
    if !matches!(policy, "" | "Always" | "OnFailure" | "Never") {
        errors.not_supported(
            format!("{field}.restartPolicy"),
            policy,
            &["Always", "Never", "OnFailure"],
        );
    }
    restart_rules(container, policy, field, errors);
}

/// Rules that overrule the container's own policy by exit codes.
fn restart_rules(container: &Value, policy: &str, field: &str, errors: &mut Errors) {
    let rules = list(container, &["restartPolicyRules"]);
    if !rules.is_empty() && policy.is_empty() {
        errors.required(
            format!("{field}.restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    }
    let field = format!("{field}.restartPolicyRules");
    if rules.len() > MOST_RESTART_RULES {
        errors.too_many(&*field, rules.len(), MOST_RESTART_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let action = text(rule, &["action"]);
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.not_supported(
                format!("{field}.action"),
                action,
                &["Restart", "RestartAllContainers"],
            );
        }
        let Some(codes) = at(rule, &["exitCodes"]) else {
            errors.required(format!("{field}.exitCodes"), "must be specified");
            continue;
        };
        let operator = text(codes, &["operator"]);
        if !matches!(operator, "In" | "NotIn") {
            errors.not_supported(
                format!("{field}.exitCodes.operator"),
                operator,
                &["In", "NotIn"],
            );
        }
        let values = list(codes, &["values"]);
        let at_values = format!("{field}.exitCodes.values");
        if values.is_empty() {
            errors.invalid(
                &*at_values,
                values.to_vec(),
                "must specify at least 1 value",
            );
        }
        if values.len() > MOST_EXIT_CODES {
            errors.too_many(&*at_values, values.len(), MOST_EXIT_CODES);
        }
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

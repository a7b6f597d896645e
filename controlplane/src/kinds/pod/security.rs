//! Validation of what a process may do and who it is: security contexts of pods and containers, and what the pod's
//! operating system leaves without meaning.

use serde_json::Value;

use super::volumes::descending;
use crate::kinds::access::{at, flag, integer, list, text};
use crate::kinds::errors::Errors;

/// Bytes of the longest name of an AppArmor profile.
const LONGEST_PROFILE: usize = 4095;

/// The pod's context, and the fields of its spec that go with it.
pub(super) fn pod(spec: &Value, field: &str, errors: &mut Errors) {
    if let Some(context) = at(spec, &["securityContext"]) {
        let field = format!("{field}.securityContext");
        identity(context, &field, errors);
        for (index, group) in list(context, &["supplementalGroups"]).iter().enumerate() {
            id(
                group.as_i64(),
                &format!("{field}.supplementalGroups[{index}]"),
                errors,
            );
        }
        for (name, values) in [
            ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
            ("supplementalGroupsPolicy", &["Merge", "Strict"]),
            ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
        ] {
            if let Some(given) = at(context, &[name]).and_then(Value::as_str)
                && !values.contains(&given)
            {
                errors.not_supported(format!("{field}.{name}"), given, values);
            }
        }
    }
    if at(spec, &["hostUsers"]).and_then(Value::as_bool) == Some(false) {
        // As the API of Kubernetes spells them.
        for (flagged, name) in [
            ("hostNetwork", "hostNetwork"),
            ("hostPID", "HostPID"),
            ("hostIPC", "HostIPC"),
        ] {
            if flag(spec, &[flagged]) {
                errors.forbidden(format!("{field}.{name}"), "when `hostUsers` is false");
            }
        }
    }
    operating_system(spec, field, errors);
}

/// A container's context; `host_users`: whether its users are the node's.
pub(super) fn container(container: &Value, host_users: bool, field: &str, errors: &mut Errors) {
    let Some(context) = at(container, &["securityContext"]) else {
        return;
    };
    let field = format!("{field}.securityContext");
    identity(context, &field, errors);
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
    match text(context, &["procMount"]) {
        "" | "Default" => {}
        "Unmasked" if host_users => errors.invalid(
            format!("{field}.procMount"),
            "Unmasked",
            "`hostUsers` must be false to use `Unmasked`",
        ),
        "Unmasked" => {}
        other => errors.not_supported(
            format!("{field}.procMount"),
            other,
            &["Default", "Unmasked"],
        ),
    }
}

/// A user's or group's number.
fn id(id: Option<i64>, field: &str, errors: &mut Errors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(field, id, "must be between 0 and 2147483647, inclusive");
    }
}

/// What contexts of pods and of containers have in common.
fn identity(context: &Value, field: &str, errors: &mut Errors) {
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(
            integer(context, &[name]),
            &format!("{field}.{name}"),
            errors,
        );
    }
    if let Some(profile) = at(context, &["seccompProfile"]) {
        let field = format!("{field}.seccompProfile");
        if let Some(local) = profile_type(profile, "seccomp", "seccompProfile", &field, errors) {
            descending(local, &format!("{field}.localhostProfile"), errors);
        }
    }
    if let Some(profile) = at(context, &["appArmorProfile"]) {
        let field = format!("{field}.appArmorProfile");
        if let Some(local) = profile_type(profile, "AppArmor", "appArmorProfile", &field, errors) {
            let field = format!("{field}.localhostProfile");
            if local.trim() != local {
                errors.invalid(&*field, local, "must not be padded with whitespace");
            }
            if local.len() > LONGEST_PROFILE {
                errors.too_long(field, LONGEST_PROFILE);
            }
        }
    }
}

/// Checks of what type the profile is; its file's name if it is the node's.
fn profile_type<'a>(
    profile: &'a Value,
    system: &str,
    name: &str,
    field: &str,
    errors: &mut Errors,
) -> Option<&'a str> {
    let local = text(profile, &["localhostProfile"]);
    match text(profile, &["type"]) {
        "Localhost" if local.trim().is_empty() => errors.required(
            format!("{field}.localhostProfile"),
            &format!("must be set when {system} type is Localhost"),
        ),
        "Localhost" => return Some(local),
        "RuntimeDefault" | "Unconfined" => {
            if !local.is_empty() {
                errors.invalid(
                    format!("{field}.localhostProfile"),
                    local,
                    &format!("can only be set when {system} type is Localhost"),
                );
            }
        }
        "" => errors.required(
            format!("{field}.type"),
            &format!("type is required when {name} is set"),
        ),
        other => errors.not_supported(
            format!("{field}.type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
    None
}

/// Fields of a pod's spec, of its context and of its containers' contexts that mean nothing on Windows.
const NOT_ON_WINDOWS: &[&str] = &["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
const NOT_IN_A_POD_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "seLinuxChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
const NOT_IN_A_CONTAINER_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn operating_system(spec: &Value, field: &str, errors: &mut Errors) {
    let Some(system) = at(spec, &["os"]) else {
        return;
    };
    let (fields, in_pod, in_container, why): (&[&str], &[&str], &[&str], &str) =
        match text(system, &["name"]) {
            "linux" => (
                &[],
                &["windowsOptions"],
                &["windowsOptions"],
                "windows options cannot be set for a linux pod",
            ),
            "windows" => (
                NOT_ON_WINDOWS,
                NOT_IN_A_POD_ON_WINDOWS,
                NOT_IN_A_CONTAINER_ON_WINDOWS,
                "cannot be set for a windows pod",
            ),
            "" => return errors.required(format!("{field}.os.name"), "cannot be empty"),
            other => {
                let field = format!("{field}.os.name");
                return errors.not_supported(field, other, &["linux", "windows"]);
            }
        };
    let mut forbid = |holder: &Value, names: &[&str], field: &str| {
        for name in names.iter().filter(|name| at(holder, &[**name]).is_some()) {
            errors.forbidden(format!("{field}.{name}"), why);
        }
    };
    forbid(spec, fields, field);
    if let Some(context) = at(spec, &["securityContext"]) {
        forbid(context, in_pod, &format!("{field}.securityContext"));
    }
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, container) in list(spec, &[kind]).iter().enumerate() {
            if let Some(context) = at(container, &["securityContext"]) {
                let field = format!("{field}.{kind}[{index}].securityContext");
                forbid(context, in_container, &field);
            }
        }
    }
}

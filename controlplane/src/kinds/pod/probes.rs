//! Probes and life-cycle hooks: what runs, and how often.

use serde_json::Value;

use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;

/// Checks the probe or hook's handler at `field`; `grace`: seconds that the pod has for its end.
fn handler(handler: &Value, kinds: &[&str], grace: i64, field: &str, errors: &mut Errors) {
    let mut count = 0;
    for kind in kinds {
        let Some(action) = at(handler, &[kind]) else {
            continue;
        };
        let field = format!("{field}.{kind}");
        count += 1;
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if list(action, &["command"]).is_empty() => {
                errors.required(format!("{field}.command"), "");
            }
            "httpGet" => http_get(action, &field, errors),
            "tcpSocket" => port(action, &format!("{field}.port"), errors),
            "grpc" => {
                let number = integer(action, &["port"]).unwrap_or(0);
                for message in names::port_number(number) {
                    errors.invalid(format!("{field}.port"), number, &message);
                }
            }
            "sleep" => {
                let seconds = integer(action, &["seconds"]).unwrap_or(0);
                if !(0..=grace).contains(&seconds) {
                    let why = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    errors.invalid(field, seconds, &why);
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.required(field, "must specify a handler type");
    }
}

fn http_get(action: &Value, field: &str, errors: &mut Errors) {
    if text(action, &["path"]).is_empty() {
        errors.required(format!("{field}.path"), "");
    }
    port(action, &format!("{field}.port"), errors);
    let scheme = text(action, &["scheme"]);
    if !matches!(scheme, "" | "HTTP" | "HTTPS") {
        errors.not_supported(format!("{field}.scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(action, &["httpHeaders"]) {
        let name = text(header, &["name"]);
        errors.format(
            &format!("{field}.httpHeaders"),
            name,
            names::http_header(name),
        );
    }
}

/// A port by number or by name.
fn port(action: &Value, field: &str, errors: &mut Errors) {
    match action.get("port") {
        Some(Value::String(name)) => errors.format(field, name, names::port_name(name)),
        other => {
            let number = other.and_then(Value::as_i64).unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(field, number, &message);
            }
        }
    }
}

pub(super) fn probe(probe: &Value, kind: &str, field: &str, errors: &mut Errors) {
    handler(
        probe,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        0,
        field,
        errors,
    );
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(value) = integer(probe, &[name])
            && value < 0
        {
            errors.invalid(
                format!("{field}.{name}"),
                value,
                "must be greater than or equal to 0",
            );
        }
    }
    let grace = integer(probe, &["terminationGracePeriodSeconds"]);
    if kind == "readinessProbe" && grace.is_some() {
        errors.invalid(
            format!("{field}.terminationGracePeriodSeconds"),
            grace.unwrap_or(0),
            "must not be set for readinessProbes",
        );
    } else if let Some(grace) = grace.filter(|grace| *grace <= 0) {
        errors.invalid(
            format!("{field}.terminationGracePeriodSeconds"),
            grace,
            "must be greater than 0",
        );
    }
    let successes = integer(probe, &["successThreshold"]).unwrap_or(1);
    if kind != "readinessProbe" && successes > 1 {
        errors.invalid(format!("{field}.successThreshold"), successes, "must be 1");
    }
}

pub(super) fn lifecycle(lifecycle: &Value, grace: i64, field: &str, errors: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        if let Some(hooked) = at(lifecycle, &[hook]) {
            handler(
                hooked,
                &["exec", "httpGet", "tcpSocket", "sleep"],
                grace,
                &format!("{field}.{hook}"),
                errors,
            );
        }
    }
}

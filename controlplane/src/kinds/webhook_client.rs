//! `clientConfig` of webhooks: a URL or a Service, and who signs for it.

use serde_json::Value;

use super::access::{at, integer, text};
use super::errors::Errors;
use super::names;

pub(super) fn validate(config: &Value, path: &str, errors: &mut Errors) {
    match (at(config, &["url"]).is_some(), at(config, &["service"])) {
        (true, None) => validate_url(text(config, &["url"]), &format!("{path}.url"), errors),
        (false, Some(service)) => validate_service(service, &format!("{path}.service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
    if let Some(bundle) = at(config, &["caBundle"]).and_then(Value::as_str)
        && !is_bundle(bundle)
    {
        errors.invalid(
            format!("{path}.caBundle"),
            bundle,
            "unable to load root certificates: unable to parse bytes as PEM block",
        );
    }
}

fn is_bundle(base64: &str) -> bool {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(base64);
    base64.is_empty()
        || decoded.is_ok_and(|pem| {
            let text = String::from_utf8_lossy(&pem);
            text.contains("-----BEGIN CERTIFICATE-----")
        })
}

fn validate_url(given: &str, path: &str, errors: &mut Errors) {
    let Ok(url) = given.parse::<http::Uri>() else {
        errors.required(
            path,
            &format!("url must be a valid URL; desired format: https://host[/path]: {given}"),
        );
        return;
    };
    if url.scheme_str() != Some("https") {
        let scheme = url.scheme_str().unwrap_or("");
        errors.invalid(
            path,
            scheme,
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
        );
    }
    if url.host().is_none_or(str::is_empty) {
        errors.invalid(
            path,
            "",
            "host must be specified; desired format: https://host[/path]",
        );
    }
    if url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        errors.invalid(path, given, "user information is not permitted in the URL");
    }
    if url.query().is_some() {
        errors.invalid(path, given, "query parameters are not permitted in the URL");
    }
}

fn validate_service(service: &Value, path: &str, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if text(service, &[field]).is_empty() {
            errors.required(
                format!("{path}.{field}"),
                &format!("service {field} is required"),
            );
        }
    }
    if let Some(port) = integer(service, &["port"]) {
        for problem in names::port_number(port) {
            errors.invalid(
                format!("{path}.port"),
                port,
                &format!("port is not valid: {problem}"),
            );
        }
    }
    let given = text(service, &["path"]);
    if !given.is_empty() && given != "/" {
        validate_path(given, &format!("{path}.path"), errors);
    }
}

/// Segments of a path are names, so that nobody leaves the Service's own paths by dots.
fn validate_path(given: &str, field: &str, errors: &mut Errors) {
    if given == "//" {
        errors.invalid(field, given, "segment[0] may not be empty");
        return;
    }
    if !given.starts_with('/') {
        errors.invalid(field, given, "must start with a '/'");
    }
    let rest = given.strip_prefix('/').unwrap_or(given);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (number, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            let message = format!("segment[{number}] may not be empty");
            errors.invalid(field, given, &message);
            continue;
        }
        for problem in names::dns_subdomain(segment) {
            errors.invalid(field, given, &format!("segment[{number}]: {problem}"));
        }
    }
}

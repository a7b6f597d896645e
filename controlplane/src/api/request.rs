//! What a request is about, read from method, path and query. Pure.

use http::Method;

use crate::auth::Attributes;
use crate::kinds::Cause;
use crate::registry::ApiError;
use crate::registry::error::field_error;
use crate::registry::selector::parse_fields;

/// Parameters beyond this many are nonsense.
const MAX_PARAMETERS: usize = 64;

/// A resource, or something in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Plural name.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The old form of a watch: `/api/v1/watch/pods`.
    pub(crate) watch: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Resource(Target),
    /// Everything else, by its segments.
    Path(Vec<String>),
}

/// Splits a URL path. `None` where it cannot be the path of anything: bad escapes, or segments that would
/// mean something else to another program (`.`, `..`, an escaped slash).
pub(crate) fn parse_path(path: &str) -> Option<Place> {
    let raw: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    // What follows a proxy is the business of whom it leads to.
    let own = proxy_depth(&raw).unwrap_or(raw.len());
    let mut segments = Vec::new();
    for segment in &raw[..own] {
        segments.push(decode_segment(segment)?);
    }
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let target = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => target("", version, rest)?,
        ["apis", group, version, rest @ ..] if !rest.is_empty() => target(group, version, rest)?,
        _ => return Some(Place::Path(segments)),
    };
    Some(Place::Resource(target))
}

/// How many segments lead to a proxy, itself included.
fn proxy_depth(segments: &[&str]) -> Option<usize> {
    match segments {
        [
            "api",
            "v1",
            "namespaces",
            _,
            "pods" | "services",
            _,
            "proxy",
            ..,
        ] => Some(7),
        ["api", "v1", "nodes", _, "proxy", ..] => Some(5),
        _ => None,
    }
}

/// The part of a path that follows a proxy, as it was written; empty when there is none.
pub(crate) fn proxied_path(path: &str) -> &str {
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let mut left = proxy_depth(&segments).unwrap_or(segments.len());
    let mut rest = path;
    while left > 0 {
        rest = rest.trim_start_matches('/');
        rest = &rest[rest.find('/').unwrap_or(rest.len())..];
        left -= 1;
    }
    rest
}

fn decode_segment(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    let dangerous =
        matches!(text.as_str(), "." | "..") || text.chars().any(|c| c == '/' || c.is_control());
    (!dangerous).then_some(text)
}

fn target(group: &str, version: &str, rest: &[&str]) -> Option<Target> {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let mut target = Target {
        group: group.to_owned(),
        version: version.to_owned(),
        watch,
        ..Target::default()
    };
    let rest = match rest {
        // `/namespaces/x` and its own subresources are about the Namespace itself.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest,
        ["namespaces", namespace, rest @ ..] => {
            target.namespace = (*namespace).to_owned();
            rest
        }
        rest => rest,
    };
    match rest {
        [resource] => target.resource = (*resource).to_owned(),
        [resource, name] => {
            target.resource = (*resource).to_owned();
            target.name = (*name).to_owned();
        }
        [resource, name, subresource] => {
            target.resource = (*resource).to_owned();
            target.name = (*name).to_owned();
            target.subresource = (*subresource).to_owned();
        }
        // Deeper paths belong to proxies, and those are cut off before.
        [resource, name, subresource, ..] => {
            target.resource = (*resource).to_owned();
            target.name = (*name).to_owned();
            target.subresource = format!("{subresource}/…");
        }
        [] => return None,
    }
    Some(target)
}

/// Query parameters; the first of a name counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .take(MAX_PARAMETERS)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// Empty when absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// All values of a parameter that may be repeated.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let found = self.0.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// `true`, `1` and a bare name are true, as in Kubernetes.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name)
            && !matches!(
                self.get(name),
                "false" | "0" | "f" | "F" | "False" | "FALSE"
            )
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing \"{text}\": invalid syntax (parameter {name})"
                ))
            }),
        }
    }

    /// `dryRun=All` is the only dry run there is.
    pub(crate) fn dry_run(&self, options: &str) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            "" => Ok(false),
            value => dry_run(value, options),
        }
    }
}

/// One value of `dryRun`. Anything unknown is refused: what was to be tried must not be done.
pub(crate) fn dry_run(value: &str, options: &str) -> Result<bool, ApiError> {
    if value == "All" {
        return Ok(true);
    }
    // What is shown is the list that it is in.
    let message = format!("Unsupported value: [{value:?}]: supported values: \"All\"");
    Err(ApiError::invalid_named(
        "meta.k8s.io",
        options,
        "",
        &[field_error("dryRun", Cause::NotSupported, message)],
    ))
}

/// A field of `options` (`CreateOptions`) with a value that it does not have.
pub(crate) fn not_an_option(
    options: &str,
    field: &str,
    value: &str,
    supported: &[&str],
) -> ApiError {
    let supported: Vec<String> = supported
        .iter()
        .map(|value| format!("\"{value}\""))
        .collect();
    let message = format!(
        "Unsupported value: \"{value}\": supported values: {}",
        supported.join(", ")
    );
    ApiError::invalid_named(
        "meta.k8s.io",
        options,
        "",
        &[field_error(field, Cause::NotSupported, message)],
    )
}

/// The verb of RBAC.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let watches = target.watch || query.flag("watch");
    match *method {
        Method::GET | Method::HEAD if watches && target.subresource.is_empty() => "watch",
        Method::GET | Method::HEAD if target.name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The one object that a list or watch can show, since it asks for a name: a role may allow that for certain names alone.
fn selected_name(method: &Method, target: &Target, query: &Query) -> Option<String> {
    let verb = verb(method, target, query);
    if !target.name.is_empty() || !matches!(verb, "list" | "watch") {
        return None;
    }
    let required = parse_fields(query.get("fieldSelector")).ok()?;
    let named = required
        .into_iter()
        .find(|it| it.field == "metadata.name" && it.equal)?;
    // As it could be in a path.
    let name = named.value;
    let is_segment = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '%']);
    is_segment.then_some(name)
}

/// What has to be allowed for the request.
pub(crate) fn attributes(method: &Method, path: &str, place: &Place, query: &Query) -> Attributes {
    match place {
        Place::Resource(target) => Attributes {
            verb: verb(method, target, query).to_owned(),
            group: target.group.clone(),
            version: target.version.clone(),
            resource: target.resource.clone(),
            subresource: target.subresource.clone(),
            namespace: target.namespace.clone(),
            name: match selected_name(method, target, query) {
                Some(name) => name,
                None => target.name.clone(),
            },
            path: None,
        },
        Place::Path(_) => Attributes {
            verb: method.as_str().to_lowercase(),
            path: Some(path.to_owned()),
            ..Attributes::default()
        },
    }
}

#[cfg(test)]
mod tests;

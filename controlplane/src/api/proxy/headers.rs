//! What of a request's headers goes on to the server, and what of its answer's comes back. Pure.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST,
    LOCATION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// About one connection, not about the request.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// The type of a page with links.
const PAGE: &str = "text/html";
/// Who may read answers is this server's to say.
const CROSS_ORIGIN: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

/// Without the client's credentials, which are for this server alone.
pub(in crate::api) fn onwards(given: &HeaderMap, uri: &Uri) -> HeaderMap {
    let mut headers = given.clone();
    let upgrade = super::upgrades(given)
        .then(|| headers.get(UPGRADE).cloned())
        .flatten();
    remove_hop_by_hop(&mut headers);
    headers.remove(AUTHORIZATION);
    // A page is read on its way back, so it should not come compressed.
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if accepted.is_some_and(|types| types.contains(PAGE)) {
        headers.remove(ACCEPT_ENCODING);
    }
    let secret: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in secret {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
    // HTTP/2 has the host in the URI.
    let host = uri
        .authority()
        .and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    if let Some(host) = host {
        headers.entry(HOST).or_insert(host);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    if let Ok(path) = HeaderValue::from_str(uri.path()) {
        headers.insert("x-forwarded-uri", path);
    }
    headers
}

/// `prefix` is the path that leads to the server.
pub(super) fn back(headers: &mut HeaderMap, prefix: &str, host: Option<&HeaderValue>) {
    remove_hop_by_hop(headers);
    for name in CROSS_ORIGIN {
        headers.remove(*name);
    }
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
    if let Some(location) = relocated(location, prefix, host)
        && let Ok(location) = HeaderValue::from_str(&location)
    {
        headers.insert(LOCATION, location);
    }
}

/// Whether an answer is a page that can be read as it comes.
pub(super) fn is_plain_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(PAGE))
        && headers.get(CONTENT_ENCODING).is_none()
}

/// Where a redirection or a link within the server leads, seen from the client; `None` leaves it as it is.
pub(super) fn relocated(location: &str, prefix: &str, host: &str) -> Option<String> {
    let path = match location.split_once("://") {
        Some((_, rest)) => {
            let (named, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if named != host || host.is_empty() {
                return None;
            }
            path
        }
        // Of another server, without a scheme.
        None if location.starts_with("//") => return None,
        None => location,
    };
    let relative = !path.starts_with('/') && !path.is_empty();
    if relative || path.starts_with(prefix) {
        return None;
    }
    Some(format!("{prefix}{path}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn redirections_stay_below_the_proxy() {
        let prefix = "/api/v1/namespaces/a/pods/b/proxy";
        for (location, expected) in [
            ("/login?x=1", Some("/login?x=1")),
            ("http://here:80/deep/", Some("/deep/")),
            ("http://here:80", Some("")),
            ("http://elsewhere/deep", None),
            ("//elsewhere/deep", None),
            ("next", None),
            ("/api/v1/namespaces/a/pods/b/proxy/x", None),
        ] {
            let expected = expected.map(|path| format!("{prefix}{path}"));
            assert_eq!(
                relocated(location, prefix, "here:80"),
                expected,
                "{location}"
            );
        }
    }

    #[test]
    fn credentials_and_what_is_for_one_hop_stay_here() {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "x"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("accept", "text/plain"),
        ] {
            given.insert(name, HeaderValue::from_static(value));
        }
        let uri: Uri = "https://api:6443/api/v1/x".parse().unwrap();
        let headers = onwards(&given, &uri);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept",
                "host",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-forwarded-uri"
            ]
        );
        given.insert("accept-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(onwards(&given, &uri)["accept-encoding"], "gzip");
        given.insert("accept", HeaderValue::from_static("text/html, */*"));
        assert!(!onwards(&given, &uri).contains_key("accept-encoding"));
        given.insert("connection", HeaderValue::from_static("Upgrade"));
        given.insert("upgrade", HeaderValue::from_static("websocket"));
        assert_eq!(onwards(&given, &uri)["upgrade"], "websocket");
    }
}

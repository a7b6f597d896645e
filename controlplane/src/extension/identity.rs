//! For whom a request is made, in headers that only this server's certificate makes credible. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::User;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Replaces whatever the client has said of itself.
pub(crate) fn set(headers: &mut HeaderMap, user: &User) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        // Bytes beyond ASCII are UTF-8, as with Kubernetes.
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if !user.uid.is_empty() {
        add(UID, &user.uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("{EXTRA}{}", escaped(key)), value);
        }
    }
}

/// What cannot be in a header's name is written as in URLs.
fn escaped(key: &str) -> String {
    let mut out = String::new();
    for byte in key.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_claims_is_replaced() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-extra-scopes"] {
            headers.insert(name, HeaderValue::from_static("root"));
        }
        let mut user = User::named("eve", vec!["a".to_owned()]);
        user.extra
            .insert("example.org/pod name".to_owned(), vec!["p".to_owned()]);
        set(&mut headers, &user);
        let mut shown: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap_or("?")))
            .collect();
        shown.sort();
        assert_eq!(
            shown,
            [
                "x-remote-extra-example.org%2fpod%20name=p",
                "x-remote-group=a",
                "x-remote-group=system:authenticated",
                "x-remote-user=eve",
            ]
        );
    }
}

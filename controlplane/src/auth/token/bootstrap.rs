//! Bootstrap tokens: Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, with which what is not a
//! member of the cluster yet may ask to become one. Source: the Kubernetes documentation, "Authenticating with
//! Bootstrap Tokens". Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::auth::identity::User;

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID: usize = 6;
const SECRET: usize = 16;

pub(crate) fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Id and secret, of what has the form of such a token.
pub(crate) fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id, ID) && plain(secret, SECRET)).then_some((id, secret))
}

fn field(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_default();
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// When the token ends; an unreadable time has passed.
pub(crate) fn expiration(secret: &Value) -> Option<jiff::Timestamp> {
    match field(secret, "expiration").as_str() {
        "" => None,
        text => Some(text.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH)),
    }
}

/// Whom the token makes of its holder, if the stored Secret agrees.
pub(crate) fn judge(stored: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Option<User> {
    let good = stored["type"] == TYPE
        && stored["metadata"]["deletionTimestamp"].is_null()
        && field(stored, "token-id") == id
        && same(field(stored, "token-secret").as_bytes(), secret.as_bytes())
        && expiration(stored).is_none_or(|at| now < at)
        && field(stored, "usage-bootstrap-authentication") == "true";
    if !good {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in field(stored, "auth-extra-groups").split(',') {
        if group.is_empty() {
            continue;
        }
        if !is_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(User::named(&format!("system:bootstrap:{id}"), groups))
}

/// Whether the group may be given by a token: nothing outside of its own kind.
pub(crate) fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest
            .bytes()
            .all(|byte| plain(byte) || byte == b':' || byte == b'-')
        && rest.bytes().last().is_some_and(plain)
}

/// In the same time wherever the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn secret(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
        let mut data = serde_json::Map::new();
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("expiration", "2026-05-05T10:00:00Z"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers"),
        ] {
            data.insert(key.into(), value.into());
        }
        change(&mut data);
        for value in data.values_mut() {
            *value = STANDARD.encode(value.as_str().unwrap()).into();
        }
        json!({"type": TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn judged(stored: &Value, token: &str, now: &str) -> Option<User> {
        let (id, part) = parse(token).unwrap();
        judge(stored, id, part, now.parse().unwrap())
    }

    #[test]
    fn a_good_token_makes_a_bootstrapper() {
        let user = judged(
            &secret(|_| ()),
            "abcdef.0123456789abcdef",
            "2026-05-05T09:59:59Z",
        )
        .unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:workers",
                "system:authenticated"
            ]
        );
    }

    #[test]
    fn everything_else_is_nobody() {
        let before = "2026-05-05T09:00:00Z";
        let good = "abcdef.0123456789abcdef";
        assert_eq!(
            judged(&secret(|_| ()), "abcdef.0123456789abcdeg", before),
            None
        );
        assert_eq!(judged(&secret(|_| ()), good, "2026-05-05T10:00:00Z"), None);
        for (key, value) in [
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("expiration", "soon"),
            ("token-id", "aaaaaa"),
        ] {
            let stored = secret(|data| {
                data.insert(key.into(), value.into());
            });
            assert_eq!(judged(&stored, good, before), None, "{key} {value}");
        }
        let mut opaque = secret(|_| ());
        opaque["type"] = "Opaque".into();
        assert_eq!(judged(&opaque, good, before), None);
        for text in [
            "",
            "abcdef",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
        ] {
            assert_eq!(parse(text), None);
        }
    }
}

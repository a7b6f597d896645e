//! URLs: `url("https://example.com:80/x?y=z").getHost()`. Read as Go's `url.ParseRequestURI` does: an absolute URI, or
//! an absolute path; and given back as they were written, where the usual crate writes them anew.

use std::collections::HashMap;

use cel::common::types::{STRING_TYPE, Type};
use cel::objects::Opaque;
use cel::{DeclarationError, Env};

use super::{failed, give, give_opaque, global, member, opaque_at, text_at};

const NAME: &str = "kubernetes.URL";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Url {
    scheme: String,
    /// With the port.
    host: String,
    path: String,
    query: String,
}

impl Opaque for Url {
    fn runtime_type_name(&self) -> &str {
        NAME
    }
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return None;
        }
        let mut url = Self::default();
        let mut rest = text;
        if !text.starts_with('/') {
            let (scheme, after) = text.split_once(':')?;
            let starts = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
            let valid = scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            if !starts || !valid {
                return None;
            }
            url.scheme = scheme.to_ascii_lowercase();
            rest = after;
        }
        if let Some((before, query)) = rest.split_once('?') {
            url.query = query.to_owned();
            rest = before;
        }
        if !rest.starts_with('/') {
            // As in `mailto:`; there must be a scheme, or the path would not be absolute.
            return (!url.scheme.is_empty()).then_some(url);
        }
        if let Some(after) = rest.strip_prefix("//").filter(|_| !url.scheme.is_empty()) {
            let end = after.find('/').unwrap_or(after.len());
            let (authority, path) = after.split_at(end);
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            if !is_host(host) {
                return None;
            }
            url.host = host.to_owned();
            rest = path;
        }
        url.path = escaped(rest)?;
        Some(url)
    }

    fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(inside) => inside.split(']').next().unwrap_or(""),
            None => self.host.split(':').next().unwrap_or(""),
        }
    }

    fn port(&self) -> &str {
        let after = self.host.rsplit(']').next().unwrap_or("");
        after.rsplit_once(':').map_or("", |(_, port)| port)
    }
}

fn is_host(host: &str) -> bool {
    let port = if host.starts_with('[') {
        match host.split_once(']') {
            Some((_, after)) => after,
            None => return false,
        }
    } else {
        let name = host.find(':').unwrap_or(host.len());
        if host[..name].contains([' ', '<', '>', '"', '^', '`', '{', '}', '|', '\\', '[', ']']) {
            return false;
        }
        &host[name..]
    };
    port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.chars().all(|c| c.is_ascii_digit()))
}

/// What a path may not have as it is, is written with `%`; `None` when there is a `%` that escapes nothing.
fn escaped(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                out.push('%');
            }
            byte if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]".contains(byte) => {
                out.push(char::from(*byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(out)
}

fn this() -> Type {
    Type::new_opaque_type(NAME)
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(this())?;
    global(env, "url", vec![STRING_TYPE], |arguments| {
        let text = text_at(&arguments, 0)?;
        match Url::parse(text) {
            Some(url) => give_opaque(url),
            None => Err(failed(
                "url",
                format!("URL parse error during conversion from string: {text:?}"),
            )),
        }
    })?;
    global(env, "isURL", vec![STRING_TYPE], |arguments| {
        give(Url::parse(text_at(&arguments, 0)?).is_some())
    })?;
    member(env, "getScheme", this(), vec![], |arguments| {
        give(opaque_at::<Url>(&arguments, 0)?.scheme)
    })?;
    member(env, "getHost", this(), vec![], |arguments| {
        give(opaque_at::<Url>(&arguments, 0)?.host)
    })?;
    member(env, "getHostname", this(), vec![], |arguments| {
        give(opaque_at::<Url>(&arguments, 0)?.hostname().to_owned())
    })?;
    member(env, "getPort", this(), vec![], |arguments| {
        give(opaque_at::<Url>(&arguments, 0)?.port().to_owned())
    })?;
    member(env, "getEscapedPath", this(), vec![], |arguments| {
        give(opaque_at::<Url>(&arguments, 0)?.path)
    })?;
    member(env, "getQuery", this(), vec![], |arguments| {
        let url = opaque_at::<Url>(&arguments, 0)?;
        let mut query: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in form_urlencoded::parse(url.query.as_bytes()) {
            query
                .entry(name.into_owned())
                .or_default()
                .push(value.into_owned());
        }
        give(query)
    })
}

//! Image references as people write them, parsed and normalized. Pure.
//!
//! `nginx` is `docker.io/library/nginx:latest`; the grammar is the one of the OCI distribution
//! specification with the defaults that Docker introduced.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::digest::Digest;
use super::error::ImageError;

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A normalized reference: at least one of tag and digest is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|why| ImageError::InvalidName(text.to_owned(), why))
    }

    /// `registry/repository`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether the registry is this machine itself, which is spoken to without TLS.
    pub(super) fn is_loopback(&self) -> bool {
        let host = host_of(&self.registry);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`, without brackets.
fn host_of(registry: &str) -> &str {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    registry.split(':').next().unwrap_or(registry)
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("the name is empty".into());
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
    };
    let (registry, remainder) = split_registry(rest)?;
    let (path, tag) = match remainder.rsplit_once(':') {
        None => (remainder, None),
        Some((path, tag)) => (path, Some(parse_tag(tag)?)),
    };
    check_path(path)?;
    let registry = registry.unwrap_or("docker.io");
    let registry = if registry == "index.docker.io" {
        "docker.io"
    } else {
        registry
    };
    let repository = if registry == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} characters"));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag,
    };
    Ok(Reference {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

/// The first component is a registry when it could not be a repository's: it has a dot, a port, upper
/// case, brackets, or is `localhost`.
fn split_registry(text: &str) -> Result<(Option<&str>, &str), String> {
    let Some((first, rest)) = text.split_once('/') else {
        return Ok((None, text));
    };
    let is_registry = first == "localhost"
        || first.contains(['.', ':', '['])
        || first.bytes().any(|b| b.is_ascii_uppercase());
    if !is_registry {
        return Ok((None, text));
    }
    check_registry(first)?;
    Ok((Some(first), rest))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let wrong = || format!("{registry:?} is no registry host");
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(wrong)?;
            address.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return Err(wrong()),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || port.parse::<u16>().map_or(true, |p| p == 0) {
            return Err(format!("{port:?} is no port"));
        }
    }
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match host {
        Some(host) if !host.split('.').all(label) => Err(wrong()),
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    for component in path.split('/') {
        if !is_path_component(component) {
            return Err(format!(
                "{component:?} is no repository name: lower-case letters and digits, separated by one '.', one or two '_' or any '-'"
            ));
        }
    }
    // 64 hex digits alone are an image ID to Docker; a repository cannot be called so.
    if path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hex digits are an image ID, not a name".into());
    }
    Ok(())
}

fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    // Between alphanumerics: one dot, one or two underscores, or any number of dashes.
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn parse_tag(tag: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let valid = !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag.bytes().all(inner)
        && !tag.starts_with(['.', '-']);
    if valid {
        Ok(tag.to_owned())
    } else {
        Err(format!("{tag:?} is no tag"))
    }
}

fn parse_digest(digest: &str) -> Result<Digest, String> {
    Digest::parse(digest)
        .ok_or_else(|| format!("{digest:?} is no digest (sha256: and 64 hex digits)"))
}

#[cfg(test)]
mod tests;

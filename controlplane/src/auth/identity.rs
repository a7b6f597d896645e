//! Who makes a request: what a verified client certificate says, or a token that was checked.

use std::collections::BTreeMap;

use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const NODES: &str = "system:nodes";
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";
const NODE_PREFIX: &str = "system:node:";

/// A user as authorization sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    /// Empty where whoever knows the user does not tell them apart by it.
    pub(crate) uid: String,
    /// What else is known: which pod a token is for, which credential was used.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub(crate) fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Somebody that is known by other means than a certificate, with the groups that come with being known.
    pub(crate) fn named(name: &str, mut groups: Vec<String>) -> Self {
        let own = if name == ANONYMOUS {
            UNAUTHENTICATED
        } else {
            AUTHENTICATED
        };
        if !groups.iter().any(|group| group == own) {
            groups.push(own.to_owned());
        }
        Self {
            name: name.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// The subject of a client certificate that TLS has verified: common name and organizations. `None`
    /// where it names nobody.
    pub(crate) fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        if name.is_empty() || name == ANONYMOUS {
            return None;
        }
        let mut groups: Vec<String> = subject
            .iter_organization()
            .filter_map(|organization| organization.as_str().ok())
            .map(str::to_owned)
            .collect();
        groups.push(AUTHENTICATED.to_owned());
        Some(Self {
            name,
            groups,
            ..Self::default()
        })
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }

    /// The node's name, for a user that is a node: both name and group must say so.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.name
            .strip_prefix(NODE_PREFIX)
            .filter(|name| !name.is_empty() && self.is_in(NODES))
    }
}

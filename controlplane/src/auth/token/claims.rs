//! What a service-account token says, and whether that still holds as far as time, issuer and audience go. Pure:
//! whether the account and what the token is bound to still exist is looked up elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::auth::identity::User;

/// Issuer of the tokens in Secrets of type `kubernetes.io/service-account-token`.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How far clocks may be apart.
const LEEWAY: i64 = 60;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    #[error("the signature of the token is wrong")]
    Signature,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        found: Vec<String>,
        wanted: Vec<String>,
    },
    #[error("service account token has been invalidated")]
    Invalidated,
    #[error("the bootstrap token is unknown, wrong or has expired")]
    Bootstrap,
    #[error("{0}")]
    Lookup(String),
}

/// An object that a token names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Private {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    /// The holder should have got a new token by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub(crate) aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iat: Option<i64>,
    pub(crate) iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    #[serde(
        rename = "kubernetes.io",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) private: Option<Private>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/namespace",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) legacy_namespace: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/secret.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) legacy_secret: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) legacy_account: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) legacy_uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<i64>,
    pub(crate) sub: String,
}

/// `aud` may be a single string.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(from)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Whom a token is for, and what must exist for it to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) account: Reference,
    pub(crate) pod: Option<Reference>,
    pub(crate) node: Option<Reference>,
    pub(crate) secret: Option<Reference>,
    pub(crate) id: Option<String>,
    /// Those of the wanted audiences that the token is for.
    pub(crate) audiences: Vec<String>,
    /// Of the old kind, in a Secret, which must still hold this very token.
    pub(crate) legacy: bool,
}

/// What a token with a good signature is worth at `now` for a service that calls itself `wanted`.
pub(crate) fn check(
    claims: &Claims,
    issuer: &str,
    wanted: &[String],
    now: i64,
) -> Result<Bound, TokenError> {
    let bound = if claims.iss == LEGACY_ISSUER {
        legacy(claims, wanted)?
    } else if claims.iss == issuer {
        bound(claims, wanted)?
    } else {
        return Err(TokenError::Issuer);
    };
    if claims
        .exp
        .is_some_and(|exp| now > exp.saturating_add(LEEWAY))
    {
        return Err(TokenError::Expired);
    }
    if claims
        .nbf
        .is_some_and(|nbf| now < nbf.saturating_sub(LEEWAY))
    {
        return Err(TokenError::NotYet);
    }
    let name = username(&bound.namespace, &bound.account.name);
    if claims.sub != name || bound.account.name.is_empty() {
        return Err(TokenError::Malformed);
    }
    Ok(bound)
}

fn bound(claims: &Claims, wanted: &[String]) -> Result<Bound, TokenError> {
    let private = claims.private.as_ref().ok_or(TokenError::Malformed)?;
    if claims.exp.is_none() {
        return Err(TokenError::Malformed);
    }
    let audiences: Vec<String> = wanted
        .iter()
        .filter(|audience| claims.aud.contains(audience))
        .cloned()
        .collect();
    if audiences.is_empty() {
        return Err(TokenError::Audience {
            found: claims.aud.clone(),
            wanted: wanted.to_vec(),
        });
    }
    Ok(Bound {
        namespace: private.namespace.clone(),
        account: private.serviceaccount.clone(),
        pod: private.pod.clone(),
        node: private.node.clone(),
        secret: private.secret.clone(),
        id: claims.jti.clone(),
        audiences,
        legacy: false,
    })
}

fn legacy(claims: &Claims, wanted: &[String]) -> Result<Bound, TokenError> {
    let text = |field: &Option<String>| field.clone().ok_or(TokenError::Malformed);
    Ok(Bound {
        namespace: text(&claims.legacy_namespace)?,
        account: Reference {
            name: text(&claims.legacy_account)?,
            uid: text(&claims.legacy_uid)?,
        },
        pod: None,
        node: None,
        secret: Some(Reference {
            name: text(&claims.legacy_secret)?,
            uid: String::new(),
        }),
        id: None,
        // It says nothing of audiences: it is for the API, whatever that calls itself.
        audiences: wanted.to_vec(),
        legacy: true,
    })
}

pub(crate) fn username(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// The groups of every account of the namespace.
pub(crate) fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}

impl Bound {
    pub(crate) fn user(&self) -> User {
        let name = username(&self.namespace, &self.account.name);
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                let key = format!("authentication.kubernetes.io/{key}");
                extra.insert(key, vec![value.to_owned()]);
            }
        };
        if let Some(id) = &self.id {
            add("credential-id", &format!("JTI={id}"));
        }
        if let Some(pod) = &self.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &self.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        User {
            uid: self.account.uid.clone(),
            extra,
            ..User::named(&name, groups(&self.namespace))
        }
    }
}

#[cfg(test)]
mod tests;

//! TokenRequest: a token of an account, for audiences, for a time, bound to an object.

use k8s_openapi::api::authentication::v1::TokenRequestSpec;
use serde_json::Value;

use super::claims::{Claims, Private, Reference, username};
use super::{TokenError, Tokens};
use crate::kinds::{self, Cause};
use crate::registry::error::field_error;
use crate::registry::{ApiError, object};

const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;
/// What admission asks for in pods. Programs that never read the file again are helped by a token that lives
/// longer than it says; it ends with its pod anyway.
const FOR_PODS: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;

/// A token to be made.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) spec: &'a TokenRequestSpec,
    /// Who asks, where it is a node: it gets tokens for its own pods only.
    pub(crate) node: Option<&'a str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) audiences: Vec<String>,
    pub(crate) seconds: i64,
    pub(crate) expires: jiff::Timestamp,
    pub(crate) warnings: Vec<String>,
}

fn invalid(message: &str, value: i64) -> ApiError {
    ApiError::invalid_named(
        "authentication.k8s.io",
        "TokenRequest",
        "",
        &[field_error(
            "spec.expirationSeconds",
            Cause::Invalid,
            format!("Invalid value: {value}: {message}"),
        )],
    )
}

/// Seconds that the token is to live. Pure.
fn seconds(spec: &TokenRequestSpec) -> Result<i64, ApiError> {
    let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    if seconds < LEAST_SECONDS {
        return Err(invalid(
            "may not specify a duration less than 10 minutes",
            seconds,
        ));
    }
    if seconds > MOST_SECONDS {
        return Err(invalid(
            "may not specify a duration larger than 2^32 seconds",
            seconds,
        ));
    }
    Ok(seconds)
}

/// What the token is bound to.
#[derive(Default)]
struct Binding {
    pod: Option<Reference>,
    node: Option<Reference>,
    secret: Option<Reference>,
}

fn reference(object: &Value) -> Reference {
    Reference {
        name: object::name(object).to_owned(),
        uid: object::uid(object).to_owned(),
    }
}

impl Tokens {
    /// Makes the token, once the account and what it is bound to are found.
    pub(crate) async fn request(&self, wanted: Wanted<'_>) -> Result<Issued, ApiError> {
        let mut seconds = seconds(wanted.spec)?;
        let mut warnings = Vec::new();
        let most = self.inner.config.max_expiration;
        if most > 0 && seconds > most {
            warnings.push(format!(
                "requested expiration of {seconds} seconds shortened to {most} seconds"
            ));
            seconds = most;
        }
        let audiences = match wanted.spec.audiences.as_deref() {
            None | Some([]) => self.audiences().to_vec(),
            Some(given) => given.to_vec(),
        };
        let account = self
            .found("serviceaccounts", wanted.namespace, wanted.account)
            .await?;
        let binding = self.binding(&wanted, &audiences).await?;
        let now = jiff::Timestamp::now();
        let extended = seconds == FOR_PODS
            && binding.pod.is_some()
            && audiences.iter().all(|name| self.audiences().contains(name));
        let lives = if extended { EXTENDED } else { seconds };
        let iat = now.as_second();
        let claims = Claims {
            aud: audiences.clone(),
            exp: Some(iat + lives),
            iat: Some(iat),
            nbf: Some(iat),
            iss: self.issuer().to_owned(),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            private: Some(Private {
                namespace: wanted.namespace.to_owned(),
                node: binding.node,
                pod: binding.pod,
                secret: binding.secret,
                serviceaccount: reference(&account),
                warnafter: extended.then_some(iat + seconds),
            }),
            sub: username(wanted.namespace, wanted.account),
            ..Claims::default()
        };
        let keys = self.inner.keys.load();
        Ok(Issued {
            token: keys.sign(&claims).map_err(ApiError::internal)?,
            audiences,
            seconds,
            expires: jiff::Timestamp::from_second(iat + seconds).unwrap_or(jiff::Timestamp::MAX),
            warnings,
        })
    }

    async fn found(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let kind = kinds::by_plural("", "v1", plural).ok_or_else(ApiError::no_such_resource)?;
        self.read(plural, namespace, name)
            .await
            .map_err(|error| match error {
                TokenError::Lookup(why) => ApiError::unavailable(why),
                _ => ApiError::not_found(kind, name),
            })
    }

    async fn binding(
        &self,
        wanted: &Wanted<'_>,
        audiences: &[String],
    ) -> Result<Binding, ApiError> {
        let refuse = |why: &str| ApiError::forbidden("", "serviceaccounts", wanted.account, why);
        let Some(bound) = &wanted.spec.bound_object_ref else {
            return match wanted.node {
                Some(_) => Err(refuse("node requested token not bound to a pod")),
                None => Ok(Binding::default()),
            };
        };
        let kind = bound.kind.as_deref().unwrap_or_default();
        let version = bound.api_version.as_deref().unwrap_or_default();
        let name = bound.name.as_deref().unwrap_or_default();
        let (plural, space) = match (version, kind) {
            ("v1", "Pod") => ("pods", wanted.namespace),
            ("v1", "Secret") => ("secrets", wanted.namespace),
            ("v1", "Node") => ("nodes", ""),
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {version}, Kind={kind}"
                )));
            }
        };
        if wanted.node.is_some() && plural != "pods" {
            return Err(refuse("node requested token not bound to a pod"));
        }
        let object = self.found(plural, space, name).await?;
        let uid = object::uid(&object);
        let given = bound.uid.as_deref().unwrap_or_default();
        if wanted.node.is_some() && given.is_empty() {
            return Err(refuse(
                "node requested token with a pod binding without a uid",
            ));
        }
        if !given.is_empty() && given != uid {
            let kind = kinds::by_plural("", "v1", plural).ok_or_else(ApiError::no_such_resource)?;
            return Err(ApiError::conflict(
                kind,
                name,
                &format!(
                    "the UID in the bound object reference ({given}) does not match the UID in record. The \
                     object might have been deleted and then recreated"
                ),
            ));
        }
        match plural {
            "pods" => self.pod(wanted, audiences, &object).await,
            "secrets" => Ok(Binding {
                secret: Some(reference(&object)),
                ..Binding::default()
            }),
            _ => Ok(Binding {
                node: Some(reference(&object)),
                ..Binding::default()
            }),
        }
    }

    async fn pod(
        &self,
        wanted: &Wanted<'_>,
        audiences: &[String],
        pod: &Value,
    ) -> Result<Binding, ApiError> {
        let spec = &pod["spec"];
        let on = spec["nodeName"].as_str().unwrap_or_default();
        if let Some(node) = wanted.node {
            let why = if on != node {
                Some("node requested token bound to a pod scheduled on a different node".to_owned())
            } else {
                foreign(spec, audiences, self.audiences())
                    .map(|audience| format!("audience {audience:?} not found in pod spec volume"))
            };
            if let Some(why) = why {
                let name = wanted.account;
                return Err(ApiError::forbidden("", "serviceaccounts", name, &why));
            }
        }
        if spec["serviceAccountName"] != wanted.account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                wanted.account
            )));
        }
        let node = match on {
            "" => None,
            name => match self.read("nodes", "", name).await {
                Ok(node) => Some(reference(&node)),
                Err(_) => Some(Reference {
                    name: name.to_owned(),
                    uid: String::new(),
                }),
            },
        };
        Ok(Binding {
            pod: Some(reference(pod)),
            node,
            secret: None,
        })
    }
}

/// The first audience that no volume of the pod asks for. Pure.
fn foreign<'a>(spec: &Value, audiences: &'a [String], own: &[String]) -> Option<&'a String> {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let asked: Vec<&str> = volumes
        .flat_map(|volume| {
            volume["projected"]["sources"]
                .as_array()
                .into_iter()
                .flatten()
        })
        .filter(|source| source["serviceAccountToken"].is_object())
        .map(|source| {
            source["serviceAccountToken"]["audience"]
                .as_str()
                .unwrap_or_default()
        })
        .collect();
    audiences.iter().find(|audience| {
        let default = asked.contains(&"") && own.contains(audience);
        !default && !asked.contains(&audience.as_str())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_bounds_and_a_default() {
        let of = |expiration_seconds| {
            seconds(&TokenRequestSpec {
                expiration_seconds,
                ..TokenRequestSpec::default()
            })
        };
        assert_eq!(of(None).unwrap(), 3600);
        assert_eq!(of(Some(600)).unwrap(), 600);
        for wrong in [599, -1, (1 << 32) + 1] {
            let error = of(Some(wrong)).unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.to_string().contains("spec.expirationSeconds"));
        }
    }

    #[test]
    fn a_node_gets_only_audiences_that_the_pod_asks_for() {
        let spec = json!({"volumes": [{"projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
        ]}}]});
        let own = ["api".to_owned()];
        let check = |audience: &str| foreign(&spec, &[audience.to_owned()], &own).cloned();
        assert_eq!(check("api"), None);
        assert_eq!(check("vault"), None);
        assert_eq!(check("other"), Some("other".to_owned()));
        assert!(foreign(&json!({}), &own, &own).is_some());
    }
}

//! Acting as somebody else (`kubectl --as`, `--as-group`): the headers `Impersonate-User`, `-Group`, `-Uid` and
//! `-Extra-*`, each of which the real user must be allowed to set. Source: the Kubernetes documentation,
//! "Authenticating", user impersonation.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::Api;
use crate::auth::{Attributes, User};
use crate::registry::ApiError;

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
const ACCOUNT: &str = "system:serviceaccount:";

impl Api {
    /// Who the request is to be judged as.
    pub(super) fn impersonated(&self, real: User, headers: &HeaderMap) -> Result<User, ApiError> {
        if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
            return Ok(real);
        }
        let name = one(headers, "impersonate-user")?;
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(ApiError::bad_request(
                "requests that impersonate groups, a uid or extra information must name a user too",
            ));
        };
        let mut groups = Vec::new();
        for value in headers.get_all("impersonate-group") {
            groups.push(text(value)?);
        }
        let account = name
            .strip_prefix(ACCOUNT)
            .and_then(|rest| rest.split_once(':'));
        match account {
            Some((namespace, account)) => {
                self.check(&real, "", "serviceaccounts", namespace, account)?;
            }
            None => self.check(&real, "", "users", "", &name)?,
        }
        for group in &groups {
            self.check(&real, "", "groups", "", group)?;
        }
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let uid = one(headers, "impersonate-uid")?;
        if let Some(uid) = &uid {
            self.check(&real, AUTHENTICATION, "uids", "", uid)?;
        }
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            if let Some(key) = header.as_str().strip_prefix(EXTRA) {
                let value = text(value)?;
                self.check(
                    &real,
                    AUTHENTICATION,
                    &format!("userextras/{key}"),
                    "",
                    &value,
                )?;
                extra.entry(unescaped(key)).or_default().push(value);
            }
        }
        if groups.is_empty()
            && let Some((namespace, _)) = account
        {
            groups = crate::auth::token::groups(namespace);
        }
        Ok(User {
            uid: uid.unwrap_or_default(),
            extra,
            ..User::named(&name, groups)
        })
    }

    fn check(
        &self,
        real: &User,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let wanted = Attributes {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: None,
        };
        if self.authorizer.allows(real, &wanted) {
            return Ok(());
        }
        if real.is_anonymous() {
            return Err(ApiError::unauthorized());
        }
        let why = wanted.refusal(real);
        Err(ApiError::forbidden(group, resource, name, &why))
    }
}

/// Keys are percent-encoded where they have characters that a header's name cannot have.
fn unescaped(key: &str) -> String {
    percent_decode(key).unwrap_or_else(|| key.to_owned())
}

fn percent_decode(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    headers.get(name).map(text).transpose()
}

fn text(value: &http::HeaderValue) -> Result<String, ApiError> {
    value
        .to_str()
        .map(str::to_owned)
        .map_err(|_| ApiError::bad_request("an impersonation header is not plain text"))
}

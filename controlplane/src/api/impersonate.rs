//! Acting as somebody else (`kubectl --as`, `--as-group`): the headers `Impersonate-User`, `-Group`, `-Uid` and
//! `-Extra-*`, each of which the real user must be allowed to set. Source: the Kubernetes documentation,
//! "Authenticating", user impersonation.

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
        if let Some(uid) = one(headers, "impersonate-uid")? {
            self.check(&real, AUTHENTICATION, "uids", "", &uid)?;
        }
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
            }
        }
        if groups.is_empty()
            && let Some((namespace, _)) = account
        {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        Ok(User::named(&name, groups))
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

fn one(headers: &HeaderMap, name: &str) -> Result<Option<String>, ApiError> {
    headers.get(name).map(text).transpose()
}

fn text(value: &http::HeaderValue) -> Result<String, ApiError> {
    value
        .to_str()
        .map(str::to_owned)
        .map_err(|_| ApiError::bad_request("an impersonation header is not plain text"))
}

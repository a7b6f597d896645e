//! Who makes a request: the client certificate that TLS has verified, else the bearer token. Credentials that
//! cannot be checked are refused, not ignored; headers that only a proxy in front could set mean nothing here.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Api;
use crate::auth::User;
use crate::auth::token::TokenError;
use crate::registry::ApiError;

impl Api {
    pub(super) async fn authenticated(&self, parts: &Parts) -> Result<User, ApiError> {
        if let Some(user) = parts.extensions.get::<User>() {
            return Ok(user.clone());
        }
        let Some(token) = bearer(&parts.headers)? else {
            return Ok(User::anonymous());
        };
        let tokens = &self.tokens;
        match tokens.authenticate(token, tokens.audiences()).await {
            Ok(found) => Ok(found.user),
            Err(TokenError::Lookup(why)) => Err(ApiError::unavailable(why)),
            Err(error) => {
                tracing::debug!(%error, "a token was refused");
                Err(ApiError::unauthorized())
            }
        }
    }
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(header) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(ApiError::unauthorized());
    }
    let text = header.to_str().map_err(|_| ApiError::unauthorized())?;
    match text.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            let token = token.trim();
            if token.is_empty() {
                return Err(ApiError::unauthorized());
            }
            Ok(Some(token))
        }
        _ => Err(ApiError::unauthorized()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_bearer_token_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(|token| token.map(str::to_owned)).ok()
        };
        assert_eq!(of(&[]), Some(None));
        assert_eq!(of(&["Bearer a.b"]), Some(Some("a.b".to_owned())));
        assert_eq!(of(&["bearer  x "]), Some(Some("x".to_owned())));
        for wrong in [
            &["Basic YTpi"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}

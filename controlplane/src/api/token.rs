//! `serviceaccounts/NAME/token`, and what others need in order to check such tokens themselves: the discovery
//! document and the public keys.

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};

use axum::body::Body;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::write::Write;
use super::{Api, respond};
use crate::auth::User;
use crate::auth::token::Wanted;
use crate::kinds::Cause;
use crate::registry::ApiError;
use crate::registry::error::field_error;

impl Api {
    pub(super) async fn token(
        &self,
        write: &Write<'_>,
        user: &User,
    ) -> Result<Response<Body>, ApiError> {
        let (namespace, account) = (write.subject.namespace, write.subject.name);
        let body = write.parsed()?;
        let kind = body["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "" | "TokenRequest") {
            return Err(ApiError::bad_request(format!(
                "{kind} cannot be handled as a TokenRequest"
            )));
        }
        let body = with_spec(body);
        let request = read(body.clone())?;
        let given = &request.metadata;
        for (field, given, wanted) in [
            ("metadata.name", &given.name, account),
            ("metadata.namespace", &given.namespace, namespace),
        ] {
            let given = given.as_deref().unwrap_or_default();
            if !given.is_empty() && given != wanted {
                let message = format!("Invalid value: {given:?}: must match the service account");
                return Err(ApiError::invalid_named(
                    "authentication.k8s.io",
                    "TokenRequest",
                    account,
                    &[field_error(field, Cause::Invalid, message)],
                ));
            }
        }
        let dry_run = write.query.dry_run(write.options)?;
        let mut request = read(self.admit_part(write, body, dry_run).await?)?;
        let mut spec = request.spec.take().unwrap_or_default();
        let issued = self
            .tokens
            .request(Wanted {
                namespace,
                account,
                spec: &spec,
                node: user.node_name(),
            })
            .await?;
        request.metadata.name = Some(account.to_owned());
        request.metadata.namespace = Some(namespace.to_owned());
        request.metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
        spec.audiences = Some(issued.audiences);
        spec.expiration_seconds = Some(issued.seconds);
        request.spec = Some(spec);
        request.status = Some(TokenRequestStatus {
            token: Some(issued.token),
            expiration_timestamp: Some(Time(issued.expires)),
        });
        let answer = serde_json::to_value(&request).map_err(ApiError::internal)?;
        let mut response = respond::value(StatusCode::CREATED, &answer);
        respond::warn(&mut response, &issued.warnings);
        respond::warn(&mut response, &write.remarks.take_warnings());
        Ok(response)
    }

    pub(super) fn openid_configuration(&self, host: Option<&str>) -> Response<Body> {
        let keys = match host {
            Some(host) => format!("https://{host}/openid/v1/jwks"),
            None => format!("{}/openid/v1/jwks", self.tokens.issuer()),
        };
        cached(
            "application/json",
            &json!({
                "issuer": self.tokens.issuer(),
                "jwks_uri": keys,
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        )
    }

    pub(super) fn jwks(&self) -> Response<Body> {
        cached("application/jwk-set+json", &self.tokens.jwks())
    }
}

fn read(body: Value) -> Result<TokenRequest, ApiError> {
    serde_json::from_value(body).map_err(|why| {
        ApiError::bad_request(format!(
            "TokenRequest in version \"v1\" cannot be handled as a TokenRequest: {why}"
        ))
    })
}

/// A request without a `spec` asks for a token as it comes; nothing in it may be null.
fn with_spec(mut body: Value) -> Value {
    if !body.is_object() {
        body = json!({});
    }
    crate::registry::object::strip_nulls(&mut body);
    if body["spec"].is_null() {
        body["spec"] = json!({});
    }
    if let Some(body) = body.as_object_mut() {
        body.remove("status");
        body.insert("kind".to_owned(), "TokenRequest".into());
        body.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
    }
    body
}

fn cached(media_type: &'static str, value: &Value) -> Response<Body> {
    let mut response = respond::with_type(StatusCode::OK, media_type, value.to_string());
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}

//! "May I?": the review kinds of authorization.k8s.io and authentication.k8s.io, answered and not stored.

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::dispatch::header;
use super::request::Target;
use super::{Api, body, negotiate, respond};
use crate::auth::token::TokenError;
use crate::auth::{Attributes, Authorizer, User};
use crate::kinds::Cause;
use crate::registry::ApiError;
use crate::registry::error::field_error;
use crate::registry::judges::Remarks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    SelfSubject,
    SelfAccess,
    SelfRules,
    Access,
    LocalAccess,
    Token,
}

pub(super) fn review(target: &Target) -> Option<Review> {
    if target.version != "v1" || !target.name.is_empty() {
        return None;
    }
    let cluster = target.namespace.is_empty();
    match (target.group.as_str(), target.resource.as_str(), cluster) {
        ("authentication.k8s.io", "selfsubjectreviews", true) => Some(Review::SelfSubject),
        ("authorization.k8s.io", "selfsubjectaccessreviews", true) => Some(Review::SelfAccess),
        ("authorization.k8s.io", "selfsubjectrulesreviews", true) => Some(Review::SelfRules),
        ("authorization.k8s.io", "subjectaccessreviews", true) => Some(Review::Access),
        ("authorization.k8s.io", "localsubjectaccessreviews", false) => Some(Review::LocalAccess),
        ("authentication.k8s.io", "tokenreviews", true) => Some(Review::Token),
        _ => None,
    }
}

impl Review {
    fn kind(self) -> &'static str {
        match self {
            Self::SelfSubject => "SelfSubjectReview",
            Self::SelfAccess => "SelfSubjectAccessReview",
            Self::SelfRules => "SelfSubjectRulesReview",
            Self::Access => "SubjectAccessReview",
            Self::LocalAccess => "LocalSubjectAccessReview",
            Self::Token => "TokenReview",
        }
    }
}

impl Api {
    pub(super) async fn review(
        &self,
        review: Review,
        user: &User,
        target: &Target,
        parts: &Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        negotiate::accept_object(header(&parts.headers, &ACCEPT))?;
        let encoding = negotiate::content(header(&parts.headers, &CONTENT_TYPE))?;
        let body = body::read(body).await?;
        if let Some(record) = parts.extensions.get::<super::audit::Record>() {
            record.request(&body, &Remarks::default());
        }
        let mut answer = body::parse(&body, encoding)?;
        if !answer.is_object() {
            return Err(ApiError::bad_request("the body is not a JSON object"));
        }
        let spec = answer["spec"].clone();
        answer["kind"] = review.kind().into();
        answer["apiVersion"] = format!("{}/v1", target.group).into();
        answer["status"] = match review {
            Review::SelfSubject => json!({"userInfo": user_info(user)}),
            Review::Token => self.token_review(&spec).await?,
            Review::SelfAccess => self.access(user, &spec)?,
            Review::SelfRules => self.rules(user, spec["namespace"].as_str().unwrap_or("")),
            Review::Access => self.access(&subject(&spec)?, &spec)?,
            Review::LocalAccess => {
                if spec["resourceAttributes"]["namespace"] != target.namespace.as_str() {
                    return Err(ApiError::bad_request(format!(
                        "spec.resourceAttributes.namespace must match namespace: {}",
                        target.namespace
                    )));
                }
                self.access(&subject(&spec)?, &spec)?
            }
        };
        Ok(respond::value(StatusCode::CREATED, &answer))
    }

    fn access(&self, user: &User, spec: &Value) -> Result<Value, ApiError> {
        let wanted = attributes_of(spec)?;
        let mut answer = json!({"allowed": self.authorizer.allows(user, &wanted)});
        if let Some(reason) = self.authorizer.reason(user, &wanted) {
            answer["reason"] = reason.into();
        }
        Ok(answer)
    }

    fn rules(&self, user: &User, namespace: &str) -> Value {
        let rules = self.authorizer.rules(user, namespace);
        let resources: Vec<Value> = rules
            .resources
            .iter()
            .map(|rule| {
                let mut value = json!({
                    "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources,
                });
                if !rule.names.is_empty() {
                    value["resourceNames"] = json!(rule.names);
                }
                value
            })
            .collect();
        let paths: Vec<Value> = rules
            .paths
            .iter()
            .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}))
            .collect();
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }
}

impl Api {
    /// Whether the token of the request is good, and whose it is.
    async fn token_review(&self, spec: &Value) -> Result<Value, ApiError> {
        let token = spec["token"].as_str().unwrap_or("");
        if token.is_empty() {
            return Err(ApiError::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let asked = spec["audiences"].as_array().into_iter().flatten();
        let asked: Vec<String> = asked
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        let audiences = match asked.as_slice() {
            [] => self.tokens.audiences(),
            asked => asked,
        };
        Ok(match self.tokens.authenticate(token, audiences).await {
            Ok(found) => json!({
                "authenticated": true,
                "user": user_info(&found.user),
                "audiences": found.audiences,
            }),
            Err(TokenError::Lookup(why)) => return Err(ApiError::unavailable(why)),
            Err(error) => json!({
                "authenticated": false,
                "user": {},
                "error": format!("[invalid bearer token, {error}]"),
            }),
        })
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn invalid(field: &str, message: &str) -> ApiError {
    ApiError::invalid_named(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "",
        &[field_error(field, Cause::Invalid, message)],
    )
}

/// The user that a SubjectAccessReview asks about.
fn subject(spec: &Value) -> Result<User, ApiError> {
    let name = spec["user"].as_str().unwrap_or("");
    let groups: Vec<String> = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|group| group.as_str().map(str::to_owned))
        .collect();
    if name.is_empty() && groups.is_empty() {
        return Err(invalid(
            "spec.user",
            "Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    let mut extra = std::collections::BTreeMap::new();
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        let values = values.as_array().into_iter().flatten();
        let values = values.filter_map(|value| value.as_str().map(str::to_owned));
        extra.insert(key.to_lowercase(), values.collect());
    }
    Ok(User {
        name: name.to_owned(),
        groups,
        uid: spec["uid"].as_str().unwrap_or("").to_owned(),
        extra,
    })
}

fn attributes_of(spec: &Value) -> Result<Attributes, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("").to_owned();
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: None,
        }),
        (false, true) => Ok(Attributes {
            verb: text(path, "verb"),
            path: Some(text(path, "path")),
            ..Attributes::default()
        }),
        (true, true) => Err(invalid(
            "spec.nonResourceAttributes",
            "Invalid value: cannot be specified in combination with resourceAttributes",
        )),
        _ => Err(invalid(
            "spec.resourceAttributes",
            "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

//! "May I?": the review kinds of authorization.k8s.io and authentication.k8s.io, answered and not stored.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::dispatch::header;
use super::request::Target;
use super::{Api, body, negotiate, respond};
use crate::auth::{Attributes, Authorizer, User};
use crate::registry::ApiError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    SelfSubject,
    SelfAccess,
    SelfRules,
    Access,
    LocalAccess,
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
        let encoding = negotiate::content(header(&parts.headers, &CONTENT_TYPE))?;
        let mut answer = body::parse(&body::read(body).await?, encoding)?;
        if !answer.is_object() {
            return Err(ApiError::bad_request("the body is not a JSON object"));
        }
        let spec = answer["spec"].clone();
        answer["kind"] = review.kind().into();
        answer["apiVersion"] = format!("{}/v1", target.group).into();
        answer["status"] = match review {
            Review::SelfSubject => json!({
                "userInfo": {"username": user.name, "groups": user.groups},
            }),
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
        if self.authorizer.allows(user, &wanted) {
            Ok(json!({"allowed": true}))
        } else {
            Ok(json!({"allowed": false, "reason": wanted.refusal(user)}))
        }
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
        return Err(ApiError::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(User {
        name: name.to_owned(),
        groups,
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
        _ => Err(ApiError::bad_request(
            "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or \
             resourceAttributes must be specified",
        )),
    }
}

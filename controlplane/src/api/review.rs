//! "May I?": the review kinds of authorization.k8s.io and authentication.k8s.io, answered and not stored.

use axum::body::Body;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::FieldValidation;
use super::dispatch::header;
use super::request::{Query, Target};
use super::{Api, body, negotiate, respond};
use crate::auth::token::TokenError;
use crate::auth::{Attributes, Authorizer, User};
use crate::kinds::{Cause, Column, FieldError, Kind, NameRule, Scope, Strategy};
use crate::registry::ApiError;
use crate::registry::error::field_error;
use crate::registry::judges::Remarks;

const GROUP: &str = "authorization.k8s.io";

/// A review is read like an object, and nothing more is done with it.
#[derive(Debug)]
struct Unstored;

impl Strategy for Unstored {
    fn default(&self, _: &mut Value) {}

    fn prepare_update(&self, _: &mut Value, _: &Value, _: &str) {}

    fn validate(&self, _: &Value, _: Option<&Value>, _: &str) -> Vec<FieldError> {
        Vec::new()
    }

    fn columns(&self) -> &'static [Column] {
        &[]
    }

    fn row(&self, _: &Value, _: i64) -> Vec<Value> {
        Vec::new()
    }
}

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
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        negotiate::accept_object(header(&parts.headers, &ACCEPT))?;
        let encoding = negotiate::content(header(&parts.headers, &CONTENT_TYPE))?;
        let body = body::read(body).await?;
        if let Some(record) = parts.extensions.get::<super::audit::Record>() {
            record.request(&body, &Remarks::default());
        }
        let validation = FieldValidation::parse(query.get("fieldValidation"), "CreateOptions")?;
        let (mut answer, warnings) = body::object_of(&review.shape(), &body, encoding, validation)?;
        review.metadata(&answer, &target.namespace)?;
        let spec = answer["spec"].clone();
        answer["kind"] = review.kind().into();
        answer["apiVersion"] = format!("{}/v1", target.group).into();
        answer["status"] = match review {
            Review::SelfSubject => json!({"userInfo": user_info(user)}),
            Review::Token => self.token_review(&spec).await?,
            Review::SelfAccess => self.access(user, &review.attributes(&spec)?),
            Review::SelfRules => match spec["namespace"].as_str().unwrap_or("") {
                "" => return Err(ApiError::bad_request("no namespace on request")),
                namespace => self.rules(user, namespace),
            },
            Review::Access => {
                let wanted = review.attributes(&spec)?;
                self.access(&review.subject(&spec)?, &wanted)
            }
            Review::LocalAccess => {
                let wanted = review.attributes(&spec)?;
                let who = review.subject(&spec)?;
                if wanted.path.is_some() {
                    return Err(review.invalid(
                        "spec.nonResourceAttributes",
                        "Invalid value: disallowed on this kind of request",
                    ));
                }
                if wanted.namespace != target.namespace {
                    let message = format!(
                        "Invalid value: {:?}: must match metadata.namespace",
                        wanted.namespace
                    );
                    return Err(review.invalid("spec.resourceAttributes.namespace", &message));
                }
                self.access(&who, &wanted)
            }
        };
        let mut response = respond::value(StatusCode::CREATED, &answer);
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    fn access(&self, user: &User, wanted: &Attributes) -> Value {
        let mut answer = json!({"allowed": self.authorizer.allows(user, wanted)});
        if let Some(reason) = self.authorizer.reason(user, wanted) {
            answer["reason"] = reason.into();
        }
        answer
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

impl Review {
    /// The kind by which a body is read.
    fn shape(self) -> Kind<'static> {
        let group = match self {
            Self::SelfSubject | Self::Token => "authentication.k8s.io",
            Self::SelfAccess | Self::SelfRules | Self::Access | Self::LocalAccess => GROUP,
        };
        Kind {
            group,
            version: "v1",
            kind: self.kind(),
            plural: "",
            singular: "",
            short_names: &[],
            categories: &[],
            scope: Scope::Cluster,
            definition: self.definition(),
            subresources: &[],
            name_rule: NameRule::PathSegment,
            strategy: &Unstored,
            register: |_| {},
        }
    }

    fn definition(self) -> &'static str {
        match self {
            Self::SelfSubject => "io.k8s.api.authentication.v1.SelfSubjectReview",
            Self::Token => "io.k8s.api.authentication.v1.TokenReview",
            Self::SelfAccess => "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            Self::SelfRules => "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
            Self::Access => "io.k8s.api.authorization.v1.SubjectAccessReview",
            Self::LocalAccess => "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        }
    }

    fn invalid(self, field: &str, message: &str) -> ApiError {
        ApiError::invalid_named(
            GROUP,
            self.kind(),
            "",
            &[field_error(field, Cause::Invalid, message)],
        )
    }

    /// Reviews of access are not stored, so they have no name and no labels.
    fn metadata(self, review: &Value, namespace: &str) -> Result<(), ApiError> {
        let local = self == Self::LocalAccess;
        if matches!(self, Self::SelfSubject | Self::SelfRules | Self::Token) {
            return Ok(());
        }
        for (field, value) in review["metadata"].as_object().into_iter().flatten() {
            match (local, field.as_str()) {
                (_, "managedFields") => {}
                (true, "namespace") if value == namespace => {}
                (true, "namespace") => {
                    return Err(ApiError::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
                (true, _) => {
                    let message = "Invalid value: must be empty except for namespace";
                    return Err(self.invalid("metadata", message));
                }
                (false, _) => {
                    return Err(self.invalid("metadata", "Invalid value: must be empty"));
                }
            }
        }
        Ok(())
    }

    /// The user that a SubjectAccessReview asks about.
    fn subject(self, spec: &Value) -> Result<User, ApiError> {
        let name = spec["user"].as_str().unwrap_or("");
        let groups: Vec<String> = spec["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|group| group.as_str().map(str::to_owned))
            .collect();
        if name.is_empty() && groups.is_empty() {
            return Err(self.invalid(
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

    fn attributes(self, spec: &Value) -> Result<Attributes, ApiError> {
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
        (true, true) => Err(self.invalid(
            "spec.nonResourceAttributes",
            "Invalid value: cannot be specified in combination with resourceAttributes",
        )),
        _ => Err(self.invalid(
            "spec.resourceAttributes",
            "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
    }
}

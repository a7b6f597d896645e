//! Create, update, patch and delete, and the subresources that write.

use std::sync::Mutex;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, FieldValidation};
use super::negotiate::{self, PatchMedia};
use super::read::{Subject, Wish, list_options};
use super::request::{self, Query};
use super::{Api, respond};
use crate::auth::User;
use crate::kinds::{Cause, Kind};
use crate::registry::delete::Deleted;
use crate::registry::error::field_error;
use crate::registry::judges::{Attempt, Operation, Remarks, Requester};
use crate::registry::list::ListPage;
use crate::registry::patch::{PatchRequest, PatchType};
use crate::registry::scale::{self, SCALE};
use crate::registry::versions::stored;
use crate::registry::{ApiError, Binding, DeleteOptions, Guard, WriteOptions, Written, object};
use crate::schema::{FieldProblem, normalize_values};

const MAX_MANAGER: usize = 128;

/// A write request: what it is about and what came with it.
pub(super) struct Write<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Bytes,
    pub(super) wish: Wish,
    /// Name of the options that the query is judged as: `CreateOptions`.
    pub(super) options: &'static str,
    pub(super) guard: Option<Guard>,
    /// Who writes.
    pub(super) user: &'a User,
    /// What is said of it on its way.
    pub(super) remarks: Remarks,
}

fn header<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

/// Who webhooks and policies are told that writes.
pub(super) fn requester(user: &User) -> Requester {
    Requester {
        name: user.name.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        extra: user.extra.clone(),
    }
}

impl Write<'_> {
    fn options(&self) -> Result<WriteOptions, ApiError> {
        Ok(WriteOptions {
            dry_run: self.query.dry_run(self.options)?,
            manager: self.manager()?,
            guard: self.guard.clone(),
            requester: Some(requester(self.user)),
            remarks: self.remarks.clone(),
            said: self.said(),
        })
    }

    /// What the request says of itself, but for what is judged elsewhere: as given, which may be nothing.
    fn said(&self) -> Value {
        let mut said = json!({});
        for field in ["fieldManager", "fieldValidation"] {
            let given = self.query.get(field);
            if !given.is_empty() {
                said[field] = given.into();
            }
        }
        said
    }

    /// The field manager: as given, else the program's name.
    fn manager(&self) -> Result<String, ApiError> {
        let given = self.query.get("fieldManager");
        if given.len() > MAX_MANAGER || given.chars().any(char::is_control) {
            return Err(ApiError::invalid_named(
                "meta.k8s.io",
                self.options,
                "",
                &[field_error(
                    "fieldManager",
                    Cause::TooLong,
                    format!("Too long: may not be more than {MAX_MANAGER} bytes"),
                )],
            ));
        }
        if !given.is_empty() {
            return Ok(given.to_owned());
        }
        let agent = header(self.headers, &USER_AGENT);
        let program = agent.split('/').next().unwrap_or("");
        let clean: String = program
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_MANAGER)
            .collect();
        Ok(if clean.is_empty() {
            "unknown".to_owned()
        } else {
            clean
        })
    }

    fn validation(&self) -> Result<FieldValidation, ApiError> {
        FieldValidation::parse(self.query.get("fieldValidation"), self.options)
    }

    pub(super) fn parsed(&self) -> Result<Value, ApiError> {
        let encoding = negotiate::content(header(self.headers, &CONTENT_TYPE))?;
        body::parse(&self.body, encoding)
    }

    /// The body as an object of the kind, as it is stored, and warnings.
    fn object_of(&self, kind: &Kind<'_>) -> Result<(Value, Vec<String>), ApiError> {
        let encoding = negotiate::content(header(self.headers, &CONTENT_TYPE))?;
        let (object, mut warnings) =
            body::object_of(kind, &self.body, encoding, self.validation()?)?;
        warnings.extend(kind.strategy.warnings(&object));
        Ok((object, warnings))
    }
}

impl Api {
    pub(super) async fn create(&self, write: Write<'_>) -> Result<Response<Body>, ApiError> {
        let Subject {
            handle,
            kind,
            namespace,
            name,
            subresource,
        } = write.subject;
        match (kind.plural, subresource) {
            ("pods", "binding") => return self.bind(&write).await,
            ("pods", "eviction") => return self.evict(&write).await,
            (_, "") => {}
            _ => return Err(ApiError::method_not_allowed()),
        }
        if !name.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let (mut object, mut warnings) = write.object_of(kind)?;
        super::certificates::sign_with_name(kind, write.user, &mut object);
        let options = write.options()?;
        let written = self
            .registry
            .create(kind, namespace, object, &options)
            .await?;
        warnings.extend(options.remarks.take_warnings());
        let mut response = self
            .show(
                handle,
                &written,
                StatusCode::CREATED,
                write.query,
                write.wish,
            )
            .await?;
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    pub(super) async fn update(&self, write: Write<'_>) -> Result<Response<Body>, ApiError> {
        let Subject {
            handle,
            kind,
            namespace,
            name,
            subresource,
        } = write.subject;
        let options = write.options()?;
        if subresource == "scale" {
            let (scale, _) = write.object_of(&SCALE)?;
            let written = self
                .registry
                .update_scale(kind, namespace, name, &scale, &options)
                .await?;
            let mut response = self.show_scale(kind, &written, write.wish).await?;
            respond::warn(&mut response, &options.remarks.take_warnings());
            return Ok(response);
        }
        let (object, mut warnings) = write.object_of(kind)?;
        let written = self
            .registry
            .update(kind, namespace, name, subresource, object, &options)
            .await?;
        warnings.extend(options.remarks.take_warnings());
        let mut response = self
            .show(handle, &written, StatusCode::OK, write.query, write.wish)
            .await?;
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    pub(super) async fn patch(&self, write: Write<'_>) -> Result<Response<Body>, ApiError> {
        let Subject {
            handle,
            kind,
            namespace,
            name,
            subresource,
        } = write.subject;
        let (patch_type, patch) = parse_patch(&write)?;
        let validation = write.validation()?;
        let warnings = Mutex::new(Vec::new());
        let judged = if subresource == "scale" { &SCALE } else { kind };
        let judge = |problems: &[FieldProblem]| {
            let found = validation.judge(judged, problems)?;
            // Computed again after a conflict, the same warnings come again.
            *warnings
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = found;
            Ok(())
        };
        let request = PatchRequest {
            kind,
            namespace,
            name,
            subresource,
            patch_type,
            patch: &patch,
        };
        let options = write.options()?;
        let (mut response, object) = if subresource == "scale" {
            let written = self.registry.patch_scale(request, &options, &judge).await?;
            (self.show_scale(kind, &written, write.wish).await?, None)
        } else {
            let (written, created) = self.registry.patch(request, &options, &judge).await?;
            let status = if created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let response = self
                .show(handle, &written, status, write.query, write.wish)
                .await?;
            (response, Some(written.to_value()))
        };
        let mut warnings = warnings
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(object) = object {
            warnings.extend(kind.strategy.warnings(&object));
        }
        warnings.extend(options.remarks.take_warnings());
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    pub(super) async fn delete(&self, write: Write<'_>) -> Result<Response<Body>, ApiError> {
        let Subject {
            handle,
            kind,
            namespace,
            name,
            subresource,
        } = write.subject;
        if !subresource.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let (mut options, dry_run) = delete_options(&write)?;
        options.requester = Some(requester(write.user));
        options.remarks = write.remarks.clone();
        let deleted = self
            .registry
            .delete(stored(kind), namespace, name, &options, dry_run)
            .await?;
        match deleted {
            Deleted::Gone(last) if kind.is_answer_of_its_deletion() => {
                let written = Written::Unstored(last);
                self.show(handle, &written, StatusCode::OK, write.query, write.wish)
                    .await
            }
            Deleted::Gone(last) => Ok(respond::value(StatusCode::OK, &success(kind, &last))),
            Deleted::Pending(written) => {
                self.show(handle, &written, StatusCode::OK, write.query, write.wish)
                    .await
            }
        }
    }

    pub(super) async fn delete_collection(
        &self,
        write: Write<'_>,
    ) -> Result<Response<Body>, ApiError> {
        let Subject {
            handle,
            kind,
            namespace,
            ..
        } = write.subject;
        let (mut options, dry_run) = delete_options(&write)?;
        options.requester = Some(requester(write.user));
        options.remarks = write.remarks.clone();
        let list = list_options(kind, write.query)?;
        let items = self
            .registry
            .delete_collection(stored(kind), namespace, &list, &options, dry_run)
            .await?;
        let page = ListPage {
            items,
            revision: self.registry.store().revision(),
            continue_token: None,
            remaining: None,
        };
        self.show_list(handle, page, write.query, write.wish).await
    }

    async fn show_scale(
        &self,
        kind: &Kind<'_>,
        written: &Written,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let live = self
            .registry
            .one_to_served(kind, written.to_value())
            .await?;
        let scale = scale::of(kind, &live);
        respond::object(
            StatusCode::OK,
            wish.format.encoding,
            scale.to_string().into(),
        )
    }

    /// Asks webhooks and policies about what a subresource of an object is created with. The answer is what they have
    /// made of it.
    pub(super) async fn admit_part(
        &self,
        write: &Write<'_>,
        mut part: Value,
        dry_run: bool,
    ) -> Result<Value, ApiError> {
        let subject = write.subject;
        let (speaks, _) = super::discovery::subresource(subject.kind, subject.subresource);
        let (group, version, kind) = speaks;
        if !part.is_object() {
            let why = format!("{kind} in version {version:?} cannot be handled as a {kind}");
            return Err(ApiError::bad_request(why));
        }
        part["kind"] = kind.into();
        part["apiVersion"] = match group {
            "" => version.into(),
            group => format!("{group}/{version}").into(),
        };
        object::set_meta(&mut part, "name", subject.name);
        object::set_meta(&mut part, "namespace", subject.namespace);
        let attempt = Attempt {
            kind: subject.kind,
            speaks: Some(speaks),
            requested: None,
            namespace: subject.namespace,
            name: subject.name,
            subresource: subject.subresource,
            operation: Operation::Create,
            object: Some(&part),
            old: None,
            dry_run,
            options: &write.said(),
            requester: &requester(write.user),
            remarks: &write.remarks,
        };
        let changed = self.registry.judge_part(attempt).await?;
        Ok(changed.unwrap_or(part))
    }

    async fn bind(&self, write: &Write<'_>) -> Result<Response<Body>, ApiError> {
        let dry_run = write.query.dry_run(write.options)?;
        let binding = self.admit_part(write, write.parsed()?, dry_run).await?;
        let node = binding["target"]["name"].as_str().unwrap_or("");
        if node.is_empty() {
            return Err(ApiError::invalid_named(
                "",
                "Binding",
                write.subject.name,
                &[field_error(
                    "target.name",
                    Cause::Required,
                    "Required value",
                )],
            ));
        }
        if dry_run {
            return Ok(created(&write.remarks));
        }
        let request = Binding {
            namespace: write.subject.namespace.to_owned(),
            pod: write.subject.name.to_owned(),
            uid: object::uid(&binding).to_owned(),
            node: node.to_owned(),
        };
        for result in self.registry.bind(&[request]).await {
            result?;
        }
        Ok(created(&write.remarks))
    }

    async fn evict(&self, write: &Write<'_>) -> Result<Response<Body>, ApiError> {
        let eviction = write.parsed()?;
        let name = object::name(&eviction);
        if !name.is_empty() && name != write.subject.name {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let dry_run = write.query.dry_run(write.options)?;
        let dry_run = dry_run || asks_dry_run(&eviction["deleteOptions"])?;
        let eviction = self.admit_part(write, eviction, dry_run).await?;
        let mut options = options_from(&eviction["deleteOptions"], write.query)?;
        options.requester = Some(requester(write.user));
        options.remarks = write.remarks.clone();
        let mut how = write.options()?;
        how.dry_run = dry_run;
        self.registry
            .evict(write.subject.namespace, write.subject.name, &options, &how)
            .await?;
        Ok(created(&write.remarks))
    }
}

/// What was made is nothing that could be shown.
fn created(remarks: &Remarks) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    let mut response = respond::value(StatusCode::CREATED, &status);
    respond::warn(&mut response, &remarks.take_warnings());
    response
}

fn success(kind: &Kind<'_>, last: &Value) -> Value {
    let mut details = json!({
        "name": object::name(last),
        "kind": kind.plural,
        "uid": object::uid(last),
    });
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}

fn parse_patch(write: &Write<'_>) -> Result<(PatchType, Value), ApiError> {
    let media = negotiate::patch_content(header(write.headers, &CONTENT_TYPE))?;
    let patch_type = match media {
        PatchMedia::Json => PatchType::Json,
        PatchMedia::Merge => PatchType::Merge,
        PatchMedia::Strategic => PatchType::Strategic,
        PatchMedia::Apply => PatchType::Apply {
            force: write.query.flag("force"),
        },
    };
    let force_alone = write.query.has("force") && media != PatchMedia::Apply;
    let anonymous = media == PatchMedia::Apply && write.query.get("fieldManager").is_empty();
    let complaint = if force_alone {
        Some((
            "force",
            Cause::Forbidden,
            "Forbidden: may not be specified for non-apply patch",
        ))
    } else if anonymous {
        Some((
            "fieldManager",
            Cause::Required,
            "Required value: is required for apply patch",
        ))
    } else {
        None
    };
    if let Some((field, cause, message)) = complaint {
        return Err(ApiError::invalid_named(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[field_error(field, cause, message)],
        ));
    }
    if media != PatchMedia::Apply {
        let patch = serde_json::from_slice(&write.body)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        return Ok((patch_type, patch));
    }
    let mut applied = body::parse_yaml(&write.body)?;
    let kind = if write.subject.subresource == "scale" {
        &SCALE
    } else {
        write.subject.kind
    };
    check_applied(kind, write.subject, &applied)?;
    object::strip_absent(kind, &mut applied);
    normalize_values(kind, &mut applied);
    Ok((patch_type, applied))
}

/// An applied configuration must say what it is, and must be about the object of the URL.
fn check_applied(kind: &Kind<'_>, subject: Subject<'_>, applied: &Value) -> Result<(), ApiError> {
    let version = crate::registry::create::api_version(kind);
    let given = applied["apiVersion"].as_str().unwrap_or_default();
    if !given.is_empty() && given != version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {version}"
        )));
    }
    if applied["kind"] != kind.kind || given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the applied object must be of kind {} in version {version}",
            kind.kind
        )));
    }
    let name = object::name(applied);
    if !name.is_empty() && name != subject.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            subject.name
        )));
    }
    if applied["metadata"]
        .get("managedFields")
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// From the body where there is one, else from the query.
fn delete_options(write: &Write<'_>) -> Result<(DeleteOptions, bool), ApiError> {
    let body = if write.body.iter().all(u8::is_ascii_whitespace) {
        Value::Null
    } else {
        write.parsed()?
    };
    let options = options_from(&body, write.query)?;
    Ok((
        options,
        write.query.dry_run(write.options)? || asks_dry_run(&body)?,
    ))
}

fn asks_dry_run(options: &Value) -> Result<bool, ApiError> {
    let wrong = || ApiError::bad_request("dryRun must be a list of strings");
    let values: &[Value] = match &options["dryRun"] {
        Value::Null => &[],
        Value::Array(values) => values,
        _ => return Err(wrong()),
    };
    let mut dry_run = false;
    for value in values {
        dry_run |= request::dry_run(value.as_str().ok_or_else(wrong)?, "DeleteOptions")?;
    }
    Ok(dry_run)
}

fn options_from(body: &Value, query: &Query) -> Result<DeleteOptions, ApiError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut options = DeleteOptions {
        grace_period_seconds: match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?,
        },
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
        propagation: text(&body["propagationPolicy"])
            .or_else(|| Some(query.get("propagationPolicy").to_owned()))
            .filter(|policy| !policy.is_empty()),
        ..DeleteOptions::default()
    };
    let orphan = match &body["orphanDependents"] {
        Value::Bool(orphan) => Some(*orphan),
        _ => query
            .has("orphanDependents")
            .then(|| query.flag("orphanDependents")),
    };
    if let (Some(policy), Some(_)) = (&options.propagation, orphan) {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        let message = format!("Invalid value: {policy:?}: {why}");
        let error = field_error("propagationPolicy", Cause::Invalid, message);
        return Err(ApiError::invalid_named(
            "meta.k8s.io",
            "DeleteOptions",
            "",
            &[error],
        ));
    }
    if let Some(orphan) = orphan {
        options.propagation = Some(if orphan { "Orphan" } else { "Background" }.to_owned());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn delete_options_come_from_body_or_query() {
        let none = Query::default();
        let from_body = options_from(
            &json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground",
                    "preconditions": {"uid": "u", "resourceVersion": "5"}}),
            &Query::parse("gracePeriodSeconds=9&propagationPolicy=Orphan"),
        )
        .unwrap();
        assert_eq!(from_body.grace_period_seconds, Some(0));
        assert_eq!(from_body.propagation.as_deref(), Some("Foreground"));
        assert_eq!(from_body.uid.as_deref(), Some("u"));
        let from_query = options_from(
            &Value::Null,
            &Query::parse("gracePeriodSeconds=9&orphanDependents=true"),
        )
        .unwrap();
        assert_eq!(from_query.grace_period_seconds, Some(9));
        assert_eq!(from_query.propagation.as_deref(), Some("Orphan"));
        assert!(options_from(&Value::Null, &Query::parse("gracePeriodSeconds=x")).is_err());
        assert!(
            options_from(&Value::Null, &none)
                .unwrap()
                .propagation
                .is_none()
        );
    }
}

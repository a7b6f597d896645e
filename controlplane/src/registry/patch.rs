//! Patches of any of the four kinds, on an object or a subresource.

use std::borrow::Cow;

use serde_json::Value;

use super::error::field_error;
use super::update::{Ownership, Place, check_name};
use super::{ApiError, Registry, WriteOptions, Written, object};
use crate::kinds::{Cause, Kind};
use crate::patch::{json_patch, merge_patch, server_side_apply, strategic_merge_patch};
use crate::schema::{FieldProblem, ProblemKind, check_and_prune};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    /// Server-side apply; `force` takes fields from other managers.
    Apply {
        force: bool,
    },
}

/// What a custom resource can be patched with.
const CUSTOM_PATCHES: &str = "application/json-patch+json, application/merge-patch+json, \
    application/apply-patch+yaml";

/// One patch and what it is applied to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PatchRequest<'a> {
    pub(crate) kind: &'a Kind<'a>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) patch_type: PatchType,
    pub(crate) patch: &'a Value,
}

/// Judges the problems of the patched object: an error ends the request.
pub(crate) type Judge<'a> = &'a (dyn Fn(&[FieldProblem]) -> Result<(), ApiError> + Sync);

/// Pure: the patched object with its unknown fields judged and removed.
pub(super) fn patched(
    request: &PatchRequest<'_>,
    live: &Value,
    options: &WriteOptions,
    judge: Judge<'_>,
) -> Result<Value, ApiError> {
    let kind = request.kind;
    let is_apply = matches!(request.patch_type, PatchType::Apply { .. });
    if is_apply {
        declared(request)?;
    }
    let mut wanted = applied(request, live, options)?;
    let problems = check_and_prune(kind, &mut wanted);
    let judged = judge(&problems);
    if is_apply {
        judged?;
    } else if let Err(error) = judged {
        // It is the patch that is invalid, not the body of the request, so that `kubectl edit` opens it again.
        return Err(match request.patch_type {
            PatchType::Strategic => {
                let fatal = problems.iter().find(|problem| problem.is_fatal());
                let why = fatal.map(FieldProblem::conversion);
                refused(kind, &go_text(request.patch), why, error)
            }
            _ => {
                let mut shown = applied(request, live, options)?;
                object::remove_meta(&mut shown, "managedFields");
                refused(kind, &shown.to_string(), None, error)
            }
        });
    }
    Ok(wanted)
}

/// The patched object as it comes out.
fn applied(
    request: &PatchRequest<'_>,
    live: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let kind = request.kind;
    let result = match request.patch_type {
        PatchType::Json => json_patch(live, request.patch),
        PatchType::Merge => Ok(merge_patch(live, request.patch)),
        PatchType::Strategic if kind.is_custom() => {
            return Err(ApiError::unsupported_media_type(CUSTOM_PATCHES));
        }
        PatchType::Strategic => strategic_merge_patch(kind, live, request.patch),
        PatchType::Apply { force } => server_side_apply(
            kind,
            Some(live),
            &without_version(request.patch),
            &options.manager,
            force,
            request.subresource,
            &object::now(),
        )
        // Fields that are not part of the configuration still pin the version.
        .map(|mut merged| {
            let pinned = object::meta(request.patch, "resourceVersion");
            if !pinned.is_empty() {
                object::set_meta(&mut merged, "resourceVersion", pinned);
            }
            merged
        }),
    };
    let mut wanted = result.map_err(|error| ApiError::from_patch(&error))?;
    if !wanted.is_object() {
        return Err(ApiError::bad_request(
            "the patched object is not a JSON object",
        ));
    }
    check_name(&wanted, request.name)?;
    object::strip_absent(kind, &mut wanted);
    Ok(wanted)
}

/// What makes of the object something that cannot be read.
fn refused(kind: &Kind<'_>, shown: &str, why: Option<String>, error: ApiError) -> ApiError {
    if error.code() != 400 {
        return error;
    }
    let message = error.to_string();
    let before = format!("cannot be handled as a {}: ", kind.kind);
    let told = message
        .split_once(&before)
        .map_or(message.as_str(), |(_, why)| why);
    let why = why.as_deref().unwrap_or(told);
    let message = format!("Invalid value: {shown:?}: {why}");
    ApiError::invalid_named("", "", "", &[field_error("patch", Cause::Invalid, message)])
}

/// As Go prints a map (`%+v`).
fn go_text(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(go_text).collect())),
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| format!("{key}:{}", go_text(value));
            format!("map[{}]", joined(map.iter().map(entry).collect()))
        }
        scalar => scalar.to_string(),
    }
}

/// Server-side apply takes no field that the kind does not have, whatever is asked of unknown fields. Kubernetes says
/// so with 500; the request is what is wrong.
fn declared(request: &PatchRequest<'_>) -> Result<(), ApiError> {
    let kind = request.kind;
    let problems = check_and_prune(kind, &mut request.patch.clone());
    let unknown = problems
        .into_iter()
        .find(|problem| problem.kind == ProblemKind::Unknown);
    match unknown {
        None => Ok(()),
        Some(problem) => Err(ApiError::bad_request(format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): .{}: field not declared in schema",
            request.namespace,
            request.name,
            kind.api_version(),
            kind.kind,
            problem.path
        ))),
    }
}

fn without_version(applied: &Value) -> Cow<'_, Value> {
    if object::meta(applied, "resourceVersion").is_empty() {
        return Cow::Borrowed(applied);
    }
    let mut applied = applied.clone();
    object::remove_meta(&mut applied, "resourceVersion");
    Cow::Owned(applied)
}

impl Registry {
    /// The flag says whether the object was created (server-side apply only).
    pub(crate) async fn patch(
        &self,
        request: PatchRequest<'_>,
        options: &WriteOptions,
        judge: Judge<'_>,
    ) -> Result<(Written, bool), ApiError> {
        let PatchRequest {
            kind,
            namespace,
            name,
            subresource,
            patch_type,
            ..
        } = request;
        let place = Place {
            kind,
            namespace,
            name,
            subresource,
        };
        let ownership = match patch_type {
            PatchType::Apply { .. } => Ownership::Done,
            _ => Ownership::Track,
        };
        let modified = self
            .modify(place, options, ownership, |live| {
                patched(&request, live, options, judge)
            })
            .await;
        let creates = matches!(patch_type, PatchType::Apply { .. }) && subresource.is_empty();
        match modified {
            Err(error) if error.is_not_found() && creates => {}
            other => return other.map(|written| (written, false)),
        }
        match self.create_applied(&request, options, judge).await {
            // Somebody else was first: apply on top of theirs.
            Err(error) if error.is_already_exists() => self
                .modify(place, options, ownership, |live| {
                    patched(&request, live, options, judge)
                })
                .await
                .map(|written| (written, false)),
            other => other.map(|written| (written, true)),
        }
    }

    async fn create_applied(
        &self,
        request: &PatchRequest<'_>,
        options: &WriteOptions,
        judge: Judge<'_>,
    ) -> Result<Written, ApiError> {
        let PatchRequest { kind, name, .. } = *request;
        declared(request)?;
        if !object::uid(request.patch).is_empty() {
            return Err(ApiError::conflict(
                kind,
                name,
                &format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    object::uid(request.patch)
                ),
            ));
        }
        if !object::meta(request.patch, "resourceVersion").is_empty() {
            return Err(ApiError::not_found(kind, name));
        }
        let mut object = server_side_apply(
            kind,
            None,
            request.patch,
            &options.manager,
            true,
            "",
            &object::now(),
        )
        .map_err(|error| ApiError::from_patch(&error))?;
        object::strip_absent(kind, &mut object);
        judge(&check_and_prune(kind, &mut object))?;
        self.create_owned(kind, request.namespace, object, options, Ownership::Done)
            .await
    }
}

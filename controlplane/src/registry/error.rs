//! The errors that clients see, each a complete `Status` with the code, reason and wording that Kubernetes
//! uses. Every mapping from a lower layer's error to HTTP happens here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ListMeta, Status, StatusCause, StatusDetails,
};

use super::ApiError;
use crate::kinds::{Cause, FieldError, Kind};
use crate::patch::PatchError;
use crate::store::StoreError;

/// Tells clients that a list or watch cannot go on from where they are.
const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list \
     result. You can start a new list without the continue parameter.";

const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// `deployments.apps`, or `pods` for the core group.
pub(crate) fn qualified_resource(kind: &Kind<'_>) -> String {
    qualify(kind.plural, kind.group)
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn cause_reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Required => "FieldValueRequired",
        Cause::Invalid => "FieldValueInvalid",
        Cause::Duplicate => "FieldValueDuplicate",
        Cause::NotFound => "FieldValueNotFound",
        Cause::NotSupported => "FieldValueNotSupported",
        Cause::Forbidden => "FieldValueForbidden",
        Cause::TooLong => "FieldValueTooLong",
        Cause::TooMany => "FieldValueTooMany",
    }
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: Box::new(Status {
                code: Some(i32::from(code)),
                reason: some(reason),
                message: Some(message.into()),
                status: Some("Failure".to_owned()),
                ..Status::default()
            }),
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details();
        details.group = some(group);
        details.kind = some(kind);
        details.name = some(name);
        self
    }

    fn details(&mut self) -> &mut StatusDetails {
        self.status
            .details
            .get_or_insert_with(StatusDetails::default)
    }

    fn with_causes(mut self, causes: Vec<StatusCause>) -> Self {
        self.details().causes = Some(causes);
        self
    }

    pub(crate) fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details().retry_after_seconds = Some(seconds);
        self
    }

    /// Seconds after which the client may try again, for the `Retry-After` header.
    pub(crate) fn retry_after(&self) -> Option<i32> {
        self.status.details.as_ref()?.retry_after_seconds
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// A namespace that is going takes nothing new.
    pub(crate) fn is_namespace_terminating(&self) -> bool {
        let details = self.status.details.as_ref();
        let causes = details.and_then(|details| details.causes.as_deref());
        let mut causes = causes.unwrap_or_default().iter();
        causes.any(|cause| cause.reason.as_deref() == Some(NAMESPACE_TERMINATING))
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    pub(crate) fn not_found(kind: &Kind<'_>, name: &str) -> Self {
        let resource = qualified_resource(kind);
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(
            kind.group,
            kind.plural,
            name,
        )
    }

    /// Something that is referred to.
    pub(crate) fn not_found_named(group: &str, resource: &str, name: &str) -> Self {
        let qualified = qualify(resource, group);
        Self::new(404, "NotFound", format!("{qualified} \"{name}\" not found"))
            .about(group, resource, name)
    }

    /// A path that leads nowhere.
    pub(crate) fn no_such_resource() -> Self {
        let mut error = Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        error.details();
        error
    }

    pub(crate) fn already_exists(kind: &Kind<'_>, name: &str) -> Self {
        let resource = qualified_resource(kind);
        Self::new(
            409,
            "AlreadyExists",
            format!("{resource} \"{name}\" already exists"),
        )
        .about(kind.group, kind.plural, name)
    }

    pub(crate) fn conflict(kind: &Kind<'_>, name: &str, why: &str) -> Self {
        let resource = qualified_resource(kind);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"),
        )
        .about(kind.group, kind.plural, name)
    }

    /// The object is at another version than the client thinks.
    pub(crate) fn modified(kind: &Kind<'_>, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn uid_mismatch(kind: &Kind<'_>, name: &str, wanted: &str, found: &str) -> Self {
        Self::conflict(
            kind,
            name,
            &format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            ),
        )
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A body that is no object of the kind.
    pub(crate) fn cannot_be_handled(kind: &Kind<'_>, why: &str) -> Self {
        Self::bad_request(format!(
            "{0} in version \"{1}\" cannot be handled as a {0}: {why}",
            kind.kind, kind.version
        ))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// `what` is the sentence after the object: `User "x" cannot get resource…`.
    pub(crate) fn forbidden(group: &str, resource: &str, name: &str, what: &str) -> Self {
        let qualified = qualify(resource, group);
        let message = match (qualified.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {what}"),
            (false, true) => format!("{qualified} is forbidden: {what}"),
            (false, false) => format!("{qualified} \"{name}\" is forbidden: {what}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    pub(crate) fn namespace_terminating(kind: &Kind<'_>, name: &str, namespace: &str) -> Self {
        Self::forbidden(
            kind.group,
            kind.plural,
            name,
            &format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            ),
        )
        .with_causes(vec![StatusCause {
            field: Some("metadata.namespace".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            reason: Some(NAMESPACE_TERMINATING.to_owned()),
        }])
    }

    /// 429 with one cause.
    pub(crate) fn too_many_requests(
        message: &str,
        reason: &str,
        cause: &str,
        retry_after: i32,
    ) -> Self {
        let error = Self::new(429, "TooManyRequests", message).with_causes(vec![StatusCause {
            field: None,
            message: Some(cause.to_owned()),
            reason: Some(reason.to_owned()),
        }]);
        if retry_after > 0 {
            error.with_retry_after(retry_after)
        } else {
            error
        }
    }

    pub(crate) fn method_not_allowed() -> Self {
        let mut error = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        error.details();
        error
    }

    /// A refusal by somebody who was asked about the write.
    pub(crate) fn refused(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self::new(code, reason, message)
    }

    /// The same refusal for another reason, which is told as a cause too.
    pub(crate) fn with_reason(mut self, reason: &str, cause: &str) -> Self {
        let code = match reason {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        self.status.code = Some(code);
        self.status.reason = Some(reason.to_owned());
        self.with_causes(vec![StatusCause {
            field: None,
            message: Some(cause.to_owned()),
            reason: None,
        }])
    }

    pub(crate) fn definition_terminating() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "create not allowed while custom resource definition is terminating",
        )
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message).with_retry_after(1)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message).with_retry_after(1)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 410: the revision that a watch wants to start from is compacted.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn expired_continue() -> Self {
        Self::expired(EXPIRED_CONTINUE)
    }

    /// 504: the client has seen a revision that this member has not.
    pub(crate) fn future_revision(requested: u64, current: u64) -> Self {
        Self::timeout(format!(
            "Too large resource version: {requested}, current: {current}"
        ))
        .with_causes(vec![StatusCause {
            field: None,
            message: Some("Too large resource version".to_owned()),
            reason: Some("ResourceVersionTooLarge".to_owned()),
        }])
    }

    pub(crate) fn invalid(kind: &Kind<'_>, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_named(kind.group, kind.kind, name, errors)
    }

    /// 422 for something that is no stored kind, such as `Scale` or `ListOptions`.
    pub(crate) fn invalid_named(
        group: &str,
        kind: &str,
        name: &str,
        errors: &[FieldError],
    ) -> Self {
        let lines: Vec<String> = errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.message))
            .collect();
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|error| StatusCause {
                field: some(&error.field),
                message: Some(error.message.clone()),
                reason: Some(cause_reason(error.cause).to_owned()),
            })
            .collect();
        let qualified = qualify(kind, group);
        Self::new(
            422,
            "Invalid",
            format!("{qualified} \"{name}\" is invalid: {list}"),
        )
        .about(group, kind, name)
        .with_causes(causes)
    }

    pub(crate) fn invalid_field(
        kind: &Kind<'_>,
        name: &str,
        field: &str,
        cause: Cause,
        message: impl Into<String>,
    ) -> Self {
        Self::invalid(kind, name, &[field_error(field, cause, message)])
    }

    pub(crate) fn from_patch(error: &PatchError) -> Self {
        match error {
            PatchError::Malformed(message) => Self::bad_request(message.clone()),
            // With a kind or a name in the details, kubectl would print those instead of the reason.
            PatchError::Unprocessable(message) => {
                let mut error = Self::new(422, "Invalid", message.clone());
                error.details();
                error
            }
            PatchError::Conflicts(conflicts) => {
                let causes: Vec<StatusCause> = conflicts
                    .iter()
                    .map(|conflict| StatusCause {
                        field: some(&conflict.field),
                        message: Some(conflict.message()),
                        reason: Some("FieldManagerConflict".to_owned()),
                    })
                    .collect();
                Self::new(409, "Conflict", error.to_string()).with_causes(causes)
            }
        }
    }

    /// `metadata.continue` of the Status, with which a client may go on where a 410 stopped it.
    pub(crate) fn with_continue(mut self, token: String) -> Self {
        self.status.metadata = ListMeta {
            continue_: Some(token),
            ..ListMeta::default()
        };
        self
    }
}

pub(crate) fn field_error(field: &str, cause: Cause, message: impl Into<String>) -> FieldError {
    FieldError {
        field: field.to_owned(),
        cause,
        message: message.into(),
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { requested, oldest } => {
                Self::expired(format!("too old resource version: {requested} ({oldest})"))
            }
            StoreError::FutureRevision { requested, current } => {
                Self::future_revision(requested, current)
            }
            StoreError::NoLeader(why) => Self::unavailable(format!("no leader: {why}")),
            StoreError::Closed => Self::unavailable("the server is shutting down"),
            StoreError::InvalidTxn(why) => Self::new(
                413,
                "RequestEntityTooLarge",
                format!("the write is refused: {why}"),
            ),
            // Without a hint to try again: clients would, and do it twice.
            StoreError::OutcomeUnknown(_) => Self::new(504, "Timeout", error.to_string()),
            StoreError::InvalidChange(why) => Self::bad_request(why),
            StoreError::Removed { .. } => Self::unavailable(error.to_string()),
            StoreError::DiskFull(_) => Self::new(507, "InsufficientStorage", error.to_string()),
            StoreError::Corrupt(_)
            | StoreError::Format { .. }
            | StoreError::Locked { .. }
            | StoreError::Storage(_) => Self::internal(error),
        }
    }
}

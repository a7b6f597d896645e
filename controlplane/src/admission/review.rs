//! AdmissionReview (admission.k8s.io/v1): what a webhook is asked, and what its answer means. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::kinds::access::{flag, integer, list, strings, text};
use crate::registry::ApiError;
use crate::registry::judges::{Attempt, Operation};

/// Why an answer cannot be used.
#[derive(Debug)]
pub(super) struct Unusable(pub(super) String);

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) refusal: Option<ApiError>,
    /// RFC 6902
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// For the audit log, without the webhook's name.
    pub(super) annotations: Vec<(String, String)>,
}

/// The first version of the question that the webhook knows and we do. One that knows none cannot be asked.
pub(super) fn version(webhook: &Value) -> Result<&'static str, Unusable> {
    list(webhook, &["admissionReviewVersions"])
        .iter()
        .find_map(|known| match known.as_str() {
            Some("v1") => Some("v1"),
            Some("v1beta1") => Some("v1beta1"),
            _ => None,
        })
        .ok_or_else(|| {
            Unusable("webhook does not accept known AdmissionReview versions (v1, v1beta1)".into())
        })
}

pub(super) fn question(version: &str, uid: &str, attempt: Attempt<'_>) -> Value {
    let api_version = format!("admission.k8s.io/{version}");
    json!({"kind": "AdmissionReview", "apiVersion": api_version, "request": request(uid, attempt)})
}

pub(super) fn request(uid: &str, attempt: Attempt<'_>) -> Value {
    let group_kind = |kind: &Kind<'_>| {
        let own = (kind.group, kind.version, kind.kind);
        let (group, version, kind) = attempt.speaks.unwrap_or(own);
        json!({"group": group, "version": version, "kind": kind})
    };
    let resource = |kind: &Kind<'_>| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let shown = attempt.kind;
    let requested = attempt.requested.unwrap_or(shown);
    let options = match attempt.operation {
        Operation::Create => Some("CreateOptions"),
        Operation::Update => Some("UpdateOptions"),
        Operation::Delete => Some("DeleteOptions"),
        // Its options are its object.
        Operation::Connect => None,
    };
    let options = options.map(|kind| {
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        for (field, value) in attempt.options.as_object().into_iter().flatten() {
            options[field] = value.clone();
        }
        if attempt.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    });
    let who = attempt.requester;
    let mut user = json!({"username": who.name, "groups": who.groups});
    if !who.uid.is_empty() {
        user["uid"] = who.uid.as_str().into();
    }
    if !who.extra.is_empty() {
        user["extra"] = json!(who.extra);
    }
    let mut request = json!({
        "uid": uid,
        "kind": group_kind(shown), "requestKind": group_kind(requested),
        "resource": resource(shown), "requestResource": resource(requested),
        "name": attempt.name,
        "operation": attempt.operation.name(),
        "userInfo": user,
        "object": attempt.object, "oldObject": attempt.old,
        "dryRun": attempt.dry_run,
        "options": options,
    });
    if !attempt.namespace.is_empty() {
        request["namespace"] = attempt.namespace.into();
    }
    if !attempt.subresource.is_empty() {
        request["subResource"] = attempt.subresource.into();
        request["requestSubResource"] = attempt.subresource.into();
    }
    request
}

/// What was asked, and of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) webhook: &'a str,
    pub(super) uid: &'a str,
    /// Of the question.
    pub(super) version: &'a str,
    /// The webhook may change the object.
    pub(super) mutates: bool,
}

pub(super) fn answer(asked: Asked<'_>, body: &Value) -> Result<Answer, Unusable> {
    let unusable = |why: String| Err(Unusable(why));
    let response = &body["response"];
    if !response.is_object() {
        return unusable("webhook response was absent".to_owned());
    }
    // Of answers in the older version nothing else was ever looked at.
    let strict = asked.version == "v1";
    if strict && text(response, &["uid"]) != asked.uid {
        return unusable(format!(
            "expected response.uid={:?}, got {:?}",
            asked.uid,
            text(response, &["uid"])
        ));
    }
    let found = (text(body, &["apiVersion"]), text(body, &["kind"]));
    if strict && found != ("admission.k8s.io/v1", "AdmissionReview") {
        return unusable(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            found.0, found.1
        ));
    }
    let patch = patch(asked, strict, response)?;
    let warnings = list(response, &["warnings"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let annotations = strings(response, &["auditAnnotations"])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let refusal =
        (!flag(response, &["allowed"])).then(|| refusal(asked.webhook, &response["status"]));
    Ok(Answer {
        patch: patch.filter(|_| refusal.is_none()),
        refusal,
        warnings,
        annotations,
    })
}

/// The patch of an answer; `None` when it changes nothing.
fn patch(asked: Asked<'_>, strict: bool, response: &Value) -> Result<Option<Value>, Unusable> {
    let unusable = |why: &str| Err(Unusable(why.to_owned()));
    let encoded = text(response, &["patch"]);
    let kind = response.get("patchType").and_then(Value::as_str);
    if !asked.mutates {
        return match (encoded, kind) {
            _ if !strict => Ok(None),
            ("", None) => Ok(None),
            ("", Some(_)) => unusable("validating webhook may not return response.patchType"),
            _ => unusable("validating webhook may not return response.patch"),
        };
    }
    match (encoded, kind) {
        ("", Some(_)) if strict => {
            return unusable("webhook returned response.patchType but not response.patch");
        }
        ("", _) => return Ok(None),
        (_, None) if strict => {
            return unusable("webhook returned response.patch but not response.patchType");
        }
        (_, Some(kind)) if strict && kind != "JSONPatch" => {
            return unusable(&format!("unsupported patch type {kind:?}"));
        }
        _ => {}
    }
    let decoded = STANDARD.decode(encoded).ok();
    let patch = decoded.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    match patch {
        Some(Value::Array(operations)) if operations.is_empty() => Ok(None),
        Some(Value::Null) => Ok(None),
        Some(patch @ Value::Array(_)) => Ok(Some(patch)),
        _ => unusable("received undecodable patch in webhook response"),
    }
}

/// A refusal is the webhook's own status, with what else it says of itself.
fn refusal(webhook: &str, status: &Value) -> ApiError {
    let head = format!("admission webhook {webhook:?} denied the request");
    let (message, reason) = (text(status, &["message"]), text(status, &["reason"]));
    let message = match (message, reason) {
        ("", "") => format!("{head} without explanation"),
        ("", reason) => format!("{head}: {reason}"),
        (message, _) => format!("{head}: {message}"),
    };
    let code = integer(status, &["code"]).and_then(|code| u16::try_from(code).ok());
    let mut error = ApiError::refused(
        code.filter(|code| *code >= 400).unwrap_or(400),
        reason,
        message,
    );
    if let Ok(details) = serde_json::from_value(status["details"].clone()) {
        error.status.details = Some(details);
    }
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn body(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    const ASKED: Asked<'_> = Asked {
        webhook: "a.b.c",
        uid: "1",
        version: "v1",
        mutates: true,
    };

    #[test]
    fn refusals_say_who_refused_and_why() {
        let refused = answer(ASKED, &body(json!({"uid": "1", "allowed": false}))).unwrap();
        let error = refused.refusal.unwrap();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (
                400,
                "admission webhook \"a.b.c\" denied the request without explanation"
            )
        );
        let said = json!({"uid": "1", "allowed": false, "status": {"code": 403, "message": "no",
            "details": {"causes": [{"field": "spec.x", "message": "wrong"}]}}});
        let error = answer(ASKED, &body(said)).unwrap().refusal.unwrap();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (403, "admission webhook \"a.b.c\" denied the request: no")
        );
        let causes = error.status.details.unwrap().causes.unwrap();
        assert_eq!(causes[0].field.as_deref(), Some("spec.x"));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_not_used() {
        let patch = STANDARD.encode("[{\"op\": \"add\", \"path\": \"/a\", \"value\": 1}]");
        let with = |mut fields: Value| {
            fields["uid"] = "1".into();
            fields["allowed"] = true.into();
            body(fields)
        };
        let said = with(json!({"patchType": "JSONPatch", "patch": patch}));
        let read = answer(ASKED, &said).unwrap().patch.unwrap();
        assert_eq!(read[0]["path"], "/a");
        let of = |asked: Asked<'_>, said: &Value| {
            answer(asked, said)
                .map(|answer| answer.patch.is_some())
                .map_err(|Unusable(why)| why)
        };
        let judges = Asked {
            mutates: false,
            ..ASKED
        };
        let refused = |why: &str| Err(why.to_owned());
        let whole = with(json!({"patchType": "JSONPatch", "patch": patch}));
        for (asked, said, wanted) in [
            (ASKED, json!({}), refused("webhook response was absent")),
            (
                ASKED,
                body(json!({"uid": "2", "allowed": true})),
                refused("expected response.uid=\"1\", got \"2\""),
            ),
            (ASKED, whole.clone(), Ok(true)),
            (
                ASKED,
                with(json!({"patch": patch})),
                refused("webhook returned response.patch but not response.patchType"),
            ),
            (
                ASKED,
                with(json!({"patchType": "JSONPatch"})),
                refused("webhook returned response.patchType but not response.patch"),
            ),
            (
                ASKED,
                with(json!({"patchType": "JSONPatch", "patch": "e30="})),
                refused("received undecodable patch in webhook response"),
            ),
            (
                judges,
                whole.clone(),
                refused("validating webhook may not return response.patch"),
            ),
            (
                judges,
                with(json!({"patchType": "JSONPatch"})),
                refused("validating webhook may not return response.patchType"),
            ),
            (judges, with(json!({})), Ok(false)),
        ] {
            assert_eq!(of(asked, &said), wanted, "{said}");
        }
        // Of the older version neither name nor type are looked at.
        let old = Asked {
            version: "v1beta1",
            ..ASKED
        };
        let said = json!({"response": {"allowed": true, "patch": patch}});
        assert_eq!(of(old, &said), Ok(true));
    }

    #[test]
    fn a_webhook_is_asked_in_the_first_version_that_both_know() {
        let of = |versions: Value| {
            let webhook = json!({"admissionReviewVersions": versions});
            version(&webhook).map_err(|_| ())
        };
        assert_eq!(of(json!(["v1beta1", "v1"])), Ok("v1beta1"));
        assert_eq!(of(json!(["v9", "v1", "v1beta1"])), Ok("v1"));
        assert_eq!(of(json!(["v9"])), Err(()));
    }
}

//! AdmissionReview (admission.k8s.io/v1): what a webhook is asked, and what its answer means. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

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

pub(super) fn request(uid: &str, attempt: Attempt<'_>) -> Value {
    let kind = attempt.kind;
    let group_kind = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource = json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let options = match attempt.operation {
        Operation::Create => Some("CreateOptions"),
        Operation::Update => Some("UpdateOptions"),
        Operation::Delete => Some("DeleteOptions"),
        // Its options are its object.
        Operation::Connect => None,
    };
    let options = options.map(|kind| json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"}));
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
        "kind": group_kind, "requestKind": group_kind,
        "resource": resource, "requestResource": resource,
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
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

pub(super) fn answer(webhook: &str, uid: &str, body: &Value) -> Result<Answer, Unusable> {
    let unusable = |why: String| Err(Unusable(why));
    let response = &body["response"];
    if !response.is_object() {
        return unusable("webhook response was absent".to_owned());
    }
    if text(body, &["apiVersion"]) != "admission.k8s.io/v1"
        || text(body, &["kind"]) != "AdmissionReview"
    {
        return unusable(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            text(body, &["apiVersion"]),
            text(body, &["kind"])
        ));
    }
    if text(response, &["uid"]) != uid {
        return unusable(format!(
            "expected response.uid={uid:?}, got {:?}",
            text(response, &["uid"])
        ));
    }
    let warnings = list(response, &["warnings"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let annotations = strings(response, &["auditAnnotations"])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if !flag(response, &["allowed"]) {
        return Ok(Answer {
            refusal: Some(refusal(webhook, &response["status"])),
            patch: None,
            warnings,
            annotations,
        });
    }
    let patch = match text(response, &["patch"]) {
        "" => None,
        _ if text(response, &["patchType"]) != "JSONPatch" => {
            let given = text(response, &["patchType"]);
            return unusable(format!(
                "webhook returned response.patch but not response.patchType=JSONPatch: {given:?}"
            ));
        }
        encoded => match STANDARD
            .decode(encoded)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
        {
            Some(patch) => Some(patch),
            None => return unusable("response.patch is not a JSON patch in base64".to_owned()),
        },
    };
    Ok(Answer {
        refusal: None,
        patch,
        warnings,
        annotations,
    })
}

fn refusal(webhook: &str, status: &Value) -> ApiError {
    let head = format!("admission webhook {webhook:?} denied the request");
    let (message, reason) = (text(status, &["message"]), text(status, &["reason"]));
    let message = match (message, reason) {
        ("", "") => format!("{head} without explanation"),
        ("", reason) => format!("{head}: {reason}"),
        (message, _) => format!("{head}: {message}"),
    };
    let code = integer(status, &["code"]).and_then(|code| u16::try_from(code).ok());
    ApiError::refused(
        code.filter(|code| *code >= 400).unwrap_or(400),
        reason,
        message,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn body(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn refusals_say_who_refused_and_why() {
        let refused = answer("a.b.c", "1", &body(json!({"uid": "1", "allowed": false}))).unwrap();
        let error = refused.refusal.unwrap();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (
                400,
                "admission webhook \"a.b.c\" denied the request without explanation"
            )
        );
        let said = json!({"uid": "1", "allowed": false, "status": {"code": 403, "message": "no"}});
        let error = answer("a.b.c", "1", &body(said)).unwrap().refusal.unwrap();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (403, "admission webhook \"a.b.c\" denied the request: no")
        );
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_not_used() {
        assert!(answer("a", "1", &json!({})).is_err());
        assert!(answer("a", "1", &body(json!({"uid": "2", "allowed": true}))).is_err());
        let patched = json!({"uid": "1", "allowed": true, "patchType": "JSONPatch",
            "patch": STANDARD.encode("[{\"op\": \"add\", \"path\": \"/a\", \"value\": 1}]")});
        let answer = answer("a", "1", &body(patched)).unwrap();
        assert_eq!(answer.patch.unwrap()[0]["path"], "/a");
    }
}

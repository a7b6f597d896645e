//! Conversion of custom resources by the webhook of their definition (ConversionReview of apiextensions.k8s.io/v1 or v1beta1,
//! which say the same).

use std::time::Duration;

use serde_json::{Value, json};

use super::call;
use crate::dialer::Dialer;
use crate::kinds::access::{list, text};
use crate::kinds::custom::Version;
use crate::registry::versions::{Boxed, Convert};
use crate::registry::{ApiError, Registry, object};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Webhooks {
    pub(super) dialer: Dialer,
}

impl Convert for Webhooks {
    fn convert<'a>(
        &'a self,
        registry: &'a Registry,
        version: &'a Version,
        webhook: &'a Value,
        to: &'a str,
        objects: Vec<Value>,
    ) -> Boxed<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let from = objects
                .first()
                .map_or("", |object| text(object, &["apiVersion"]))
                .to_owned();
            let failed = |why: String| {
                ApiError::internal(format!(
                    "conversion webhook for {from}, Kind={} failed: {why}",
                    version.common.kind
                ))
            };
            let review = review(list(webhook, &["conversionReviewVersions"]))
                .ok_or_else(|| failed("no supported conversion review versions".to_owned()))?;
            let uid = uuid::Uuid::new_v4().to_string();
            let body = json!({
                "kind": "ConversionReview", "apiVersion": review,
                "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
            });
            let answer = call::to(
                registry,
                &self.dialer,
                &webhook["clientConfig"],
                LIMIT,
                &body,
            )
            .await
            .map_err(failed)?;
            converted(review, &uid, to, &objects, &answer).map_err(failed)
        })
    }
}

const V1: &str = "apiextensions.k8s.io/v1";

/// The first version of reviews that both sides know.
fn review(versions: &[Value]) -> Option<&'static str> {
    versions.iter().find_map(|version| match version.as_str()? {
        "v1" => Some(V1),
        "v1beta1" => Some("apiextensions.k8s.io/v1beta1"),
        _ => None,
    })
}

/// Pure: the objects of the answer, which are those that were asked about. Answers of v1beta1 need not say whose they are.
fn converted(
    review: &str,
    uid: &str,
    to: &str,
    asked: &[Value],
    answer: &Value,
) -> Result<Vec<Value>, String> {
    let response = &answer["response"];
    if review == V1
        && (text(answer, &["apiVersion"]), &answer["kind"]) != (V1, &json!("ConversionReview"))
    {
        let kind = text(answer, &["kind"]);
        let version = text(answer, &["apiVersion"]);
        return Err(format!(
            "expected webhook response of {V1}, Kind=ConversionReview, got {version}, Kind={kind}"
        ));
    }
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if review == V1 && text(response, &["uid"]) != uid {
        return Err(format!(
            "expected response.uid={uid:?}, got {:?}",
            text(response, &["uid"])
        ));
    }
    let status = text(response, &["result", "status"]);
    if status != "Success" {
        return Err(match text(response, &["result", "message"]) {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    let made = list(response, &["convertedObjects"]);
    if made.len() != asked.len() {
        return Err(format!(
            "returned {} objects, expected {}",
            made.len(),
            asked.len()
        ));
    }
    let mut out = Vec::with_capacity(made.len());
    for (at, (before, after)) in asked.iter().zip(made).enumerate() {
        if text(after, &["apiVersion"]) != to || after["kind"] != before["kind"] {
            return Err(format!(
                "returned invalid converted object at index {at}: not of version {to}"
            ));
        }
        if object::uid(after) != object::uid(before) || object::name(after) != object::name(before)
        {
            return Err(format!("returned invalid metadata in object at index {at}"));
        }
        // Of the metadata, labels and annotations may be converted.
        let mut kept = after.clone();
        kept["metadata"] = before["metadata"].clone();
        for field in ["labels", "annotations"] {
            match after["metadata"].get(field) {
                Some(value) => object::set_meta(&mut kept, field, value.clone()),
                None => object::remove_meta(&mut kept, field),
            }
        }
        out.push(kept);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_review_is_of_the_first_version_that_is_known() {
        let first = |versions: Value| review(versions.as_array().unwrap());
        assert_eq!(first(json!(["v1", "v1beta1"])), Some(V1));
        let beta = Some("apiextensions.k8s.io/v1beta1");
        assert_eq!(first(json!(["v2", "v1beta1", "v1"])), beta);
        assert_eq!(first(json!(["v1beta2"])), None);
    }

    #[test]
    fn answers_are_verified_as_their_version_asks() {
        let object = |version: &str| json!({"apiVersion": version, "kind": "T", "metadata": {"name": "a", "uid": "1"}});
        let asked = [object("g/v1")];
        let answer = json!({"apiVersion": V1, "kind": "ConversionReview", "response": {
            "uid": "u", "result": {"status": "Success"}, "convertedObjects": [object("g/v2")]}});
        let judged = |review: &str, change: Value| {
            let answer = crate::patch::merge_patch(&answer, &change);
            converted(review, "u", "g/v2", &asked, &answer)
        };
        assert_eq!(judged(V1, json!({})), Ok(vec![object("g/v2")]));
        let whose = json!({"apiVersion": null, "kind": null, "response": {"uid": null}});
        assert_eq!(
            judged("apiextensions.k8s.io/v1beta1", whose.clone()),
            Ok(vec![object("g/v2")])
        );
        for (change, why) in [
            (
                whose,
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got , Kind=",
            ),
            (json!({"response": null}), "no response provided"),
            (
                json!({"response": {"uid": "v"}}),
                "expected response.uid=\"u\", got \"v\"",
            ),
            (
                json!({"response": {"result": {"status": "No"}}}),
                "response.result.status was 'No', not 'Success'",
            ),
            (
                json!({"response": {"result": {"status": "Failure", "message": "why"}}}),
                "why",
            ),
        ] {
            assert_eq!(judged(V1, change), Err(why.to_owned()));
        }
    }
}

//! Conversion of custom resources by the webhook of their definition (ConversionReview, apiextensions.k8s.io/v1).

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
            let uid = uuid::Uuid::new_v4().to_string();
            let body = json!({
                "kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
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
            converted(&uid, to, &objects, &answer).map_err(failed)
        })
    }
}

/// Pure: the objects of the answer, which are those that were asked about.
fn converted(uid: &str, to: &str, asked: &[Value], answer: &Value) -> Result<Vec<Value>, String> {
    let response = &answer["response"];
    if text(response, &["uid"]) != uid {
        return Err(format!(
            "expected response.uid={uid:?}, got {:?}",
            text(response, &["uid"])
        ));
    }
    if text(response, &["result", "status"]) != "Success" {
        return Err(text(response, &["result", "message"]).to_owned());
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

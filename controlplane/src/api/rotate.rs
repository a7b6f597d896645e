//! `/waggle/v1/rotate/…`: keys are changed, on all members, while they serve.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::json;

use super::{Api, respond};
use crate::registry::ApiError;

impl Api {
    pub(super) async fn rotate(&self, what: &str) -> Result<Response<Body>, ApiError> {
        let message = match what {
            "encryption-key" => {
                let number = self.registry.request_encryption_key().await?;
                format!("all members seal their stores with key {number}")
            }
            "signing-key" => {
                self.tokens.rotate().await?;
                "tokens are signed with a new key; those of the old one are good until they end"
                    .to_owned()
            }
            _ => return Err(ApiError::no_such_resource()),
        };
        Ok(respond::value(
            StatusCode::OK,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "message": message,
            }),
        ))
    }
}

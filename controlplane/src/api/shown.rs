//! What a stored object looks like to the client: in the version that it asked for, as a whole, as a row of a table or
//! cut down to its metadata.

use serde_json::Value;

use super::Api;
use super::table::View;
use crate::kinds::KindRef;
use crate::registry::ApiError;

impl Api {
    /// Stored objects in the version of `kind`.
    pub(super) async fn served(
        &self,
        kind: &KindRef,
        stored: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        self.registry.to_served(&kind.get(), stored).await
    }

    /// One stored object in a view.
    pub(super) async fn shown(
        &self,
        view: &View,
        stored: Value,
        now: i64,
    ) -> Result<Value, ApiError> {
        let object = self
            .registry
            .one_to_served(&view.kind.get(), stored)
            .await?;
        Ok(view.one(object, now))
    }
}

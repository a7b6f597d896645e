//! A further version of a kind, for older clients: what is stored is another version's, and this one shows it. A kind
//! has one by a static [`super::Kind`] whose strategy is a [`ServedVersion`].

use serde_json::Value;

use super::{Column, FieldError, Kind, Strategy};

#[derive(Debug)]
pub(crate) struct ServedVersion {
    /// The version that is stored, and whose rules hold.
    pub(crate) of: &'static Kind<'static>,
    pub(crate) api_version: &'static str,
    pub(crate) deprecated: bool,
    /// What differs besides `apiVersion`.
    pub(crate) to_stored: fn(&mut Value),
    pub(crate) to_served: fn(&mut Value),
}

impl Strategy for ServedVersion {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        _object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        Vec::new()
    }

    fn warnings(&self, _object: &Value) -> Vec<String> {
        if !self.deprecated {
            return Vec::new();
        }
        let (version, kind, now) = (self.api_version, self.of.kind, self.of.api_version());
        vec![format!("{version} {kind} is deprecated; use {now} {kind}")]
    }

    fn columns(&self) -> &'static [Column] {
        self.of.strategy.columns()
    }

    /// The columns are those of the version that is stored, and so are their cells.
    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        self.of.strategy.row(&self.to_stored(object.clone()), now)
    }

    fn stored(&self) -> Option<&'static Kind<'static>> {
        Some(self.of)
    }

    fn to_stored(&self, mut object: Value) -> Value {
        if object.is_object() {
            (self.to_stored)(&mut object);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".into(), self.of.api_version().into());
        }
        object
    }

    fn to_served(&self, mut object: Value) -> Value {
        if object.is_object() {
            (self.to_served)(&mut object);
        }
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".into(), self.api_version.into());
        }
        object
    }
}

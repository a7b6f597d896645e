//! Role (rbac.authorization.k8s.io/v1).

use serde_json::Value;

use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy};
use super::{GROUP, ROLE_COLUMNS, role_row, validate_rules};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.rbac.v1.Role",
    subresources: &[],
    name_rule: NameRule::PathSegment,
    strategy: &Role,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::rbac::v1::Role>();
    },
};

#[derive(Debug)]
struct Role;

impl Strategy for Role {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_rules(object, true, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        ROLE_COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        role_row(object)
    }
}

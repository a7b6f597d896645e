//! RoleBinding (rbac.authorization.k8s.io/v1).

use serde_json::Value;

use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy};
use super::{BINDING_COLUMNS, GROUP, binding_row, default_binding, validate_binding};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.rbac.v1.RoleBinding",
    subresources: &[],
    name_rule: NameRule::PathSegment,
    strategy: &RoleBinding,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::rbac::v1::RoleBinding>();
    },
};

#[derive(Debug)]
struct RoleBinding;

impl Strategy for RoleBinding {
    fn default(&self, object: &mut Value) {
        default_binding(object);
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_binding(object, old, &["Role", "ClusterRole"], true, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        BINDING_COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        binding_row(object, now)
    }
}

//! ClusterRoleBinding (rbac.authorization.k8s.io/v1).

use serde_json::Value;

use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy};
use super::{BINDING_COLUMNS, GROUP, binding_row, default_binding, validate_binding};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    subresources: &[],
    name_rule: NameRule::PathSegment,
    strategy: &ClusterRoleBinding,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>();
    },
};

#[derive(Debug)]
struct ClusterRoleBinding;

impl Strategy for ClusterRoleBinding {
    fn default(&self, object: &mut Value) {
        default_binding(object);
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_binding(object, old, &["ClusterRole"], false, &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        BINDING_COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        binding_row(object, now)
    }
}

//! ClusterRole (rbac.authorization.k8s.io/v1).

use serde_json::Value;

use super::super::access::{at, list};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, selector};
use super::{GROUP, ROLE_COLUMNS, role_row, validate_rules};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.rbac.v1.ClusterRole",
    subresources: &[],
    name_rule: NameRule::PathSegment,
    strategy: &ClusterRole,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::rbac::v1::ClusterRole>();
    },
};

#[derive(Debug)]
struct ClusterRole;

impl Strategy for ClusterRole {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_rules(object, false, &mut errors);
        if at(object, &["aggregationRule"]).is_some() {
            const FIELD: &str = "aggregationRule.clusterRoleSelectors";
            let selectors = list(object, &["aggregationRule", "clusterRoleSelectors"]);
            if selectors.is_empty() {
                errors.required(
                    FIELD,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
            for (index, chosen) in selectors.iter().enumerate() {
                selector::validate(chosen, &format!("{FIELD}[{index}]"), &mut errors);
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        ROLE_COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        role_row(object)
    }
}

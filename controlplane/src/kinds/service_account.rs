//! ServiceAccount (core/v1).

use serde_json::Value;

use super::access::list;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ServiceAccount",
    subresources: &["token"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ServiceAccount,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ServiceAccount>();
    },
};

#[derive(Debug)]
struct ServiceAccount;

impl Strategy for ServiceAccount {
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

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Secrets", "string", "Number of secrets it may use."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            list(object, &["secrets"]).len().into(),
            table::age(object, now),
        ]
    }
}

//! Lease (coordination.k8s.io/v1).

use serde_json::Value;

use super::access::{at, integer, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy};

pub(super) static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.coordination.v1.Lease",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Lease,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::coordination::v1::Lease>();
    },
};

#[derive(Debug)]
struct Lease;

impl Strategy for Lease {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if let Some(seconds) = integer(object, &["spec", "leaseDurationSeconds"])
            && seconds <= 0
        {
            errors.invalid(
                "spec.leaseDurationSeconds",
                seconds,
                "must be greater than 0",
            );
        }
        if let Some(transitions) = integer(object, &["spec", "leaseTransitions"])
            && transitions < 0
        {
            errors.invalid(
                "spec.leaseTransitions",
                transitions,
                "must be greater than or equal to 0",
            );
        }
        if at(object, &["spec", "preferredHolder"]).is_some()
            && text(object, &["spec", "strategy"]).is_empty()
        {
            errors.forbidden(
                "spec.preferredHolder",
                "can only be specified if `strategy` is defined",
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Holder", "string", "Identity of the holder."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["spec", "holderIdentity"]).into(),
            table::age(object, now),
        ]
    }
}

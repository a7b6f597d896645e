//! MutatingAdmissionPolicy and its binding: changes in CEL of objects that are written. What they do is in
//! `admission`.

use serde_json::Value;

use super::super::access::{at, fill, fill_absent, list, object_mut, text};
use super::super::custom::expressions;
use super::super::custom::expressions::admission::scope;
use super::super::custom::expressions::types::Type;
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};
use super::cel::{
    about, validate_conditions, validate_expression, validate_param_kind, validate_param_ref,
    validate_variables,
};
use super::{GROUP, default_matching, validate_failure_policy, validate_rules, validate_selectors};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Policy { is_binding: false },
    register: |generator| {
        generator
            .subschema_for::<k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy>(
            );
    },
};

pub(crate) static BINDING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Policy { is_binding: true },
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding>();
    },
};

/// The type of what a patch is made of.
fn patches() -> Type {
    Type::List(expressions::made("JSONPatch").into())
}

#[derive(Debug)]
struct Policy {
    is_binding: bool,
}

impl Policy {
    fn matching(&self) -> &'static str {
        if self.is_binding {
            "matchResources"
        } else {
            "matchConstraints"
        }
    }
}

impl Strategy for Policy {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        if !self.is_binding {
            fill_absent(spec, "failurePolicy", "Fail");
            fill(spec, "reinvocationPolicy", "Never");
        }
        if let Some(matching) = spec.get_mut(self.matching()) {
            default_matching(matching, "resourceRules");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::set_generation(object, Some(old));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        // What was accepted once is not judged again.
        if old.is_some_and(|old| old["spec"] == *spec) {
            return errors.into_vec();
        }
        let path = format!("spec.{}", self.matching());
        if let Some(matching) = at(spec, &[self.matching()]) {
            validate_rules(matching, "resourceRules", &path, &mut errors);
            validate_selectors(matching, &path, &mut errors);
        } else if !self.is_binding {
            errors.required(path, "");
        }
        if self.is_binding {
            if text(spec, &["policyName"]).is_empty() {
                errors.required("spec.policyName", "");
            }
            validate_param_ref(spec, &mut errors);
            return errors.into_vec();
        }
        validate_failure_policy(spec, "spec", &mut errors);
        validate_param_kind(spec, &mut errors);
        let about = about(spec);
        validate_conditions(spec, "spec", &scope(&about), &mut errors);
        let whole = validate_variables(spec, &about, &mut errors).making_objects();
        let mutations = list(spec, &["mutations"]);
        if mutations.is_empty() {
            errors.required("spec.mutations", "mutations must contain at least one item");
        }
        for (number, mutation) in mutations.iter().enumerate() {
            let kind = text(mutation, &["patchType"]);
            let path = format!("spec.mutations[{number}]");
            let (field, other) = match kind {
                "JSONPatch" => ("jsonPatch", "applyConfiguration"),
                "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
                "" => {
                    errors.required(format!("{path}.patchType"), "");
                    continue;
                }
                _ => {
                    errors.not_supported(
                        format!("{path}.patchType"),
                        kind,
                        &["ApplyConfiguration", "JSONPatch"],
                    );
                    continue;
                }
            };
            if at(mutation, &[other]).is_some() {
                errors.forbidden(
                    format!("{path}.{other}"),
                    "must not be set for this patchType",
                );
            }
            match at(mutation, &[field]) {
                None => errors.required(
                    format!("{path}.{field}"),
                    "must be specified when patchType is set to it",
                ),
                Some(change) => {
                    let (source, path) = (
                        text(change, &["expression"]),
                        format!("{path}.{field}.expression"),
                    );
                    let wanted = match kind {
                        "JSONPatch" => patches(),
                        _ => expressions::made("Object"),
                    };
                    if source.trim().is_empty() {
                        errors.required(path, "");
                    } else {
                        validate_expression(source, &path, &whole, &[wanted], &mut errors);
                    }
                }
            }
        }
        let again = text(spec, &["reinvocationPolicy"]);
        if !matches!(again, "" | "Never" | "IfNeeded") {
            errors.not_supported("spec.reinvocationPolicy", again, &["IfNeeded", "Never"]);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const POLICY: &[Column] = &[
            table::NAME,
            table::column("Mutations", "integer", "How many mutations there are."),
            table::column("ParamKind", "string", "Kind of the parameters."),
            table::AGE,
        ];
        const BINDING: &[Column] = &[
            table::NAME,
            table::column("PolicyName", "string", "The policy that is bound."),
            table::column(
                "ParamRef",
                "string",
                "The parameters that it is bound with.",
            ),
            table::AGE,
        ];
        if self.is_binding { BINDING } else { POLICY }
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let (first, second) = if self.is_binding {
            let reference = at(spec, &["paramRef"]).map(|given| text(given, &["name"]));
            (
                text(spec, &["policyName"]).into(),
                reference.unwrap_or("<unset>").to_owned(),
            )
        } else {
            let kind = at(spec, &["paramKind"])
                .map(|kind| format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"])));
            (
                list(spec, &["mutations"]).len().into(),
                kind.unwrap_or_else(|| "<unset>".to_owned()),
            )
        };
        vec![
            table::name(object),
            first,
            second.into(),
            table::age(object, now),
        ]
    }
}

//! ValidatingAdmissionPolicy and its binding: rules in CEL about writes of any kind.

use serde_json::Value;

use super::super::access::{at, fill_absent, list, object_mut, text};
use super::super::custom::expressions::Visible;
use super::super::custom::expressions::admission::scope;
use super::super::custom::expressions::types::Type;
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
use super::cel::{
    about, validate_conditions, validate_expression, validate_param_kind, validate_param_ref,
    validate_variables,
};
use super::{GROUP, default_matching, validate_failure_policy, validate_rules, validate_selectors};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Policy,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy>();
    },
};

pub(crate) static BINDING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Binding,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>();
    },
};

#[derive(Debug)]
struct Policy;

impl Strategy for Policy {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill_absent(spec, "failurePolicy", "Fail");
        if let Some(matching) = spec.get_mut("matchConstraints") {
            default_matching(matching, "resourceRules");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), serde_json::json!({}));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status(object, old);
            return;
        }
        meta::keep_status(object, old);
        meta::set_generation(object, Some(old));
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        // What was accepted once is not judged again.
        if subresource == "status" || old.is_some_and(|old| old["spec"] == *spec) {
            return errors.into_vec();
        }
        validate_failure_policy(spec, "spec", &mut errors);
        match at(spec, &["matchConstraints"]) {
            None => errors.required("spec.matchConstraints", ""),
            Some(matching) => {
                if list(matching, &["resourceRules"]).is_empty() {
                    errors.required("spec.matchConstraints.resourceRules", "");
                }
                validate_rules(
                    matching,
                    "resourceRules",
                    "spec.matchConstraints",
                    &mut errors,
                );
                validate_selectors(matching, "spec.matchConstraints", &mut errors);
            }
        }
        validate_param_kind(spec, &mut errors);
        let about = about(spec);
        validate_conditions(spec, "spec", &scope(&about), &mut errors);
        let whole = validate_variables(spec, &about, &mut errors);
        let (validations, audits) = (
            list(spec, &["validations"]),
            list(spec, &["auditAnnotations"]),
        );
        if validations.is_empty() && audits.is_empty() {
            for field in ["validations", "auditAnnotations"] {
                errors.required(
                    format!("spec.{field}"),
                    "validations or auditAnnotations must contain at least one item",
                );
            }
        }
        for (number, validation) in validations.iter().enumerate() {
            let path = format!("spec.validations[{number}]");
            validate_validation(validation, &path, &whole, &mut errors);
        }
        annotations(
            audits,
            text(object, &["metadata", "name"]),
            &whole,
            &mut errors,
        );
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Validations", "integer", "How many validations there are."),
            table::column("ParamKind", "string", "Kind of the parameters."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let kind = match at(spec, &["paramKind"]) {
            None => "<unset>".to_owned(),
            Some(kind) => format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"])),
        };
        vec![
            table::name(object),
            list(spec, &["validations"]).len().into(),
            kind.into(),
            table::age(object, now),
        ]
    }
}

#[derive(Debug)]
struct Binding;

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

impl Strategy for Binding {
    fn default(&self, object: &mut Value) {
        if let Some(matching) = object.pointer_mut("/spec/matchResources") {
            default_matching(matching, "resourceRules");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        meta::set_generation(object, Some(old));
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        if text(spec, &["policyName"]).is_empty() {
            errors.required("spec.policyName", "");
        }
        let actions = list(spec, &["validationActions"]);
        if actions.is_empty() {
            errors.required(
                "spec.validationActions",
                "at least one validation action is required",
            );
        }
        for (number, action) in actions.iter().enumerate() {
            if !action.as_str().is_some_and(|name| ACTIONS.contains(&name)) {
                errors.not_supported(
                    format!("spec.validationActions[{number}]"),
                    action.clone(),
                    ACTIONS,
                );
            }
        }
        let has = |name: &str| actions.iter().any(|action| action == name);
        if has("Deny") && has("Warn") {
            errors.invalid(
                "spec.validationActions",
                spec["validationActions"].clone(),
                "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                 response and headers serves no purpose)",
            );
        }
        validate_param_ref(spec, &mut errors);
        if let Some(matching) = at(spec, &["matchResources"]) {
            validate_rules(
                matching,
                "resourceRules",
                "spec.matchResources",
                &mut errors,
            );
            validate_selectors(matching, "spec.matchResources", &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("PolicyName", "string", "The policy that is bound."),
            table::column(
                "ParamRef",
                "string",
                "The parameters that it is bound with.",
            ),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = &object["spec"];
        let reference = match at(spec, &["paramRef"]) {
            None => "<unset>".to_owned(),
            Some(given) => match text(given, &["namespace"]) {
                "" => text(given, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(given, &["name"])),
            },
        };
        vec![
            table::name(object),
            text(spec, &["policyName"]).into(),
            reference.into(),
            table::age(object, now),
        ]
    }
}

/// As many annotations as one policy may write.
const MOST_ANNOTATIONS: usize = 20;

/// Reasons that a policy may give.
const REASONS: &[&str] = &[
    "Forbidden",
    "Invalid",
    "RequestEntityTooLarge",
    "Unauthorized",
];

fn validate_validation(validation: &Value, path: &str, whole: &Visible, errors: &mut Errors) {
    let given = |field: &str| text(validation, &[field]);
    let source = given("expression");
    if source.trim().is_empty() {
        errors.required(format!("{path}.expression"), "expression is not specified");
    } else {
        let field = format!("{path}.expression");
        validate_expression(source, &field, whole, &[Type::Bool], errors);
    }
    let made = given("messageExpression");
    let field = format!("{path}.messageExpression");
    if !made.is_empty() && made.trim().is_empty() {
        errors.invalid(field, made, "must be non-empty if specified");
    } else if !made.is_empty() {
        let scope = whole.clone().without_authorizer();
        validate_expression(made, &field, &scope, &[Type::String], errors);
    }
    let message = given("message");
    let field = format!("{path}.message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(field, message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(field, message, "message must not contain line breaks");
    }
    if at(validation, &["reason"]).is_some() && !REASONS.contains(&given("reason")) {
        errors.not_supported(format!("{path}.reason"), given("reason"), REASONS);
    }
}

/// An expression of an annotation is no longer, in bytes.
const LONGEST_ANNOTATION: usize = 5 * 1024;

fn annotations(annotations: &[Value], policy: &str, whole: &Visible, errors: &mut Errors) {
    if annotations.len() > MOST_ANNOTATIONS {
        let why = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.invalid("spec.auditAnnotations", annotations.to_vec(), &why);
    }
    let mut seen = std::collections::HashSet::new();
    for (number, annotation) in annotations.iter().enumerate() {
        let field = format!("spec.auditAnnotations[{number}]");
        let key = text(annotation, &["key"]);
        if key.is_empty() {
            errors.required(format!("{field}.key"), "");
        } else {
            // The annotation is called after its policy.
            let whole = format!("{policy}/{key}");
            errors.format(&format!("{field}.key"), key, names::qualified_name(&whole));
            if !seen.insert(key) {
                errors.duplicate(format!("{field}.key"), key);
            }
        }
        let source = text(annotation, &["valueExpression"]);
        let field = format!("{field}.valueExpression");
        if source.trim().is_empty() {
            errors.required(field, "valueExpression is not specified");
        } else if source.trim().len() > LONGEST_ANNOTATION {
            let why = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
            errors.required(field, &why);
        } else {
            let wanted = [Type::String, Type::Null];
            validate_expression(source.trim(), &field, whole, &wanted, errors);
        }
    }
}

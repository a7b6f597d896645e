//! IngressClass.

use serde_json::Value;

use super::super::access::{at, fill_absent, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
use super::{GROUP, typed_reference};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.IngressClass",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &IngressClass,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::networking::v1::IngressClass>();
    },
};

#[derive(Debug)]
struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if at(object, &["spec", "parameters"]).is_some() {
            fill_absent(
                object_mut(object, &["spec", "parameters"]),
                "scope",
                "Cluster",
            );
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
        let controller = text(object, &["spec", "controller"]);
        if let Some(old) = old {
            errors.immutable(
                "spec.controller",
                at(object, &["spec", "controller"]),
                at(old, &["spec", "controller"]),
            );
        }
        if controller.len() > 250 {
            errors.too_long("spec.controller", 250);
        }
        let well_formed = controller.split_once('/').is_some_and(|(domain, path)| {
            names::dns_subdomain(domain).is_empty() && !path.is_empty()
        });
        if controller.is_empty() && old.is_none() {
            errors.required("spec.controller", "");
        } else if !well_formed && !controller.is_empty() {
            errors.invalid(
                "spec.controller",
                controller,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            );
        }
        if let Some(parameters) = at(object, &["spec", "parameters"]) {
            validate_parameters(parameters, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column(
                "Controller",
                "string",
                "The controller that answers for the class.",
            ),
            table::column(
                "Parameters",
                "string",
                "Where the controller finds more about the class.",
            ),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let parameters = match at(object, &["spec", "parameters"]) {
            None => "<none>".to_owned(),
            Some(given) => {
                let group = text(given, &["apiGroup"]);
                let dot = if group.is_empty() { "" } else { "." };
                format!(
                    "{}{dot}{group}/{}",
                    text(given, &["kind"]),
                    text(given, &["name"])
                )
            }
        };
        vec![
            table::name(object),
            text(object, &["spec", "controller"]).into(),
            parameters.into(),
            table::age(object, now),
        ]
    }
}

fn validate_parameters(parameters: &Value, errors: &mut Errors) {
    let path = "spec.parameters";
    typed_reference(parameters, path, errors);
    let given = at(parameters, &["namespace"]).is_some();
    let namespace = text(parameters, &["namespace"]);
    match text(parameters, &["scope"]) {
        "Cluster" if given => errors.forbidden(
            format!("{path}.namespace"),
            "`parameters.scope` is set to 'Cluster'",
        ),
        "Namespace" if !given => errors.required(
            format!("{path}.namespace"),
            "`parameters.scope` is set to 'Namespace'",
        ),
        "Namespace" => errors.format(
            &format!("{path}.namespace"),
            namespace,
            names::dns_label(namespace),
        ),
        "Cluster" => {}
        other => errors.not_supported(format!("{path}.scope"), other, &["Cluster", "Namespace"]),
    }
}

//! FlowSchema: which requests belong to which priority level.

use serde_json::{Map, Value};

use super::super::access::{at, fill, integer, list, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};
use super::GROUP;

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.flowcontrol.v1.FlowSchema",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &FlowSchema,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::flowcontrol::v1::FlowSchema>();
    },
};

const MOST: i64 = 10_000;

#[derive(Debug)]
struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, object: &mut Value) {
        fill(object_mut(object, &["spec"]), "matchingPrecedence", 1000);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), Value::Object(Map::new()));
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        meta::keep_status_apart(object, old, subresource);
    }

    fn validate(&self, object: &Value, _: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource.is_empty() {
            validate(object, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("PriorityLevel", "string", "Where its requests belong."),
            table::column(
                "MatchingPrecedence",
                "string",
                "Lower ones are looked at first.",
            ),
            table::column("DistinguisherMethod", "string", "What tells flows apart."),
            table::AGE,
            table::column(
                "MissingPL",
                "string",
                "Whether the priority level is missing.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let spec = |path: &[&str]| text(object, path).to_owned();
        let dangling = list(object, &["status", "conditions"])
            .iter()
            .find(|condition| text(condition, &["type"]) == "Dangling")
            .map_or("?", |condition| text(condition, &["status"]));
        vec![
            table::name(object),
            spec(&["spec", "priorityLevelConfiguration", "name"]).into(),
            integer(object, &["spec", "matchingPrecedence"])
                .unwrap_or(0)
                .into(),
            table::or_none(&spec(&["spec", "distinguisherMethod", "type"])),
            table::age(object, now),
            dangling.into(),
        ]
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let level = text(object, &["spec", "priorityLevelConfiguration", "name"]);
    const LEVEL: &str = "spec.priorityLevelConfiguration.name";
    if level.is_empty() {
        errors.required(LEVEL, "must reference a priority level");
    } else {
        errors.format(LEVEL, level, super::super::names::dns_subdomain(level));
    }
    let precedence = integer(object, &["spec", "matchingPrecedence"]).unwrap_or(0);
    if !(1..=MOST).contains(&precedence) {
        errors.invalid(
            "spec.matchingPrecedence",
            precedence,
            "must be between 1 and 10000, inclusive",
        );
    }
    let method = text(object, &["spec", "distinguisherMethod", "type"]);
    if at(object, &["spec", "distinguisherMethod"]).is_some()
        && !matches!(method, "ByUser" | "ByNamespace")
    {
        errors.not_supported(
            "spec.distinguisherMethod.type",
            method,
            &["ByNamespace", "ByUser"],
        );
    }
    for (index, rule) in list(object, &["spec", "rules"]).iter().enumerate() {
        validate_rule(rule, &format!("spec.rules[{index}]"), errors);
    }
}

fn validate_rule(rule: &Value, field: &str, errors: &mut Errors) {
    let subjects = list(rule, &["subjects"]);
    if subjects.is_empty() {
        errors.required(
            format!("{field}.subjects"),
            "subjects must contain at least one value",
        );
    }
    for (index, subject) in subjects.iter().enumerate() {
        let field = format!("{field}.subjects[{index}]");
        let kind = text(subject, &["kind"]);
        let named = match kind {
            "User" => ["user", "name"],
            "Group" => ["group", "name"],
            "ServiceAccount" => ["serviceAccount", "name"],
            _ => {
                let known = &["Group", "ServiceAccount", "User"];
                errors.not_supported(format!("{field}.kind"), kind, known);
                continue;
            }
        };
        if text(subject, &named).is_empty() {
            errors.required(format!("{field}.{}.{}", named[0], named[1]), "");
        }
        if kind == "ServiceAccount" && text(subject, &["serviceAccount", "namespace"]).is_empty() {
            errors.required(
                format!("{field}.serviceAccount.namespace"),
                "must specify namespace for service account",
            );
        }
    }
    let resources = list(rule, &["resourceRules"]);
    let paths = list(rule, &["nonResourceRules"]);
    if resources.is_empty() && paths.is_empty() {
        errors.required(
            field,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    for (index, rule) in resources.iter().enumerate() {
        for name in ["verbs", "apiGroups", "resources"] {
            needs(
                rule,
                name,
                &format!("{field}.resourceRules[{index}]"),
                errors,
            );
        }
        let cluster = super::super::access::flag(rule, &["clusterScope"]);
        if list(rule, &["namespaces"]).is_empty() && !cluster {
            errors.required(
                format!("{field}.resourceRules[{index}].namespaces"),
                "resource rules that are not cluster scoped must supply at least one namespace",
            );
        }
    }
    for (index, rule) in paths.iter().enumerate() {
        for name in ["verbs", "nonResourceURLs"] {
            needs(
                rule,
                name,
                &format!("{field}.nonResourceRules[{index}]"),
                errors,
            );
        }
    }
}

fn needs(rule: &Value, name: &str, field: &str, errors: &mut Errors) {
    let values = list(rule, &[name]);
    if values.is_empty() {
        errors.required(
            format!("{field}.{name}"),
            &format!("{name} must contain at least one value"),
        );
    } else if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.invalid(
            format!("{field}.{name}"),
            Value::Array(values.to_vec()),
            "if '*' is present, must not specify other values",
        );
    }
}

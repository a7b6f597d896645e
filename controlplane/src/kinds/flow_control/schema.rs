//! FlowSchema: which requests belong to which priority level.

use serde_json::{Map, Value};

use super::super::access::{at, fill_number, flag, integer, list, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
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
        fill_number(object_mut(object, &["spec"]), "matchingPrecedence", 1000);
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
        errors.format(LEVEL, level, names::dns_subdomain(level));
    }
    const PRECEDENCE: &str = "spec.matchingPrecedence";
    let precedence = integer(object, &["spec", "matchingPrecedence"]).unwrap_or(0);
    if precedence <= 0 {
        errors.invalid(PRECEDENCE, precedence, "must be a positive value");
    } else if precedence > MOST {
        let message = format!("must not be greater than {MOST}");
        errors.invalid(PRECEDENCE, precedence, &message);
    } else if precedence == 1 && text(object, &["metadata", "name"]) != "exempt" {
        errors.invalid(
            PRECEDENCE,
            precedence,
            "only the schema named 'exempt' may have matchingPrecedence 1",
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
        for (other, of) in [
            ("user", "User"),
            ("group", "Group"),
            ("serviceAccount", "ServiceAccount"),
        ] {
            if of != kind && at(subject, &[other]).is_some() {
                errors.forbidden(
                    format!("{field}.{other}"),
                    &format!("{other} is forbidden when subject kind is not '{of}'"),
                );
            }
        }
        if at(subject, &named[..1]).is_none() {
            errors.required(
                format!("{field}.{}", named[0]),
                &format!("{} is required when subject kind is '{kind}'", named[0]),
            );
            continue;
        }
        if text(subject, &named).is_empty() {
            errors.required(format!("{field}.{}.{}", named[0], named[1]), "");
        }
        if kind == "ServiceAccount" {
            validate_account(subject, &format!("{field}.serviceAccount"), errors);
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
        let field = format!("{field}.resourceRules[{index}]");
        needs(rule, "verbs", VERBS, &field, errors);
        needs(rule, "apiGroups", API_GROUPS, &field, errors);
        needs(rule, "resources", RESOURCES, &field, errors);
        validate_verbs(rule, &field, errors);
        validate_namespaces(rule, &field, errors);
    }
    for (index, rule) in paths.iter().enumerate() {
        let field = format!("{field}.nonResourceRules[{index}]");
        needs(rule, "verbs", VERBS, &field, errors);
        needs(rule, "nonResourceURLs", URLS, &field, errors);
        validate_verbs(rule, &field, errors);
        let urls = list(rule, &["nonResourceURLs"]);
        if urls.iter().any(|url| url == "*") {
            continue;
        }
        for (index, url) in urls.iter().filter_map(Value::as_str).enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.invalid(format!("{field}.nonResourceURLs[{index}]"), url, problem);
            }
        }
    }
}

/// What a list without entries lacks, and what the entries beside `*` are called.
type Needs = (&'static str, &'static str);
const VERBS: Needs = ("verbs must contain at least one value", "verbs");
const API_GROUPS: Needs = (
    "resource rules must supply at least one api group",
    "api groups",
);
const RESOURCES: Needs = (
    "resource rules must supply at least one resource",
    "resources",
);
const URLS: Needs = (
    "nonResourceURLs must contain at least one value",
    "non-resource URLs",
);

fn needs(rule: &Value, name: &str, (missing, others): Needs, field: &str, errors: &mut Errors) {
    let values = list(rule, &[name]);
    if values.is_empty() {
        errors.required(format!("{field}.{name}"), missing);
    } else if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.invalid(
            format!("{field}.{name}"),
            Value::Array(values.to_vec()),
            &format!("if '*' is present, must not specify other {others}"),
        );
    }
}

fn validate_verbs(rule: &Value, field: &str, errors: &mut Errors) {
    const KNOWN: &[&str] = &[
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "proxy",
        "update",
        "watch",
    ];
    let verbs = list(rule, &["verbs"]);
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| KNOWN.contains(&verb));
    if !verbs.iter().any(|verb| verb == "*") && !verbs.iter().all(known) {
        let shown = Value::Array(verbs.to_vec()).to_string();
        errors.not_supported(format!("{field}.verbs"), shown, KNOWN);
    }
}

fn validate_account(subject: &Value, field: &str, errors: &mut Errors) {
    let account = |part: &str| text(subject, &["serviceAccount", part]);
    let (name, namespace) = (account("name"), account("namespace"));
    if !name.is_empty() && name != "*" {
        errors.format(&format!("{field}.name"), name, names::dns_subdomain(name));
    }
    let field = format!("{field}.namespace");
    if namespace.is_empty() {
        errors.required(field, "must specify namespace for service account");
    } else {
        errors.format(&field, namespace, names::dns_label(namespace));
    }
}

fn validate_namespaces(rule: &Value, field: &str, errors: &mut Errors) {
    let field = format!("{field}.namespaces");
    let namespaces = list(rule, &["namespaces"]);
    let any = namespaces.iter().any(|namespace| namespace == "*");
    if namespaces.is_empty() && !flag(rule, &["clusterScope"]) {
        errors.required(
            field,
            "resource rules that are not cluster scoped must supply at least one namespace",
        );
    } else if any && namespaces.len() > 1 {
        errors.invalid(
            field,
            Value::Array(namespaces.to_vec()),
            "if '*' is present, must not specify other namespaces",
        );
    } else if !any {
        for (index, namespace) in namespaces.iter().filter_map(Value::as_str).enumerate() {
            for problem in names::dns_label(namespace) {
                errors.invalid(
                    format!("{field}[{index}]"),
                    namespace,
                    &format!("each member of this list must be '*' or a DNS-1123 label; {problem}"),
                );
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

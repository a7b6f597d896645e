//! PriorityLevelConfiguration: how many requests of a level are worked on at once, and how the others wait.

use serde_json::{Map, Value};

use super::super::access::{at, fill, fill_number, integer, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table};
use super::GROUP;

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Level,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration>();
    },
};

const MOST_QUEUES: i64 = 10_000_000;
/// Fields of `limited` that the table shows, in order.
const SHOWN: &[&[&str]] = &[
    &["spec", "limited", "nominalConcurrencyShares"],
    &["spec", "limited", "limitResponse", "queuing", "queues"],
    &["spec", "limited", "limitResponse", "queuing", "handSize"],
    &[
        "spec",
        "limited",
        "limitResponse",
        "queuing",
        "queueLengthLimit",
    ],
];

#[derive(Debug)]
struct Level;

impl Strategy for Level {
    fn default(&self, object: &mut Value) {
        if text(object, &["spec", "type"]) == "Exempt" {
            let exempt = object_mut(object, &["spec", "exempt"]);
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
        if at(object, &["spec", "limited"]).is_some() {
            let limited = object_mut(object, &["spec", "limited"]);
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
        }
        const QUEUING: &[&str] = &["spec", "limited", "limitResponse", "queuing"];
        if at(object, QUEUING).is_some() {
            let queuing = object_mut(object, QUEUING);
            fill_number(queuing, "queues", 64);
            fill_number(queuing, "handSize", 8);
            fill_number(queuing, "queueLengthLimit", 50);
        }
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
            table::column("Type", "string", "Whether it is limited."),
            table::column(
                "NominalConcurrencyShares",
                "string",
                "Its share of the seats.",
            ),
            table::column("Queues", "string", "Number of queues."),
            table::column("HandSize", "string", "Queues that a flow may use."),
            table::column("QueueLengthLimit", "string", "Longest queue."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut row = vec![table::name(object), text(object, &["spec", "type"]).into()];
        row.extend(SHOWN.iter().map(|path| match integer(object, path) {
            Some(number) => number.into(),
            None => "<none>".into(),
        }));
        row.push(table::age(object, now));
        row
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let name = text(object, &["metadata", "name"]);
    let kind = text(object, &["spec", "type"]);
    let is_exempt = name == "exempt";
    if is_exempt != (kind == "Exempt") {
        errors.invalid(
            "spec.type",
            kind,
            "type must be 'Exempt' if and only if name is 'exempt'",
        );
    }
    let limited = at(object, &["spec", "limited"]);
    match kind {
        "Exempt" => {
            if limited.is_some() {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
        }
        "Limited" if limited.is_none() => {
            errors.required("spec.limited", "must not be empty when type is Limited");
        }
        "Limited" => validate_limited(object, errors),
        _ => errors.not_supported("spec.type", kind, &["Exempt", "Limited"]),
    }
}

fn validate_limited(object: &Value, errors: &mut Errors) {
    let number = |field: &str| integer(object, &["spec", "limited", field]);
    if number("nominalConcurrencyShares").is_some_and(|shares| shares < 0) {
        errors.invalid(
            "spec.limited.nominalConcurrencyShares",
            number("nominalConcurrencyShares").unwrap_or(0),
            "must be a non-negative integer",
        );
    }
    if let Some(percent) = number("lendablePercent")
        && !(0..=100).contains(&percent)
    {
        errors.invalid(
            "spec.limited.lendablePercent",
            percent,
            "must be between 0 and 100, inclusive",
        );
    }
    if let Some(percent) = number("borrowingLimitPercent")
        && percent < 0
    {
        errors.invalid(
            "spec.limited.borrowingLimitPercent",
            percent,
            "if specified, must be a non-negative integer",
        );
    }
    const RESPONSE: &str = "spec.limited.limitResponse";
    let kind = text(object, &["spec", "limited", "limitResponse", "type"]);
    let queuing = at(object, &["spec", "limited", "limitResponse", "queuing"]);
    match (kind, queuing) {
        ("Reject", Some(_)) => errors.forbidden(
            format!("{RESPONSE}.queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        ),
        ("Reject", None) => {}
        ("Queue", None) => errors.required(
            format!("{RESPONSE}.queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        ("Queue", Some(queuing)) => validate_queuing(queuing, errors),
        _ => errors.not_supported(format!("{RESPONSE}.type"), kind, &["Queue", "Reject"]),
    }
}

fn validate_queuing(queuing: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.limited.limitResponse.queuing";
    let number = |name: &str| integer(queuing, &[name]).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    if !(1..=MOST_QUEUES).contains(&queues) {
        errors.invalid(format!("{FIELD}.queues"), queues, "must be positive");
    }
    if number("queueLengthLimit") <= 0 {
        errors.invalid(
            format!("{FIELD}.queueLengthLimit"),
            number("queueLengthLimit"),
            "must be positive",
        );
    }
    if hand <= 0 {
        errors.invalid(format!("{FIELD}.handSize"), hand, "must be positive");
    } else if hand > queues {
        errors.invalid(
            format!("{FIELD}.handSize"),
            hand,
            &format!("should not be greater than queues ({queues})"),
        );
    }
}

//! Which schema and level a request belongs to, and how many seats each level has. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    ResourcePolicyRule, Subject,
};

use super::queues::Shape;
use crate::auth::{Attributes, User};

/// What the level does with a request for which there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// There is always one.
    Exempt,
    Reject,
    Queue(Shape),
}

/// A level with its share of the seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) name: String,
    pub(super) limit: Limit,
    /// Seats that are its own.
    pub(super) nominal: usize,
    /// Seats of its own that others may have while it does not use them.
    pub(super) lendable: usize,
    /// Seats that it may have of others at the most.
    pub(super) borrowing: Option<usize>,
}

pub(super) const CATCH_ALL: &str = "catch-all";
pub(super) const EXEMPT: &str = "exempt";

/// The levels for so many seats. The mandatory ones are there in any case.
pub(super) fn levels(configured: &[PriorityLevelConfiguration], seats: usize) -> Vec<Level> {
    let mut shares: BTreeMap<String, (f64, PriorityLevelConfiguration)> = BTreeMap::new();
    for level in configured {
        let name = level.metadata.name.clone().unwrap_or_default();
        let spec = level.spec.clone().unwrap_or_default();
        let share = match (&spec.limited, &spec.exempt) {
            (Some(limited), _) => f64::from(limited.nominal_concurrency_shares.unwrap_or(30)),
            (None, Some(exempt)) => f64::from(exempt.nominal_concurrency_shares.unwrap_or(0)),
            _ => 0.0,
        };
        shares.insert(name, (share.max(0.0), level.clone()));
    }
    let total: f64 = shares.values().map(|(share, _)| share).sum();
    let all = seats as f64;
    let mut levels: Vec<Level> = shares
        .into_iter()
        .map(|(name, (share, level))| {
            let nominal = if total > 0.0 {
                (all * share / total).ceil()
            } else {
                0.0
            };
            of(name, nominal, &level)
        })
        .collect();
    if !levels.iter().any(|level| level.name == EXEMPT) {
        levels.push(Level {
            name: EXEMPT.to_owned(),
            limit: Limit::Exempt,
            nominal: 0,
            lendable: 0,
            borrowing: None,
        });
    }
    if !levels.iter().any(|level| level.name == CATCH_ALL) {
        levels.push(Level {
            name: CATCH_ALL.to_owned(),
            limit: Limit::Reject,
            nominal: (seats / 40).max(1),
            lendable: 0,
            borrowing: None,
        });
    }
    levels
}

fn of(name: String, nominal: f64, level: &PriorityLevelConfiguration) -> Level {
    let spec = level.spec.clone().unwrap_or_default();
    let percent = |percent: Option<i32>, default: i32| {
        nominal * f64::from(percent.unwrap_or(default).clamp(0, 100_000)) / 100.0
    };
    let whole = |seats: f64| seats.round() as usize;
    let (limit, lendable, borrowing) = match &spec.limited {
        None => (
            Limit::Exempt,
            percent(spec.exempt.and_then(|exempt| exempt.lendable_percent), 0),
            None,
        ),
        Some(limited) => {
            let response = limited.limit_response.clone().unwrap_or_default();
            let limit = if response.type_ == "Queue" {
                let queuing = response.queuing.unwrap_or_default();
                let count = |value: Option<i32>, default: usize| {
                    value
                        .and_then(|value| usize::try_from(value).ok())
                        .filter(|value| *value > 0)
                        .unwrap_or(default)
                };
                Limit::Queue(Shape {
                    queues: count(queuing.queues, 64).min(10_000),
                    hand_size: count(queuing.hand_size, 8),
                    length: count(queuing.queue_length_limit, 50),
                })
            } else {
                Limit::Reject
            };
            let borrowing = limited
                .borrowing_limit_percent
                .map(|limit| whole(percent(Some(limit), 0)));
            (limit, percent(limited.lendable_percent, 0), borrowing)
        }
    };
    Level {
        name,
        limit,
        nominal: whole(nominal).max(usize::from(limit != Limit::Exempt)),
        lendable: whole(lendable),
        borrowing,
    }
}

/// Where a request belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) schema: String,
    pub(super) level: String,
    /// What tells the flows of a schema apart.
    pub(super) distinguisher: String,
}

/// `schemas` are in the order in which they are looked at.
pub(super) fn classify(schemas: &[FlowSchema], user: &User, wanted: &Attributes) -> Class {
    let found = schemas.iter().find(|schema| {
        let spec = schema.spec.iter();
        spec.flat_map(|spec| spec.rules.iter().flatten())
            .any(|rule| matches(rule, user, wanted))
    });
    let Some(schema) = found else {
        return Class {
            schema: CATCH_ALL.to_owned(),
            level: CATCH_ALL.to_owned(),
            distinguisher: user.name.clone(),
        };
    };
    let spec = schema.spec.clone().unwrap_or_default();
    let method = spec.distinguisher_method.map(|method| method.type_);
    Class {
        schema: schema.metadata.name.clone().unwrap_or_default(),
        level: spec.priority_level_configuration.name,
        distinguisher: match method.as_deref() {
            Some("ByUser") => user.name.clone(),
            Some("ByNamespace") => wanted.namespace.clone(),
            _ => String::new(),
        },
    }
}

/// By precedence, then by name.
pub(super) fn in_order(mut schemas: Vec<FlowSchema>) -> Vec<FlowSchema> {
    schemas.sort_by_key(|schema| {
        let precedence = schema
            .spec
            .as_ref()
            .and_then(|spec| spec.matching_precedence);
        (
            precedence.unwrap_or(1000),
            schema.metadata.name.clone().unwrap_or_default(),
        )
    });
    schemas
}

fn matches(rule: &PolicyRulesWithSubjects, user: &User, wanted: &Attributes) -> bool {
    rule.subjects.iter().any(|subject| is(subject, user))
        && match &wanted.path {
            Some(path) => rule
                .non_resource_rules
                .iter()
                .flatten()
                .any(|rule| path_matches(rule, path, &wanted.verb)),
            None => rule
                .resource_rules
                .iter()
                .flatten()
                .any(|rule| resource_matches(rule, wanted)),
        }
}

fn is(subject: &Subject, user: &User) -> bool {
    match subject.kind.as_str() {
        "User" => subject
            .user
            .as_ref()
            .is_some_and(|wanted| wanted.name == "*" || wanted.name == user.name),
        "Group" => subject
            .group
            .as_ref()
            .is_some_and(|wanted| wanted.name == "*" || user.is_in(&wanted.name)),
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|wanted| {
            let of = format!("system:serviceaccount:{}:", wanted.namespace);
            user.name
                .strip_prefix(&of)
                .is_some_and(|name| wanted.name == "*" || wanted.name == name)
        }),
        _ => false,
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|known| known == "*" || known == value)
}

fn resource_matches(rule: &ResourcePolicyRule, wanted: &Attributes) -> bool {
    let resource = match wanted.subresource.as_str() {
        "" => wanted.resource.clone(),
        subresource => format!("{}/{subresource}", wanted.resource),
    };
    let place = if wanted.namespace.is_empty() {
        rule.cluster_scope == Some(true)
    } else {
        has(
            rule.namespaces.as_deref().unwrap_or_default(),
            &wanted.namespace,
        )
    };
    place
        && has(&rule.verbs, &wanted.verb)
        && has(&rule.api_groups, &wanted.group)
        && has(&rule.resources, &resource)
}

fn path_matches(rule: &NonResourcePolicyRule, path: &str, verb: &str) -> bool {
    has(&rule.verbs, verb)
        && rule.non_resource_urls.iter().any(|known| {
            known == "*"
                || known == path
                || known
                    .strip_suffix('*')
                    .is_some_and(|prefix| path.starts_with(prefix))
        })
}

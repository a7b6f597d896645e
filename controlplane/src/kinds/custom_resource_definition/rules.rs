//! Whether the rules of a schema can be evaluated, and at a cost that is bounded by the schema's limits. Asked of
//! schemas that are structural.

use serde_json::Value;

use super::super::access::{at, list, text};
use super::super::custom::expressions::declared::{REQUEST, declared};
use super::super::custom::expressions::types::Type;
use super::super::custom::expressions::{self, Judged, Visible};
use super::super::custom::structural::{Additional, Structural};
use super::super::errors::Errors;

#[cfg(test)]
mod tests;

/// What one expression may cost, as often as it may be evaluated for one object.
const PER_EXPRESSION: u64 = 10_000_000;
/// What all of a schema may.
const PER_SCHEMA: u64 = 100_000_000;
/// So many of the dearest are named.
const NAMED: usize = 4;

pub(super) fn validate(schema: &Value, path: &str, errors: &mut Errors) {
    let Ok(structural) = Structural::shape(schema) else {
        return;
    };
    let mut judge = Judge {
        errors,
        total: 0,
        dearest: Vec::new(),
    };
    let root = Place {
        path: path.to_owned(),
        is_resource: true,
        count: Some(1),
        uncorrelated: None,
    };
    judge.node(schema, &structural, &root);
    let (total, dearest) = (judge.total, judge.dearest);
    if total > PER_SCHEMA {
        for (path, _) in dearest {
            errors.forbidden(
                path,
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            );
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &too_dear(what, total, PER_SCHEMA));
    }
}

/// Where in the schema a node stands.
struct Place {
    path: String,
    is_resource: bool,
    /// How many there may be in one object; `None` for as many as fit into a request.
    count: Option<u64>,
    /// The part of the schema around it whose entries are not matched with those of before.
    uncorrelated: Option<String>,
}

struct Judge<'a> {
    errors: &'a mut Errors,
    total: u64,
    /// Paths and costs, the dearest first.
    dearest: Vec<(String, u64)>,
}

impl Judge<'_> {
    fn node(&mut self, schema: &Value, structural: &Structural, place: &Place) {
        let count = place.count.zip(entries(structural));
        let count = count.map(|(count, each)| count.saturating_mul(each));
        let below = |path: String, child: &Structural, is_apart: bool| Place {
            path,
            is_resource: child.embedded,
            count,
            uncorrelated: place
                .uncorrelated
                .clone()
                .or_else(|| is_apart.then(|| place.path.clone())),
        };
        for (name, property) in &structural.properties {
            if let Some(said) = at(schema, &["properties", name]) {
                let path = format!("{}.properties[{name}]", place.path);
                let child = below(path, property, structural.atomic_map);
                self.node(said, property, &child);
            }
        }
        if let (Some(items), Some(said)) = (&structural.items, at(schema, &["items"])) {
            let path = format!("{}.items", place.path);
            let child = below(path, items, structural.list_type != "map");
            self.node(said, items, &child);
        }
        if let (Additional::Schema(values), Some(said)) = (
            &structural.additional,
            at(schema, &["additionalProperties"]),
        ) {
            let path = format!("{}.additionalProperties", place.path);
            let child = below(path, values, false);
            self.node(said, values, &child);
        }
        let rules = list(schema, &["x-kubernetes-validations"]);
        if !rules.is_empty() {
            self.rules(rules, structural, place);
        }
    }

    fn rules(&mut self, rules: &[Value], structural: &Structural, place: &Place) {
        let Some(declared) = declared(structural, place.is_resource) else {
            return;
        };
        let times = place
            .count
            .unwrap_or_else(|| REQUEST / (declared.shortest + 1));
        for (number, rule) in rules.iter().enumerate() {
            let path = format!("{}.x-kubernetes-validations[{number}]", place.path);
            let kind = declared.kind();
            let old = match at(rule, &["optionalOldSelf"]) {
                Some(Value::Bool(true)) => Type::Optional(kind.clone().into()),
                _ => kind.clone(),
            };
            let scope = Visible::new([("self", kind), ("oldSelf", old)]);
            let judged = |source: &str| expressions::judge(source, &scope, Some(&declared));
            let source = text(rule, &["rule"]);
            let uses_old = match judged(source) {
                Err(problem) => {
                    self.errors
                        .invalid(format!("{path}.rule"), source, &problem);
                    continue;
                }
                Ok(judged) if judged.result != Type::Bool => {
                    let why = "cel expression must evaluate to a bool";
                    self.errors.invalid(format!("{path}.rule"), source, why);
                    continue;
                }
                Ok(Judged { used, cost, .. }) => {
                    let cost = cost.saturating_mul(times);
                    self.pay("estimated rule cost", format!("{path}.rule"), cost);
                    used.contains("oldSelf")
                }
            };
            let message = text(rule, &["messageExpression"]);
            let field = format!("{path}.messageExpression");
            match Some(message)
                .filter(|message| !message.is_empty())
                .map(judged)
            {
                None => {}
                Some(Err(problem)) => {
                    let why = format!("messageExpression {problem}");
                    self.errors.invalid(field, message, &why);
                }
                Some(Ok(judged)) if judged.result != Type::String => {
                    let why = "messageExpression must evaluate to a string";
                    self.errors.invalid(field, message, why);
                }
                Some(Ok(judged)) => {
                    self.pay("estimated messageExpression cost", field, judged.cost)
                }
            }
            match (uses_old, &place.uncorrelated, at(rule, &["optionalOldSelf"])) {
                (true, Some(apart), _) => self.errors.invalid(
                    format!("{path}.rule"),
                    source,
                    &format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {apart}"),
                ),
                (false, _, Some(said)) => self.errors.invalid(
                    format!("{path}.optionalOldSelf"),
                    said.clone(),
                    "may not be set if oldSelf is not used in rule",
                ),
                _ => {}
            }
        }
    }

    fn pay(&mut self, what: &str, path: String, cost: u64) {
        if cost > PER_EXPRESSION {
            let why = too_dear(what, cost, PER_EXPRESSION);
            self.errors.forbidden(path.clone(), &why);
        }
        self.total = self.total.saturating_add(cost);
        if cost >= PER_SCHEMA / 100 {
            self.dearest.push((path, cost));
            self.dearest
                .sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED);
        }
    }
}

/// How many values a value may have below it, for each of those that the schema names.
fn entries(structural: &Structural) -> Option<u64> {
    use super::super::custom::structural::Type;
    match (structural.kind, &structural.additional) {
        (Type::Object, Additional::None) => Some(1),
        (Type::Object, _) => structural.limits.max_properties,
        (Type::Array, _) => structural.limits.max_items,
        _ => Some(1),
    }
}

#[allow(clippy::cast_precision_loss)]
fn too_dear(what: &str, cost: u64, most: u64) -> String {
    let times = cost as f64 / most as f64;
    let factor = if times > 100.0 {
        "more than 100x".to_owned()
    } else if times < 1.5 {
        format!("{times:.6}x")
    } else {
        format!("{times:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, \
         and maxLength where arrays, maps, and strings are declared)"
    )
}

//! What calls of functions may cost.

use cel::common::ast::{Expr, LiteralValue, operators};
use cel::parser::Expression;

use super::{Bounds, Called, Estimator, Given, LIST, OBJECT, REGEX, STEP, TRAVERSAL, is_short};
use crate::kinds::custom::expressions::types::{Form, Type};

/// A question to the authorizer: two of them fit into an expression.
const CHECK: u64 = 350_000;
/// Length of the regular expression that a named format may have.
const FORMAT_PATTERN: f64 = 128.0;
/// Bytes of an address.
const ADDRESS: Bounds = Bounds { least: 4, most: 16 };

impl Given<'_> {
    fn size(&self) -> Bounds {
        let known = self.size.or_else(|| Estimator::declared(&self.place));
        known.unwrap_or(Bounds::UNKNOWN)
    }

    /// What a list has entries of: their type and size.
    fn entry(&self) -> Option<(&Type, Bounds)> {
        let Type::List(kind) = &self.kind else {
            return None;
        };
        let size = match &self.place {
            Some(Some(declared)) => match &declared.form {
                Form::List(entries) => Bounds::up_to(entries.most),
                _ => Bounds::UNKNOWN,
            },
            _ => Bounds::UNKNOWN,
        };
        Some((kind, size))
    }

    fn whole(&self) -> Option<u64> {
        match &self.expression.expr {
            Expr::Literal(LiteralValue::Int(value)) => u64::try_from(*value.inner()).ok(),
            _ => None,
        }
    }
}

impl Estimator<'_> {
    pub(super) fn called(
        &mut self,
        expression: &Expression,
        function: &str,
        overload: &str,
        target: Option<&Given<'_>>,
        given: &[Given<'_>],
        costs: &[Bounds],
    ) -> Called {
        let arguments = costs.iter().fold(Bounds::NONE, |sum, cost| sum.plus(*cost));
        let ours = lists(overload, target, given)
            .or_else(|| kubernetes(function, overload, target, given));
        if let Some(called) = ours {
            return Called {
                cost: called.cost.plus(arguments),
                size: called.size,
            };
        }
        if is_short(function)
            && let [first, rest @ ..] = costs
        {
            let all = rest.iter().fold(*first, |sum, cost| sum.plus(*cost));
            return costing(Bounds {
                least: first.least,
                most: all.most,
            });
        }
        if function == operators::CONDITIONAL
            && let ([condition, holds, fails], [_, yes, no]) = (costs, given)
        {
            let both = (self.entries(yes.expression), self.entries(no.expression));
            if let (Some(yes), Some(no)) = both {
                let joined = super::Entries {
                    key: yes.key.or(no.key),
                    value: yes.value.or(no.value),
                    ..yes
                };
                self.entries.insert(expression.id, joined);
            }
            return Called {
                cost: condition.plus(holds.or(*fails)),
                size: Some(known(yes).or(known(no))),
            };
        }
        let called = self.standard(expression, overload, target, given);
        Called {
            cost: called.cost.plus(arguments),
            size: called.size,
        }
    }

    /// Functions of the standard library whose work depends on sizes.
    fn standard(
        &mut self,
        expression: &Expression,
        overload: &str,
        target: Option<&Given<'_>>,
        given: &[Given<'_>],
    ) -> Called {
        match (overload, target, given) {
            ("string_format", Some(on), _) => costing(known(on).scaled(TRAVERSAL)),
            ("string_to_bytes", _, [text]) => {
                let size = known(text);
                let most = size.most.saturating_mul(4);
                sized(size.scaled(TRAVERSAL), Bounds { most, ..size })
            }
            ("bytes_to_string", _, [bytes]) => {
                let size = known(bytes);
                let least = size.least / 4;
                sized(size.scaled(TRAVERSAL), Bounds { least, ..size })
            }
            ("strings_quote", _, [text]) => {
                let size = known(text);
                let quoted = Bounds {
                    least: size.least.saturating_add(2),
                    most: size.most.saturating_mul(2).saturating_add(2),
                };
                sized(size.scaled(TRAVERSAL), quoted)
            }
            ("starts_with_string" | "ends_with_string", _, [text]) => {
                costing(known(text).scaled(TRAVERSAL))
            }
            ("in_list", _, [_, list]) => costing(known(list).scaled(1.0)),
            ("matches_string", Some(on), [pattern]) => {
                let text = known(on).plus(STEP).scaled(TRAVERSAL);
                costing(text.times(known(pattern).scaled(REGEX)))
            }
            ("contains_string", Some(on), [part]) => costing(
                known(on)
                    .scaled(TRAVERSAL)
                    .times(known(part).scaled(TRAVERSAL)),
            ),
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = known(a).plus(known(b));
                if let (Some(a), Some(b)) = (self.entries(a.expression), self.entries(b.expression))
                {
                    let joined = super::Entries {
                        key: a.key.or(b.key),
                        value: a.value.or(b.value),
                        ..a
                    };
                    self.entries.insert(expression.id, joined);
                }
                let cost = if overload == "add_list" {
                    STEP
                } else {
                    size.scaled(TRAVERSAL)
                };
                sized(cost, size)
            }
            (_, _, [a, b]) if compares(overload) => {
                let most = known(a).most.min(known(b).most);
                let least = u64::from(most > 0);
                costing(Bounds { least, most }.scaled(TRAVERSAL))
            }
            _ => costing(STEP),
        }
    }
}

fn costing(cost: Bounds) -> Called {
    Called { cost, size: None }
}

fn sized(cost: Bounds, size: Bounds) -> Called {
    Called {
        cost,
        size: Some(size),
    }
}

fn known(given: &Given<'_>) -> Bounds {
    given.size.unwrap_or(Bounds::UNKNOWN)
}

/// Comparisons that go through what they compare.
fn compares(overload: &str) -> bool {
    let ordered = ["less_", "less_equals_", "greater_", "greater_equals_"];
    matches!(overload, "equals" | "not_equals")
        || ordered.iter().any(|order| {
            let of = overload.strip_prefix(order);
            matches!(of, Some("string" | "bytes"))
        })
}

/// A list that is made anew.
fn allocated(size: Bounds, factor: f64) -> Called {
    sized(size.scaled(factor).plus(STEP).plus(LIST), size)
}

/// Functions of lists and sets, by their overloads.
#[allow(clippy::cast_precision_loss)]
fn lists(overload: &str, target: Option<&Given<'_>>, given: &[Given<'_>]) -> Option<Called> {
    let sets = match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => Some(1.0),
        "list_sets_equivalent_list" => Some(2.0),
        _ => None,
    };
    if let (Some(factor), [a, b]) = (sets, given) {
        let both = a.size().times(b.size());
        return Some(costing(both.scaled(factor).plus(STEP)));
    }
    if let ("lists_range", [count]) = (overload, given) {
        let count = count.whole().unwrap_or(u64::MAX);
        return Some(allocated(Bounds::exactly(count), 1.0));
    }
    let on = target?;
    let sorted = |of: Bounds, kind: &str| {
        let factor = if matches!(kind, "string" | "bytes") {
            2.0 + TRAVERSAL
        } else {
            2.0
        };
        allocated(of.times(of), factor)
    };
    Some(match (overload, given) {
        ("list_slice", [start, end]) => {
            let start = start.whole().unwrap_or(0);
            let end = end.whole().unwrap_or(on.size().most);
            allocated(Bounds::exactly(end.saturating_sub(start)), 1.0)
        }
        ("list_reverse", []) => allocated(on.size(), 1.0),
        ("list_flatten", []) => allocated(on.size(), 1.0),
        ("list_flatten_int", [depth]) => {
            let depth = depth.whole().unwrap_or(u64::MAX);
            allocated(on.size(), depth as f64)
        }
        ("list_distinct", []) => {
            let size = on.size();
            allocated(size.times(size), 2.0)
        }
        (name, []) if name.ends_with("_sort") => {
            let kind = name.trim_start_matches("list_").trim_end_matches("_sort");
            sorted(on.size(), kind)
        }
        (name, [keys]) if name.ends_with("_sortByAssociatedKeys") => {
            let kind = name.trim_start_matches("list_");
            sorted(keys.size(), kind.trim_end_matches("_sortByAssociatedKeys"))
        }
        _ => return None,
    })
}

/// The functions that Kubernetes gives costs to.
fn kubernetes(
    function: &str,
    overload: &str,
    target: Option<&Given<'_>>,
    given: &[Given<'_>],
) -> Option<Called> {
    let walked = |of: &Given<'_>| of.size().scaled(TRAVERSAL);
    Some(match (function, target, given) {
        ("check", ..) => costing(Bounds::exactly(CHECK)),
        (
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery",
            ..,
        ) => costing(STEP),
        ("fieldSelector" | "labelSelector", _, [selector]) => {
            let size = selector.size();
            let each = LIST.plus(OBJECT).most;
            let requirements = size.scaled(0.5).times(Bounds::exactly(each));
            costing(LIST.plus(size.scaled(TRAVERSAL)).plus(requirements))
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(on), _) => {
            match on.entry() {
                Some((Type::String | Type::Bytes, entry)) => {
                    let each = STEP.plus(entry.scaled(TRAVERSAL));
                    costing(on.size().times(each))
                }
                Some(_) => costing(on.size().times(STEP)),
                None => costing(walked(on)),
            }
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => sized(walked(text), text.size()),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(on), _) => {
            sized(walked(on), on.size())
        }
        ("replace", Some(on), [from, to, ..]) => {
            let cost = on.size().scaled(2.0 * TRAVERSAL);
            sized(cost, replaced(on.size(), from.size(), to.size()))
        }
        ("split", Some(on), _) => {
            let most = given.get(1).and_then(Given::whole);
            let most = Bounds::up_to(most.unwrap_or(on.size().most));
            sized(on.size().scaled(2.0 * TRAVERSAL), most)
        }
        ("join", Some(on), _) => {
            let count = on.size();
            let mut size = on
                .entry()
                .map_or(Bounds::NONE, |(_, entry)| count.times(entry));
            if let [between] = given {
                let gaps = Bounds {
                    least: count.least.saturating_sub(1),
                    most: count.most.saturating_sub(1),
                };
                size = size.plus(between.size().times(gaps));
            }
            sized(size.scaled(TRAVERSAL), size)
        }
        ("find" | "findAll", Some(on), [pattern, ..]) => {
            let text = on.size().plus(STEP).scaled(TRAVERSAL);
            let cost = text.times(pattern.size().scaled(REGEX));
            sized(cost, Bounds::up_to(on.size().most))
        }
        ("ip", ..) if overload == "cidr_ip" => costing(STEP),
        (
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
            _,
            [text, ..],
        ) => costing(walked(text)),
        ("ip.isCanonical", _, [text]) => costing(text.size().scaled(2.0 * TRAVERSAL)),
        ("containsIP" | "containsCIDR", _, [other]) => {
            let mut cost = ADDRESS.plus(ADDRESS).scaled(TRAVERSAL);
            if function == "containsCIDR" {
                cost = cost.plus(ADDRESS.scaled(TRAVERSAL)).plus(STEP);
            }
            if overload.ends_with("_string") {
                cost = cost.plus(walked(other));
            }
            costing(cost)
        }
        ("validate", _, [text]) => costing(walked(text).scaled(FORMAT_PATTERN * REGEX)),
        (operators::EQUALS, _, [a, b]) if a.kind == b.kind => match &a.kind {
            Type::Opaque("kubernetes.NamedFormat") => {
                costing(Bounds { least: 1, most: 64 }.scaled(TRAVERSAL))
            }
            Type::Opaque("kubernetes.URL") => {
                let most = b.size.map_or(1, |size| size.most);
                costing(Bounds { least: 1, most }.scaled(TRAVERSAL))
            }
            Type::Opaque(_) => costing(STEP),
            _ => return None,
        },
        _ => return None,
    })
}

/// The size of a text after its replacements.
fn replaced(text: Bounds, from: Bounds, to: Bounds) -> Bounds {
    let (mut times, mut kept) = (Bounds::NONE, Bounds::NONE);
    if from.least == 0 {
        times.most = text.most.saturating_add(1);
        kept.most = text.most;
    } else if to.most <= from.least {
        kept.most = text.most;
    } else {
        times.most = text.most.div_ceil(from.least);
    }
    if from.most == 0 {
        times.least = text.least.saturating_add(1);
        kept.least = text.least;
    } else if from.most <= to.least {
        kept.least = text.least;
    } else {
        times.least = text.least.div_ceil(from.most);
    }
    times.times(to).plus(kept)
}

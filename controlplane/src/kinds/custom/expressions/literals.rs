//! Literals that functions could not take: `matches('(')`, `duration('1 hour')`.

use cel::common::ast::{CallExpr, Expr, LiteralValue};

/// The argument that is wrong, and why.
pub(super) fn problem(function: &str, call: &CallExpr) -> Option<(u64, String)> {
    let argument = match (function, call.args.as_slice()) {
        ("matches", [pattern]) if call.target.is_some() => pattern,
        ("matches", [_, pattern]) => pattern,
        ("duration" | "timestamp", [text]) => text,
        _ => return None,
    };
    let Expr::Literal(LiteralValue::String(text)) = &argument.expr else {
        return None;
    };
    let text = text.inner();
    let is_right = match function {
        "matches" => regex::Regex::new(text).is_ok(),
        "duration" => super::json::duration(text).is_some(),
        _ => chrono::DateTime::parse_from_rfc3339(text).is_ok(),
    };
    (!is_right).then(|| (argument.id, format!("invalid {function} argument")))
}

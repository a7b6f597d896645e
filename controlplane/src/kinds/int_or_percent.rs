//! Values that are a number or a percentage of something (`maxSurge: 25%`).

use serde_json::Value;

use super::errors::Errors;
use super::names;

/// The number that `value` stands for out of `total`; percentages are rounded up or down. `None` when it is
/// neither a number nor a percentage.
pub(crate) fn resolve(value: &Value, total: i64, round_up: bool) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent.checked_mul(total)?;
            let whole = product.div_euclid(100);
            let rest = product.rem_euclid(100);
            Some(if round_up && rest > 0 {
                whole + 1
            } else {
                whole
            })
        }
        _ => None,
    }
}

/// A number that is not negative, or a percentage.
pub(crate) fn validate(value: &Value, field: &str, errors: &mut Errors) {
    match value {
        Value::String(text) => errors.format(field, text, names::percent(text)),
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.invalid(field, value.clone(), "must be greater than or equal to 0")
        }
        Value::Number(_) => {}
        other => errors.invalid(
            field,
            other.clone(),
            "must be an integer or percentage (e.g '5%')",
        ),
    }
}

/// No more than 100 %.
pub(crate) fn at_most_all(value: &Value, field: &str, errors: &mut Errors) {
    if let Value::String(text) = value
        && resolve(value, 100, false).is_some_and(|percent| percent > 100)
    {
        errors.invalid(field, text.as_str(), "must not be greater than 100%");
    }
}

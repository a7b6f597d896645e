//! Values of expressions as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What a mutating policy made. Kinds of values that JSON does not have are refused.
pub(crate) fn to_json(value: &cel::Value) -> Result<Value, String> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => (*value).into(),
        cel::Value::Int(value) => (*value).into(),
        cel::Value::UInt(value) => (*value).into(),
        cel::Value::Float(value) => serde_json::Number::from_f64(*value)
            .map(Value::Number)
            .ok_or("a number that is infinite, or none, is no JSON")?,
        cel::Value::String(value) => value.as_str().into(),
        cel::Value::Bytes(value) => STANDARD.encode(value.as_slice()).into(),
        cel::Value::Timestamp(value) => value
            .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
            .into(),
        cel::Value::List(list) => list.iter().map(to_json).collect::<Result<_, _>>()?,
        cel::Value::Map(map) => {
            let mut object = serde_json::Map::new();
            for (key, value) in map.map.iter() {
                let cel::objects::Key::String(key) = key else {
                    return Err(format!("a key of an object must be a string, not {key:?}"));
                };
                object.insert(key.to_string(), to_json(value)?);
            }
            Value::Object(object)
        }
        other => return Err(format!("a {} has no form in JSON", other.type_of())),
    })
}

/// A duration as Go reads them: `1h30m`, `-1.5s`.
pub(super) fn duration(text: &str) -> Option<chrono::Duration> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(chrono::Duration::zero());
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = after;
    }
    let total = i64::try_from(if is_negative { -total } else { total }).ok()?;
    Some(chrono::Duration::nanoseconds(total))
}

fn nanoseconds(number: &str, unit: &str) -> Option<i128> {
    let unit: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i128>().ok(),
    };
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    // More digits than this say nothing any more.
    let part: String = part.chars().take(18).collect();
    let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = digits(&part)?.checked_mul(unit)? / scale;
    digits(whole)?.checked_mul(unit)?.checked_add(part)
}

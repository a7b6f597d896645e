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

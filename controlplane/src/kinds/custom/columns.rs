//! `additionalPrinterColumns`: what `kubectl get` shows of a custom resource.

use serde_json::{Value, json};

use super::super::access::{integer, text};
use super::super::{table, time};
use super::path::JsonPath;

#[derive(Debug)]
pub(crate) struct CustomColumn {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: JsonPath,
}

/// The columns of a version; one that has none shows the age.
pub(crate) fn read(said: &[Value]) -> Vec<CustomColumn> {
    let default = [
        json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "CreationTimestamp is a timestamp representing the server time when this object was \
            created. It is not guaranteed to be set in happens-before order across separate operations. Clients \
            may not set this value. It is represented in RFC3339 form and is in UTC."}),
    ];
    let said = if said.is_empty() { &default[..] } else { said };
    said.iter()
        .filter_map(|column| {
            let field = |name: &str| text(column, &[name]).to_owned();
            Some(CustomColumn {
                path: JsonPath::parse(text(column, &["jsonPath"])).ok()?,
                description: match text(column, &["description"]) {
                    "" => format!(
                        "Custom resource definition column (in JSONPath format): {}",
                        field("jsonPath")
                    ),
                    given => given.to_owned(),
                },
                name: field("name"),
                kind: field("type"),
                format: field("format"),
                priority: integer(column, &["priority"]).unwrap_or(0),
            })
        })
        .collect()
}

pub(super) fn definitions(columns: &[CustomColumn]) -> Vec<Value> {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": table::NAME.description,
    });
    let custom = columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(custom).collect()
}

pub(super) fn row(columns: &[CustomColumn], object: &Value, now: i64) -> Vec<Value> {
    let cells = columns.iter().map(|column| cell(column, object, now));
    std::iter::once(table::name(object)).chain(cells).collect()
}

/// A value of another type than the column's is not shown.
fn cell(column: &CustomColumn, object: &Value, now: i64) -> Value {
    let found: Vec<&Value> = column.path.find(object);
    let Some(first) = found.first().filter(|value| !value.is_null()) else {
        return Value::Null;
    };
    match column.kind.as_str() {
        "integer" => match (first.as_i64(), first.as_f64()) {
            (Some(whole), _) => whole.into(),
            #[allow(clippy::cast_possible_truncation)]
            (None, Some(number)) => (number as i64).into(),
            _ => Value::Null,
        },
        "number" => first.as_f64().map_or(Value::Null, |_| (*first).clone()),
        "boolean" => first.as_bool().map_or(Value::Null, Value::from),
        "date" => match first.as_str() {
            Some(text) if time::seconds(text).is_some() => time::age(text, now).into(),
            Some(_) => "<invalid>".into(),
            None => Value::Null,
        },
        _ => {
            let texts: Vec<String> = found.iter().map(|value| shown(value)).collect();
            texts.join(",").into()
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

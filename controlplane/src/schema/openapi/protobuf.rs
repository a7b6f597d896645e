//! The protobuf form of the OpenAPI v2 document (`openapi.v2.Document`), written straight from the JSON: the
//! message types are many, what we say in them is little, and this runs once. Field numbers are those of the
//! public definition of that message.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            #[allow(clippy::cast_possible_truncation)]
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        #[allow(clippy::cast_possible_truncation)]
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, value: bool) {
        if value {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u32, message: Self) {
        self.bytes(field, &message.0);
    }

    /// The string `key` of `object`, if there.
    fn text_of(&mut self, field: u32, object: &Object, key: &str) {
        if let Some(text) = object.get(key).and_then(Value::as_str) {
            self.string(field, text);
        }
    }

    fn strings_of(&mut self, field: u32, object: &Object, key: &str) {
        for text in object
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.bytes(field, text.as_str().unwrap_or("").as_bytes());
        }
    }

    /// The `x-` extensions of an object.
    fn extensions(&mut self, field: u32, object: &Object) {
        for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut any = Self::default();
            // JSON is YAML.
            any.string(2, &format!("{value}\n"));
            self.named(field, name, any);
        }
    }

    /// An entry of a map: name and value.
    fn named(&mut self, field: u32, name: &str, value: Self) {
        let mut entry = Self::default();
        entry.string(1, name);
        entry.message(2, value);
        self.message(field, entry);
    }
}

fn object<'a>(holder: &'a Object, key: &str) -> impl Iterator<Item = (&'a String, &'a Object)> {
    holder
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_object()?)))
}

pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    let Some(document) = document.as_object() else {
        return out.0;
    };
    out.text_of(1, document, "swagger");
    if let Some(info) = document.get("info").and_then(Value::as_object) {
        let mut message = Message::default();
        message.text_of(1, info, "title");
        message.text_of(2, info, "version");
        out.message(2, message);
    }
    let mut paths = Message::default();
    for (name, item) in object(document, "paths") {
        paths.named(2, name, path_item(item));
    }
    out.message(8, paths);
    let mut definitions = Message::default();
    for (name, definition) in object(document, "definitions") {
        definitions.named(1, name, schema(definition));
    }
    out.message(9, definitions);
    out.0
}

fn path_item(item: &Object) -> Message {
    let mut out = Message::default();
    for (field, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if let Some(operation_json) = item.get(method).and_then(Value::as_object) {
            out.message(field, operation(operation_json));
        }
    }
    for one in item
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(one) = one.as_object() {
            out.message(9, parameter(one));
        }
    }
    out
}

fn operation(json: &Object) -> Message {
    let mut out = Message::default();
    out.strings_of(1, json, "tags");
    out.text_of(3, json, "description");
    out.text_of(5, json, "operationId");
    out.strings_of(6, json, "produces");
    out.strings_of(7, json, "consumes");
    for one in json
        .get("parameters")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Some(one) = one.as_object() {
            out.message(8, parameter(one));
        }
    }
    let mut responses = Message::default();
    for (code, one) in object(json, "responses") {
        let mut response = Message::default();
        response.text_of(1, one, "description");
        if let Some(body) = one.get("schema").and_then(Value::as_object) {
            let mut item = Message::default();
            item.message(1, schema(body));
            response.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, response);
        responses.named(1, code, value);
    }
    out.message(9, responses);
    out.extensions(13, json);
    out
}

/// A `ParametersItem`.
fn parameter(json: &Object) -> Message {
    let required = json.get("required").and_then(Value::as_bool) == Some(true);
    let place = json.get("in").and_then(Value::as_str).unwrap_or("");
    let mut inner = Message::default();
    let mut wrapped = Message::default();
    if place == "body" {
        inner.text_of(1, json, "description");
        inner.text_of(2, json, "name");
        inner.text_of(3, json, "in");
        inner.flag(4, required);
        if let Some(body) = json.get("schema").and_then(Value::as_object) {
            inner.message(5, schema(body));
        }
        wrapped.message(1, inner);
    } else {
        inner.flag(1, required);
        inner.text_of(2, json, "in");
        inner.text_of(3, json, "description");
        inner.text_of(4, json, "name");
        let query = place == "query";
        inner.text_of(if query { 6 } else { 5 }, json, "type");
        inner.flag(
            if query { 20 } else { 19 },
            json.get("uniqueItems").and_then(Value::as_bool) == Some(true),
        );
        let mut non_body = Message::default();
        non_body.message(if query { 3 } else { 4 }, inner);
        wrapped.message(2, non_body);
    }
    let mut out = Message::default();
    out.message(1, wrapped);
    out
}

fn schema(json: &Object) -> Message {
    let mut out = Message::default();
    out.text_of(1, json, "$ref");
    out.text_of(2, json, "format");
    out.text_of(4, json, "description");
    out.strings_of(19, json, "required");
    if let Some(values) = json.get("additionalProperties").and_then(Value::as_object) {
        let mut item = Message::default();
        item.message(1, schema(values));
        out.message(21, item);
    }
    if let Some(kind) = json.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.string(1, kind);
        out.message(22, item);
    }
    if let Some(items) = json.get("items").and_then(Value::as_object) {
        let mut item = Message::default();
        item.message(1, schema(items));
        out.message(23, item);
    }
    if json.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, property) in object(json, "properties") {
            properties.named(1, name, schema(property));
        }
        out.message(25, properties);
    }
    out.extensions(31, json);
    out
}

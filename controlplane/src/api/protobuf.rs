//! Bodies in Kubernetes' protobuf form, which current Go clients (kubectl from 1.32 on among them) send for
//! the built-in kinds without asking. They are turned into the JSON that the same client would have sent
//! otherwise; answers are always JSON, which these clients accept.
//!
//! Driven by a table of field numbers. Bounded: depth, and memory by the size of the body.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::registry::ApiError;

pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 32;

/// Numbers that Go cannot tell from absent ones: they are sent as zero where they are not set.
const ZERO_IS_ABSENT: &[&str] = &[
    "count",
    "failureThreshold",
    "generation",
    "healthCheckNodePort",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "observedGeneration",
    "periodSeconds",
    "signal",
    "successThreshold",
    "targetPort",
];
/// The same, where only the holder tells: (message, field).
const ZERO_IS_ABSENT_IN: &[(&str, &str)] = &[("core.v1.Probe", "timeoutSeconds")];
/// Texts that Go can tell from absent ones, and that mean something when they are empty: no class, instead of the
/// default one.
const EMPTY_IS_SET_IN: &[(&str, &str)] = &[
    ("core.v1.PersistentVolumeClaimSpec", "storageClassName"),
    (
        "core.v1.PersistentVolumeClaimSpec",
        "volumeAttributesClassName",
    ),
];
const FALSE_IS_ABSENT: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Bytes,
    Integer,
    Boolean,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Json,
    Duration,
    Texts,
    Message(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Card {
    One,
    Many,
    Map,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    /// `^` for an embedded message.
    name: &'static str,
    number: u64,
    card: Card,
    kind: Type,
}

type Table = HashMap<&'static str, Vec<Field>>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        include_str!("protobuf/fields.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut words = line.split(' ').filter(|word| !word.is_empty());
                Some((words.next()?, words.filter_map(field).collect()))
            })
            .collect()
    })
}

fn field(word: &'static str) -> Option<Field> {
    let (name, rest) = word.split_once(':')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let number = rest[..digits].parse().ok()?;
    let rest = &rest[digits..];
    let (card, code) = match rest.as_bytes().first()? {
        b'*' => (Card::Many, &rest[1..]),
        b'%' => (Card::Map, &rest[1..]),
        _ => (Card::One, rest),
    };
    let kind = match code.as_bytes().first()? {
        b's' => Type::Text,
        b'b' => Type::Bytes,
        b'i' => Type::Integer,
        b'o' => Type::Boolean,
        b't' => Type::Time,
        b'u' => Type::MicroTime,
        b'q' => Type::Quantity,
        b'x' => Type::IntOrString,
        b'f' => Type::Json,
        b'd' => Type::Duration,
        b'l' => Type::Texts,
        b'.' => Type::Message(&code[1..]),
        _ => return None,
    };
    Some(Field {
        name,
        number,
        card,
        kind,
    })
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum WireError {
    #[error("it does not begin as protobuf of Kubernetes does")]
    Magic,
    #[error("it ends too early")]
    Truncated,
    #[error("a field has a wire type that it cannot have")]
    WireType,
    #[error("text is not UTF-8")]
    Text,
    #[error("it is nested too deeply")]
    Depth,
    #[error("embedded JSON is invalid")]
    Json,
    #[error("kind {0} is not known in this form")]
    Kind(String),
}

/// The body as JSON.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    decode(body).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type Object): the protobuf body cannot be read: {error}"
        ))
    })
}

fn decode(body: &[u8]) -> Result<Value, WireError> {
    let body = body.strip_prefix(MAGIC).ok_or(WireError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut envelope = Reader(body);
    while let Some((number, wire)) = envelope.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => {
                let mut names = Reader(bytes);
                while let Some((number, wire)) = names.field()? {
                    match number {
                        1 => api_version = text(wire)?,
                        2 => kind = text(wire)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    let (known, _) = table()
        .get_key_value(name.as_str())
        .ok_or_else(|| WireError::Kind(format!("{api_version} {kind}")))?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    message(known, raw, &mut object, MAX_DEPTH)?;
    Ok(Value::Object(object))
}

/// `apps/v1` and `Deployment` are `apps.v1.Deployment`.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or(group);
    format!("{package}.{version}.{kind}")
}

/// One value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// Reads fields from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(WireError::Truncated)?;
            self.0 = rest;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Truncated)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], WireError> {
        let count = usize::try_from(count).map_err(|_| WireError::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed
            }
            _ => return Err(WireError::WireType),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

fn bytes(wire: Wire<'_>) -> Result<&[u8], WireError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        _ => Err(WireError::WireType),
    }
}

fn text(wire: Wire<'_>) -> Result<String, WireError> {
    String::from_utf8(bytes(wire)?.to_vec()).map_err(|_| WireError::Text)
}

/// Integers are signed, whatever their width.
fn integer(wire: Wire<'_>) -> Result<i64, WireError> {
    match wire {
        Wire::Varint(value) => Ok(value.cast_signed()),
        _ => Err(WireError::WireType),
    }
}

fn message(
    name: &'static str,
    body: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let fields = table().get(name).map_or(&[][..], Vec::as_slice);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        // What this version does not know is dropped, as Kubernetes does.
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        match (field.card, field.kind) {
            (Card::One, Type::Message(inner)) if field.name == "^" => {
                message(inner, bytes(wire)?, out, depth)?;
            }
            (Card::One, _) => {
                if let Some(value) = value(field.kind, wire, depth)?
                    && !is_absent(name, field.name, &value)
                {
                    out.insert(field.name.to_owned(), value);
                }
            }
            (Card::Many, _) => {
                let item = value(field.kind, wire, depth)?.unwrap_or(Value::Null);
                let list = out
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(item);
                }
            }
            (Card::Map, _) => {
                let (key, item) = entry(field.kind, bytes(wire)?, depth)?;
                let map = out
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, item);
                }
            }
        }
    }
    Ok(())
}

fn is_absent(message: &str, name: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() && !EMPTY_IS_SET_IN.contains(&(message, name)),
        Value::Bool(false) => FALSE_IS_ABSENT.contains(&name),
        Value::Number(number) if number.as_i64() == Some(0) => {
            ZERO_IS_ABSENT.contains(&name) || ZERO_IS_ABSENT_IN.contains(&(message, name))
        }
        _ => false,
    }
}

fn entry(kind: Type, body: &[u8], depth: usize) -> Result<(String, Value), WireError> {
    let (mut key, mut item) = (String::new(), None);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => key = text(wire)?,
            2 => item = value(kind, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, item.unwrap_or_else(|| Value::String(String::new()))))
}

/// `None` is a value that says it is not there, such as the zero time.
fn value(kind: Type, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, WireError> {
    Ok(Some(match kind {
        Type::Text => text(wire)?.into(),
        Type::Bytes => STANDARD.encode(bytes(wire)?).into(),
        Type::Integer => integer(wire)?.into(),
        Type::Boolean => (integer(wire)? != 0).into(),
        Type::Time => return time(bytes(wire)?, false),
        Type::MicroTime => return time(bytes(wire)?, true),
        Type::Quantity => first_text(bytes(wire)?)?.into(),
        Type::Texts => texts(bytes(wire)?)?,
        Type::IntOrString => int_or_string(bytes(wire)?)?,
        Type::Duration => duration(bytes(wire)?)?.into(),
        Type::Json => return json(bytes(wire)?),
        Type::Message(name) => {
            let mut inner = Map::new();
            message(name, bytes(wire)?, &mut inner, depth)?;
            Value::Object(inner)
        }
    }))
}

fn time(body: &[u8], micros: bool) -> Result<Option<Value>, WireError> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        match number {
            1 => seconds = Some(integer(wire)?),
            2 => nanos = integer(wire)?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    let nanos = if micros {
        i32::try_from(nanos).unwrap_or(0) / 1000 * 1000
    } else {
        0
    };
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| WireError::WireType)?;
    Ok(Some(if micros {
        format!("{time:.6}").into()
    } else {
        time.to_string().into()
    }))
}

fn first_text(body: &[u8]) -> Result<String, WireError> {
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            return text(wire);
        }
    }
    Ok(String::new())
}

fn texts(body: &[u8]) -> Result<Value, WireError> {
    let mut items = Vec::new();
    let mut reader = Reader(body);
    while let Some((_, wire)) = reader.field()? {
        items.push(text(wire)?.into());
    }
    Ok(Value::Array(items))
}

fn int_or_string(body: &[u8]) -> Result<Value, WireError> {
    let (mut is_text, mut number, mut words) = (false, 0, String::new());
    let mut reader = Reader(body);
    while let Some((field, wire)) = reader.field()? {
        match field {
            1 => is_text = integer(wire)? == 1,
            2 => number = integer(wire)?,
            3 => words = text(wire)?,
            _ => {}
        }
    }
    Ok(if is_text { words.into() } else { number.into() })
}

fn duration(body: &[u8]) -> Result<String, WireError> {
    let mut nanos = 0;
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            nanos = integer(wire)?;
        }
    }
    Ok(format!("{}ns", nanos))
}

fn json(body: &[u8]) -> Result<Option<Value>, WireError> {
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            let raw = bytes(wire)?;
            if raw.is_empty() {
                return Ok(None);
            }
            return serde_json::from_slice(raw)
                .map(Some)
                .map_err(|_| WireError::Json);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

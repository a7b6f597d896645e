//! Strategic merge patch: objects are merged field by field, and lists entry by entry where the type's merge
//! key says which entries are the same. What the patch sends in its directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/x`, `$setElementOrder/x`) never reaches the object.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Node, PatchStrategy, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

pub(super) fn patch(
    schema: &Schema,
    definition: &str,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("a strategic merge patch must be a JSON object"));
    };
    let merge = Merge { schema };
    let merged = merge.objects(&schema.root(definition), object.clone(), patch)?;
    Ok(Value::Object(merged))
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

fn unknown_directive(directive: &Value) -> PatchError {
    let shown = directive
        .as_str()
        .map_or_else(|| directive.to_string(), str::to_owned);
    malformed(format!("unknown patch type found: {shown}"))
}

fn list_of<'a>(patch: &'a Object, key: &str) -> Result<Option<&'a Vec<Value>>, PatchError> {
    match patch.get(key) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(malformed(format!("{key} must be a list"))),
    }
}

struct Merge<'a> {
    schema: &'a Schema,
}

impl Merge<'_> {
    fn strategy(&self, node: &Node, name: &str) -> PatchStrategy {
        self.schema
            .field(node, name)
            .map(|field| field.patch)
            .unwrap_or_default()
    }

    fn objects(
        &self,
        node: &Node,
        mut original: Object,
        patch: &Object,
    ) -> Result<Object, PatchError> {
        match patch.get(DIRECTIVE) {
            None => {}
            Some(Value::String(directive)) => match directive.as_str() {
                "replace" => return Ok(self.clean_object(node, patch)),
                "delete" => return Ok(Object::new()),
                "merge" => {}
                _ => return Err(unknown_directive(&patch[DIRECTIVE])),
            },
            Some(other) => return Err(unknown_directive(other)),
        }
        retain(&mut original, patch)?;
        for (key, value) in patch {
            if let Some(name) = key.strip_prefix(DELETE_FROM) {
                let gone = list_of(patch, key)?.map_or(&[][..], Vec::as_slice);
                if let Some(Value::Array(list)) = original.get_mut(name) {
                    list.retain(|entry| !gone.contains(entry));
                }
                continue;
            }
            if key.starts_with('$') {
                // Order directives are handled below, the others above.
                if !key.starts_with(ORDER) && key != DIRECTIVE && key != RETAIN_KEYS {
                    return Err(malformed(format!("unknown directive {key:?} in patch")));
                }
                continue;
            }
            let below = self.schema.child(node, key);
            let merged = match (original.remove(key), value) {
                (_, Value::Null) => continue,
                (Some(Value::Object(before)), Value::Object(change))
                    if !self.strategy(node, key).replace =>
                {
                    Value::Object(self.objects(below, before, change)?)
                }
                (Some(Value::Array(before)), Value::Array(change)) => {
                    let order = list_of(patch, &format!("{ORDER}{key}"))?;
                    Value::Array(self.lists(
                        below,
                        self.strategy(node, key),
                        before,
                        change,
                        order.map(Vec::as_slice),
                    )?)
                }
                (_, value) => self.clean(below, value),
            };
            original.insert(key.clone(), merged);
        }
        self.order_unpatched(node, &mut original, patch)?;
        Ok(original)
    }

    /// Order directives for lists that the patch does not change otherwise.
    fn order_unpatched(
        &self,
        node: &Node,
        original: &mut Object,
        patch: &Object,
    ) -> Result<(), PatchError> {
        for (key, order) in patch {
            let Some(name) = key.strip_prefix(ORDER) else {
                continue;
            };
            let Value::Array(order) = order else {
                return Err(malformed(format!("{key} must be a list")));
            };
            let strategy = self.strategy(node, name);
            if patch.contains_key(name) || !strategy.merge {
                continue;
            }
            if let Some(Value::Array(list)) = original.get_mut(name) {
                let before = list.clone();
                *list = ordered(std::mem::take(list), order, &before, strategy.key);
            }
        }
        Ok(())
    }

    fn lists(
        &self,
        node: &Node,
        strategy: PatchStrategy,
        before: Vec<Value>,
        change: &[Value],
        order: Option<&[Value]>,
    ) -> Result<Vec<Value>, PatchError> {
        let items = match node {
            Node::List { items, .. } => items,
            _ => &Node::Any,
        };
        if !strategy.merge {
            return Ok(change
                .iter()
                .map(|value| self.clean(items, value))
                .collect());
        }
        let key = strategy.key;
        if let Some(order) = order {
            agree(change, order, key)?;
        }
        if key.is_empty() {
            let mut merged = before.clone();
            for value in change {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            return Ok(ordered(merged, order.unwrap_or(change), &before, key));
        }
        // Directives among the entries come first: they say what is left of the original.
        let mut merged = before.clone();
        let mut plain: Vec<&Object> = Vec::new();
        let mut replace = false;
        for entry in change {
            let Value::Object(entry) = entry else {
                return Err(malformed(format!(
                    "a list that is merged by {key:?} must have objects as entries"
                )));
            };
            match entry.get(DIRECTIVE) {
                None => plain.push(entry),
                Some(Value::String(directive)) if directive == "delete" => {
                    let gone = entry.get(key).ok_or_else(|| missing_key(entry, key))?;
                    merged.retain(|value| value.get(key) != Some(gone));
                }
                Some(Value::String(directive)) if directive == "replace" => {
                    replace = true;
                    // An entry with more than the directive replaces the entry with its key.
                    if entry.len() > 1 {
                        plain.push(entry);
                    }
                }
                Some(Value::String(directive)) if directive == "merge" => plain.push(entry),
                Some(other) => return Err(unknown_directive(other)),
            }
        }
        if replace {
            return Ok(plain
                .into_iter()
                .map(|entry| Value::Object(self.clean_object(items, entry)))
                .collect());
        }
        for entry in &plain {
            let name = entry.get(key).ok_or_else(|| missing_key(entry, key))?;
            match merged.iter_mut().find(|value| value.get(key) == Some(name)) {
                Some(Value::Object(found)) => {
                    *found = self.objects(items, std::mem::take(found), entry)?;
                }
                _ => merged.push(Value::Object(self.clean_object(items, entry))),
            }
        }
        let own_order: Vec<Value>;
        let order = match order {
            Some(order) => order,
            None => {
                own_order = plain.into_iter().cloned().map(Value::Object).collect();
                &own_order
            }
        };
        Ok(ordered(merged, order, &before, key))
    }

    /// A value of the patch that has nothing to be merged into: without nulls and directives.
    fn clean(&self, node: &Node, value: &Value) -> Value {
        match value {
            Value::Object(object) => Value::Object(self.clean_object(node, object)),
            Value::Array(list) => {
                let items = match node {
                    Node::List { items, .. } => items,
                    _ => &Node::Any,
                };
                Value::Array(
                    list.iter()
                        .filter(|entry| entry.get(DIRECTIVE).is_none_or(|d| d == "merge"))
                        .map(|entry| self.clean(items, entry))
                        .collect(),
                )
            }
            other => other.clone(),
        }
    }

    fn clean_object(&self, node: &Node, object: &Object) -> Object {
        object
            .iter()
            .filter(|(key, value)| !value.is_null() && !is_directive(key))
            .map(|(key, value)| (key.clone(), self.clean(self.schema.child(node, key), value)))
            .collect()
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ORDER)
}

fn missing_key(entry: &Object, key: &str) -> PatchError {
    malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        Value::Object(entry.clone())
    ))
}

/// `$retainKeys`: of the original, only these fields stay.
fn retain(original: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(keep) = list_of(patch, RETAIN_KEYS)? else {
        return Ok(());
    };
    let listed = |key: &String| keep.iter().any(|kept| kept.as_str() == Some(key));
    let unlisted = patch
        .iter()
        .any(|(key, value)| !key.starts_with('$') && !value.is_null() && !listed(key));
    if unlisted {
        return Err(malformed("invalid patch format of retainKeys"));
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// What a patch adds or changes has to be in its own order directive, in the same order. What it deletes does not.
fn agree(change: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut left = order;
    for value in change {
        if !key.is_empty() && value.get(DIRECTIVE).is_some_and(|it| it != "merge") {
            continue;
        }
        match position(left, value, key) {
            Some(place) => left = &left[place + 1..],
            None => {
                let shown = |list: &[Value]| Value::from(list.to_vec());
                return Err(malformed(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    shown(change),
                    shown(order)
                )));
            }
        }
    }
    Ok(())
}

/// Where `value` stands in `order`: by merge key, or by itself in lists of scalars.
fn position(order: &[Value], value: &Value, key: &str) -> Option<usize> {
    if key.is_empty() {
        return order.iter().position(|other| other == value);
    }
    let name = value.get(key)?;
    order.iter().position(|other| other.get(key) == Some(name))
}

/// Entries that `order` names stand in that order; the others keep their place relative to each other, and
/// stand before an entry of the first sort when they stood before it in the original.
fn ordered(merged: Vec<Value>, order: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|value| position(order, value, key).is_some());
    named.sort_by_key(|value| position(order, value, key));
    others.sort_by_key(|value| position(before, value, key));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for value in named {
        let here = position(before, &value, key);
        while let Some(other) = others.peek() {
            let earlier = match (position(before, other, key), here) {
                (Some(there), Some(here)) => there < here,
                _ => false,
            };
            if !earlier {
                break;
            }
            out.extend(others.next());
        }
        out.push(value);
    }
    out.extend(others);
    out
}

//! What server-side apply does with values under a schema: which fields a value has, what changed between
//! two, how one is merged over another, and what is left when fields are given up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::PatchError;
use super::fields::{Fields, field_step};
use crate::schema::{ListType, Node, Presence, Schema};

/// A place in a type: its node, and whether it is taken as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    node: &'a Node,
    atomic: bool,
}

/// How the value at a place is looked at.
enum Shape<'v, 'a> {
    /// As a whole: scalars, atomic lists and objects, and what has another type than it should.
    Leaf,
    /// By field or key.
    Object(&'v Map<String, Value>),
    /// By entry; never [`ListType::Atomic`].
    List(&'v [Value], &'a ListType),
}

/// What one of two values that are compared has at a place.
#[derive(Debug, Clone, Copy)]
enum Side<'v> {
    Absent,
    /// Nothing is written, and yet the zero value is there: the structure around it has the field in any case.
    Zero,
    Value(&'v Value),
}

impl<'v> Side<'v> {
    fn given(value: Option<&'v Value>) -> Self {
        value
            .filter(|value| !value.is_null())
            .map_or(Self::Absent, Self::Value)
    }

    fn value(self) -> Option<&'v Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Zero => None,
        }
    }

    /// The field of a structure that is this side.
    fn field(self, value: Option<&'v Value>, always: bool) -> Self {
        match (Self::given(value), self) {
            (Self::Absent, Self::Value(_) | Self::Zero) if always => Self::Zero,
            (given, _) => given,
        }
    }
}

/// The value that a list key has where it is left out.
fn key_default(key: &str) -> Option<Value> {
    (key == "protocol").then(|| "TCP".into())
}

/// Parts of a value by step, each with its place.
type Parts<'v, 'a> = BTreeMap<String, (&'v Value, Place<'a>)>;

/// What changed between two values.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Added or modified.
    pub(super) changed: Fields,
    pub(super) removed: Fields,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) schema: &'a Schema,
}

impl<'a> Typed<'a> {
    pub(super) fn root(node: &'a Node) -> Place<'a> {
        Place {
            node,
            atomic: false,
        }
    }

    /// Fields that a type does not have are not stored, so nobody owns them.
    fn is_known(&self, place: Place<'a>, name: &str) -> bool {
        match place.node {
            Node::Object(id) => {
                let definition = self.schema.at(*id);
                definition.open || definition.field(name).is_some()
            }
            _ => true,
        }
    }

    fn child(&self, place: Place<'a>, name: &str) -> Place<'a> {
        let atomic = self
            .schema
            .field(place.node, name)
            .is_some_and(|field| field.atomic);
        Place {
            node: self.schema.child(place.node, name),
            atomic,
        }
    }

    fn shape<'v>(&self, place: Place<'a>, value: &'v Value) -> Shape<'v, 'a> {
        if place.atomic {
            return Shape::Leaf;
        }
        match (place.node, value) {
            (Node::Object(id), Value::Object(map)) if !self.schema.at(*id).atomic => {
                Shape::Object(map)
            }
            (Node::Map(_) | Node::Deduced, Value::Object(map)) => Shape::Object(map),
            (Node::List { list_type, .. }, Value::Array(list))
                if *list_type != ListType::Atomic =>
            {
                Shape::List(list, list_type)
            }
            _ => Shape::Leaf,
        }
    }

    /// The fields that an applied value has.
    pub(super) fn fields(&self, place: Place<'a>, value: &Value) -> Fields {
        match self.shape(place, value) {
            Shape::Leaf => Fields::leaf(),
            Shape::Object(map) => {
                let mut out = Fields::default();
                for (name, below) in map.iter().filter(|(name, _)| self.is_known(place, name)) {
                    let mut fields = self.fields(self.child(place, name), below);
                    // Keys of maps are things that one can own; so are objects with nothing inside.
                    fields.member |= matches!(place.node, Node::Map(_)) || fields.is_empty();
                    out.insert(field_step(name), fields);
                }
                out
            }
            Shape::List(list, list_type) => {
                let mut out = Fields::default();
                for entry in list {
                    let mut fields = self.fields(self.entry(place, list_type), entry);
                    fields.member = true;
                    if let Ok(step) = step(list_type, entry) {
                        out.insert(step, fields);
                    }
                }
                out
            }
        }
    }

    /// The place of an entry of the list at `place`; entries of sets have no parts.
    fn entry(&self, place: Place<'a>, list_type: &ListType) -> Place<'a> {
        Self::root(match (place.node, list_type) {
            (Node::List { items, .. }, ListType::Map(_)) => items,
            _ => &Node::Any,
        })
    }

    /// What a writer who turned `before` into `after` has changed.
    pub(super) fn changes(
        &self,
        place: Place<'a>,
        before: Option<&Value>,
        after: Option<&Value>,
    ) -> Changes {
        self.compare(place, Side::given(before), Side::given(after))
    }

    fn compare(&self, place: Place<'a>, before: Side<'_>, after: Side<'_>) -> Changes {
        let mut out = Changes::default();
        if before.value() == after.value() {
            return out;
        }
        if let (Some(was), Some(is)) = (before.value(), after.value())
            && let (Shape::Object(was), Shape::Object(is)) =
                (self.shape(place, was), self.shape(place, is))
        {
            return self.compare_fields(place, was, is);
        }
        let old = before.value().map(|value| self.parts(place, value));
        let new = after.value().map(|value| self.parts(place, value));
        // A value that is taken as a whole on either side has no parts to compare.
        if matches!(old, Some(None)) || matches!(new, Some(None)) {
            match (before, after) {
                (Side::Zero, Side::Value(value)) | (Side::Value(value), Side::Zero)
                    if is_zero(value) => {}
                (_, Side::Value(_) | Side::Zero) => out.changed.member = true,
                (_, Side::Absent) => out.removed.member = true,
            }
            if let (Some(Some(_)), Some(before)) = (&old, before.value()) {
                out.removed = self.fields(place, before);
            }
            return out;
        }
        let (old, new) = (old.flatten(), new.flatten());
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let steps: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for step in steps {
            let (was, is) = (old.get(step), new.get(step));
            let Some(below) = is.or(was).map(|(_, place)| *place) else {
                continue;
            };
            let always = self.is_always(place, step.strip_prefix("f:").unwrap_or(""));
            let changes = self.compare(
                below,
                before.field(was.map(|(value, _)| *value), always),
                after.field(is.map(|(value, _)| *value), always),
            );
            out.changed.insert(step.clone(), changes.changed);
            out.removed.insert(step.clone(), changes.removed);
        }
        match (before, after) {
            (Side::Absent, _) => out.changed.member = true,
            (_, Side::Absent) => out.removed.member = true,
            // A list or map of nothing is another value than none.
            (Side::Zero, Side::Value(value)) => {
                out.changed.member = is_empty(value) && !matches!(place.node, Node::Object(_));
            }
            _ => {}
        }
        out
    }

    fn is_always(&self, place: Place<'a>, name: &str) -> bool {
        let field = self.schema.field(place.node, name);
        field.is_some_and(|field| field.presence == Presence::Always)
    }

    /// The same of two objects. Most fields of most writes are as they were: for them nothing is made.
    fn compare_fields(
        &self,
        place: Place<'a>,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
    ) -> Changes {
        let mut out = Changes::default();
        let added = new.keys().filter(|name| !old.contains_key(*name));
        for name in old.keys().chain(added) {
            let (was, is) = (old.get(name), new.get(name));
            if was == is || !self.is_known(place, name) {
                continue;
            }
            let side = |value| match Side::given(value) {
                Side::Absent if self.is_always(place, name) => Side::Zero,
                side => side,
            };
            let changes = self.compare(self.child(place, name), side(was), side(is));
            for (all, found) in [
                (&mut out.changed, changes.changed),
                (&mut out.removed, changes.removed),
            ] {
                if !found.is_empty() {
                    all.insert(field_step(name), found);
                }
            }
        }
        out
    }

    /// The parts of a value by step; `None` when it is taken as a whole.
    fn parts<'v>(&self, place: Place<'a>, value: &'v Value) -> Option<Parts<'v, 'a>> {
        match self.shape(place, value) {
            Shape::Leaf => None,
            Shape::Object(map) => Some(
                map.iter()
                    .filter(|(name, _)| self.is_known(place, name))
                    .map(|(name, below)| (field_step(name), (below, self.child(place, name))))
                    .collect(),
            ),
            Shape::List(list, list_type) => {
                let entry_place = self.entry(place, list_type);
                let mut out = Parts::new();
                for entry in list {
                    let step = step(list_type, entry).ok()?;
                    out.entry(step).or_insert((entry, entry_place));
                }
                Some(out)
            }
        }
    }

    /// `over` merged over `under`.
    pub(super) fn merge(&self, place: Place<'a>, under: Option<&Value>, over: &Value) -> Value {
        let Some(under) = under else {
            return over.clone();
        };
        match (self.shape(place, under), self.shape(place, over)) {
            (Shape::Object(old), Shape::Object(new)) => {
                let mut out = old.clone();
                for (name, value) in new.iter().filter(|(_, value)| !value.is_null()) {
                    let merged = self.merge(self.child(place, name), old.get(name), value);
                    out.insert(name.clone(), merged);
                }
                Value::Object(out)
            }
            (Shape::List(old, list_type), Shape::List(new, _)) => {
                Value::Array(self.merge_lists(place, list_type, old, new))
            }
            _ => over.clone(),
        }
    }

    /// Entries that both have stand in the order of `new`; those of `old` alone keep their place before what
    /// they stood before; what is new comes after what it follows.
    fn merge_lists(
        &self,
        place: Place<'a>,
        list_type: &ListType,
        old: &[Value],
        new: &[Value],
    ) -> Vec<Value> {
        let steps = |list: &[Value]| -> Vec<Option<String>> {
            list.iter()
                .map(|entry| step(list_type, entry).ok())
                .collect()
        };
        let (old_steps, new_steps) = (steps(old), steps(new));
        let mut out = Vec::with_capacity(old.len() + new.len());
        let mut next_old = 0;
        let mut take_old_until = |until: usize, out: &mut Vec<Value>| {
            while next_old < until {
                if !new_steps.contains(&old_steps[next_old]) {
                    out.push(old[next_old].clone());
                }
                next_old += 1;
            }
        };
        // What is new at the end of the list comes after everything that was there.
        let last_shared = new_steps
            .iter()
            .rposition(|step| old_steps.contains(step))
            .map_or(0, |at| at + 1);
        for (at, (entry, step)) in new.iter().zip(&new_steps).enumerate() {
            match old_steps.iter().position(|other| other == step) {
                Some(there) => {
                    take_old_until(there, &mut out);
                    out.push(self.merge(self.entry(place, list_type), Some(&old[there]), entry));
                }
                None => {
                    if at >= last_shared {
                        take_old_until(old.len(), &mut out);
                    }
                    out.push(entry.clone());
                }
            }
        }
        take_old_until(old.len(), &mut out);
        out
    }

    /// Removes from `value` what is in `given_up` and not in `owned`. Objects and lists that are empty then
    /// go as well, unless somebody owns them.
    pub(super) fn prune(
        &self,
        place: Place<'a>,
        value: &mut Value,
        given_up: &Fields,
        owned: &Fields,
    ) {
        let none = Fields::default();
        let list_type = match self.shape(place, value) {
            Shape::Leaf => return,
            Shape::Object(_) => None,
            Shape::List(_, list_type) => Some(list_type),
        };
        match (list_type, value) {
            (None, Value::Object(map)) => {
                let is_map = matches!(place.node, Node::Map(_));
                for (step, given_up) in &given_up.below {
                    let Some(name) = step.strip_prefix("f:") else {
                        continue;
                    };
                    let Some(below) = map.get_mut(name) else {
                        continue;
                    };
                    let owned = owned.below.get(step).unwrap_or(&none);
                    // A field of a structure is somebody's as long as anything below it is.
                    let kept = if is_map {
                        owned.member
                    } else {
                        !owned.is_empty()
                    };
                    let place = self.child(place, name);
                    if self.goes(place, below, given_up, owned, kept) {
                        map.remove(name);
                    }
                }
            }
            (Some(list_type), Value::Array(list)) => {
                let entry_place = self.entry(place, list_type);
                list.retain_mut(|entry| {
                    let Ok(step) = step(list_type, entry) else {
                        return true;
                    };
                    let Some(given_up) = given_up.below.get(&step) else {
                        return true;
                    };
                    let owned = owned.below.get(&step).unwrap_or(&none);
                    if given_up.member && !owned.member {
                        return false;
                    }
                    self.prune(entry_place, entry, given_up, owned);
                    true
                });
            }
            _ => {}
        }
    }

    /// Whether the value of a field goes away, after what is given up inside it went.
    fn goes(
        &self,
        place: Place<'a>,
        value: &mut Value,
        given_up: &Fields,
        owned: &Fields,
        kept: bool,
    ) -> bool {
        if given_up.member && !kept {
            return true;
        }
        let was_empty = is_empty(value);
        self.prune(place, value, given_up, owned);
        !was_empty && is_empty(value) && !owned.member
    }

    /// Paths of the lists and objects in `value` that are taken as a whole.
    pub(super) fn wholes(
        &self,
        place: Place<'a>,
        value: &Value,
        path: &str,
        found: &mut Vec<String>,
    ) {
        match self.shape(place, value) {
            Shape::Leaf if value.is_array() || value.is_object() => found.push(path.to_owned()),
            Shape::Leaf => {}
            Shape::Object(map) => {
                for (name, below) in map {
                    self.wholes(
                        self.child(place, name),
                        below,
                        &format!("{path}.{name}"),
                        found,
                    );
                }
            }
            Shape::List(list, list_type) => {
                for entry in list {
                    self.wholes(
                        self.entry(place, list_type),
                        entry,
                        &format!("{path}[]"),
                        found,
                    );
                }
            }
        }
    }

    /// Problems that make a value unusable for server-side apply: entries without their keys, or twice.
    pub(super) fn check(
        &self,
        place: Place<'a>,
        value: &Value,
        path: &str,
    ) -> Result<(), PatchError> {
        match self.shape(place, value) {
            Shape::Leaf => Ok(()),
            Shape::Object(map) => map.iter().try_for_each(|(name, below)| {
                self.check(self.child(place, name), below, &format!("{path}.{name}"))
            }),
            Shape::List(list, list_type) => {
                let mut seen = BTreeSet::new();
                for entry in list {
                    let step = step(list_type, entry)
                        .map_err(|problem| PatchError::Malformed(format!("{path}: {problem}")))?;
                    let below = format!("{path}{}", super::fields::shown(&step));
                    if !seen.insert(step) {
                        return Err(PatchError::Malformed(format!(
                            "{path}: duplicate entries for key {}",
                            below.strip_prefix(path).unwrap_or("")
                        )));
                    }
                    self.check(self.entry(place, list_type), entry, &below)?;
                }
                Ok(())
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// What a scalar has that is not set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_f64() == Some(0.0),
        Value::String(value) => value.is_empty(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// How the set of fields names an entry of a list.
fn step(list_type: &ListType, entry: &Value) -> Result<String, String> {
    let ListType::Map(keys) = list_type else {
        return Ok(format!("v:{entry}"));
    };
    let mut named = Map::new();
    for key in keys.iter() {
        let value = entry
            .get(&**key)
            .filter(|value| !value.is_null())
            .cloned()
            .or_else(|| key_default(key))
            .ok_or_else(|| {
                format!(
                    "element {entry}: associative list with keys has an element that omits key field \
                     {key:?} (and doesn't have default value)"
                )
            })?;
        named.insert((**key).to_owned(), value);
    }
    Ok(format!("k:{}", Value::Object(named)))
}

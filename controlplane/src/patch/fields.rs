//! Sets of field paths, as `metadata.managedFields` stores them (FieldsV1): a tree whose steps are written
//! `f:name` (a field or map key), `k:{"name":"a"}` (a list entry by its keys), `v:"x"` (an entry of a set)
//! or `i:0`. A path is in the set when its node is a member; that a longer path is in the set does not make
//! it one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// Steps below this depth are not read: no type of ours nests that deep.
const DEEPEST: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) member: bool,
    pub(super) below: BTreeMap<String, Fields>,
}

pub(super) fn field_step(name: &str) -> String {
    format!("f:{name}")
}

impl Fields {
    pub(super) fn leaf() -> Self {
        Self {
            member: true,
            below: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.values().all(Self::is_empty)
    }

    /// Adds a subtree, unless there is nothing in it.
    pub(super) fn insert(&mut self, step: String, fields: Self) {
        if fields.is_empty() {
            return;
        }
        match self.below.entry(step) {
            Entry::Vacant(place) => {
                place.insert(fields);
            }
            Entry::Occupied(there) => there.into_mut().add(&fields),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, fields) in &other.below {
            if !fields.is_empty() {
                self.below.entry(step.clone()).or_default().add(fields);
            }
        }
    }

    /// Takes out the paths that are in `other`.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (step, fields) in &other.below {
            if let Some(mine) = self.below.get_mut(step) {
                mine.subtract(fields);
            }
        }
        self.below.retain(|_, fields| !fields.is_empty());
    }

    /// The paths that are in both.
    pub(super) fn common(&self, other: &Self) -> Self {
        let below = self
            .below
            .iter()
            .filter_map(|(step, mine)| {
                let both = mine.common(other.below.get(step)?);
                (!both.is_empty()).then(|| (step.clone(), both))
            })
            .collect();
        Self {
            member: self.member && other.member,
            below,
        }
    }

    /// Takes out a path with everything below it (`whole`), or the path alone.
    pub(super) fn remove(&mut self, path: &[&str], whole: bool) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            if whole {
                self.below.clear();
            }
            return;
        };
        if let Some(fields) = self.below.get_mut(&field_step(first)) {
            fields.remove(rest, whole);
        }
        self.below.retain(|_, fields| !fields.is_empty());
    }

    pub(super) fn from_json(json: &Value) -> Self {
        Self::read(json, 0)
    }

    fn read(json: &Value, depth: usize) -> Self {
        let mut out = Self::default();
        let Some(map) = json.as_object().filter(|_| depth < DEEPEST) else {
            return out;
        };
        out.member = depth > 0 && (map.is_empty() || map.contains_key("."));
        for (step, below) in map.iter().filter(|(step, _)| *step != ".") {
            if let Some(step) = canonical(step) {
                out.insert(step, Self::read(below, depth + 1));
            }
        }
        out
    }

    pub(super) fn to_json(&self) -> Value {
        let mut map: Map<String, Value> = self
            .below
            .iter()
            .map(|(step, fields)| (step.clone(), fields.to_json()))
            .collect();
        if self.member && !map.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }

    /// Every path as messages write it: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        for (step, fields) in &self.below {
            let length = path.len();
            path.push_str(&shown(step));
            fields.collect(path, out);
            path.truncate(length);
        }
    }
}

/// A step in the one form that compares equal; `None` for what is no step.
fn canonical(step: &str) -> Option<String> {
    let (kind, rest) = step.split_once(':')?;
    match kind {
        "f" => Some(step.to_owned()),
        "k" | "v" => serde_json::from_str::<Value>(rest)
            .ok()
            .map(|value| format!("{kind}:{value}")),
        "i" => rest.parse::<u64>().ok().map(|at| format!("i:{at}")),
        _ => None,
    }
}

pub(super) fn shown(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let all: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", all.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", at)) => format!("[{at}]"),
        _ => step.to_owned(),
    }
}

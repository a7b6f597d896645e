//! `metadata.managedFields`: who owns which fields. Entries are told apart by manager, operation and
//! subresource (and API version, for updates).

use serde_json::{Map, Value, json};

use super::ApplyConflict;
use super::fields::Fields;
use super::typed::Typed;
use crate::kinds::access::{list, object_mut, text};
use crate::schema::{Schema, TypeRef};

/// Who writes what, when.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) of: TypeRef<'a>,
    pub(super) manager: &'a str,
    pub(super) subresource: &'a str,
    pub(super) now: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// `Apply` or `Update`
    pub(super) operation: String,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: Fields,
}

impl Entry {
    /// Whether writes of the two go to one entry.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == "Apply" || self.api_version == other.api_version)
    }
}

/// The entries of an object.
pub(super) fn read(object: &Value) -> Vec<Entry> {
    list(object, &["metadata", "managedFields"])
        .iter()
        .map(|entry| Entry {
            manager: text(entry, &["manager"]).to_owned(),
            operation: text(entry, &["operation"]).to_owned(),
            api_version: text(entry, &["apiVersion"]).to_owned(),
            subresource: text(entry, &["subresource"]).to_owned(),
            time: text(entry, &["time"]).to_owned(),
            fields: entry
                .get("fieldsV1")
                .map(Fields::from_json)
                .unwrap_or_default(),
        })
        .filter(|entry| !entry.operation.is_empty() && !entry.fields.is_empty())
        .collect()
}

/// Writes the entries into the object; those that own nothing are dropped.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    fn order(entry: &Entry) -> [&str; 4] {
        [
            &entry.operation,
            &entry.time,
            &entry.manager,
            &entry.subresource,
        ]
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    let json: Vec<Value> = entries
        .into_iter()
        .map(|entry| {
            let mut map = Map::new();
            map.insert("manager".into(), entry.manager.into());
            map.insert("operation".into(), entry.operation.into());
            map.insert("apiVersion".into(), entry.api_version.into());
            if !entry.time.is_empty() {
                map.insert("time".into(), entry.time.into());
            }
            map.insert("fieldsType".into(), "FieldsV1".into());
            map.insert("fieldsV1".into(), entry.fields.to_json());
            if !entry.subresource.is_empty() {
                map.insert("subresource".into(), entry.subresource.into());
            }
            Value::Object(map)
        })
        .collect();
    let meta = object_mut(object, &["metadata"]);
    if json.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), json.into());
    }
}

/// Fields that nobody owns: the server sets them, or they name the object.
const NOBODYS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "resourceVersion"],
];

/// Takes out of `fields` what a write of this resource cannot own.
pub(super) fn strip(fields: &mut Fields, of: TypeRef<'_>, subresource: &str) {
    fields.member = false;
    for path in NOBODYS {
        fields.remove(path, false);
    }
    fields.remove(&["metadata", "managedFields"], true);
    match subresource {
        "status" => fields.remove(&["spec"], true),
        _ if of.has_status => fields.remove(&["status"], true),
        _ => {}
    }
}

pub(super) fn track_update(
    schema: &Schema,
    request: &Request<'_>,
    old: Option<&Value>,
    new: &mut Value,
) {
    let given = list(new, &["metadata", "managedFields"]);
    // What owns which field is changed through the object itself only: a controller that writes a status without
    // naming a version, from a copy that others have changed since, must not take their ownership away.
    // (Kubernetes: ignoreManagedFieldsFromRequestObject in the field manager of subresources.)
    let is_subresource = !request.subresource.is_empty();
    let is_nothing = |entry: &Value| entry.as_object().is_some_and(Map::is_empty);
    let is_reset = matches!(given, [only] if is_nothing(only)) && !is_subresource;
    let mut entries = if is_subresource {
        Vec::new()
    } else {
        read(new)
    };
    if entries.is_empty() && !is_reset {
        entries = old.map(read).unwrap_or_default();
    }
    object_mut(new, &["metadata"]).remove("managedFields");
    if is_reset {
        return;
    }
    let typed = Typed { schema };
    let root = schema.root(request.of.definition);
    let empty = json!({});
    let before = old.unwrap_or(&empty);
    let mut changes = typed.changes(Typed::root(&root), Some(before), Some(&*new));
    strip(&mut changes.changed, request.of, request.subresource);
    for entry in &mut entries {
        entry.fields.subtract(&changes.changed);
        entry.fields.subtract(&changes.removed);
    }
    if !changes.changed.is_empty() {
        let mine = Entry {
            manager: request.manager.to_owned(),
            operation: "Update".into(),
            api_version: text(new, &["apiVersion"]).to_owned(),
            subresource: request.subresource.to_owned(),
            time: request.now.to_owned(),
            fields: changes.changed,
        };
        match entries.iter_mut().find(|entry| entry.is_same(&mine)) {
            Some(entry) => {
                entry.fields.add(&mine.fields);
                entry.time = mine.time;
            }
            None => entries.push(mine),
        }
    }
    write(new, entries);
}

/// Who a conflict is with, as messages say it.
fn shown(conflict: &ApplyConflict) -> String {
    let mut out = format!("{:?}", conflict.manager);
    if !conflict.subresource.is_empty() {
        out = format!("{out} with subresource {:?}", conflict.subresource);
    }
    if conflict.operation == "Update" {
        out = format!("{out} using {}", conflict.api_version);
    }
    out
}

pub(super) fn cause_message(conflict: &ApplyConflict) -> String {
    format!("conflict with {}", shown(conflict))
}

/// The message of the whole 409.
pub(super) fn conflict_message(conflicts: &[ApplyConflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            shown(only),
            only.field
        );
    }
    let mut lines: Vec<String> = Vec::new();
    let mut managers: Vec<String> = conflicts.iter().map(shown).collect();
    managers.sort_unstable();
    managers.dedup();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(
            conflicts
                .iter()
                .filter(|conflict| shown(conflict) == manager)
                .map(|conflict| format!("- {}", conflict.field)),
        );
    }
    format!(
        "Apply failed with {} conflicts: {}",
        conflicts.len(),
        lines.join("\n")
    )
}

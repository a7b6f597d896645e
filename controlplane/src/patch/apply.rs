//! Server-side apply: the applied configuration says what its manager wants and, by what it leaves out since
//! the last time, what it no longer wants. What others own may only be changed by force.

use serde_json::{Value, json};

use super::client_side;
use super::managed::{self, Entry, Request};
use super::typed::Typed;
use super::{ApplyConflict, PatchError};
use crate::kinds::access::{list, object_mut, text};
use crate::schema::{Schema, TypeRef};

/// Owner of everything that an object without managed fields has when it is first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

pub(super) fn apply(
    schema: &Schema,
    request: &Request<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Value, PatchError> {
    if !applied.is_object() {
        return Err(PatchError::Malformed(
            "the applied object must be a JSON object".into(),
        ));
    }
    if !list(applied, &["metadata", "managedFields"]).is_empty() {
        return Err(PatchError::Malformed(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let typed = Typed { schema };
    let node = schema.root(request.of.definition);
    let root = Typed::root(&node);
    typed.check(root, applied, "")?;

    let empty = json!({});
    let mut before = live.unwrap_or(&empty).clone();
    let mut entries = managed::read(&before);
    object_mut(&mut before, &["metadata"]).remove("managedFields");
    if entries.is_empty() && live.is_some() {
        let mut fields = typed.fields(root, &before);
        managed::strip(&mut fields, request.of, request.subresource);
        entries.push(Entry {
            manager: BEFORE_FIRST_APPLY.into(),
            operation: "Update".into(),
            api_version: text(&before, &["apiVersion"]).to_owned(),
            subresource: String::new(),
            time: String::new(),
            fields,
        });
    }

    let mut fields = typed.fields(root, applied);
    managed::strip(&mut fields, request.of, request.subresource);
    let mut mine = Entry {
        manager: request.manager.to_owned(),
        operation: "Apply".into(),
        api_version: text(applied, &["apiVersion"]).to_owned(),
        subresource: request.subresource.to_owned(),
        time: request.now.to_owned(),
        fields,
    };
    let last = entries
        .iter()
        .position(|entry| entry.is_same(&mine))
        .map(|at| entries.remove(at));

    let mut merged = typed.merge(root, Some(&before), applied);
    object_mut(&mut merged, &["metadata"]).remove("managedFields");
    if let Some(last) = &last {
        let mut owned = mine.fields.clone();
        for entry in &entries {
            owned.add(&entry.fields);
        }
        typed.prune(root, &mut merged, &last.fields, &owned);
    }

    let changes = typed.changes(root, Some(&before), Some(&merged));
    let mut contested = changes.changed.clone();
    if request.manager == client_side::MANAGER {
        contested.subtract(&client_side::applied_before(typed, root, &before));
    }
    let conflicts = conflicts(&entries, &contested);
    if !force && !conflicts.is_empty() {
        return Err(PatchError::Conflicts(conflicts));
    }
    for entry in &mut entries {
        entry.fields.subtract(&changes.changed);
        entry.fields.subtract(&changes.removed);
    }
    if request.manager == client_side::MANAGER {
        client_side::keep_annotation(&before, applied, &mut merged);
    }
    // Applying the same again is no change at all, not even of the time.
    if let Some(last) = last
        && merged == before
        && last.fields == mine.fields
    {
        mine.time = last.time;
    }
    entries.push(mine);
    managed::write(&mut merged, entries);
    Ok(merged)
}

/// `configuration` merged over `object`, whoever owns what. What is taken as a whole cannot be configured so: nobody
/// would say what becomes of the rest.
pub(super) fn merge(
    schema: &Schema,
    of: TypeRef<'_>,
    object: &Value,
    configuration: &Value,
) -> Result<Value, PatchError> {
    let typed = Typed { schema };
    let node = schema.root(of.definition);
    let root = Typed::root(&node);
    typed.check(root, configuration, "")?;
    let mut wholes = Vec::new();
    typed.wholes(root, configuration, "", &mut wholes);
    if !wholes.is_empty() {
        return Err(PatchError::Unprocessable(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            wholes.join(", ")
        )));
    }
    Ok(typed.merge(root, Some(object), configuration))
}

fn conflicts(entries: &[Entry], changed: &super::fields::Fields) -> Vec<ApplyConflict> {
    let mut out = Vec::new();
    for entry in entries {
        for field in entry.fields.common(changed).paths() {
            out.push(ApplyConflict {
                manager: entry.manager.clone(),
                operation: entry.operation.clone(),
                api_version: entry.api_version.clone(),
                subresource: entry.subresource.clone(),
                field,
            });
        }
    }
    out
}

//! Manifests: YAML or JSON, one or several documents, from a file or standard input.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use kube::api::DynamicObject;
use serde::Deserialize as _;
use serde_json::Value;

pub(super) fn read(path: &Path) -> anyhow::Result<Vec<DynamicObject>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_saphyr::from_multiple::<Value>(text)? {
        if document.is_null() {
            continue;
        }
        // A list is its items.
        match document.get("items").and_then(Value::as_array) {
            Some(items) => {
                for item in items {
                    objects.push(DynamicObject::deserialize(item)?);
                }
            }
            None => objects.push(DynamicObject::deserialize(&document)?),
        }
    }
    anyhow::ensure!(!objects.is_empty(), "no objects");
    for object in &objects {
        let named = object.types.is_some() && object.metadata.name.is_some();
        anyhow::ensure!(named, "an object without apiVersion, kind or name");
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_and_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Secret, metadata: {name: b}}\n";
        let objects = parse(text).unwrap();
        let names: Vec<_> = objects
            .iter()
            .map(|it| it.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert!(parse("").is_err() && parse("kind: Pod").is_err());
    }
}

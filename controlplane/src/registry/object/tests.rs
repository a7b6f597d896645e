//! Tests of `registry::object`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn stored_form_begins_with_kind_version_and_metadata() {
    let object = json!({
        "apiVersion": "v1", "data": {"metadata": "{\"metadata\":{}}"}, "kind": "ConfigMap",
        "metadata": {"name": "a", "resourceVersion": "7"},
    });
    let stored = encode(&object);
    assert!(
        stored.starts_with(br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"#)
    );
    let served: Value = serde_json::from_slice(&splice(&stored, 42)).unwrap();
    assert_eq!(served["metadata"]["resourceVersion"], "42");
    assert_eq!(served["data"], object["data"]);
}

#[test]
fn empty_metadata_still_splices_to_json() {
    let stored = encode(&json!({"kind": "A", "apiVersion": "v1"}));
    let served: Value = serde_json::from_slice(&splice(&stored, 1)).unwrap();
    assert_eq!(served["metadata"], json!({"resourceVersion": "1"}));
}

#[test]
fn nulls_are_absent() {
    let mut value = json!({"a": null, "b": [{"c": null, "d": 1}], "e": {"f": null}});
    strip_nulls(&mut value);
    assert_eq!(value, json!({"b": [{"d": 1}], "e": {}}));
    // But in what is kept as it was written.
    let mut revision = json!({"data": {"a": null}, "revision": null});
    strip_typed("ControllerRevision", &mut revision);
    assert_eq!(revision, json!({"data": {"a": null}}));
    strip_typed("ConfigMap", &mut revision);
    assert_eq!(revision, json!({"data": {}}));
}

proptest! {
    #[test]
    fn splice_changes_only_the_resource_version(
        name in "\\PC{0,20}",
        labels in proptest::collection::btree_map("\\PC{0,12}", "\\PC{0,12}", 0..4),
        revision in any::<u64>(),
    ) {
        let object = json!({
            "kind": "K", "apiVersion": "g/v1",
            "metadata": {"name": name, "labels": labels},
            "spec": {"x": [1, 2]},
        });
        let mut served: Value = serde_json::from_slice(&splice(&encode(&object), revision)).unwrap();
        prop_assert_eq!(served["metadata"]["resourceVersion"].as_str().unwrap(), revision.to_string());
        remove_meta(&mut served, "resourceVersion");
        prop_assert_eq!(served, object);
    }
}

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

#[test]
fn what_is_stored_has_no_room_to_spare() {
    let object = json!({"kind": "K", "apiVersion": "v1", "metadata": {"name": "x".repeat(3_000)}});
    let stored = encode(&object);
    let room = stored.len();
    let held = Vec::from(stored).capacity();
    assert_eq!(held, room);
}

#[test]
fn managers_are_left_out_wherever_they_are() {
    let stored = |metadata: &str| {
        format!(
            r#"{{"kind":"K","apiVersion":"v1","metadata":{{{metadata}}},"spec":{{"managedFields":[1]}}}}"#
        )
    };
    let managed = r#""managedFields":[{"fieldsV1":{"f:a\"]":{"k:{\"x\":1}":[]}}}]"#;
    for (with, without) in [
        (managed.to_owned(), ""),
        (format!(r#"{managed},"name":"a""#), r#""name":"a""#),
        (format!(r#""name":"a",{managed}"#), r#""name":"a""#),
        (
            format!(r#""labels":{{"managedFields":"}}"}},{managed},"uid":"u\\""#),
            r#""labels":{"managedFields":"}"},"uid":"u\\""#,
        ),
        (
            r#""name":"a","number":1"#.to_owned(),
            r#""name":"a","number":1"#,
        ),
        (String::new(), ""),
    ] {
        let found = without_managers(stored(&with).as_bytes()).into_owned();
        assert_eq!(String::from_utf8(found).unwrap(), stored(without));
    }
    for cut in [
        r#"{"metadata":{"managedFields":[1"#,
        r#"{"metadata":{"a"#,
        "[]",
        "",
    ] {
        assert_eq!(*without_managers(cut.as_bytes()), *cut.as_bytes());
    }
}

proptest! {
    #[test]
    fn only_managers_are_left_out(
        name in "\\PC{0,20}",
        labels in proptest::collection::btree_map("\\PC{0,12}", "\\PC{0,12}", 0..4),
        fields in proptest::collection::btree_map("\\PC{0,12}", "\\PC{0,12}", 0..4),
    ) {
        let mut object = json!({
            "kind": "K", "apiVersion": "g/v1",
            "metadata": {"name": name, "labels": labels, "managedFields": [{"manager": name, "fieldsV1": fields}]},
            "spec": {"x": [1, 2]},
        });
        let stored = encode(&object);
        let lean: Value = serde_json::from_slice(&without_managers(&stored)).unwrap();
        remove_meta(&mut object, "managedFields");
        prop_assert_eq!(lean, object);
    }

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
        let stored = encode(&object);
        let spliced = splice(&stored, revision);
        let kv = KeyValue::new("k".into(), stored, 1, revision, 1);
        prop_assert_eq!(&parts(&kv).concat(), &spliced);
        let mut served: Value = serde_json::from_slice(&spliced).unwrap();
        prop_assert_eq!(served["metadata"]["resourceVersion"].as_str().unwrap(), revision.to_string());
        remove_meta(&mut served, "resourceVersion");
        prop_assert_eq!(served, object);
    }
}

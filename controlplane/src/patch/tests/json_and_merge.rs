//! JSON patch and merge patch.

use super::*;

#[test]
fn json_patch_applies_all_or_nothing() {
    let object = json!({"a": [1, 2], "b": {"c": 3}});
    let patch = json!([
        {"op": "test", "path": "/b/c", "value": 3},
        {"op": "add", "path": "/a/1", "value": 9},
        {"op": "move", "from": "/b/c", "path": "/d"},
        {"op": "remove", "path": "/a/0"},
    ]);
    assert_eq!(
        json_patch(&object, &patch).unwrap(),
        json!({"a": [9, 2], "b": {}, "d": 3})
    );
}

#[test]
fn json_patch_errors_say_which_kind_they_are() {
    let object = json!({"a": 1});
    assert!(matches!(
        json_patch(&object, &json!({"op": "add"})),
        Err(PatchError::Malformed(_))
    ));
    assert!(matches!(
        json_patch(&object, &json!([{"op": "remove", "path": "/x/y"}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert_eq!(
        json_patch(&object, &json!([{"op": "test", "path": "/a", "value": 2}])),
        Err(PatchError::Unprocessable(
            "testing value /a failed: test failed".into()
        ))
    );
}

#[test]
fn copies_of_copies_are_stopped() {
    let object = json!({"a": {"b": "x".repeat(1000)}});
    let operations: Vec<Value> = (0..64)
        .map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/c{n}")}))
        .collect();
    assert!(matches!(
        json_patch(&object, &Value::from(operations)),
        Err(PatchError::Unprocessable(_))
    ));
}

#[test]
fn merge_patch_follows_the_examples_of_the_rfc() {
    for (object, patch, merged) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": "b", "b": "c"}),
            json!({"a": null}),
            json!({"b": "c"}),
        ),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        ),
        (
            json!({"e": null}),
            json!({"a": 1}),
            json!({"e": null, "a": 1}),
        ),
        (
            json!({}),
            json!({"a": {"bb": {"ccc": null}}}),
            json!({"a": {"bb": {}}}),
        ),
    ] {
        assert_eq!(merge_patch(&object, &patch), merged);
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn names_follow_the_rule_of_the_kind() {
    assert!(name_problems(NameRule::DnsSubdomain, "a.b-1").is_empty());
    assert!(name_problems(NameRule::DnsLabel, "1a").is_empty());
    assert!(!name_problems(NameRule::DnsLabel1035, "1a").is_empty());
    assert!(!name_problems(NameRule::DnsLabel, "a.b").is_empty());
    assert!(!name_problems(NameRule::DnsSubdomain, "a..b").is_empty());
    assert!(!name_problems(NameRule::DnsLabel, &"a".repeat(64)).is_empty());
    assert!(name_problems(NameRule::PathSegment, "system:node").is_empty());
    assert!(!name_problems(NameRule::PathSegment, "a/b").is_empty());
}

#[test]
fn labels_annotations_owners_and_finalizers_are_checked() {
    let mut errors = Vec::new();
    validate_labels(&json!({"ok": "v", "-bad": "v", "k": "not ok"}), &mut errors);
    assert_eq!(errors.len(), 2, "{errors:?}");
    errors.clear();
    validate_owners(
        &json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": true},
                {"apiVersion": "v1", "kind": "Pod", "name": "b", "uid": "", "controller": true}]),
        &mut errors,
    );
    assert_eq!(errors.len(), 2, "{errors:?}");
    errors.clear();
    let old = json!({"metadata": {"deletionTimestamp": "x", "finalizers": ["a.b/c"]}});
    let new = json!({"metadata": {"finalizers": ["a.b/c", "a.b/d"]}});
    validate_finalizers(&new, Some(&old), &mut errors);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].cause, Cause::Forbidden);
}

proptest! {
    #[test]
    fn generated_names_keep_the_base_and_are_valid(base in "[a-z]([a-z0-9-]{0,80})") {
        let name = generate_name(&base);
        prop_assert!(name.len() <= MAX_GENERATED);
        prop_assert!(name_problems(NameRule::DnsLabel, &name).is_empty());
    }

    #[test]
    fn any_text_is_judged_without_panic(text in "\\PC{0,300}") {
        let _ = qualified_name_problems(&text);
        let _ = name_problems(NameRule::DnsSubdomain, &text);
        let _ = name_problems(NameRule::PathSegment, &text);
    }
}

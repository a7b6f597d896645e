//! Tests of `registry::selector`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn selects(text: &str, pairs: &[(&str, &str)]) -> bool {
    let set = labels(pairs);
    parse_labels(text)
        .unwrap()
        .iter()
        .all(|requirement| requirement.matches(&set))
}

#[test]
fn fields_are_named_as_the_version_names_them() {
    let event = |group, version| crate::kinds::by_plural(group, version, "events").unwrap();
    let fields = |group, field: &str| {
        Selector::parse(event(group, "v1"), "", field)
            .map(|selector| selector.fields[0].field.clone())
    };
    for (given, stored) in [
        ("reportingController=x", "reportingComponent"),
        ("regarding.kind=Pod", "involvedObject.kind"),
        ("reason=x", "reason"),
    ] {
        assert_eq!(fields("events.k8s.io", given).unwrap(), stored);
    }
    assert_eq!(
        fields("", "involvedObject.kind=Pod").unwrap(),
        "involvedObject.kind"
    );
    assert!(fields("", "regarding.kind=Pod").is_err());
    assert!(fields("events.k8s.io", "involvedObject.kind=Pod").is_err());
}

#[test]
fn each_operator_means_what_kubernetes_documents() {
    let pod = [("app", "web"), ("tier", "front"), ("n", "5")];
    for yes in [
        "",
        "app=web",
        "app==web",
        "app = web",
        "app!=db",
        "missing!=x",
        "app in (web,db)",
        "app in (web), tier",
        "tier notin (back)",
        "missing notin (a)",
        "!missing",
        "app",
        "n>4",
        "n<6",
        "example.com/x!=1,app=web",
    ] {
        assert!(selects(yes, &pod), "{yes}");
    }
    for no in [
        "app=db",
        "app!=web",
        "app in (db)",
        "app notin (web,db)",
        "!app",
        "missing",
        "n>5",
        "app>1",
        "missing=",
    ] {
        assert!(!selects(no, &pod), "{no}");
    }
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "a in", "a in (", "a in b)", "=b", "a=b=c", "a=,,", "/a=b", "a=-b-", "a!b", "a>x", "a ~ b",
    ] {
        assert!(parse_labels(text).is_err(), "{text}");
    }
    for text in ["a", "=b", "a=b=c", "a=\\x", "a=b\\"] {
        assert!(parse_fields(text).is_err(), "{text}");
    }
}

#[test]
fn field_values_may_escape_separators() {
    let parsed = parse_fields(r"a=b\,c,d!=e\=f,g==h").unwrap();
    let plain: Vec<(&str, &str, bool)> = parsed
        .iter()
        .map(|r| (r.field.as_str(), r.value.as_str(), r.equal))
        .collect();
    assert_eq!(
        plain,
        [("a", "b,c", true), ("d", "e=f", false), ("g", "h", true)]
    );
}

proptest! {
    #[test]
    fn parsers_never_panic(text in "\\PC{0,80}") {
        let _ = parse_labels(&text);
        let _ = parse_fields(&text);
    }

    #[test]
    fn parsers_never_panic_on_almost_selectors(text in "[a-c/=!<>(), \\\\innot.]{0,40}") {
        let _ = parse_labels(&text);
        let _ = parse_fields(&text);
    }

    #[test]
    fn what_is_written_is_what_is_read(
        requirements in proptest::collection::vec(
            ("[a-z][a-z0-9]{0,5}", proptest::collection::btree_set("[a-z0-9]{1,4}", 1..4), 0..4_u8),
            1..5,
        ),
    ) {
        let mut texts = Vec::new();
        let mut expected = Vec::new();
        for (key, values, form) in requirements {
            let list = values.iter().cloned().collect::<Vec<_>>().join(",");
            let (text, requirement) = match form {
                0 => (format!("{key} in ({list})"), Requirement::In(key, values)),
                1 => (format!("{key} notin ({list})"), Requirement::NotIn(key, values)),
                2 => (key.clone(), Requirement::Exists(key)),
                _ => (format!("!{key}"), Requirement::NotExists(key)),
            };
            texts.push(text);
            expected.push(requirement);
        }
        prop_assert_eq!(parse_labels(&texts.join(",")).unwrap(), expected);
    }
}

//! Tests of `auth::authorizer::rbac`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|entry| (*entry).to_owned()).collect()
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
    Rule {
        verbs: strings(verbs),
        groups: strings(groups),
        resources: strings(resources),
        names: strings(names),
        paths: Vec::new(),
    }
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.into(),
        groups: strings(groups),
        ..User::default()
    }
}

fn wanted(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        verb: verb.into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        path: None,
    }
}

fn key(namespace: &str, name: &str) -> RoleKey {
    (namespace.to_owned(), name.to_owned())
}

fn may(rbac: &Rbac, user: &User, wanted: &Attributes) -> bool {
    rbac.authorize(user, wanted) == Decision::Allow
}

fn bound(namespace: &str, role: RoleKey, subject: Subject) -> Rbac {
    let rbac = Rbac::default();
    let rules = vec![
        rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]),
        rule(&["update"], &["apps"], &["deployments"], &["web"]),
        rule(&["patch"], &["*"], &["*/scale"], &[]),
    ];
    rbac.set_role(role.clone(), Some(rules));
    let binding = Binding {
        subjects: vec![subject],
        role,
    };
    rbac.set_binding(key(namespace, "b"), Some(binding));
    rbac
}

#[test]
fn a_role_binding_counts_in_its_namespace_only() {
    let rbac = bound("a", key("a", "r"), Subject::User("eve".into()));
    let eve = user("eve", &[]);
    assert!(may(&rbac, &eve, &wanted("get", "", "pods", "a", "p")));
    assert!(may(&rbac, &eve, &wanted("get", "", "pods/log", "a", "p")));
    assert!(!may(&rbac, &eve, &wanted("get", "", "pods/exec", "a", "p")));
    assert!(!may(&rbac, &eve, &wanted("get", "", "pods", "b", "p")));
    assert!(!may(&rbac, &eve, &wanted("list", "", "pods", "", "")));
    assert!(!may(&rbac, &eve, &wanted("delete", "", "pods", "a", "p")));
    assert!(!may(&rbac, &eve, &wanted("get", "apps", "pods", "a", "p")));
    let other = user("adam", &["eve"]);
    assert!(!may(&rbac, &other, &wanted("get", "", "pods", "a", "p")));
}

#[test]
fn names_and_subresources_of_all_kinds() {
    let rbac = bound("", key("", "r"), Subject::Group("ops".into()));
    let one = user("x", &["ops"]);
    let update = |name| wanted("update", "apps", "deployments", "n", name);
    assert!(may(&rbac, &one, &update("web")));
    assert!(!may(&rbac, &one, &update("db")));
    assert!(!may(&rbac, &one, &update("")));
    let patch = |resource| wanted("patch", "apps", resource, "n", "web");
    assert!(may(&rbac, &one, &patch("deployments/scale")));
    assert!(!may(&rbac, &one, &patch("deployments")));
    assert!(!may(&rbac, &one, &patch("deployments/status")));
}

#[test]
fn a_service_account_is_a_user() {
    let rbac = bound("", key("", "r"), Subject::service_account("n", "bot"));
    let bot = user("system:serviceaccount:n:bot", &[]);
    assert!(may(&rbac, &bot, &wanted("list", "", "pods", "", "")));
}

#[test]
fn what_is_removed_counts_no_more() {
    let rbac = bound("", key("", "r"), Subject::User("eve".into()));
    let eve = user("eve", &[]);
    let list = wanted("list", "", "pods", "", "");
    rbac.set_role(key("", "r"), None);
    assert!(!may(&rbac, &eve, &list));
    rbac.set_role(key("", "r"), Some(vec![rule(&["*"], &["*"], &["*"], &[])]));
    assert!(may(&rbac, &eve, &wanted("x", "y", "z/w", "", "")));
    rbac.set_binding(key("", "b"), None);
    assert!(!may(&rbac, &eve, &list));
    assert!(rbac.read().of_subject.is_empty());
}

#[test]
fn paths_match_whole_or_by_prefix() {
    let rbac = Rbac::default();
    let paths = Rule {
        verbs: strings(&["get"]),
        paths: strings(&["/metrics", "/logs/*"]),
        ..Rule::default()
    };
    rbac.set_role(key("", "r"), Some(vec![paths]));
    let binding = Binding {
        subjects: vec![Subject::User("eve".into())],
        role: key("", "r"),
    };
    rbac.set_binding(key("", "b"), Some(binding));
    let ask = |path: &str| {
        let wanted = Attributes {
            verb: "get".into(),
            path: Some(path.into()),
            ..Attributes::default()
        };
        may(&rbac, &user("eve", &[]), &wanted)
    };
    assert!(ask("/metrics"));
    assert!(ask("/logs/a/b"));
    assert!(!ask("/metrics/x"));
    assert!(!ask("/logs"));
    // A rule about paths is none about resources.
    let everything = wanted("get", "", "pods", "", "");
    assert!(!may(&rbac, &user("eve", &[]), &everything));
}

#[test]
fn nobody_gives_what_they_do_not_have() {
    let rbac = bound("a", key("", "r"), Subject::User("eve".into()));
    let eve = user("eve", &[]);
    let missing = |rules: &[Rule]| rbac.missing(&eve, "a", rules).len();
    assert_eq!(missing(&[rule(&["get"], &[""], &["pods"], &[])]), 0);
    assert_eq!(missing(&[rule(&["get"], &[""], &["pods"], &["one"])]), 0);
    assert_eq!(
        missing(&[rule(&["get", "watch"], &[""], &["pods"], &[])]),
        1
    );
    assert_eq!(missing(&[rule(&["*"], &[""], &["pods"], &[])]), 1);
    assert_eq!(missing(&[rule(&["get"], &[""], &["*"], &[])]), 1);
    assert_eq!(
        missing(&[rule(&["update"], &["apps"], &["deployments"], &[])]),
        1
    );
    assert_eq!(
        missing(&[rule(&["update"], &["apps"], &["deployments"], &["web"])]),
        0
    );
    assert_eq!(
        missing(&[rule(&["patch"], &["apps"], &["x/scale"], &[])]),
        0
    );
    assert_eq!(
        rbac.missing(&eve, "b", &[rule(&["get"], &[""], &["pods"], &[])])
            .len(),
        1
    );
    assert_eq!(
        rule(&["get"], &["", "apps"], &["pods"], &[]).to_string(),
        "{APIGroups:[\"\" \"apps\"], Resources:[\"pods\"], Verbs:[\"get\"]}"
    );
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["*", "a", "b", "a/x", "*/x", ""]).prop_map(str::to_owned)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let words = || prop::collection::vec(word(), 0..3);
    (
        words(),
        words(),
        words(),
        prop::collection::vec("[ab]", 0..2),
    )
        .prop_map(|(verbs, groups, resources, names)| Rule {
            verbs,
            groups,
            resources,
            names,
            paths: Vec::new(),
        })
}

proptest! {
    /// What `missing` calls covered allows nothing that the holder may not do.
    #[test]
    fn covering_is_sound(held in any_rule(), given in any_rule(), verb in "[ab]", group in "[ab]",
                         resource in prop::sample::select(vec!["a", "b", "a/x", "b/x"]), name in "[ab]?") {
        let rbac = Rbac::default();
        rbac.set_role(key("", "r"), Some(vec![held]));
        let binding = Binding { subjects: vec![Subject::User("eve".into())], role: key("", "r") };
        rbac.set_binding(key("", "b"), Some(binding));
        let eve = user("eve", &[]);
        let request = wanted(&verb, &group, resource, "", &name);
        if rbac.missing(&eve, "", std::slice::from_ref(&given)).is_empty() && allows(&given, &request) {
            prop_assert!(may(&rbac, &eve, &request));
        }
    }
}

//! Tests of `auth::authorizer`.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::auth::identity::AUTHENTICATED;

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        groups: groups
            .iter()
            .chain(&[AUTHENTICATED])
            .map(|group| (*group).to_owned())
            .collect(),
        ..User::default()
    }
}

fn resource(verb: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: verb.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

fn path(path: &str) -> Attributes {
    Attributes {
        verb: "get".into(),
        path: Some(path.into()),
        ..Attributes::default()
    }
}

#[test]
fn masters_may_everything_and_others_nothing() {
    let chain = Chain::new(rbac::Rbac::default());
    let wanted = resource("delete", "secrets", "default", "a");
    assert!(chain.allows(&user("admin", &[MASTERS]), &wanted));
    let eve = user("eve", &[]);
    assert!(!chain.allows(&eve, &wanted));
    assert_eq!(
        wanted.refusal(&eve),
        "User \"eve\" cannot delete resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(
        resource("list", "nodes", "", "").refusal(&eve),
        "User \"eve\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
    );
}

#[test]
fn a_node_sees_itself_only() {
    let chain = Chain::new(rbac::Rbac::default());
    let node = user("system:node:a", &["system:nodes"]);
    assert!(chain.allows(&node, &resource("get", "nodes", "", "a")));
    assert!(!chain.allows(&node, &resource("get", "nodes", "", "b")));
    assert!(!chain.allows(&node, &resource("list", "nodes", "", "")));
    assert!(!chain.allows(&node, &resource("get", "secrets", "default", "a")));
    // The name without the group is nobody special.
    let fake = user("system:node:a", &[]);
    assert!(!chain.allows(&fake, &resource("get", "nodes", "", "a")));
}

#[test]
fn anonymous_gets_health_and_version_and_no_more() {
    let chain = Chain::new(rbac::Rbac::default());
    let nobody = User::anonymous();
    for open in ["/healthz", "/livez", "/readyz", "/readyz/store", "/version"] {
        assert!(chain.allows(&nobody, &path(open)), "{open}");
    }
    for closed in [
        "/api",
        "/apis",
        "/metrics",
        "/openapi/v2",
        "/versionx",
        "/",
        "/healthzz",
    ] {
        assert!(!chain.allows(&nobody, &path(closed)), "{closed}");
    }
}

#[test]
fn what_is_allowed_says_by_which_binding() {
    use rbac::{Binding, Rbac, Rule, Subject};

    let rbac = Rbac::default();
    let rule = Rule {
        verbs: vec!["get".into()],
        groups: vec![String::new()],
        resources: vec!["pods".into()],
        ..Rule::default()
    };
    let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    rbac.set_role(key("", "reader"), Some(vec![rule.clone()]));
    rbac.set_role(key("a", "local"), Some(vec![rule]));
    let bind = |place: (String, String), subject: Subject, role: (String, String)| {
        let subjects = vec![subject];
        rbac.set_binding(place, Some(Binding { subjects, role }));
    };
    bind(
        key("", "all"),
        Subject::Group("dev".into()),
        key("", "reader"),
    );
    bind(
        key("a", "one"),
        Subject::User("bob".into()),
        key("a", "local"),
    );
    let account = Subject::service_account("a", "robot");
    bind(key("a", "two"), account, key("", "reader"));
    let chain = Chain::new(rbac);
    let why =
        |user: User, namespace: &str| chain.reason(&user, &resource("get", "pods", namespace, ""));
    assert_eq!(
        why(user("eve", &["dev"]), "b").unwrap(),
        "RBAC: allowed by ClusterRoleBinding \"all\" of ClusterRole \"reader\" to Group \"dev\""
    );
    assert_eq!(
        why(user("bob", &[]), "a").unwrap(),
        "RBAC: allowed by RoleBinding \"one/a\" of Role \"local\" to User \"bob\""
    );
    assert_eq!(
        why(user("system:serviceaccount:a:robot", &[]), "a").unwrap(),
        "RBAC: allowed by RoleBinding \"two/a\" of ClusterRole \"reader\" to ServiceAccount \"robot/a\""
    );
    assert_eq!(why(user("bob", &[]), "b"), None);
}

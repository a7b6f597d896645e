//! Tests of `api::request`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn resource(path: &str) -> Target {
    match parse_path(path) {
        Some(Place::Resource(target)) => target,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn paths_name_resources() {
    let pod = resource("/api/v1/namespaces/default/pods/a/log");
    assert_eq!(
        (
            pod.group.as_str(),
            pod.version.as_str(),
            pod.namespace.as_str()
        ),
        ("", "v1", "default")
    );
    assert_eq!(
        (
            pod.resource.as_str(),
            pod.name.as_str(),
            pod.subresource.as_str()
        ),
        ("pods", "a", "log")
    );
    let namespace = resource("/api/v1/namespaces/x/status");
    assert_eq!(
        (namespace.resource.as_str(), namespace.name.as_str()),
        ("namespaces", "x")
    );
    assert_eq!(
        (namespace.namespace.as_str(), namespace.subresource.as_str()),
        ("", "status")
    );
    assert_eq!(resource("/api/v1/namespaces").resource, "namespaces");
    assert_eq!(resource("/apis/apps/v1/deployments").group, "apps");
    assert!(resource("/api/v1/watch/namespaces/a/pods").watch);
    assert_eq!(resource("/api/v1/namespaces/a/pods/b%2Dc").name, "b-c");
}

#[test]
fn what_follows_a_proxy_is_not_ours() {
    let path = "/api/v1/namespaces/a/services/https:b:web/proxy/x//y%2F../";
    let service = resource(path);
    assert_eq!(
        (
            service.resource.as_str(),
            service.name.as_str(),
            service.subresource.as_str()
        ),
        ("services", "https:b:web", "proxy")
    );
    assert_eq!(proxied_path(path), "/x//y%2F../");
    assert_eq!(proxied_path("/api/v1/nodes/n/proxy"), "");
    assert_eq!(proxied_path("/api/v1/nodes/n/proxy/"), "/");
    assert_eq!(proxied_path("//api/v1/nodes//n/proxy/logs/a"), "/logs/a");
    // Only where there are proxies.
    assert_eq!(parse_path("/api/v1/namespaces/a/secrets/b/proxy/%2F"), None);
}

#[test]
fn tricks_with_escapes_lead_nowhere() {
    for path in [
        "/api/v1/namespaces/%2e%2e/pods",
        "/api/v1/pods/a%2Fb",
        "/api/v1/pods/%zz",
        "/api/v1/pods/%",
        "/a/../b",
        "/api/v1/pods/%00",
    ] {
        assert_eq!(parse_path(path), None, "{path}");
    }
}

#[test]
fn methods_become_verbs() {
    let list = resource("/api/v1/pods");
    let one = resource("/api/v1/namespaces/a/pods/b");
    let none = Query::default();
    let watch = Query::parse("watch=1");
    assert_eq!(verb(&Method::GET, &list, &none), "list");
    assert_eq!(verb(&Method::GET, &list, &watch), "watch");
    assert_eq!(
        verb(&Method::GET, &list, &Query::parse("watch=false")),
        "list"
    );
    assert_eq!(verb(&Method::GET, &one, &none), "get");
    assert_eq!(verb(&Method::DELETE, &list, &none), "deletecollection");
    assert_eq!(verb(&Method::DELETE, &one, &none), "delete");
    assert_eq!(verb(&Method::PATCH, &one, &none), "patch");
}

#[test]
fn a_list_of_one_name_is_about_that_name() {
    let name = |path: &str, method: Method, query: &str| {
        let place = parse_path(path).unwrap();
        attributes(&method, path, &place, &Query::parse(query)).name
    };
    let list = "/api/v1/namespaces/a/configmaps";
    let one = "fieldSelector=metadata.name%3Dx";
    assert_eq!(name(list, Method::GET, one), "x");
    assert_eq!(name(list, Method::GET, &format!("watch=1&{one}")), "x");
    assert_eq!(name(list, Method::GET, ""), "");
    assert_eq!(
        name(list, Method::GET, "fieldSelector=metadata.name!%3Dx"),
        ""
    );
    assert_eq!(
        name(list, Method::GET, "fieldSelector=metadata.name%3Dx/y"),
        ""
    );
    assert_eq!(name(list, Method::DELETE, one), "");
    assert_eq!(name(&format!("{list}/b"), Method::GET, one), "b");
}

proptest! {
    #[test]
    fn any_path_is_judged_without_panic(path in "(/[\\PC%]{0,12}){0,8}", query in "\\PC{0,60}") {
        let query = Query::parse(&query);
        if let Some(place) = parse_path(&path) {
            let wanted = attributes(&Method::GET, &path, &place, &query);
            // No segment can smuggle in another path.
            prop_assert!(!wanted.namespace.contains('/') && !wanted.name.contains('/'));
        }
    }

    #[test]
    fn what_is_put_into_a_path_comes_out(
        namespace in "[a-z]{1,8}", kind in "[a-z]{1,8}", name in "[a-z0-9.-]{0,6}[a-z]",
    ) {
        let target = resource(&format!("/apis/g.io/v1/namespaces/{namespace}/{kind}/{name}"));
        if !(kind == "status" || kind == "finalize") {
            prop_assert_eq!(target.namespace, namespace);
            prop_assert_eq!(target.resource, kind);
            prop_assert_eq!(target.name, name);
        }
    }
}

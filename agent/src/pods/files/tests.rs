//! resolv.conf by policy, hosts, host names.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn host() -> Resolver {
    Resolver::parse("# x\nnameserver 192.0.2.53\nsearch example.com\noptions timeout:1\n")
}

fn rendered(spec: serde_json::Value) -> String {
    let mut spec = spec;
    spec["containers"] = serde_json::json!([]);
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    let dns = "10.96.0.10".parse().unwrap();
    resolver(&spec, "ns", "cluster.local", dns, &host())
        .0
        .render()
}

#[test]
fn policies() {
    let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\n\
                   nameserver 10.96.0.10\noptions ndots:5\n";
    let own = "search example.com\nnameserver 192.0.2.53\noptions timeout:1\n";
    for (spec, expected) in [
        (serde_json::json!({}), cluster),
        (serde_json::json!({"dnsPolicy": "ClusterFirst"}), cluster),
        (
            serde_json::json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
            own,
        ),
        (
            serde_json::json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            cluster,
        ),
        (serde_json::json!({"dnsPolicy": "Default"}), own),
        (serde_json::json!({"dnsPolicy": "None"}), ""),
        (
            serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"],
                "searches": ["a", "a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search a\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
        ),
        (
            serde_json::json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
            "search ns.svc.cluster.local svc.cluster.local cluster.local example.com\n\
             nameserver 10.96.0.10\noptions ndots:2\n",
        ),
    ] {
        assert_eq!(rendered(spec.clone()), expected, "{spec}");
    }
}

fn pod(spec: serde_json::Value) -> Pod {
    let mut spec = spec;
    spec["containers"] = serde_json::json!([]);
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p-1", "namespace": "ns"}, "spec": spec}))
    .unwrap()
}

#[test]
fn host_names_and_hosts() {
    let plain = pod(serde_json::json!({}));
    assert_eq!(hostname(&plain, "node"), "p-1");
    let addresses = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let text = hosts(&plain, "p-1", "cluster.local", &addresses, "host's");
    assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    assert!(text.contains("10.0.0.1\tp-1\n") && text.contains("fd00::1\tp-1\n"));

    let named = pod(serde_json::json!({"hostname": "db-0", "subdomain": "db",
        "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
    assert_eq!(hostname(&named, "node"), "db-0");
    let text = hosts(&named, "db-0", "cluster.local", &addresses, "");
    assert!(text.contains("10.0.0.1\tdb-0.db.ns.svc.cluster.local\tdb-0\n"));
    assert!(text.ends_with("192.0.2.9\ta\tb\n"));

    let shared = pod(serde_json::json!({"hostNetwork": true}));
    assert_eq!(hostname(&shared, "node"), "node");
    assert_eq!(
        hosts(&shared, "node", "d", &addresses, "host's"),
        "# Kubernetes-managed hosts file (host network).\nhost's\n"
    );
}

proptest! {
    #[test]
    fn any_resolv_conf_is_read_and_ours_is_read_back(text in "\\PC{0,200}") {
        let read = Resolver::parse(&text);
        prop_assert_eq!(Resolver::parse(&read.render()).nameservers, read.nameservers);
    }

    #[test]
    fn host_names_fit_the_kernel(name in "[a-z.é-]{0,100}") {
        let mut pod = pod(serde_json::json!({}));
        pod.metadata.name = Some(name);
        prop_assert!(hostname(&pod, "n").len() <= 63);
    }
}

#[test]
fn what_has_no_room_in_the_resolver_is_told() {
    let told = |servers: usize, searches: usize| {
        let servers: Vec<String> = (0..servers).map(|n| format!("192.0.2.{n}")).collect();
        let searches: Vec<String> = (0..searches).map(|n| format!("s{n}")).collect();
        let spec = serde_json::json!({"containers": [], "dnsPolicy": "None",
            "dnsConfig": {"nameservers": servers, "searches": searches}});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let dns = "10.96.0.10".parse().unwrap();
        resolver(&spec, "ns", "cluster.local", dns, &Resolver::default()).1
    };
    assert!(told(3, 32).is_empty());
    assert_eq!(
        told(4, 1),
        [
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
          192.0.2.0 192.0.2.1 192.0.2.2"
        ]
    );
    let searches = told(1, 33);
    let head = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: s0 s1 ";
    assert!(searches.len() == 1 && searches[0].starts_with(head) && searches[0].ends_with(" s31"));
}

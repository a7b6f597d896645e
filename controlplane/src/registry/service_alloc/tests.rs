//! Tests of `registry::service_alloc`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn ranges(dual: bool) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = vec!["10.96.0.0/16".parse().unwrap()];
    if dual {
        ranges.push("fd00:1::/112".parse().unwrap());
    }
    ranges
}

#[test]
fn a_plain_service_wants_one_address_of_the_first_family() {
    let mut service = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}});
    let wants = wants(&ranges(true), &mut service).unwrap();
    assert_eq!(wants.addresses, vec![(ranges(true)[0], None)]);
    assert!(wants.ports.is_empty());
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
}

#[test]
fn dual_stack_is_given_where_it_can_be() {
    let mut service = json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}});
    assert_eq!(
        wants(&ranges(true), &mut service.clone())
            .unwrap()
            .addresses
            .len(),
        2
    );
    assert_eq!(
        wants(&ranges(false), &mut service).unwrap().addresses.len(),
        1
    );
    let mut required = json!({"spec": {"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}});
    let error = wants(&ranges(false), &mut required).unwrap_err();
    assert_eq!(error.field, "spec.ipFamilyPolicy");
}

#[test]
fn headless_and_external_name_want_nothing() {
    let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
    assert_eq!(
        wants(&ranges(false), &mut headless).unwrap(),
        Wants::default()
    );
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let mut external = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    assert_eq!(
        wants(&ranges(false), &mut external).unwrap(),
        Wants::default()
    );
    assert!(held(&headless).is_empty());
}

#[test]
fn what_is_outside_the_ranges_is_refused_in_kubernetes_words() {
    let mut service = json!({"spec": {"type": "ClusterIP", "clusterIP": "192.0.2.1"}});
    let error = wants(&ranges(false), &mut service).unwrap_err();
    assert_eq!(
        error.message,
        "Invalid value: [\"192.0.2.1\"]: failed to allocate IP 192.0.2.1: the provided IP (192.0.2.1) is not \
         in the valid range. The range of valid IPs is 10.96.0.0/16"
    );
}

#[test]
fn an_update_keeps_what_was_allocated() {
    let old = json!({"spec": {
        "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [
        {"port": 443, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"},
    ]}});
    carry_over(&mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "10.96.1.1");
    assert_eq!(new["spec"]["ports"][1]["nodePort"], 30080);
    assert!(new["spec"]["ports"][0].get("nodePort").is_none());
}

#[test]
fn a_type_without_use_for_them_gives_them_back() {
    let old = json!({"spec": {
        "type": "NodePort", "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
    }});
    let mut new = old.clone();
    new["spec"]["type"] = "ClusterIP".into();
    carry_over(&mut new, &old);
    assert_eq!(
        held(&new),
        BTreeSet::from([key::cluster_ip("10.96.1.1".parse().unwrap())])
    );
    new["spec"]["type"] = "ExternalName".into();
    carry_over(&mut new, &old);
    assert!(held(&new).is_empty());
}

proptest! {
    #[test]
    fn every_offset_is_inside_and_distinct(prefix in 8_u8..=30, offset in 1_u128..5000) {
        let range: IpNet = format!("10.0.0.0/{prefix}").parse().unwrap();
        let count = usable(&range);
        let offset = 1 + offset % count;
        let address = nth(&range, offset).unwrap();
        prop_assert!(range.contains(&address));
        prop_assert_ne!(address, range.network());
        prop_assert_ne!(address, range.broadcast());
        prop_assert!(reserved(count) < count);
    }
}

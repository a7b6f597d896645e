//! The table of a small number of Services by heart, and of a large one by number.
#![allow(clippy::unwrap_used)]

use super::*;

fn table(family: Family, count: u32) -> Table {
    let server = if family == Family::V4 {
        "10.244.0.3"
    } else {
        "fd00:244::3"
    };
    Table {
        family,
        count,
        server: server.parse().unwrap(),
    }
}

#[test]
fn the_chain_of_a_service_those_of_its_endpoints_and_its_element() {
    let transactions = load(&table(Family::V4, 3));
    assert_eq!(transactions.len(), 2, "the base, then one chunk");
    let (service, filler) = (
        format!(
            "service-{}-bench/svc-00001/tcp/tcp",
            hashed("bench/svc-00001/tcp/tcp", 8)
        ),
        "bench/svc-00001/tcp/tcp",
    );
    let endpoint = |address: &str| {
        let hash = hashed(&format!("{filler}{address}:8080"), 8);
        format!("endpoint-{hash}-{filler}__{address}/8080")
    };
    let [one, two, three] = ["10.128.0.5", "10.128.0.6", "10.128.0.7"].map(endpoint);
    let found: Vec<&str> = transactions[1]
        .lines()
        .filter(|line| line.contains(&service) || line.contains(&one))
        .collect();
    let at = "ip kube-proxy";
    assert_eq!(
        found,
        [
            format!("add chain {at} {one}"),
            format!("add rule {at} {one} ip saddr 10.128.0.5 jump mark-for-masquerade"),
            format!("add rule {at} {one} meta l4proto tcp dnat to 10.128.0.5:8080"),
            format!("add chain {at} {service}"),
            format!(
                "add rule {at} {service} ip daddr 10.96.1.1 ip saddr != 10.244.0.0/24 jump mark-for-masquerade"
            ),
            format!(
                "add rule {at} {service} numgen random mod 3 vmap {{ 0 : goto {one} , 1 : goto {two} , 2 : goto {three} }}"
            ),
            format!("add element {at} service-ips {{ 10.96.1.1 . tcp . 80 : goto {service} }}"),
        ]
    );
}

#[test]
fn a_large_table_is_cut_into_transactions_and_has_every_element() {
    let transactions = load(&table(Family::V6, 4000));
    assert_eq!(transactions.len(), 1 + 4000usize.div_ceil(TRANSACTION));
    let count = |what: &str| -> usize {
        transactions
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| line.starts_with(what))
            .count()
    };
    assert_eq!(count("add element ip6 kube-proxy service-ips"), 4002);
    assert_eq!(count("add element ip6 kube-proxy cluster-ips"), 4000);
    assert_eq!(count("add element ip6 kube-proxy service-nodeports"), 1);
    assert_eq!(count("add chain ip6 kube-proxy endpoint-"), 4002 * 3);
    assert!(transactions[1].contains("dnat to [fd00:128::5]:8080"));
    // A chain's name takes no colon.
    assert!(transactions[1].contains("__fd00.128..5/8080"));
}

#[test]
fn a_change_replaces_one_endpoint_in_one_transaction() {
    let table = table(Family::V4, 3);
    let (first, second) = (table.change(0), table.change(1));
    let text = change(&table, &first, None);
    let verbs: Vec<&str> = text
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(verbs, ["add", "add", "add", "flush", "add", "add", "flush"]);
    assert!(text.contains("dnat to 10.128.0.8:8080"), "{text}");
    let emptied = text.lines().last().unwrap().replace("flush", "delete");
    let next = change(&table, &second, Some(&first));
    assert_eq!(next.lines().last().unwrap(), emptied);
}

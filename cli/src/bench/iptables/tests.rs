//! The rules of small tables by heart, and of large ones by number.
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

/// Lines that contain a word, with chains' hashed names shortened to their kind and an order of first use.
fn lines(text: &str, word: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.contains(word)) {
        let words = line.split(' ').map(|word| {
            let kind = ["KUBE-SVC-", "KUBE-SEP-", "KUBE-EXT-"]
                .into_iter()
                .find(|kind| word.starts_with(kind));
            let Some(kind) = kind else {
                return word.to_owned();
            };
            let at = names.iter().position(|name| name == word);
            let at = at.unwrap_or_else(|| {
                names.push(word.to_owned());
                names.len() - 1
            });
            format!("{kind}{at}")
        });
        found.push(words.collect::<Vec<_>>().join(" "));
    }
    found
}

#[test]
fn the_chain_of_a_service_and_those_of_its_endpoints() {
    let table = table(Family::V4, 3);
    let text = load(&table);
    let filler = chain("SVC", "bench/svc-00001:tcp");
    assert_eq!(
        lines(&text, &filler),
        [
            // Its declaration is a word of its own: it keeps the colon.
            format!(":{filler} - [0:0]"),
            "-A KUBE-SERVICES -d 10.96.1.1/32 -p tcp -m comment --comment \"bench/svc-00001:tcp cluster IP\" -m tcp --dport 80 -j KUBE-SVC-0".to_owned(),
            "-A KUBE-SVC-0 -m comment --comment \"bench/svc-00001:tcp cluster IP\" ! -s 10.244.0.0/24 -d 10.96.1.1/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ".to_owned(),
            "-A KUBE-SVC-0 -m comment --comment \"bench/svc-00001:tcp -> 10.128.0.5:8080\" -m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-1".to_owned(),
            "-A KUBE-SVC-0 -m comment --comment \"bench/svc-00001:tcp -> 10.128.0.6:8080\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-2".to_owned(),
            "-A KUBE-SVC-0 -m comment --comment \"bench/svc-00001:tcp -> 10.128.0.7:8080\" -j KUBE-SEP-3".to_owned(),
        ]
    );
    let endpoint = chain("SEP", "bench/svc-00001:tcptcp10.128.0.5:8080");
    assert_eq!(
        lines(&text, &format!("-A {endpoint}")),
        [
            "-A KUBE-SEP-0 -m comment --comment \"bench/svc-00001:tcp\" -s 10.128.0.5/32 -j KUBE-MARK-MASQ",
            "-A KUBE-SEP-0 -m comment --comment \"bench/svc-00001:tcp\" -p tcp -m tcp -j DNAT --to-destination 10.128.0.5:8080",
        ]
    );
}

#[test]
fn the_node_port_masquerades_and_the_last_service_is_last() {
    let text = load(&table(Family::V4, 3));
    let portals: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("-A KUBE-SERVICES"))
        .collect();
    assert!(portals[0].contains("svc-00000:tcp"));
    assert!(portals[portals.len() - 2].contains("svc-00002:udp"));
    assert!(portals[portals.len() - 1].ends_with("--dst-type LOCAL -j KUBE-NODEPORTS"));
    let external = chain("EXT", "bench/svc-00002:tcp");
    assert_eq!(
        lines(&text, &format!("-A {external}")),
        [
            "-A KUBE-EXT-0 -m comment --comment \"masquerade traffic for bench/svc-00002:tcp external destinations\" -j KUBE-MARK-MASQ",
            "-A KUBE-EXT-0 -j KUBE-SVC-1",
        ]
    );
}

#[test]
fn a_large_table_has_every_rule_and_no_comments_on_single_ones() {
    let text = load(&table(Family::V6, 1000));
    let rules = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    // 998 fillers of one port, two Services of two.
    assert_eq!(rules("-A KUBE-SERVICES"), 998 + 4 + 1);
    assert_eq!(rules(":KUBE-SVC-"), 1002);
    assert_eq!(rules("-A KUBE-SVC-"), 1002 * 4);
    assert_eq!(rules("-A KUBE-SEP-"), 1002 * 3 * 2);
    assert!(text.contains("--to-destination [fd00:128::5]:8080"));
    assert!(!text.contains("svc-00001:tcp ->"));
}

#[test]
fn a_change_writes_all_portals_and_one_services_chains() {
    let table = table(Family::V4, 1000);
    let text = change(&table, &table.change(0));
    let rules = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(rules("-A KUBE-SERVICES"), 1003);
    assert_eq!(rules("-A KUBE-SVC-"), 4);
    assert_eq!(rules("-A KUBE-SEP-"), 6);
    // The replaced endpoint, not the one that was there.
    assert!(text.contains("10.128.0.8:8080") && !text.contains("10.128.0.5:8080"));
    assert!(
        !text.contains("-A PREROUTING"),
        "the hooks stay as they are"
    );
}

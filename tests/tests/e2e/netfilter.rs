//! Not one netfilter rule, whatever runs.

use waggle_tests::{Cluster, Outcome};

#[test]
fn no_rule_appears_while_pods_and_services_run() {
    let cluster = Cluster::start();
    cluster.apply(&crate::services::web(2));
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let ruleset = Outcome::of(cluster.netns.command("nft").args(["list", "ruleset"])).ok();
    assert_eq!(ruleset.trim(), "", "nftables");
    for program in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        let rules = Outcome::of(&mut cluster.netns.command(program)).ok();
        assert!(
            !rules.lines().any(|line| line.starts_with("-A")),
            "{program}: {rules}"
        );
    }
    // Connection tracking is asked for by rules alone: with none, its table stays empty.
    let tracked = std::fs::read_to_string(format!("/proc/{}/net/nf_conntrack", cluster.pid()))
        .expect("the namespace's table of tracked connections");
    assert_eq!(tracked, "");
}

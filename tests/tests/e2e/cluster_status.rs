//! `waggle cluster status`.

use std::time::Duration;

use serde_json::Value;
use waggle_tests::{Cluster, Outcome, wait_until};

#[test]
fn the_status_shows_what_each_node_has_in_force() {
    let cluster = Cluster::start();
    let status = |output: &str| {
        let mut command = cluster.netns.command(waggle_tests::waggle());
        command
            .args(["cluster", "status", "--output", output])
            .env("KUBECONFIG", cluster.kubeconfig());
        Outcome::of(&mut command).ok()
    };
    let json = || serde_json::from_str::<Value>(&status("json")).unwrap();
    let before = wait_until("the node to be up to date", Duration::from_secs(30), || {
        let node = json()["nodes"][0].clone();
        let done = node["appliedRevision"].as_u64() > Some(0) && node["behind"] == 0;
        done.then_some(node)
    });
    assert_eq!(before["name"], "node-1");
    assert_eq!(
        (&before["ready"], &before["connected"]),
        (&"True".into(), &true.into())
    );
    assert_eq!(before["addresses"], serde_json::json!(["192.0.2.1"]));
    assert_eq!(before["podCIDRs"], serde_json::json!(["10.244.0.0/24"]));
    assert_eq!(before["dataPlane"]["routing"], "overlay");
    assert_eq!(json()["members"][0]["leader"], true);
    // A new Service moves it on.
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: new}\nspec: {ports: [{port: 80}]}\n",
    );
    wait_until(
        "the Service to be in force",
        Duration::from_secs(30),
        || {
            let node = json()["nodes"][0].clone();
            (node["appliedRevision"].as_u64() > before["appliedRevision"].as_u64()).then_some(())
        },
    );
    let text = status("text");
    let row: Vec<&str> = text
        .lines()
        .find(|line| line.starts_with("node-1 "))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(&row[..4], ["node-1", "True", "192.0.2.1", "10.244.0.0/24"]);
    assert_eq!(row.last(), Some(&"overlay,snat"));
    let raw = cluster.kubectl(&["get", "--raw", "/waggle/v1/status"]).ok();
    assert!(raw.contains("\"kind\":\"ClusterStatus\""), "{raw}");
}

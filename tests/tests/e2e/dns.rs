//! Names, as pods see them: through the cluster DNS address, answered on the node.

use waggle_tests::{Cluster, IMAGE};

#[test]
fn every_kind_of_name_is_answered_in_a_pod() {
    let cluster = Cluster::start();
    cluster.apply(&crate::services::web(2));
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: peers}\nspec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\nspec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n",
    );
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let address = cluster
        .kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    let mut pods: Vec<String> = cluster
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].status.podIP}",
        ])
        .ok()
        .split(' ')
        .map(str::to_owned)
        .collect();
    pods.sort();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: shell}}
spec:
  containers: [{{name: shell, image: {IMAGE}, command: ["sleep", "1000"]}}]
"#
    ));
    cluster.wait_for(&["pod", "shell"], "{.status.phase}", "Running");
    let pid = cluster.container_pid("shell");
    let dig = |arguments: &str| {
        let command = format!(
            "nsenter --net=/proc/{pid}/ns/net dig +short +time=2 +tries=2 @10.96.0.10 {arguments}"
        );
        waggle_tests::Outcome::of(std::process::Command::new("sh").args(["-c", &command])).ok()
    };
    assert_eq!(dig("web.default.svc.cluster.local").trim(), address);
    assert_eq!(dig("+tcp web.default.svc.cluster.local").trim(), address);
    let mut peers: Vec<String> = dig("peers.default.svc.cluster.local")
        .lines()
        .map(str::to_owned)
        .collect();
    peers.sort();
    assert_eq!(peers, pods);
    assert!(dig("elsewhere.default.svc.cluster.local").contains(&address));
    let pod_name = format!("{}.default.pod.cluster.local", pods[0].replace('.', "-"));
    assert_eq!(dig(&pod_name).trim(), pods[0]);
    assert!(dig("SRV _http._tcp.peers.default.svc.cluster.local").contains(" 8080 "));
    assert_eq!(
        dig(&format!("-x {address}")).trim(),
        "web.default.svc.cluster.local."
    );
    let absent = format!(
        "nsenter --net=/proc/{pid}/ns/net dig +time=2 @10.96.0.10 nothing.default.svc.cluster.local"
    );
    let absent =
        waggle_tests::Outcome::of(std::process::Command::new("sh").args(["-c", &absent])).ok();
    assert!(absent.contains("NXDOMAIN"), "{absent}");
}

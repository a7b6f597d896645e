//! `/waggle/v1/status`.

use crate::ClusterStatus;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_members_and_nodes() {
    let member = member().await;
    let node = serde_json::json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    member.post("/api/v1/nodes", &node).await.ok();
    // The view that is shown follows the store.
    let status = loop {
        let answer = member.get("/waggle/v1/status").await.ok();
        let status: ClusterStatus = serde_json::from_value(answer).unwrap();
        if status.nodes.iter().any(|node| !node.pod_cidrs.is_empty()) {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.kind, "ClusterStatus");
    assert_eq!(status.members.len(), 1);
    assert!(status.members[0].leader && status.members[0].voter);
    assert!(status.revision > 0);
    let node = &status.nodes[0];
    assert_eq!((node.name.as_str(), node.zone.as_str()), ("n1", "z"));
    assert_eq!(node.addresses, ["192.0.2.1"]);
    assert_eq!(node.pod_cidrs, ["10.244.0.0/24"]);
    assert!(!node.connected);
    assert_eq!((node.applied_revision, node.behind), (0, 0));
    assert_eq!(
        member.post("/waggle/v1/status", &Value::Null).await.code,
        405
    );
    member.controller.shutdown().await;
}

//! Events about a node that follow from what it tells of itself, compared with what was known. What it says is pure.

use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference};

use crate::registry::{Client, EventType};

/// A condition, and the reason when it is true and when it is not.
const CONDITIONS: [(&str, &str, &str); 4] = [
    (
        "MemoryPressure",
        "NodeHasInsufficientMemory",
        "NodeHasSufficientMemory",
    ),
    (
        "DiskPressure",
        "NodeHasDiskPressure",
        "NodeHasNoDiskPressure",
    ),
    (
        "PIDPressure",
        "NodeHasInsufficientPID",
        "NodeHasSufficientPID",
    ),
    ("Ready", "NodeReady", "NodeNotReady"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    kind: EventType,
    reason: &'static str,
    message: String,
}

fn condition<'a>(status: Option<&'a NodeStatus>, kind: &str) -> Option<&'a str> {
    let conditions = status?.conditions.as_ref()?;
    let known = conditions.iter().find(|known| known.type_ == kind)?;
    Some(&known.status)
}

fn boot(status: Option<&NodeStatus>) -> Option<&str> {
    let id = status?.node_info.as_ref()?.boot_id.as_str();
    (!id.is_empty()).then_some(id)
}

/// A node that comes without being ready has not become so.
fn changes(name: &str, before: Option<&NodeStatus>, after: Option<&NodeStatus>) -> Vec<Said> {
    let mut said = Vec::new();
    if let (Some(old), Some(new)) = (boot(before), boot(after))
        && old != new
    {
        said.push(Said {
            kind: EventType::Warning,
            reason: "Rebooted",
            message: format!("Node {name} has been rebooted, boot id: {new}"),
        });
    }
    for (kind, yes, no) in CONDITIONS {
        let (old, new) = (condition(before, kind), condition(after, kind));
        let Some(new) = new.filter(|new| old != Some(new)) else {
            continue;
        };
        let reason = if new == "True" { yes } else { no };
        if old.is_some() || reason != "NodeNotReady" {
            said.push(Said {
                kind: EventType::Normal,
                reason,
                message: format!("Node {name} status is now: {reason}"),
            });
        }
    }
    said
}

/// Tells what became of the node `before`. As kubelets do, the node is named instead of its uid.
pub(super) fn tell(client: &Client, before: Option<&Node>, after: &Node) {
    let name = after.metadata.name.as_deref().unwrap_or_default();
    let before = before.and_then(|node| node.status.as_ref());
    for said in changes(name, before, after.status.as_ref()) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        client.event_about(about, said.kind, said.reason, &said.message, name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn status(boot: &str, ready: &str, memory: &str) -> NodeStatus {
        let mut status: NodeStatus = serde_json::from_value(json!({"conditions": [
            {"type": "MemoryPressure", "status": memory},
            {"type": "DiskPressure", "status": "False"},
            {"type": "Ready", "status": ready},
        ]}))
        .unwrap();
        status.node_info.get_or_insert_default().boot_id = boot.to_owned();
        status
    }

    fn reasons(before: Option<&NodeStatus>, after: &NodeStatus) -> Vec<&'static str> {
        let said = changes("n", before, Some(after));
        said.into_iter().map(|said| said.reason).collect()
    }

    #[test]
    fn a_node_says_what_changed_of_its_conditions_and_that_it_began_anew() {
        let first = status("a", "False", "False");
        let begins = ["NodeHasSufficientMemory", "NodeHasNoDiskPressure"];
        assert_eq!(reasons(None, &first), begins);
        let ready = status("a", "True", "False");
        assert_eq!(reasons(Some(&first), &ready), ["NodeReady"]);
        assert!(reasons(Some(&ready), &ready).is_empty());
        let short = status("a", "False", "True");
        assert_eq!(
            reasons(Some(&ready), &short),
            ["NodeHasInsufficientMemory", "NodeNotReady"]
        );
        let rebooted = changes("n", Some(&ready), Some(&status("b", "True", "False")));
        assert_eq!(
            rebooted,
            [Said {
                kind: EventType::Warning,
                reason: "Rebooted",
                message: "Node n has been rebooted, boot id: b".to_owned(),
            }]
        );
    }
}

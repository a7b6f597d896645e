//! The flow schemas and priority levels that every cluster has: the mandatory and the suggested objects of the
//! Kubernetes documentation ("API Priority and Fairness"). Written once; a mandatory one that was changed in its
//! meaning is put right at the next start.

use serde_json::{Value, json};

use crate::kinds::flow_control::GROUP;
use crate::registry::update::{Ownership, Place};
use crate::registry::{ApiError, Registry, object};

const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const MANDATORY: &[&str] = &["exempt", "catch-all"];

fn meta(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTOUPDATE: "true"}})
}

fn limited(name: &str, shares: u32, lendable: u32, queues: Option<(u32, u32, u32)>) -> Value {
    let response = match queues {
        Some((queues, hand, length)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
        }),
        None => json!({"type": "Reject"}),
    };
    json!({"metadata": meta(name), "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares,
        "lendablePercent": lendable,
        "limitResponse": response,
    }}})
}

fn levels() -> Vec<Value> {
    vec![
        json!({"metadata": meta("exempt"), "spec": {"type": "Exempt", "exempt": {
            "nominalConcurrencyShares": 0, "lendablePercent": 0,
        }}}),
        limited("catch-all", 5, 0, None),
        limited("system", 30, 33, Some((64, 6, 50))),
        limited("node-high", 40, 25, Some((64, 6, 50))),
        limited("leader-election", 10, 0, Some((16, 4, 50))),
        limited("workload-high", 40, 50, Some((128, 6, 50))),
        limited("workload-low", 100, 90, Some((128, 6, 50))),
        limited("global-default", 20, 50, Some((128, 6, 50))),
    ]
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

/// All verbs on these resources of these groups, everywhere.
fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], namespaces: &[&str]) -> Value {
    let mut rule = json!({
        "verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces,
    });
    if namespaces == ["*"] {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn everything() -> Value {
    resources(&["*"], &["*"], &["*"], &["*"])
}

fn paths() -> Value {
    json!({"verbs": ["*"], "nonResourceURLs": ["*"]})
}

fn rule(subjects: Vec<Value>, resource_rules: Vec<Value>, path_rules: Vec<Value>) -> Value {
    let mut rule = json!({ "subjects": subjects });
    if !resource_rules.is_empty() {
        rule["resourceRules"] = resource_rules.into();
    }
    if !path_rules.is_empty() {
        rule["nonResourceRules"] = path_rules.into();
    }
    rule
}

fn schema(name: &str, level: &str, precedence: u32, by: Option<&str>, rules: Vec<Value>) -> Value {
    let mut schema = json!({"metadata": meta(name), "spec": {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": rules,
    }});
    if let Some(by) = by {
        schema["spec"]["distinguisherMethod"] = json!({ "type": by });
    }
    schema
}

fn schemas() -> Vec<Value> {
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let everyone = || {
        vec![
            group("system:unauthenticated"),
            group("system:authenticated"),
        ]
    };
    let manager = || user("system:kube-controller-manager");
    let scheduler = || user("system:kube-scheduler");
    let leases = |namespaces: &[&str]| {
        let verbs = ["get", "create", "update"];
        resources(&verbs, &["coordination.k8s.io"], &["leases"], namespaces)
    };
    let all = |subjects| rule(subjects, vec![everything()], vec![paths()]);
    let nodes = || vec![group("system:nodes")];
    vec![
        schema(
            "exempt",
            "exempt",
            1,
            None,
            vec![all(vec![group("system:masters")])],
        ),
        schema(
            "probes",
            "exempt",
            2,
            None,
            vec![rule(
                everyone(),
                vec![],
                vec![json!({
                    "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"],
                })],
            )],
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            by_user,
            vec![rule(
                vec![manager(), scheduler()],
                vec![leases(&["kube-system"])],
                vec![],
            )],
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            by_user,
            vec![rule(
                vec![
                    manager(),
                    account("endpoint-controller"),
                    account("endpointslicemirroring-controller"),
                ],
                vec![resources(
                    &["get", "create", "update"],
                    &["", "discovery.k8s.io"],
                    &["endpoints", "endpointslices"],
                    &["*"],
                )],
                vec![],
            )],
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            by_user,
            vec![rule(vec![account("*")], vec![leases(&["*"])], vec![])],
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            by_user,
            vec![
                rule(
                    nodes(),
                    vec![resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"])],
                    vec![],
                ),
                rule(
                    nodes(),
                    vec![resources(
                        &["*"],
                        &["coordination.k8s.io"],
                        &["leases"],
                        &["*"],
                    )],
                    vec![],
                ),
            ],
        ),
        schema("system-nodes", "system", 500, by_user, vec![all(nodes())]),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            vec![all(vec![manager()])],
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            by_namespace,
            vec![all(vec![scheduler()])],
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            vec![all(vec![account("*")])],
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            vec![all(vec![group("system:serviceaccounts")])],
        ),
        schema(
            "global-default",
            "global-default",
            9900,
            by_user,
            vec![all(everyone())],
        ),
        schema(
            "catch-all",
            "catch-all",
            10_000,
            by_user,
            vec![all(everyone())],
        ),
    ]
}

impl Registry {
    pub(super) async fn bootstrap_flow(&self) -> Result<(), ApiError> {
        for level in levels() {
            self.ensure_spec("prioritylevelconfigurations", level)
                .await?;
        }
        for schema in schemas() {
            self.ensure_spec("flowschemas", schema).await?;
        }
        Ok(())
    }

    async fn ensure_spec(&self, plural: &str, wanted: Value) -> Result<(), ApiError> {
        let kind = super::kind(GROUP, plural)?;
        match self
            .create(kind, "", wanted.clone(), &super::options())
            .await
        {
            Err(error) if error.is_already_exists() => {}
            other => return other.map(drop),
        }
        let name = object::name(&wanted);
        if !MANDATORY.contains(&name) {
            return Ok(());
        }
        let place = Place {
            kind,
            namespace: "",
            name,
            subresource: "",
        };
        self.modify(place, &super::options(), Ownership::Track, |live| {
            let mut right = live.clone();
            right["spec"] = wanted["spec"].clone();
            kind.strategy.default(&mut right);
            Ok(right)
        })
        .await
        .map(drop)
    }
}

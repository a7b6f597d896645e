//! What the audit log says of requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::webhooks::{configuration, registered, webhook};
use super::*;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, resources: [{group: "", resources: [configmaps]}], omitManagedFields: true}
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: None}
"#;

fn events(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_did_what_as_far_as_the_policy_wants() {
    let files = tempfile::tempdir().unwrap();
    let (log, policy) = (files.path().join("audit.log"), files.path().join("policy"));
    std::fs::write(&policy, POLICY).unwrap();
    let member = member().await;
    let member = member
        .restarted(|config| {
            config.audit.log = Some(log.clone());
            config.audit.policy = Some(policy);
        })
        .await;
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "v"}});
    member.post(CM, &map).await.ok();
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "sesame"}});
    member.post(secrets, &secret).await.ok();
    let bob = [("impersonate-user", "bob")];
    let refused = send(&member.client, Method::GET, &format!("{CM}/m"), &bob, "").await;
    assert_eq!(refused.code, 403);
    member.get("/version").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while events(&log).len() < 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", events(&log));
        tokio::task::yield_now().await;
    }
    let events = events(&log);
    // No role says so: the group may do everything.
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/reason"], "");
    assert_eq!(events.len(), 3, "{events:?}");
    let created = &events[0];
    assert_eq!(created["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(
        (&created["level"], &created["stage"]),
        (&"RequestResponse".into(), &"ResponseComplete".into())
    );
    assert_eq!(created["verb"], "create");
    assert_eq!(created["user"]["username"], "kubernetes-admin");
    assert_eq!(created["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(created["objectRef"]["resource"], "configmaps");
    assert_eq!(created["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(created["responseObject"]["metadata"]["name"], "m");
    assert!(
        created["responseObject"]["metadata"]
            .get("managedFields")
            .is_none()
    );
    assert_eq!(created["responseStatus"]["code"], 201);
    assert_eq!(
        created["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    assert_eq!(events[1]["objectRef"]["resource"], "secrets");
    assert!(events[1].get("requestObject").is_none());
    assert!(!events[1].to_string().contains("sesame"));
    let refused = &events[2];
    assert_eq!(refused["impersonatedUser"]["username"], "bob");
    assert_eq!(
        refused["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    member.controller.shutdown().await;
}

/// What judges want to be said of a write, and what they did.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_and_policies_annotate_events() {
    let files = tempfile::tempdir().unwrap();
    let log = files.path().join("audit.log");
    let member = member().await;
    let member = member
        .restarted(|config| config.audit.log = Some(log.clone()))
        .await;
    let (url, bundle) = webhook(|_| {
        let patch = json!([{"op": "add", "path": "/data/added", "value": "sesame"}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()),
            "auditAnnotations": {"seen": "yes"}})
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    let mutating = configuration(kind, "mutate", &url, &bundle, &json!({}));
    registered(&member, "mutatingwebhookconfigurations", &mutating).await;
    let policy = json!({"metadata": {"name": "small"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "auditAnnotations": [
            {"key": "size", "valueExpression": "string(size(object.data))"},
            {"key": "silent", "valueExpression": "null"}],
        "validations": [{"expression": "size(object.data) < 2", "message": "is large"}]}});
    registered(&member, "validatingadmissionpolicies", &policy).await;
    let binding = json!({"metadata": {"name": "everywhere"}, "spec": {"policyName": "small",
        "validationActions": ["Audit"]}});
    registered(&member, "validatingadmissionpolicybindings", &binding).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"k": "v"}});
    member.post(CM, &map).await.ok();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let created = loop {
        let mut all = events(&log).into_iter();
        let found = all.find(|event| {
            event["objectRef"]["resource"] == "configmaps" && event["stage"] == "ResponseComplete"
        });
        if let Some(found) = found {
            break found;
        }
        assert!(std::time::Instant::now() < deadline, "{:?}", events(&log));
        tokio::task::yield_now().await;
    };
    let annotations = &created["annotations"];
    assert_eq!(annotations["mutate.example.com/seen"], "yes");
    assert_eq!(annotations["small/size"], "2");
    assert!(annotations.get("small/silent").is_none());
    let said = |name: &str| -> Value {
        serde_json::from_str(annotations[name].as_str().unwrap()).unwrap()
    };
    assert_eq!(
        said("mutation.webhook.admission.k8s.io/round_0_index_0"),
        json!({"configuration": "mutate", "webhook": "mutate.example.com", "mutated": true})
    );
    assert_eq!(
        said("validation.policy.admission.k8s.io/validation_failure"),
        json!([{"message": "is large", "policy": "small", "binding": "everywhere", "expressionIndex": 0,
            "validationActions": ["Audit"]}])
    );
    // The level is Metadata: what was written is not in the log, in a patch neither.
    assert!(!created.to_string().contains("sesame"), "{created}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cluster_has_the_flow_objects_and_a_bad_policy_is_refused() {
    let member = member().await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let names = async |plural: &str| {
        let list = member.get(&format!("{group}/{plural}")).await.ok();
        let items = list["items"].as_array().unwrap().clone();
        let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
        items.iter().map(name).collect::<Vec<_>>()
    };
    let levels = names("prioritylevelconfigurations").await;
    for name in ["exempt", "catch-all", "node-high", "workload-low"] {
        assert!(levels.iter().any(|level| level == name), "{name}");
    }
    assert_eq!(names("flowschemas").await.len(), 13);
    let bad = json!({"metadata": {"name": "x"}, "spec": {"type": "Limited"}});
    let path = format!("{group}/prioritylevelconfigurations");
    let refused = member.post(&path, &bad).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("must not be empty when type is Limited")
    );
    let dir = member.dir;
    member.controller.shutdown().await;
    let mut config = config(dir.path());
    let policy = dir.path().join("policy");
    std::fs::write(&policy, "kind: Policy").unwrap();
    config.audit.policy = Some(policy);
    let error = Controller::start(config).await.unwrap_err().to_string();
    assert!(error.contains("--audit-policy-file"), "{error}");
}

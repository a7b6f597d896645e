//! Webhooks and policies about what is no plain write: subresources, other versions, older reviews.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::webhooks::{configuration, registered, webhook};
use super::{CM, Member, member};

const DEFAULT: &str = "/api/v1/namespaces/default";

/// A webhook that judges what matches the rule, refuses it, and keeps what it was asked.
async fn refusing(member: &Member, name: &str, more: &Value) -> Arc<Mutex<Vec<Value>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    let (url, bundle) = webhook(move |request| {
        kept.lock().unwrap().push(request.clone());
        json!({"allowed": false, "status": {"message": "no", "code": 403}})
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    let configuration = configuration(kind, name, &url, &bundle, more);
    registered(member, "validatingwebhookconfigurations", &configuration).await;
    asked
}

fn rule(group: &str, version: &str, operation: &str, resource: &str) -> Value {
    json!({"rules": [{"operations": [operation], "apiGroups": [group], "apiVersions": [version],
        "resources": [resource]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn who_scales_is_judged_by_the_scale() {
    let member = member().await;
    let pod = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"a": "b"}}, "template": pod}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    member.post(path, &deployment).await.ok();
    let main = refusing(
        &member,
        "main",
        &rule("apps", "v1", "UPDATE", "deployments"),
    )
    .await;
    let scale = refusing(
        &member,
        "scale",
        &rule("apps", "v1", "UPDATE", "deployments/scale"),
    )
    .await;
    let three = json!({"spec": {"replicas": 3}});
    let scaled = member
        .patch(&format!("{path}/d/scale"), "merge-patch", &three)
        .await;
    assert_eq!(
        (scaled.code, scaled.message()),
        (
            403,
            "admission webhook \"scale.example.com\" denied the request: no"
        )
    );
    assert!(main.lock().unwrap().is_empty());
    let asked = scale.lock().unwrap()[0].clone();
    assert_eq!(
        asked["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    assert_eq!(asked["resource"]["resource"], "deployments");
    assert_eq!(asked["subResource"], "scale");
    assert_eq!(asked["object"]["spec"]["replicas"], 3);
    assert_eq!(asked["oldObject"]["kind"], "Scale");
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_bindings_and_tokens_are_judged() {
    let member = member().await;
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    member.post(&format!("{DEFAULT}/pods"), &pod).await.ok();
    let deletions = refusing(&member, "deletions", &rule("", "v1", "DELETE", "pods")).await;
    let rows = [
        ("pods/eviction", "pods/p/eviction", "Eviction", json!({})),
        (
            "pods/binding",
            "pods/p/binding",
            "Binding",
            json!({"target": {"name": "n"}}),
        ),
        (
            "serviceaccounts/token",
            "serviceaccounts/default/token",
            "TokenRequest",
            json!({"spec": {}}),
        ),
    ];
    for (at, (resource, path, kind, body)) in rows.iter().enumerate() {
        let name = format!("part-{at}");
        let asked = refusing(&member, &name, &rule("", "v1", "CREATE", resource)).await;
        let refused = member.post(&format!("{DEFAULT}/{path}"), body).await;
        assert_eq!(refused.code, 403, "{resource} {}", refused.json);
        let asked = asked.lock().unwrap()[0].clone();
        assert_eq!(asked["kind"]["kind"], *kind);
        assert_eq!(asked["object"]["kind"], *kind);
        let (plural, below) = resource.split_once('/').unwrap();
        assert_eq!(asked["resource"]["resource"], plural);
        assert_eq!(asked["subResource"], below);
    }
    // An eviction that is let through is not judged once more as a deletion.
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/part-0";
    member.delete(path, &Value::Null).await.ok();
    member
        .post(&format!("{DEFAULT}/pods/p/eviction"), &json!({}))
        .await
        .ok();
    assert!(deletions.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_sees_the_version_that_its_rule_names() {
    let member = member().await;
    let asked = refusing(
        &member,
        "scalers",
        &rule("autoscaling", "v1", "CREATE", "horizontalpodautoscalers"),
    )
    .await;
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 70}}}]}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    assert_eq!(member.post(path, &scaler).await.code, 403);
    let asked = asked.lock().unwrap()[0].clone();
    assert_eq!(asked["kind"]["version"], "v1");
    assert_eq!(asked["requestKind"]["version"], "v2");
    assert_eq!(asked["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(
        asked["object"]["spec"]["targetCPUUtilizationPercentage"],
        70
    );
    // A version that there is not is nobody's equivalent.
    let none = refusing(&member, "none", &rule("", "v9", "CREATE", "configmaps")).await;
    let map = json!({"metadata": {"generateName": "x"}});
    member.post(CM, &map).await.ok();
    assert!(none.lock().unwrap().is_empty());
    // Who has a name made has not named anything.
    let made = refusing(&member, "made", &rule("", "v1", "CREATE", "configmaps")).await;
    assert_eq!(member.post(CM, &map).await.code, 403);
    assert_eq!(made.lock().unwrap()[0]["name"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_says_all_that_is_wrong() {
    let member = member().await;
    let policy = json!({"metadata": {"name": "all"}, "spec": {
    "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["configmaps"]}]},
    "validations": [
        {"expression": "'a' in object.data", "messageExpression": "'two\\nlines'", "message": "no a"},
        {"expression": "object.data.b == 'x'"},
    ]}});
    registered(&member, "validatingadmissionpolicies", &policy).await;
    let binding = json!({"metadata": {"name": "warns"}, "spec": {"policyName": "all",
        "validationActions": ["Warn"]}});
    registered(&member, "validatingadmissionpolicybindings", &binding).await;
    let made = member
        .post(CM, &json!({"metadata": {"name": "x"}, "data": {"c": "d"}}))
        .await;
    let warnings: Vec<&str> = made
        .headers
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with("'warns': no a\""), "{warnings:?}");
    assert!(warnings[1].contains("resulted in error"), "{warnings:?}");
    assert_eq!(made.code, 201);

    // A policy that cannot be put into force refuses, whatever its binding does about what is not valid.
    let mut policy = policy.clone();
    policy["metadata"]["name"] = "lost".into();
    policy["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    registered(&member, "validatingadmissionpolicies", &policy).await;
    let binding = json!({"metadata": {"name": "lost"}, "spec": {"policyName": "lost",
        "validationActions": ["Warn"],
        "paramRef": {"name": "nowhere", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    registered(&member, "validatingadmissionpolicybindings", &binding).await;
    let refused = member
        .post(
            CM,
            &json!({"metadata": {"name": "y"}, "data": {"a": "", "b": "x"}}),
        )
        .await;
    assert_eq!(refused.code, 422, "{}", refused.json);
    assert!(
        refused.message().ends_with(
            "denied request: failed to configure binding: no params found for policy binding with `Deny` \
             parameterNotFoundAction"
        ),
        "{}",
        refused.message()
    );
}

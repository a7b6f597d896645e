//! What policies say of themselves, and what reviews say of requests.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};

use super::webhooks::{configuration, registered, webhook};
use super::{CM, JSON, member, send};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";

fn policy(name: &str, expression: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"],
            "apiVersions": ["v1"], "resources": ["deployments"]}]},
        "validations": [{"expression": expression}],
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_tells_what_its_kinds_do_not_have() {
    let member = member().await;
    let checked = async |name: &str, generation: i64| {
        let path = format!("{POLICIES}/{name}");
        let looked = async {
            loop {
                let policy = send(&member.client, Method::GET, &path, &[], "").await.json;
                if policy["status"]["observedGeneration"] == generation {
                    return policy;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let looked = tokio::time::timeout(std::time::Duration::from_secs(30), looked);
        looked.await.unwrap()["status"].clone()
    };
    let made = member
        .post(POLICIES, &policy("a", "object.replicas > 1"))
        .await;
    assert_eq!(made.code, 201, "{}", made.json);
    let warnings = &checked("a", 1).await["typeChecking"]["expressionWarnings"];
    assert_eq!(
        *warnings,
        json!([{
            "fieldRef": "spec.validations[0].expression",
            "warning": "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n \
                        | object.replicas > 1\n | ......^\n",
        }])
    );
    let path = format!("{POLICIES}/a");
    let right = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    let changed = member.patch(&path, "merge-patch", &right).await;
    assert_eq!(changed.code, 200, "{}", changed.json);
    assert_eq!(
        checked("a", 2).await,
        json!({"observedGeneration": 2, "typeChecking": {}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_evaluated_is_refused() {
    let member = member().await;
    for (expression, wanted) in [
        (
            "request.nope == ''",
            "spec.validations[0].expression: Invalid value: \"request.nope == ''\": compilation failed: ERROR: \
             <input>:1:8: undefined field 'nope'",
        ),
        ("object.x + 1", "must evaluate to bool but got"),
        (
            "params.x == 1",
            "undeclared reference to 'params' (in container '')",
        ),
        ("variables.x == 1", "undefined field 'x'"),
    ] {
        let refused = member.post(POLICIES, &policy("a", expression)).await;
        assert_eq!(refused.code, 422, "{expression}: {}", refused.json);
        assert!(refused.message().contains(wanted), "{}", refused.message());
    }
    let mut with = policy("a", "variables.big && variables.size > 1");
    with["spec"]["variables"] = json!([
        {"name": "size", "expression": "object.spec.replicas"},
        {"name": "big", "expression": "variables.size > 5"},
    ]);
    assert_eq!(member.post(POLICIES, &with).await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_carry_the_options_of_requests() {
    let member = member().await;
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let (url, bundle) = webhook({
        let seen = Arc::clone(&seen);
        move |request| {
            // Controllers make some too.
            if request["name"] == "x" {
                seen.lock().unwrap().push(request["options"].clone());
            }
            json!({"allowed": true})
        }
    })
    .await;
    let rules = json!({"rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]});
    let kind = "ValidatingWebhookConfiguration";
    let validating = configuration(kind, "validate", &url, &bundle, &rules);
    registered(&member, "validatingwebhookconfigurations", &validating).await;
    let map = json!({"metadata": {"name": "x"}, "data": {"a": "b"}});
    let made = member
        .post(
            &format!("{CM}?fieldManager=me&fieldValidation=Strict"),
            &map,
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.json);
    let path = format!("{CM}/x?fieldManager=other&dryRun=All");
    let patched = member
        .patch(&path, "merge-patch", &json!({"data": {"a": "c"}}))
        .await;
    assert_eq!(patched.code, 200, "{}", patched.json);
    let body = json!({"gracePeriodSeconds": 5, "propagationPolicy": "Foreground",
        "preconditions": {"uid": made.json["metadata"]["uid"]}});
    let path = format!("{CM}/x");
    let deleted = send(
        &member.client,
        Method::DELETE,
        &path,
        &[JSON],
        body.to_string(),
    )
    .await;
    assert_eq!(deleted.code, 200, "{}", deleted.json);
    let of = |kind: &str, mut fields: Value| {
        fields["kind"] = kind.into();
        fields["apiVersion"] = "meta.k8s.io/v1".into();
        fields
    };
    assert_eq!(
        *seen.lock().unwrap(),
        [
            of(
                "CreateOptions",
                json!({"fieldManager": "me", "fieldValidation": "Strict"})
            ),
            of(
                "UpdateOptions",
                json!({"fieldManager": "other", "dryRun": ["All"]})
            ),
            of("DeleteOptions", body),
        ]
    );
}

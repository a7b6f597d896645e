//! What only pods have: binding, graceful deletion, eviction, logs.

use serde_json::json;

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn pod(member: &Member, name: &str) -> Value {
    // A name that no scheduler listens to: these tests bind by hand.
    let body = json!({"metadata": {"name": name}, "spec": {
        "schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    member.post(PODS, &body).await.ok()
}

async fn bind(member: &Member, name: &str, node: &str) -> Answer {
    let body =
        json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": node}});
    member.post(&format!("{PODS}/{name}/binding"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_once() {
    let member = member().await;
    pod(&member, "a").await;
    assert_eq!(bind(&member, "a", "n1").await.code, 201);
    let bound = member.get(&format!("{PODS}/a")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let again = bind(&member, "a", "n2").await;
    assert_eq!(again.code, 409);
    assert!(
        again
            .message()
            .ends_with("pod a is already assigned to node \"n1\""),
        "{}",
        again.message()
    );
    assert_eq!(bind(&member, "missing", "n1").await.code, 404);
    assert_eq!(bind(&member, "a", "").await.code, 422);
    let on_node = member
        .get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")
        .await
        .ok();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_pods_go_in_their_own_time() {
    let member = member().await;
    pod(&member, "unbound").await;
    let gone = member
        .delete(&format!("{PODS}/unbound"), &Value::Null)
        .await
        .ok();
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(member.get(&format!("{PODS}/unbound")).await.code, 404);

    pod(&member, "a").await;
    // An extra finalizer keeps the pod collector (the node does not exist) from racing this test.
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    member
        .patch(&format!("{PODS}/a"), "merge-patch", &hold)
        .await
        .ok();
    bind(&member, "a", "n1").await.ok();
    let pending = member.delete(&format!("{PODS}/a"), &Value::Null).await.ok();
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = member
        .delete(&format!("{PODS}/a"), &json!({"gracePeriodSeconds": 60}))
        .await
        .ok();
    assert!(
        longer["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap()
            <= 30
    );
    let shorter = member
        .delete(&format!("{PODS}/a"), &json!({"gracePeriodSeconds": 5}))
        .await
        .ok();
    assert!(
        shorter["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap()
            <= 5
    );
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    assert_eq!(member.delete(&format!("{PODS}/a"), &wrong).await.code, 409);
    member
        .delete(&format!("{PODS}/a"), &json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(
        member.get(&format!("{PODS}/a")).await.code,
        200,
        "a finalizer holds it"
    );
    let none = json!({"metadata": {"finalizers": null}});
    member
        .patch(&format!("{PODS}/a"), "merge-patch", &none)
        .await
        .ok();
    assert_eq!(member.get(&format!("{PODS}/a")).await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_is_of_the_pod_that_its_preconditions_mean() {
    let member = member().await;
    pod(&member, "a").await;
    let path = format!("{PODS}/a/eviction");
    let evict = |preconditions: serde_json::Value| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
            "deleteOptions": {"preconditions": preconditions}})
    };
    for other in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let refused = member.post(&path, &evict(other)).await;
        assert_eq!(refused.code, 409, "{}", refused.json);
        assert!(refused.message().contains("Precondition failed"));
    }
    let there = member.get(&format!("{PODS}/a")).await.json;
    assert!(there["metadata"]["deletionTimestamp"].is_null());
    // The mark that an eviction sets on the pod is not what is meant by another version.
    let this = json!({"uid": there["metadata"]["uid"],
        "resourceVersion": there["metadata"]["resourceVersion"]});
    assert_eq!(member.post(&path, &evict(this)).await.code, 201);
    assert_eq!(member.get(&format!("{PODS}/a")).await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_and_logs() {
    let member = member().await;
    pod(&member, "a").await;
    let logs = member.get(&format!("{PODS}/a/log")).await;
    assert_eq!(
        (logs.code, logs.bytes.len()),
        (200, 0),
        "no node has anything to tell"
    );
    assert_eq!(
        member
            .get(&format!("{PODS}/a/log?container=x"))
            .await
            .message(),
        "container x is not valid for pod a"
    );
    assert_eq!(
        member.get(&format!("{PODS}/a/log?tailLines=-2")).await.code,
        422
    );
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    assert_eq!(
        member
            .post(&format!("{PODS}/a/eviction"), &eviction)
            .await
            .code,
        201
    );
    assert_eq!(member.get(&format!("{PODS}/a")).await.code, 404);
    assert_eq!(member.get(&format!("{PODS}/a/log")).await.code, 404);

    pod(&member, "b").await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    member
        .patch(&format!("{PODS}/b"), "merge-patch", &hold)
        .await
        .ok();
    bind(&member, "b", "away").await.ok();
    let unreachable = member.get(&format!("{PODS}/b/log")).await;
    assert!(
        (500..600).contains(&unreachable.code),
        "{}",
        unreachable.json
    );
    let there = member.get(&format!("{PODS}/b")).await.json;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    let path = format!("{PODS}/b/eviction");
    assert_eq!(member.post(&path, &eviction).await.code, 201);
    let evicted = member.get(&format!("{PODS}/b")).await.json;
    let mut conditions = evicted["status"]["conditions"].as_array().unwrap().iter();
    let target = conditions
        .find(|it| it["type"] == "DisruptionTarget")
        .unwrap();
    assert!(there["metadata"]["generation"].is_u64());
    assert_eq!(
        target["observedGeneration"],
        there["metadata"]["generation"]
    );
    member.controller.shutdown().await;
}

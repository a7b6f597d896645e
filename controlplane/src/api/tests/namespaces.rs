//! Namespaces hold what is in them.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_in_a_namespace_that_is_not_or_goes() {
    let member = member().await;
    let missing = member
        .post(
            "/api/v1/namespaces/no/configmaps",
            &json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        (missing.code, missing.message()),
        (404, "namespaces \"no\" not found")
    );
    let body = json!({"metadata": {"name": "t", "finalizers": ["example.com/hold"]}});
    let made = member.post("/api/v1/namespaces", &body).await.ok();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "t"
    );
    let pending = member
        .delete("/api/v1/namespaces/t", &Value::Null)
        .await
        .ok();
    assert_eq!(pending["status"]["phase"], "Terminating");
    let refused = member
        .post(
            "/api/v1/namespaces/t/configmaps",
            &json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!((refused.code, refused.reason()), (403, "Forbidden"));
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace t because it is being terminated"
    );
    assert_eq!(
        refused.json["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );

    let mut live = member.get("/api/v1/namespaces/t").await.ok();
    live["spec"]["finalizers"] = json!([]);
    live["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    member
        .put("/api/v1/namespaces/t/finalize", &live)
        .await
        .ok();
    assert_eq!(
        member.get("/api/v1/namespaces/t").await.code,
        200,
        "a finalizer still holds it"
    );
    let none = json!({"metadata": {"finalizers": null}});
    member
        .patch("/api/v1/namespaces/t", "merge-patch", &none)
        .await
        .ok();
    assert_eq!(member.get("/api/v1/namespaces/t").await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_bodies_and_paths_agree() {
    let member = member().await;
    let other = json!({"metadata": {"name": "a", "namespace": "other"}});
    let answer = member.post(CM, &other).await;
    assert_eq!(
        (answer.code, answer.message()),
        (
            400,
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    );
    assert_eq!(
        member
            .post("/api/v1/configmaps", &json!({"metadata": {"name": "a"}}))
            .await
            .code,
        405
    );
    for name in ["default", "kube-system"] {
        let answer = member
            .delete(&format!("/api/v1/namespaces/{name}"), &Value::Null)
            .await;
        assert_eq!(answer.code, 403);
        assert_eq!(
            answer.message(),
            format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
        );
    }
    assert_eq!(
        member.get("/api/v1/namespaces/default/nodes").await.code,
        404
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_name_is_a_label_too() {
    let member = member().await;
    let made = member
        .post(
            "/api/v1/namespaces",
            &json!({"metadata": {"generateName": "gen-"}}),
        )
        .await
        .ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-"), "{name}");
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        *name
    );
    member.controller.shutdown().await;
}

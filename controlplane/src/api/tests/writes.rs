//! Create, update, patch and delete.

use serde_json::json;

use super::*;

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"a": "b"}}, "data": {"k": "v"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_lives_through_all_verbs() {
    let member = member().await;
    let made = member.post(CM, &config_map("a")).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_eq!(
        (&made["kind"], &made["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].is_string(), "{field}");
    }
    let again = member.post(CM, &config_map("a")).await;
    assert_eq!((again.code, again.reason()), (409, "AlreadyExists"));
    assert_eq!(again.message(), "configmaps \"a\" already exists");

    let path = format!("{CM}/a");
    let got = member.get(&path).await.ok();
    assert_eq!(got, made);

    let mut changed = got.clone();
    changed["data"]["k"] = "w".into();
    let changed = member.put(&path, &changed).await.ok();
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );

    let mut stale = got.clone();
    stale["data"]["k"] = "x".into();
    let conflict = member.put(&path, &stale).await;
    assert_eq!((conflict.code, conflict.reason()), (409, "Conflict"));
    assert_eq!(
        conflict.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    stale["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(member.put(&path, &stale).await.ok()["data"]["k"], "x");
    stale["metadata"]["uid"] = "other".into();
    assert_eq!(member.put(&path, &stale).await.code, 409);

    let gone = member.delete(&path, &Value::Null).await.ok();
    assert_eq!(
        (&gone["status"], &gone["details"]["uid"]),
        (&json!("Success"), &made["metadata"]["uid"])
    );
    let missing = member.get(&path).await;
    assert_eq!(
        (missing.code, missing.message()),
        (404, "configmaps \"a\" not found")
    );
    assert_eq!(member.put(&path, &config_map("a")).await.code, 404);
    assert_eq!(member.delete(&path, &Value::Null).await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_changes_nothing_is_no_write() {
    let member = member().await;
    let made = member.post(CM, &config_map("a")).await.ok();
    let same = member.put(&format!("{CM}/a"), &made).await.ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let patch = json!({"data": {"k": "v"}});
    let same = member
        .patch(&format!("{CM}/a"), "merge-patch", &patch)
        .await
        .ok();
    assert_eq!(
        same["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_leaves_no_trace() {
    let member = member().await;
    let dry = member
        .post(&format!("{CM}?dryRun=All"), &config_map("a"))
        .await;
    assert_eq!(dry.code, 201);
    assert_eq!(member.get(&format!("{CM}/a")).await.code, 404);
    member.post(CM, &config_map("a")).await.ok();
    let patch = json!({"data": {"k": "w"}});
    let path = format!("{CM}/a?dryRun=All");
    assert_eq!(
        member.patch(&path, "merge-patch", &patch).await.ok()["data"]["k"],
        "w"
    );
    member.delete(&path, &Value::Null).await.ok();
    member
        .delete(&format!("{CM}/a"), &json!({"dryRun": ["All"]}))
        .await
        .ok();
    assert_eq!(member.get(&format!("{CM}/a")).await.ok()["data"]["k"], "v");
    assert_eq!(
        member
            .post(&format!("{CM}?dryRun=Some"), &config_map("b"))
            .await
            .code,
        422
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_differ() {
    let member = member().await;
    let body = json!({"metadata": {"generateName": "x-"}});
    let one = member.post(CM, &body).await.ok();
    let two = member.post(CM, &body).await.ok();
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    let nameless = member.post(CM, &json!({"metadata": {}})).await;
    assert_eq!(
        nameless.message(),
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_kinds_of_patch() {
    let member = member().await;
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let url = format!("{path}?fieldManager=me");
    let applied = member.patch(&url, "apply-patch", &deployment).await;
    assert_eq!(applied.code, 201);
    assert_eq!(
        member.patch(&url, "apply-patch", &deployment).await.code,
        200
    );
    let anonymous = member.patch(path, "apply-patch", &deployment).await;
    assert_eq!(anonymous.code, 422, "{}", anonymous.json);

    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}});
    let patched = member
        .patch(path, "strategic-merge-patch", &strategic)
        .await
        .ok();
    let container = &patched["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["name"], &container["image"]),
        (&json!("c"), &json!("j"))
    );
    assert_eq!(patched["metadata"]["generation"], 2);

    let conflict = member.patch(&url, "apply-patch", &deployment).await;
    assert_eq!((conflict.code, conflict.reason()), (409, "Conflict"));
    assert!(
        conflict
            .message()
            .starts_with("Apply failed with 1 conflict: conflict with "),
        "{}",
        conflict.message()
    );
    assert_eq!(
        conflict.json["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    let forced = member
        .patch(&format!("{url}&force=true"), "apply-patch", &deployment)
        .await
        .ok();
    assert_eq!(
        forced["spec"]["template"]["spec"]["containers"][0]["image"],
        "i"
    );

    let json_patch = json!([{"op": "test", "path": "/spec/replicas", "value": 0},
                            {"op": "replace", "path": "/spec/paused", "value": true}]);
    let failed = member.patch(path, "json-patch", &json_patch).await;
    assert_eq!(failed.code, 422, "{}", failed.json);
    let json_patch = json!([{"op": "add", "path": "/spec/paused", "value": true}]);
    assert_eq!(
        member.patch(path, "json-patch", &json_patch).await.ok()["spec"]["paused"],
        true
    );
    let merge = json!({"spec": {"paused": null}, "metadata": {"annotations": {"x": "y"}}});
    let merged = member.patch(path, "merge-patch", &merge).await.ok();
    assert_eq!(merged["spec"]["paused"], Value::Null);

    let pinned = json!({"metadata": {"resourceVersion": "1"}});
    assert_eq!(member.patch(path, "merge-patch", &pinned).await.code, 409);
    assert_eq!(member.patch(path, "cbor", &pinned).await.code, 415);
    let missing = member
        .patch(&format!("{path}x"), "merge-patch", &merge)
        .await;
    assert_eq!(missing.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_and_status_are_apart() {
    let member = member().await;
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "paused": true, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 9},
    });
    let made = member.post(base, &deployment).await.ok();
    assert_ne!(made["status"]["replicas"], 9);
    let scale = member.get(&format!("{base}/d/scale")).await.ok();
    assert_eq!(
        (&scale["kind"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!("a=b"))
    );
    let scaled = member
        .patch(
            &format!("{base}/d/scale"),
            "merge-patch",
            &json!({"spec": {"replicas": 2}}),
        )
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 2);
    let mut put = scaled.clone();
    put["spec"]["replicas"] = 3.into();
    put["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert_eq!(
        member.put(&format!("{base}/d/scale"), &put).await.ok()["spec"]["replicas"],
        3
    );
    put["spec"]["replicas"] = (-1).into();
    assert_eq!(member.put(&format!("{base}/d/scale"), &put).await.code, 422);
    // Who scaled owns the replicas by way of the scale.
    let live = member.get(&format!("{base}/d")).await.ok();
    let managers = live["metadata"]["managedFields"].as_array().unwrap();
    let scaler = managers
        .iter()
        .find(|entry| entry["subresource"] == "scale");
    assert_eq!(
        scaler.unwrap()["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    let status = json!({"status": {"observedGeneration": 77}, "spec": {"replicas": 50}});
    let after = member
        .patch(&format!("{base}/d/status"), "merge-patch", &status)
        .await
        .ok();
    assert_eq!(
        after["spec"]["replicas"], 3,
        "a status write leaves the spec alone"
    );
    let pods = member
        .get("/api/v1/namespaces/default/pods/x/nonsense")
        .await;
    assert_eq!(pods.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_lose_no_increment() {
    let member = member().await;
    member
        .post(CM, &json!({"metadata": {"name": "n"}, "data": {}}))
        .await
        .ok();
    let path = format!("{CM}/n");
    let writers = (0..8).map(|writer| {
        let (path, member) = (&path, &member);
        async move {
            for step in 0..5 {
                let patch = json!({"data": {format!("k{writer}-{step}"): "v"}});
                member.patch(path, "merge-patch", &patch).await.ok();
            }
        }
    });
    futures::future::join_all(writers).await;
    let data = member.get(&path).await.ok()["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 40);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_finalizers_and_collections() {
    let member = member().await;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = member.post(CM, &held).await.ok();
    let path = format!("{CM}/held");
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(member.delete(&path, &wrong).await.code, 409);
    let wrong = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(member.delete(&path, &wrong).await.code, 409);
    let uid = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    let pending = member.delete(&path, &uid).await.ok();
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(member.patch(&path, "merge-patch", &more).await.code, 422);
    let none = json!({"metadata": {"finalizers": null}});
    member.patch(&path, "merge-patch", &none).await.ok();
    assert_eq!(member.get(&path).await.code, 404);

    for name in ["c1", "c2", "c3"] {
        member.post(CM, &config_map(name)).await.ok();
    }
    member
        .post(CM, &json!({"metadata": {"name": "other"}}))
        .await
        .ok();
    let deleted = member
        .delete(&format!("{CM}?labelSelector=a%3Db"), &Value::Null)
        .await
        .ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 3);
    assert_eq!(member.get(&format!("{CM}/c1")).await.code, 404);
    assert_eq!(member.get(&format!("{CM}/other")).await.code, 200);
    let policy = json!({"propagationPolicy": "Sometimes"});
    assert_eq!(
        member.delete(&format!("{CM}/other"), &policy).await.code,
        422
    );
    let foreground = json!({"propagationPolicy": "Orphan"});
    let pending = member
        .delete(&format!("{CM}/other"), &foreground)
        .await
        .ok();
    assert_eq!(pending["metadata"]["finalizers"], json!(["orphan"]));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_a_revision_makes_no_generation() {
    let member = member().await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let path = format!("{all}/d");
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    member.post(all, &deployment).await.ok();
    let note = json!({"metadata": {"annotations": {"note": "x"}}});
    let live = loop {
        let live = member.get(&path).await.ok();
        let annotations = &live["metadata"]["annotations"];
        if annotations["deployment.kubernetes.io/revision"] == "1"
            && live["status"]["observedGeneration"] == 1
        {
            break live;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(live["metadata"]["generation"], 1);
    // Other annotations are no part of the status.
    let status = format!("{path}/status");
    let patched = member.patch(&status, "merge-patch", &note).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["note"], Value::Null);
    let patched = member.patch(&path, "merge-patch", &note).await.ok();
    assert_eq!(patched["metadata"]["generation"], 2);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn version_zero_is_whichever_is_there() {
    let member = member().await;
    let base = "/api/v1/namespaces/default/configmaps";
    let map = |version: &str, value: &str| json!({"metadata": {"name": "m", "resourceVersion": version}, "data": {"k": value}});
    member.post(base, &map("0", "a")).await.ok();
    assert_eq!(member.post(base, &map("1", "a")).await.code, 400);
    let path = format!("{base}/m");
    let replaced = member.put(&path, &map("0", "b")).await.ok();
    assert_eq!(replaced["data"]["k"], "b");
    assert_eq!(member.put(&path, &map("1", "c")).await.code, 409);
    let patched = member.patch(&path, "merge-patch", &map("0", "d")).await;
    assert_eq!(patched.ok()["data"]["k"], "d");
    // Leases are not replaced without a version.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}});
    member.post(leases, &lease).await.ok();
    let zero = json!({"metadata": {"name": "l", "resourceVersion": "0"}});
    let refused = member.put(&format!("{leases}/l"), &zero).await;
    assert_eq!(refused.code, 422);
}

/// Which of the two it is, a client with types learns from the OpenAPI document, and it reads nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_answers_with_the_object_where_kubernetes_does() {
    let member = member().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let maps = "/api/v1/namespaces/default/configmaps";
    for (path, kind, object) in [
        (
            quotas,
            "ResourceQuota",
            json!({"spec": {"hard": {"pods": "1"}}}),
        ),
        (
            classes,
            "StorageClass",
            json!({"provisioner": "example.com/none"}),
        ),
        (maps, "Status", json!({})),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "d"});
        member.post(path, &object).await.ok();
        let answer = member.delete(&format!("{path}/d"), &json!({})).await.ok();
        assert_eq!(answer["kind"], kind, "{answer}");
        assert_eq!(member.get(&format!("{path}/d")).await.code, 404);
    }
}

/// A version that is none does not keep an object from being made: clients of other languages send such.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_version_is_refused_in_a_new_object() {
    let member = member().await;
    let base = "/api/v1/namespaces/default/configmaps";
    let named = |version: &str| json!({"metadata": {"name": "m", "resourceVersion": version}});
    let refused = member.post(base, &named("12")).await;
    assert_eq!(refused.code, 400, "{}", refused.json);
    let made = member.post(base, &named("v1")).await.ok();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(version.parse::<u64>().is_ok(), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_object_belongs_to_who_makes_it() {
    let member = member().await;
    let base = "/api/v1/namespaces/default/configmaps";
    let first = json!({"metadata": {"name": "first"}, "data": {"k": "v"}});
    let mut copy = member
        .post(&format!("{base}?fieldManager=before"), &first)
        .await
        .ok();
    assert_eq!(copy["metadata"]["managedFields"][0]["manager"], "before");
    copy["metadata"]["name"] = "second".into();
    copy["metadata"]["resourceVersion"] = "".into();
    let copy = member
        .post(&format!("{base}?fieldManager=copier"), &copy)
        .await
        .ok();
    let entries = copy["metadata"]["managedFields"].as_array().unwrap();
    let managers: Vec<_> = entries.iter().map(|entry| &entry["manager"]).collect();
    assert_eq!(managers, ["copier"]);
    assert_eq!(
        entries[0]["fieldsV1"]["f:data"],
        json!({".": {}, "f:k": {}})
    );
}

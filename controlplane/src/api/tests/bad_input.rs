//! Bad input is refused with the right code and a message that names what is wrong; nothing is stored.

use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_objects() {
    let member = member().await;
    let yaml = [("content-type", "application/yaml")];
    let good = send(
        &member.client,
        Method::POST,
        CM,
        &yaml,
        "metadata:\n  name: yam\ndata: {a: b}\n",
    )
    .await;
    assert_eq!(good.code, 201, "{}", good.json);
    let bad = send(
        &member.client,
        Method::POST,
        CM,
        &yaml,
        "metadata: [name: y\n x: {",
    )
    .await;
    assert_eq!((bad.code, bad.reason()), (400, "BadRequest"));
    assert!(
        bad.message().starts_with("error converting YAML to JSON"),
        "{}",
        bad.message()
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\n\
        g: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
    assert_eq!(
        send(&member.client, Method::POST, CM, &yaml, bomb)
            .await
            .code,
        400
    );
    for body in ["", "{", "[]", "5", "\"x\"", "null"] {
        let answer = send(&member.client, Method::POST, CM, &[JSON], body).await;
        assert_eq!(answer.code, 400, "{body:?} {}", answer.json);
    }
    let wrong = member
        .post(
            CM,
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(wrong.code, 400, "{}", wrong.json);
    let wrong = member
        .post(
            CM,
            &json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        wrong.message(),
        "the API version in the data (v2) does not match the expected API version (v1)"
    );
    let typed = member.post(CM, &json!({"metadata": {"name": 5}})).await;
    assert_eq!(typed.code, 400);
    assert!(
        typed
            .message()
            .contains("cannot unmarshal number into Go struct field"),
        "{}",
        typed.message()
    );
    let cbor = [("content-type", "application/cbor")];
    let answer = send(&member.client, Method::POST, CM, &cbor, "x").await;
    assert_eq!(
        (answer.code, answer.reason()),
        (415, "UnsupportedMediaType")
    );
    let large = format!(
        "{{\"metadata\":{{\"name\":\"l\"}},\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(4 << 20)
    );
    let answer = send(&member.client, Method::POST, CM, &[JSON], large).await;
    assert_eq!(
        (answer.code, answer.reason()),
        (413, "RequestEntityTooLarge")
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_warn_or_fail_as_asked() {
    let member = member().await;
    let body = |name: &str| json!({"metadata": {"name": name}, "dta": {"a": "b"}});
    let strict = member
        .post(&format!("{CM}?fieldValidation=Strict"), &body("s"))
        .await;
    assert_eq!(
        (strict.code, strict.message()),
        (
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dta\""
        )
    );
    let warned = member.post(CM, &body("w")).await;
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"dta\\\"\""
    );
    assert_eq!(warned.ok()["dta"], Value::Null);
    let ignored = member
        .post(&format!("{CM}?fieldValidation=Ignore"), &body("i"))
        .await;
    assert!(ignored.headers.get("warning").is_none());
    ignored.ok();
    assert_eq!(
        member
            .post(&format!("{CM}?fieldValidation=Maybe"), &body("m"))
            .await
            .message(),
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported \
         values: \"Ignore\", \"Strict\", \"Warn\""
    );
    let twice = r#"{"metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#;
    let url = format!("{CM}?fieldValidation=Strict");
    let strict = send(&member.client, Method::POST, &url, &[JSON], twice).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().contains("duplicate field"),
        "{}",
        strict.message()
    );
    let patch = json!({"dta": {"x": "y"}});
    let strict = member
        .patch(
            &format!("{CM}/i?fieldValidation=Strict"),
            "merge-patch",
            &patch,
        )
        .await;
    assert_eq!(strict.code, 400);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_objects_name_their_fields() {
    let member = member().await;
    let services = "/api/v1/namespaces/default/services";
    let service =
        json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 0, "targetPort": 80}]}});
    let answer = member.post(services, &service).await;
    assert_eq!((answer.code, answer.reason()), (422, "Invalid"));
    assert_eq!(
        answer.message(),
        "Service \"x\" is invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"
    );
    assert_eq!(
        answer.json["details"],
        json!({"name": "x", "kind": "Service", "causes": [{"reason": "FieldValueInvalid",
            "message": "Invalid value: 0: must be between 1 and 65535, inclusive", "field": "spec.ports[0].port"}]})
    );
    let named = json!({"metadata": {"name": "No_Label"}, "spec": {"ports": [{"port": 1}]}});
    let answer = member.post(services, &named).await;
    assert!(answer.message().starts_with("Service \"No_Label\" is invalid: metadata.name: Invalid value: \"No_Label\": a DNS-1035 label"), "{}", answer.message());
    assert_eq!(member.get(&format!("{services}/x")).await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_nowhere() {
    let member = member().await;
    for path in [
        "/api/v1/nonsense",
        "/api/v2/pods",
        "/apis/none/v1/pods",
        "/apis/apps/v9/deployments",
        "/nothing",
        "/api/v1/namespaces/default/pods/a/b/c/d",
        "/api/v1/pods/%2e%2e",
        "/api/v1/namespaces/default/pods/..%2fx",
        "/openapi/v3/none",
    ] {
        let answer = member.get(path).await;
        assert_eq!((answer.code, answer.reason()), (404, "NotFound"), "{path}");
        assert_eq!(answer.json["kind"], "Status", "{path}");
    }
    assert_eq!(member.put(CM, &json!({})).await.code, 405);
    assert_eq!(member.post("/version", &json!({})).await.code, 405);
    let trace = send(&member.client, Method::TRACE, CM, &[], "").await;
    assert_eq!(trace.code, 405);
    let html = member.get_as(CM, "text/html").await;
    assert_eq!((html.code, html.reason()), (406, "NotAcceptable"));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_that_nobody_serves_are_no_way_around_validation() {
    let member = member().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    member.post(pods, &pod).await.ok();
    let bound = json!({"spec": {"nodeName": "elsewhere", "hostname": "h"}});
    for name in ["ephemeralcontainers", "resize"] {
        let path = format!("{pods}/p/{name}");
        member.patch(&path, "merge-patch", &bound).await.ok();
    }
    // A proxy takes every verb; this pod has no address that it could lead to.
    for (name, code, reason) in [
        ("attach", 405, "MethodNotAllowed"),
        ("exec", 405, "MethodNotAllowed"),
        ("portforward", 405, "MethodNotAllowed"),
        ("proxy", 400, "BadRequest"),
    ] {
        let path = format!("{pods}/p/{name}");
        let answer = member.patch(&path, "merge-patch", &bound).await;
        assert_eq!((answer.code, answer.reason()), (code, reason), "{name}");
    }
    for name in ["checkpoint", "nothing"] {
        let path = format!("{pods}/p/{name}");
        assert_eq!(member.get(&path).await.code, 404, "{name}");
        let answer = member.patch(&path, "merge-patch", &bound).await;
        assert_eq!((answer.code, answer.reason()), (404, "NotFound"), "{name}");
    }
    let live = member.get(&format!("{pods}/p")).await.ok();
    assert_eq!(live["spec"].get("nodeName"), None);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_deleted_in_one_namespace_only() {
    let member = member().await;
    let map = json!({"metadata": {"name": "a"}});
    member.post(CM, &map).await.ok();
    for path in ["/api/v1/configmaps", "/api/v1/namespaces"] {
        let answer = member.delete(path, &Value::Null).await;
        assert_eq!(
            (answer.code, answer.reason()),
            (405, "MethodNotAllowed"),
            "{path}"
        );
    }
    member.get(&format!("{CM}/a")).await.ok();
    let core = member.get("/api/v1").await.ok();
    for resource in core["resources"].as_array().unwrap() {
        let verbs = resource["verbs"].as_array().unwrap();
        match resource["name"].as_str().unwrap() {
            "namespaces" => assert!(!verbs.contains(&json!("deletecollection"))),
            "configmaps" => assert!(verbs.contains(&json!("deletecollection"))),
            _ => {}
        }
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_dry_run_does_nothing() {
    let member = member().await;
    let path = format!("{CM}/a");
    let map = json!({"metadata": {"name": "a"}});
    member.post(CM, &map).await.ok();
    let wrong = json!({"dryRun": ["all"]});
    for answer in [
        member.delete(&path, &wrong).await,
        member
            .delete(&format!("{path}?dryRun=all"), &Value::Null)
            .await,
    ] {
        assert_eq!((answer.code, answer.reason()), (422, "Invalid"));
        assert_eq!(
            answer.message(),
            "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"all\"]: supported values: \"All\""
        );
    }
    let text = json!({"dryRun": "All"});
    assert_eq!(member.delete(&path, &text).await.code, 400);
    member.get(&path).await.ok();
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_says_the_name_of_its_object() {
    let member = member().await;
    let path = format!("{CM}/a");
    let map = json!({"metadata": {"name": "a"}});
    member.post(CM, &map).await.ok();
    let nameless = member.put(&path, &json!({"data": {"k": "v"}})).await;
    assert_eq!(
        (nameless.code, nameless.message()),
        (
            400,
            "the name of the object (a based on URL) was undeterminable: name must be provided"
        )
    );
    let other = json!({"metadata": {"name": "b"}});
    let mismatch = "the name of the object (b) does not match the name on the URL (a)";
    for answer in [
        member.put(&path, &other).await,
        member.patch(&path, "merge-patch", &other).await,
    ] {
        assert_eq!((answer.code, answer.message()), (400, mismatch));
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_does_not_apply_says_why() {
    let member = member().await;
    let path = format!("{CM}/a");
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    member.post(CM, &map).await.ok();
    let patch = json!([{"op": "test", "path": "/data/k", "value": "w"}]);
    let answer = member.patch(&path, "json-patch", &patch).await;
    assert_eq!((answer.code, answer.reason()), (422, "Invalid"));
    // kubectl prints the message only where the details name no object.
    assert_eq!(answer.json["details"], json!({}));
    assert!(answer.message().contains("/data/k"), "{}", answer.message());
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_without_a_body() {
    let member = member().await;
    for path in [CM.to_owned(), format!("{CM}/none"), "/healthz".to_owned()] {
        let head = send(&member.client, Method::HEAD, &path, &[], "").await;
        assert_eq!(head.code, member.get(&path).await.code, "{path}");
        assert!(head.bytes.is_empty(), "{path}");
    }
    member.controller.shutdown().await;
}

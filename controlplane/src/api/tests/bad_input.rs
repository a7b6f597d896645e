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
    assert_eq!(strict.code, 422);
    let message = strict.message();
    assert!(
        message.starts_with(" \"\" is invalid: patch: Invalid value: ")
            && message.ends_with(": strict decoding error: unknown field \"dta\"")
            && !message.contains("managedFields"),
        "{message}"
    );
    for (patch, why) in [
        (
            json!({"metadata": {"labels": "x"}}),
            "cannot restore map from string",
        ),
        (
            json!({"metadata": {"labels": {"a": {}}}}),
            "unrecognized type: string",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "cannot convert int64 to string",
        ),
        (
            json!({"metadata": {"finalizers": "x"}}),
            "cannot restore slice from string",
        ),
        (
            json!({"metadata": {"generation": 1.5}}),
            "cannot convert float64 to int64",
        ),
        (json!({"immutable": [true]}), "unrecognized type: bool"),
    ] {
        let refused = member
            .patch(&format!("{CM}/i"), "strategic-merge-patch", &patch)
            .await;
        assert_eq!(refused.code, 422, "{patch}");
        let message = refused.message();
        let begin = " \"\" is invalid: patch: Invalid value: \"map[";
        assert!(
            message.starts_with(begin) && message.ends_with(&format!(": {why}")),
            "{patch}: {message}"
        );
    }
    // So is a patch that makes of it what cannot be read, and one with an operation that there is not.
    let patch = json!({"data": 5});
    for (kind, patch) in [
        ("merge-patch", patch.clone()),
        ("strategic-merge-patch", patch),
        ("json-patch", json!([{"op": "frob", "path": "/data"}])),
    ] {
        let answer = member.patch(&format!("{CM}/i"), kind, &patch).await;
        assert_eq!(
            (answer.code, answer.reason()),
            (422, "Invalid"),
            "{kind}: {}",
            answer.message()
        );
    }
    let patch = json!({"op": "frob"});
    let answer = member.patch(&format!("{CM}/i"), "json-patch", &patch).await;
    assert_eq!(answer.code, 400);
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

#[tokio::test(flavor = "multi_thread")]
async fn reviews_are_read_as_strictly_as_objects() {
    let member = member().await;
    let group = "/apis/authorization.k8s.io/v1";
    let access = format!("{group}/subjectaccessreviews");
    let of = |spec: Value| json!({"spec": spec});
    let number = member.post(&access, &of(json!({"user": 5}))).await;
    assert_eq!(
        (number.code, number.message()),
        (
            400,
            "SubjectAccessReview in version \"v1\" cannot be handled as a SubjectAccessReview: json: cannot unmarshal \
             number into Go struct field SubjectAccessReviewSpec.spec.user of type string"
        )
    );
    let good =
        json!({"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods"}, "usr": 1});
    let strict = format!("{access}?fieldValidation=Strict");
    assert_eq!(member.post(&strict, &of(good.clone())).await.code, 400);
    let warned = member.post(&access, &of(good)).await;
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"spec.usr\\\"\""
    );
    assert_eq!(warned.ok()["spec"]["usr"], Value::Null);
    let other = json!({"apiVersion": "v1", "kind": "Pod"});
    assert_eq!(member.post(&access, &other).await.code, 400);
    let named = json!({"metadata": {"name": "n"}, "spec": {"user": "u"}});
    let named = member.post(&access, &named).await;
    assert_eq!(
        (named.code, named.message()),
        (
            422,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: metadata: Invalid value: must be empty"
        )
    );

    let local = format!("{group}/namespaces/default/localsubjectaccessreviews");
    let elsewhere = json!({"user": "u", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "a"}});
    let answer = member.post(&local, &of(elsewhere)).await;
    assert_eq!(
        (answer.code, answer.message()),
        (
            422,
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: \
             Invalid value: \"a\": must match metadata.namespace"
        )
    );
    let path = json!({"user": "u", "nonResourceAttributes": {"verb": "get", "path": "/"}});
    assert_eq!(member.post(&local, &of(path)).await.code, 422);
    let rules = format!("{group}/selfsubjectrulesreviews");
    let answer = member.post(&rules, &of(json!({}))).await;
    assert_eq!(
        (answer.code, answer.message()),
        (400, "no namespace on request")
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn null_and_empty_values_are_what_their_type_makes_of_them() {
    let member = member().await;
    // In a map null is the empty value of its type; a field that is null is not there.
    let map = json!({"metadata": {"name": "m", "labels": {"a": null}}, "data": {"k": null}, "immutable": null});
    let made = member.post(CM, &map).await.ok();
    assert_eq!(made["metadata"]["labels"], json!({"a": ""}));
    assert_eq!(made["data"], json!({"k": ""}));
    assert_eq!(made["immutable"], Value::Null);
    // An empty text is no time.
    let lease = json!({"metadata": {"name": "l"}, "spec": {"renewTime": ""}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(member.post(path, &lease).await.code, 400);
    // Schemas in schemas have types of their own.
    let definition = |schema: Value| {
        json!({"metadata": {"name": "as.x.io"}, "spec": {
            "group": "x.io", "scope": "Cluster", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"p": schema}}}}]}})
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    for (schema, code) in [
        (json!({"type": "array", "items": {"type": 5}}), 400),
        (json!({"type": "object", "additionalProperties": []}), 400),
        (json!({"type": "object", "properties": {"q": null}}), 422),
        (json!({"type": "array", "items": {"type": "string"}}), 201),
    ] {
        let answer = member.post(path, &definition(schema.clone())).await;
        assert_eq!(answer.code, code, "{schema}");
    }
    let mut listed = definition(json!({"type": "string"}));
    listed["spec"]["versions"][0]["subresources"]["status"] = json!([]);
    assert_eq!(member.post(path, &listed).await.code, 400);
    // What admission looks at in a pod is not made by looking.
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let path = "/api/v1/namespaces/default/serviceaccounts";
    for _ in 0..200 {
        if member.get(&format!("{path}/default")).await.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let made = member
        .post("/api/v1/namespaces/default/pods", &pod)
        .await
        .ok();
    let fields = made["spec"].as_object().unwrap();
    assert!(!fields.contains_key("initContainers"), "{fields:?}");
    member.controller.shutdown().await;
}

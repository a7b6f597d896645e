//! Tables, partial objects, YAML, compression, discovery, OpenAPI, health and metrics.

use std::io::Read;

use serde_json::json;

use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const PARTIAL: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_other_shapes() {
    let member = member().await;
    member
        .post(CM, &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))
        .await
        .ok();
    let table = member.get_as("/api/v1/namespaces", TABLE).await.ok();
    assert_eq!(
        (&table["kind"], &table["apiVersion"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"))
    );
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Status", "Age"]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
    assert_eq!(
        member.get_as("/api/v1/namespaces/default", old).await.ok()["apiVersion"],
        "meta.k8s.io/v1beta1"
    );
    let whole = member
        .get_as("/api/v1/namespaces?includeObject=Object", TABLE)
        .await
        .ok();
    assert_eq!(whole["rows"][0]["object"]["kind"], "Namespace");
    let none = member
        .get_as("/api/v1/namespaces?includeObject=None", TABLE)
        .await
        .ok();
    assert!(none["rows"][0].get("object").is_none());
    let partial = member.get_as(CM, PARTIAL).await.ok();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("data").is_none());
    let yaml = member.get_as(&format!("{CM}/a"), "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("name: a"));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_are_compressed() {
    let member = member().await;
    for n in 0..8 {
        let data =
            json!({"metadata": {"name": format!("l{n}")}, "data": {"k": "x".repeat(40_000)}});
        member.post(CM, &data).await.ok();
    }
    let headers = [("accept-encoding", "gzip")];
    let packed = send(&member.client, Method::GET, CM, &headers, "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.bytes[..])
        .read_to_string(&mut text)
        .unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert!(list["items"].as_array().unwrap().len() >= 8);
    assert!(packed.bytes.len() < text.len() / 10);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let member = member().await;
    let version = member.get("/version").await.ok();
    assert_eq!(
        (&version["major"], &version["minor"]),
        (&json!("1"), &json!("36"))
    );
    let core = member.get("/api/v1").await.ok();
    let pods = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods")
        .unwrap();
    assert_eq!(
        (&pods["kind"], &pods["namespaced"], &pods["shortNames"]),
        (&json!("Pod"), &json!(true), &json!(["po"]))
    );
    // Facts, from api/discovery of Kubernetes 1.36.
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    let scalers = member.get("/apis/autoscaling/v1").await.ok();
    assert_eq!(
        scalers["resources"][0]["storageVersionHash"],
        "qwQve8ut294="
    );
    assert_eq!(scalers["resources"][1].get("storageVersionHash"), None);
    let eviction = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods/eviction")
        .unwrap();
    assert_eq!(
        (&eviction["group"], &eviction["kind"]),
        (&json!("policy"), &json!("Eviction"))
    );
    for group in member.get("/apis").await.ok()["groups"].as_array().unwrap() {
        let path = format!(
            "/apis/{}",
            group["preferredVersion"]["groupVersion"].as_str().unwrap()
        );
        assert_eq!(
            member.get(&path).await.ok()["kind"],
            "APIResourceList",
            "{path}"
        );
    }
    for version in ["v2", "v2beta1"] {
        let accept = format!(
            "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json"
        );
        let answer = member.get_as("/apis", &accept).await;
        assert!(
            answer.headers["content-type"]
                .to_str()
                .unwrap()
                .contains(version)
        );
        let etag = answer.headers["etag"].to_str().unwrap().to_owned();
        let apps = answer.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["metadata"]["name"] == "apps")
            .unwrap();
        assert!(
            apps["versions"][0]["resources"]
                .as_array()
                .unwrap()
                .iter()
                .any(|r| r["resource"] == "deployments")
        );
        let headers = [
            ("accept", accept.as_str()),
            ("if-none-match", etag.as_str()),
        ];
        assert_eq!(
            send(&member.client, Method::GET, "/apis", &headers, "")
                .await
                .code,
            304
        );
    }
    let index = member.get("/openapi/v3").await.ok();
    for path in ["api/v1", "apis/apps/v1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
        let document = member.get(url).await.ok();
        assert!(
            document["components"]["schemas"].as_object().unwrap().len() > 5,
            "{path}"
        );
    }
    assert!(
        member.get("/openapi/v2").await.ok()["definitions"]["io.k8s.api.core.v1.Pod"].is_object()
    );
    // What cannot be served is not served in another form.
    let lists = ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1"];
    for path in lists.iter().chain(&["/openapi/v2", "/openapi/v3/api/v1"]) {
        let refused = member.get_as(path, "text/plain").await;
        assert_eq!((refused.code, refused.reason()), (406, "NotAcceptable"));
    }
    for path in lists {
        let yaml = member.get_as(path, "application/yaml").await;
        assert_eq!(yaml.headers["content-type"], "application/yaml", "{path}");
        assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: API"));
        let other = "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList";
        assert_eq!(member.get_as(path, other).await.code, 406, "{path}");
    }
    let proto = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let proto = member.get_as("/openapi/v2", proto).await;
    assert!(proto.code == 200 && proto.json.is_null() && proto.bytes.len() > 10_000);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
    let member = member().await;
    assert_eq!(&member.get("/livez").await.bytes[..], b"ok");
    let verbose = member.get("/readyz?verbose").await;
    assert_eq!(
        &verbose.bytes[..],
        b"[+]ping ok\n[+]store ok\n[+]quorum ok\n[+]shutdown ok\nreadyz check passed\n"
    );
    assert_eq!(member.get("/readyz/store").await.code, 200);
    assert_eq!(member.get("/readyz/nonsense").await.code, 404);
    member.get(CM).await.ok();
    let metrics = member.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    for line in [
        "apiserver_request_total{verb=\"list\",resource=\"configmaps\",code=\"200\"} 1",
        "apiserver_watches ",
        "waggle_store_revision ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_served_in_both_groups() {
    let member = member().await;
    let event = json!({
        "metadata": {"name": "e1"}, "type": "Normal", "reason": "Tested", "message": "hello",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "source": {"component": "test"}, "count": 1,
    });
    member
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .ok();
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let shown = member.get(&format!("{path}/e1")).await.ok();
    assert_eq!(shown["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (&shown["note"], &shown["regarding"]["name"]),
        (&json!("hello"), &json!("p"))
    );
    let list = member.get(path).await.ok();
    assert_eq!(list["apiVersion"], "events.k8s.io/v1");
    assert!(
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|e| e["note"] == "hello")
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pretty_answers_are_indented() {
    let member = member().await;
    let map = serde_json::json!({"metadata": {"name": "a"}});
    member.post(CM, &map).await.ok();
    let path = format!("{CM}/a");
    let plain = member.get(&path).await;
    let pretty = member.get(&format!("{path}?pretty=true")).await;
    assert!(
        pretty.bytes.starts_with(b"{\n  \"kind\": \"ConfigMap\",\n"),
        "{:?}",
        pretty.bytes
    );
    assert_eq!(pretty.json, plain.json);
    let missing = member.get(&format!("{CM}/none?pretty=true")).await;
    assert_eq!((missing.code, missing.reason()), (404, "NotFound"));
    assert!(missing.bytes.starts_with(b"{\n  \""));
    let watch = member
        .get(&format!("{CM}?watch=true&timeoutSeconds=1&pretty=true"))
        .await;
    assert!(watch.bytes.starts_with(b"{\"type\":"));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_list_and_of_one_object_are_two_things() {
    let member = member().await;
    let asked = async |path: &str, kind: &str| {
        let accept = format!("application/json;as={kind};v=v1;g=meta.k8s.io,application/json");
        let headers = [("accept", accept.as_str())];
        let answer = send(&member.client, Method::GET, path, &headers, "").await;
        (answer.code, answer.message().to_owned())
    };
    let one = "/api/v1/namespaces/default";
    let all = "/api/v1/namespaces";
    let refused = "you requested PartialObjectMetadata, but the requested object is a list";
    assert_eq!(
        asked(all, "PartialObjectMetadata").await,
        (406, refused.to_owned())
    );
    assert_eq!(asked(one, "PartialObjectMetadataList").await.0, 406);
    assert_eq!(asked(all, "PartialObjectMetadataList").await.0, 200);
    assert_eq!(asked(one, "PartialObjectMetadata").await.0, 200);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_answered_has_no_rows() {
    let member = member().await;
    let body = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let asked = async |accept: &str| {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        send(
            &member.client,
            Method::POST,
            path,
            &headers,
            body.to_string(),
        )
        .await
    };
    let refused = asked("application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!((refused.code, refused.reason()), (406, "NotAcceptable"));
    assert_eq!(
        asked("application/vnd.kubernetes.protobuf, */*").await.code,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn component_statuses_are_listed_and_cannot_be_written() {
    let member = member().await;
    let path = "/api/v1/componentstatuses";
    let answer = member.get(path).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"v1 ComponentStatus is deprecated in v1.19+\""
    );
    let items = answer.json["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    assert_eq!(items[0]["conditions"][0]["status"], "True");
    let one = member.get(&format!("{path}/scheduler")).await.ok();
    assert_eq!(one["kind"], "ComponentStatus");
    assert_eq!(member.get(&format!("{path}/none")).await.code, 404);
    assert_eq!(member.post(path, &serde_json::json!({})).await.code, 405);
    let resources = member.get("/api/v1").await.ok();
    let listed = resources["resources"].as_array().unwrap();
    assert!(
        listed
            .iter()
            .any(|resource| resource["name"] == "componentstatuses")
    );
}

/// As Kubernetes' own encoder ends them, whatever it is that is asked for.
#[tokio::test]
async fn every_answer_in_json_is_a_line() {
    let member = member().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let body = serde_json::json!({"metadata": {"name": "line"}, "data": {"a": "b"}});
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let answers = [
        member.post(path, &body).await,
        member.get(&format!("{path}/line")).await,
        member.get(path).await,
        member.get_as(path, table).await,
        member.get_as(&format!("{path}/line"), table).await,
        member.get(&format!("{path}/none")).await,
        member.get("/apis").await,
        member.get("/api/v1").await,
        member.get("/version").await,
        member.get("/api/v1/componentstatuses").await,
        member
            .delete(&format!("{path}/line"), &serde_json::json!({}))
            .await,
    ];
    for answer in answers {
        let lines = answer.bytes.iter().filter(|byte| **byte == b'\n').count();
        let text = String::from_utf8_lossy(&answer.bytes);
        assert!(text.ends_with("}\n") && lines == 1, "{text:?}");
    }
}

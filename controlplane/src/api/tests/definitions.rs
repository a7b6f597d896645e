//! Custom resources from their definition to its end.
#![allow(clippy::unwrap_used)]

use http::Method;
use serde_json::{Value, json};

use super::{JSON, Member, member, send};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    selectableFields: [{jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, maximum: 10}
              color: {type: string, default: red, enum: [red, green]}
              replicas: {type: integer}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, weight: {type: integer}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
            x-kubernetes-validations:
            - rule: "!has(self.replicas) || self.replicas <= self.size"
              message: replicas must not exceed size
            - rule: self.size >= oldSelf.size
              message: size must not shrink
          status:
            type: object
            properties: {replicas: {type: integer}}
  - name: v1beta1
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

fn widgets() -> Value {
    serde_saphyr::from_str(DEFINITION).unwrap()
}

/// Looks until it is so, as long as a slow machine may take.
async fn wait_for(mut check: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !check().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), looked)
        .await
        .unwrap();
}

async fn defined() -> Member {
    let member = member().await;
    let answer = send(
        &member.client,
        Method::POST,
        CRDS,
        &[JSON],
        widgets().to_string(),
    )
    .await;
    assert_eq!(answer.code, 201, "{}", answer.json);
    established(&member).await;
    member
}

async fn established(member: &Member) {
    wait_for(async || {
        let path = format!("{CRDS}/widgets.example.com");
        let answer = send(&member.client, Method::GET, &path, &[], "").await;
        let conditions = answer.json["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    })
    .await;
}

fn widget(name: &str, spec: Value) -> String {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_defaulted_pruned_validated_and_shown() {
    let member = defined().await;
    let post = async |spec: Value| {
        send(
            &member.client,
            Method::POST,
            WIDGETS,
            &[JSON],
            widget("a", spec),
        )
        .await
    };
    let refused = post(json!({"size": 11, "color": "blue", "parts": [{"weight": 1}]})).await;
    assert_eq!(refused.code, 422, "{}", refused.json);
    let message = refused.message();
    for part in [
        "Widget.example.com \"a\" is invalid: [",
        "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        "spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\"",
        "spec.parts[0].name: Required value",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let refused = post(json!({"size": "big"})).await;
    assert!(
        refused.message().contains(
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""
        ),
        "{}",
        refused.message()
    );
    let refused = post(json!({"size": 2, "replicas": 3})).await;
    assert_eq!(
        refused.message(),
        "Widget.example.com \"a\" is invalid: spec: Invalid value: replicas must not exceed size"
    );
    let made = post(json!({"size": 2, "unknown": 1, "free": {"x": {"y": null}}})).await;
    assert_eq!(made.code, 201, "{}", made.json);
    assert!(
        made.headers["warning"]
            .to_str()
            .unwrap()
            .contains("unknown field")
    );
    assert_eq!(
        made.json["spec"],
        json!({"size": 2, "color": "red", "free": {"x": {"y": null}}})
    );
    assert_eq!(made.json["metadata"]["generation"], 1);

    let shrunk = json!({"spec": {"size": 1}}).to_string();
    let merge = ("content-type", "application/merge-patch+json");
    let path = format!("{WIDGETS}/a");
    let refused = send(
        &member.client,
        Method::PATCH,
        &path,
        &[merge],
        shrunk.clone(),
    )
    .await;
    assert_eq!(refused.code, 422, "{}", refused.json);
    assert!(refused.message().contains("size must not shrink"));
    let strategic = ("content-type", "application/strategic-merge-patch+json");
    let refused = send(&member.client, Method::PATCH, &path, &[strategic], shrunk).await;
    assert_eq!(refused.code, 415, "{}", refused.json);

    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let shown = send(&member.client, Method::GET, WIDGETS, &[table], "")
        .await
        .ok();
    assert_eq!(shown["columnDefinitions"][1]["name"], "Size");
    assert_eq!(shown["rows"][0]["cells"], json!(["a", 2]));

    let older = format!("{}/a", WIDGETS.replace("/v1/", "/v1beta1/"));
    let older = send(&member.client, Method::GET, &older, &[], "")
        .await
        .ok();
    assert_eq!(older["apiVersion"], "example.com/v1beta1");
    let listed = send(
        &member.client,
        Method::GET,
        &format!("{WIDGETS}?fieldSelector=spec.color%3Dred"),
        &[],
        "",
    )
    .await
    .ok();
    assert_eq!(listed["kind"], "WidgetList");
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let other = format!("{WIDGETS}?fieldSelector=spec.color%3Dgreen");
    let listed = send(&member.client, Method::GET, &other, &[], "")
        .await
        .ok();
    assert!(listed["items"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_and_server_side_apply_work_on_it() {
    let member = defined().await;
    let path = format!("{WIDGETS}/a");
    let apply = ("content-type", "application/apply-patch+yaml");
    let applied = async |manager: &str, parts: Value| {
        let body = widget("a", json!({"size": 3, "parts": parts}));
        let path = format!("{path}?fieldManager={manager}");
        send(&member.client, Method::PATCH, &path, &[apply], body).await
    };
    let made = applied("one", json!([{"name": "x", "weight": 1}])).await;
    assert_eq!(made.code, 201, "{}", made.json);
    let second = applied("two", json!([{"name": "y"}])).await.ok();
    assert_eq!(second["spec"]["parts"].as_array().unwrap().len(), 2);
    let conflict = applied("two", json!([{"name": "x", "weight": 2}])).await;
    assert_eq!(conflict.code, 409, "{}", conflict.json);
    assert!(
        conflict
            .message()
            .contains("conflict with \"one\": .spec.parts[name=\"x\"].weight"),
        "{}",
        conflict.message()
    );
    let merge = ("content-type", "application/merge-patch+json");
    let status = json!({"status": {"replicas": 2}, "spec": {"size": 9}}).to_string();
    let after = send(
        &member.client,
        Method::PATCH,
        &format!("{path}/status"),
        &[merge],
        status,
    )
    .await
    .ok();
    assert_eq!(
        (&after["status"]["replicas"], &after["spec"]["size"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(after["metadata"]["generation"], 2);
    let scale = json!({"spec": {"replicas": 3}}).to_string();
    let scaled = send(
        &member.client,
        Method::PATCH,
        &format!("{path}/scale"),
        &[merge],
        scale,
    )
    .await
    .ok();
    assert_eq!(
        (&scaled["kind"], &scaled["status"]["replicas"]),
        (&json!("Scale"), &json!(2))
    );
    let live = send(&member.client, Method::GET, &path, &[], "").await.ok();
    assert_eq!(live["spec"]["replicas"], 3);
    // An autoscaler finds it, too; its bounds need no pods.
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {
            "apiVersion": "example.com/v1", "kind": "Widget", "name": live["metadata"]["name"]}},
    });
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let text = scaler.to_string();
    send(&member.client, Method::POST, scalers, &[JSON], text)
        .await
        .ok();
    wait_for(async || {
        let live = send(&member.client, Method::GET, &path, &[], "").await.ok();
        live["spec"]["replicas"] == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_discovered_and_goes_with_what_it_defines() {
    let member = defined().await;
    let found = send(&member.client, Method::GET, "/apis/example.com/v1", &[], "")
        .await
        .ok();
    assert_eq!(found["resources"][0]["shortNames"], json!(["wd"]));
    let document = send(
        &member.client,
        Method::GET,
        "/openapi/v3/apis/example.com/v1",
        &[],
        "",
    )
    .await
    .ok();
    let widget_schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        widget_schema["properties"]["spec"]["properties"]["size"]["maximum"],
        10
    );
    let path = "/apis/example.com/v1/namespaces/{namespace}/widgets/{name}";
    let patches = &document["paths"][path]["patch"]["requestBody"]["content"];
    assert!(patches["application/merge-patch+json"].is_object());
    assert!(patches["application/strategic-merge-patch+json"].is_null());
    let body = widget("a", json!({"size": 1}));
    assert_eq!(
        send(&member.client, Method::POST, WIDGETS, &[JSON], body)
            .await
            .code,
        201
    );
    let path = format!("{CRDS}/widgets.example.com");
    let going = send(&member.client, Method::DELETE, &path, &[], "")
        .await
        .ok();
    assert!(
        going["metadata"]["finalizers"][0]
            .as_str()
            .unwrap()
            .starts_with("customresourcecleanup")
    );
    wait_for(async || send(&member.client, Method::GET, &path, &[], "").await.code == 404).await;
    wait_for(async || {
        send(&member.client, Method::GET, WIDGETS, &[], "")
            .await
            .code
            == 404
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_structural_is_refused() {
    let member = member().await;
    let mut bad = widgets();
    bad["spec"]["versions"].as_array_mut().unwrap().truncate(1);
    let schema = &mut bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]["size"] = json!({"minimum": 1});
    schema["properties"]["spec"]["x-kubernetes-validations"] = json!([{"rule": "self.size >"}]);
    let answer = send(&member.client, Method::POST, CRDS, &[JSON], bad.to_string()).await;
    assert_eq!(answer.code, 422, "{}", answer.json);
    for part in [
        "spec.validation.openAPIV3Schema.properties[spec].properties[size].type: Required value: must not be \
         empty for specified object fields",
        "x-kubernetes-validations[0].rule: Invalid value",
    ] {
        assert!(answer.message().contains(part), "{}", answer.message());
    }
}

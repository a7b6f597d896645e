//! What leads into pods and nodes, as far as it can be told without a node.

use serde_json::json;

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";

const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
];

async fn pod(member: &Member, name: &str) {
    let body = json!({"metadata": {"name": name}, "spec": {
        "schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
    member.post(PODS, &body).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_names_them() {
    let member = member().await;
    let list = member.get("/api/v1").await.ok();
    let kind = |name: &str| {
        let resources = list["resources"].as_array().unwrap().iter();
        let found = resources.clone().find(|it| it["name"] == name).unwrap();
        (found["kind"].clone(), found["verbs"].clone())
    };
    for (name, expected) in [
        ("pods/exec", "PodExecOptions"),
        ("pods/attach", "PodAttachOptions"),
        ("pods/portforward", "PodPortForwardOptions"),
    ] {
        assert_eq!(kind(name), (json!(expected), json!(["create", "get"])));
    }
    for (name, expected) in [
        ("pods/proxy", "PodProxyOptions"),
        ("services/proxy", "ServiceProxyOptions"),
        ("nodes/proxy", "NodeProxyOptions"),
    ] {
        assert_eq!(kind(name).0, expected);
    }
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_connected_to_is_said() {
    let member = member().await;
    pod(&member, "a").await;
    let exec = |query: &str| format!("{PODS}/a/exec?{query}");
    let answer = member.get(&exec("command=x&stdout=true")).await;
    assert_eq!(
        (answer.code, answer.message()),
        (400, "pod a does not have a host assigned")
    );
    let body =
        json!({"apiVersion": "v1", "kind": "Binding", "target": {"kind": "Node", "name": "n1"}});
    member.post(&format!("{PODS}/a/binding"), &body).await.ok();
    let answer = member.get(&exec("command=x&stdout=true")).await;
    assert_eq!(
        (answer.code, answer.message()),
        (400, "Upgrade request required")
    );
    let answer = member.get(&exec("command=x")).await;
    assert_eq!(answer.code, 400);
    assert_eq!(
        member
            .delete(&exec("command=x&stdout=true"), &Value::Null)
            .await
            .code,
        405
    );
    let mut headers = WEBSOCKET.to_vec();
    headers.push(("sec-websocket-protocol", "v9.channel.k8s.io"));
    let path = exec("command=x&stdout=true");
    let answer = send(&member.client, Method::GET, &path, &headers, "").await;
    assert_eq!(answer.code, 403, "no protocol in common");
    // Protocol and pod are right; its node is away.
    let answer = send(&member.client, Method::GET, &path, &WEBSOCKET, "").await;
    assert_eq!(
        (answer.code, answer.message()),
        (503, "node \"n1\" is not connected")
    );
    let answer = send(
        &member.client,
        Method::GET,
        &format!("{PODS}/none/exec?command=x&stdout=true"),
        &WEBSOCKET,
        "",
    )
    .await;
    assert_eq!(
        (answer.code, answer.message()),
        (404, "pods \"none\" not found")
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_needs_more_than_get() {
    let member = member().await;
    let role = json!({"metadata": {"name": "looks"}, "rules": [
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]});
    member.post(&format!("{ROLES}/roles"), &role).await.ok();
    let binding = json!({"metadata": {"name": "looks"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looks"},
        "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]});
    member
        .post(&format!("{ROLES}/rolebindings"), &binding)
        .await
        .ok();
    let mut headers = WEBSOCKET.to_vec();
    headers.push(("impersonate-user", "eve"));
    let path = format!("{PODS}/none/exec?command=x&stdout=true");
    // Roles take effect a moment after they are written.
    let refused = loop {
        let answer = send(&member.client, Method::GET, &path, &headers, "").await;
        if answer.message().contains("cannot create") {
            break answer;
        }
        assert!(
            answer.message().contains("cannot get"),
            "{}",
            answer.message()
        );
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.code, 403);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_say_where_they_cannot_lead() {
    let member = member().await;
    pod(&member, "a").await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "s"}}});
    member.post(services, &service).await.ok();
    for (path, code, message) in [
        (format!("{PODS}/a/proxy/"), 400, "address not allowed"),
        (
            format!("{PODS}/x:y:z/proxy/"),
            400,
            "invalid pod request \"x:y:z\"",
        ),
        (
            format!("{PODS}/none/proxy/"),
            404,
            "pods \"none\" not found",
        ),
        (
            format!("{services}/s:90/proxy/"),
            503,
            "no service port 90 found for service \"s\"",
        ),
        (
            format!("{services}/s:80/proxy/"),
            503,
            "no endpoints available for service \"s\"",
        ),
        (
            "/api/v1/nodes/none/proxy/".to_owned(),
            404,
            "nodes \"none\" not found",
        ),
    ] {
        let answer = member.get(&path).await;
        assert_eq!((answer.code, answer.message()), (code, message), "{path}");
    }
    member.controller.shutdown().await;
}

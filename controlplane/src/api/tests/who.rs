//! Who gets in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::auth::{Pki, Sans};

fn kubeconfig(controller: &Controller, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: w\n  cluster:\n    server: {}\n    \
         certificate-authority-data: {}\nusers:\n- name: u\n  user:{user}\ncontexts:\n- name: w\n  context:\n    \
         cluster: w\n    user: u\ncurrent-context: w\n",
        url(controller),
        STANDARD.encode(controller.ca_pem()),
    )
}

fn with_certificate(certificate: &str, key: &str) -> String {
    format!(
        "\n    client-certificate-data: {}\n    client-key-data: {}",
        STANDARD.encode(certificate),
        STANDARD.encode(key)
    )
}

/// A client that has a token and no certificate.
pub(super) async fn bearer(controller: &Controller, token: &str) -> kube::Client {
    client(&kubeconfig(controller, &format!("\n    token: {token}"))).await
}

/// A client with the certificate of a node.
pub(super) async fn certified(controller: &Controller, node: &crate::NodeIdentity) -> kube::Client {
    let user = with_certificate(&node.certificate_pem, &node.key_pem);
    client(&kubeconfig(controller, &user)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_certificate_there_is_health_and_version_and_nothing_else() {
    let member = member().await;
    let nobody = client(&kubeconfig(&member.controller, " {}")).await;
    for path in [
        "/healthz",
        "/livez",
        "/readyz",
        "/readyz?verbose",
        "/version",
    ] {
        let answer = send(&nobody, Method::GET, path, &[], "").await;
        assert_eq!(answer.code, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v1/pods",
        "/metrics",
        "/waggle/v1/status",
        "/openapi/v2",
        "/nonsense",
    ] {
        let answer = send(&nobody, Method::GET, path, &[], "").await;
        assert_eq!(
            (answer.code, answer.reason()),
            (401, "Unauthorized"),
            "{path}"
        );
    }
    let post = send(&nobody, Method::POST, CM, &[JSON], "{}").await;
    assert_eq!(post.code, 401);
    let token = [("authorization", "Bearer abc")];
    let with_token = send(&nobody, Method::GET, "/version", &token, "").await;
    assert_eq!(
        with_token.code, 401,
        "a token that cannot be checked is not ignored"
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_forbidden_in_kubernetes_words() {
    let member = member().await;
    let dir = member.dir.path().join("pki");
    // The member's own CA signs for somebody without rights. The serving certificate is not touched: only
    // the CA is read from here.
    let mut sans = Sans::default();
    sans.add("nowhere");
    let copy = tempfile::tempdir().unwrap();
    for file in ["ca.crt", "ca.key"] {
        std::fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    let pki = Pki::open(copy.path(), &sans, jiff::Timestamp::now()).unwrap();
    let (certificate, key) = pki.issue_client("eve", Some("curious"));
    let eve = client(&kubeconfig(
        &member.controller,
        &with_certificate(&certificate, &key),
    ))
    .await;

    let pods = send(
        &eve,
        Method::GET,
        "/api/v1/namespaces/default/pods",
        &[],
        "",
    )
    .await;
    assert_eq!((pods.code, pods.reason()), (403, "Forbidden"));
    assert_eq!(
        pods.message(),
        "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let one = send(
        &eve,
        Method::GET,
        "/apis/apps/v1/namespaces/a/deployments/b",
        &[],
        "",
    )
    .await;
    assert_eq!(
        one.message(),
        "deployments.apps \"b\" is forbidden: User \"eve\" cannot get resource \"deployments\" in API group \
         \"apps\" in the namespace \"a\""
    );
    let metrics = send(&eve, Method::GET, "/metrics", &[], "").await;
    assert_eq!(
        metrics.message(),
        "forbidden: User \"eve\" cannot get path \"/metrics\""
    );
    assert_eq!(send(&eve, Method::GET, "/apis", &[], "").await.code, 200);

    let ask = json!({"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "default"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = send(&eve, Method::POST, path, &[JSON], ask.to_string())
        .await
        .ok();
    assert_eq!(review["status"]["allowed"], false);
    assert_eq!(
        member.post(path, &ask).await.ok()["status"]["allowed"],
        true
    );

    let node = member.controller.issue_node_identity("n1").unwrap();
    let node = with_certificate(&node.certificate_pem, &node.key_pem);
    let node = client(&kubeconfig(&member.controller, &node)).await;
    assert_eq!(
        send(&node, Method::GET, "/api/v1/nodes/n1", &[], "")
            .await
            .code,
        404
    );
    assert_eq!(
        send(&node, Method::GET, "/api/v1/nodes/n2", &[], "")
            .await
            .code,
        403
    );
    assert_eq!(
        send(&node, Method::GET, "/api/v1/secrets", &[], "")
            .await
            .code,
        403
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_is_refused_by_tls() {
    let member = member().await;
    let dir = tempfile::tempdir().unwrap();
    let other = Pki::open(dir.path(), &Sans::default(), jiff::Timestamp::now()).unwrap();
    let (certificate, key) = other.issue_client("kubernetes-admin", Some("system:masters"));
    let fake = client(&kubeconfig(
        &member.controller,
        &with_certificate(&certificate, &key),
    ))
    .await;
    let request = http::Request::get("/version")
        .body(kube::client::Body::empty())
        .unwrap();
    assert!(fake.send(request).await.is_err());
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrator_is_known_and_may_everything() {
    let member = member().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = member.post(path, &json!({})).await.ok();
    assert_eq!(me["status"]["userInfo"]["username"], "kubernetes-admin");
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = member
        .post(rules, &json!({"spec": {"namespace": "default"}}))
        .await
        .ok();
    assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    member.controller.shutdown().await;
}

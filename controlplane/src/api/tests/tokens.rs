//! Tokens of service accounts, from their making to their end.

use serde_json::json;

use super::*;

const SA: &str = "/api/v1/namespaces/default/serviceaccounts";

/// A client without a certificate; `kubeconfig` has only the CA.
async fn holder(member: &Member, token: &str) -> kube::Client {
    super::who::bearer(&member.controller, token).await
}

async fn whoami(client: &kube::Client) -> Answer {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    send(client, Method::POST, path, &[JSON], "{}").await
}

impl Member {
    async fn account(&self, name: &str) -> Value {
        let body = json!({"metadata": {"name": name}});
        self.post(SA, &body).await.ok()
    }

    async fn token(&self, account: &str, spec: Value) -> Answer {
        let body = json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec,
        });
        self.post(&format!("{SA}/{account}/token"), &body).await
    }

    async fn review(&self, token: &str, audiences: Value) -> Value {
        let spec = match audiences {
            Value::Null => json!({"token": token}),
            audiences => json!({"token": token, "audiences": audiences}),
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        self.post(path, &json!({ "spec": spec })).await.ok()["status"].clone()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_account_until_the_account_goes() {
    let member = member().await;
    let account = member.account("robot").await;
    let issued = member.token("robot", json!({})).await;
    assert_eq!(issued.code, 201);
    let issued = issued.ok();
    assert_eq!(issued["spec"]["expirationSeconds"], 3600);
    assert_eq!(
        issued["spec"]["audiences"],
        json!(["https://kubernetes.default.svc.cluster.local"])
    );
    let token = text(&issued["status"]["token"]).to_owned();
    let robot = holder(&member, &token).await;
    let info = whoami(&robot).await.ok()["status"]["userInfo"].clone();
    assert_eq!(info["username"], "system:serviceaccount:default:robot");
    assert_eq!(info["uid"], account["metadata"]["uid"]);
    assert_eq!(
        info["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    let list = send(&robot, Method::GET, CM, &[], "").await;
    assert_eq!(list.code, 403);
    assert_eq!(
        list.message(),
        "configmaps is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \
         \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let keys = send(&robot, Method::GET, "/openid/v1/jwks", &[], "").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.ok()["keys"][0]["alg"], "ES256");
    let path = "/.well-known/openid-configuration";
    let about = send(&robot, Method::GET, path, &[], "").await.ok();
    assert!(
        text(&about["jwks_uri"]).ends_with("/openid/v1/jwks"),
        "{about}"
    );

    member
        .delete(&format!("{SA}/robot"), &Value::Null)
        .await
        .ok();
    let refused = whoami(&robot).await;
    assert_eq!((refused.code, refused.reason()), (401, "Unauthorized"));
    assert!(refused.headers.contains_key("www-authenticate"));
    // Another of the same name is not the one that the token means.
    member.account("robot").await;
    assert_eq!(whoami(&robot).await.code, 401);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_judged_as_kubernetes_does() {
    let member = member().await;
    member.account("robot").await;
    let short = member.token("robot", json!({"expirationSeconds": 5})).await;
    assert_eq!((short.code, short.reason()), (422, "Invalid"));
    let nobody = member.token("nobody", json!({})).await;
    assert_eq!(nobody.message(), "serviceaccounts \"nobody\" not found");
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    let odd = member.token("robot", bound("ConfigMap", "x", "")).await;
    assert_eq!(odd.code, 400);
    assert_eq!(member.token("robot", bound("Pod", "x", "")).await.code, 404);
    let secret = json!({"metadata": {"name": "s"}});
    member
        .post("/api/v1/namespaces/default/secrets", &secret)
        .await
        .ok();
    let wrong = member.token("robot", bound("Secret", "s", "other")).await;
    assert_eq!((wrong.code, wrong.reason()), (409, "Conflict"));

    let good = member.token("robot", bound("Secret", "s", "")).await.ok();
    let token = text(&good["status"]["token"]);
    assert_eq!(
        member.review(token, Value::Null).await["authenticated"],
        true
    );
    let elsewhere = member.review(token, json!(["vault"])).await;
    assert_eq!(elsewhere["authenticated"], false);
    assert!(
        text(&elsewhere["error"]).contains("audiences"),
        "{elsewhere}"
    );
    member
        .delete("/api/v1/namespaces/default/secrets/s", &Value::Null)
        .await
        .ok();
    let gone = member.review(token, Value::Null).await;
    assert_eq!(
        gone["error"],
        "[invalid bearer token, service account token has been invalidated]"
    );

    let vault = member
        .token("robot", json!({"audiences": ["vault"]}))
        .await
        .ok();
    let token = text(&vault["status"]["token"]);
    let found = member.review(token, json!(["vault", "other"])).await;
    assert_eq!(found["audiences"], json!(["vault"]));
    assert_eq!(whoami(&holder(&member, token).await).await.code, 401);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_dies_with_the_pod_that_it_is_bound_to() {
    let member = member().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |account: &str| {
        json!({"metadata": {"name": "web"}, "spec": {
            "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}],
        }})
    };
    let missing = member.post(pods, &pod("robot")).await;
    assert_eq!((missing.code, missing.reason()), (403, "Forbidden"));
    assert_eq!(
        missing.message(),
        "pods \"web\" is forbidden: error looking up service account default/robot: serviceaccounts \
         \"robot\" not found"
    );
    member.account("robot").await;
    let made = member.post(pods, &pod("robot")).await.ok();
    assert!(
        text(&made["spec"]["volumes"][0]["name"]).starts_with("kube-api-access-"),
        "{made}"
    );
    let uid = text(&made["metadata"]["uid"]);
    let bound = json!({"boundObjectRef": {
        "kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid,
    }});
    let other = member.token("default", bound.clone()).await;
    assert_eq!(other.code, 400, "{}", other.json);
    let issued = member.token("robot", bound).await.ok();
    let token = text(&issued["status"]["token"]);
    let review = member.review(token, Value::Null).await;
    let extra = &review["user"]["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-name"],
        json!(["web"])
    );
    let now = json!({"gracePeriodSeconds": 0});
    member.delete(&format!("{pods}/web"), &now).await.ok();
    assert_eq!(
        member.review(token, Value::Null).await["authenticated"],
        false
    );
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_tokens_of_its_own_pods_only() {
    let member = member().await;
    let node = member.controller.issue_node_identity("n1").unwrap();
    let node = super::who::certified(&member.controller, &node).await;
    member.account("robot").await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut uids = Vec::new();
    for (name, on) in [("mine", "n1"), ("theirs", "n2")] {
        let pod = json!({"metadata": {"name": name}, "spec": {
            "nodeName": on, "serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}],
        }});
        let made = member.post(pods, &pod).await.ok();
        uids.push((name, text(&made["metadata"]["uid"]).to_owned()));
    }
    let ask = async |spec: Value| {
        let path = format!("{SA}/robot/token");
        let body = json!({ "spec": spec }).to_string();
        send(&node, Method::POST, &path, &[JSON], body).await.code
    };
    let bound = |(name, uid): &(&str, String)| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}});
    assert_eq!(ask(bound(&uids[0])).await, 201);
    assert_eq!(ask(bound(&uids[1])).await, 403);
    assert_eq!(ask(json!({})).await, 403);
    let mut vault = bound(&uids[0]);
    vault["audiences"] = json!(["vault"]);
    assert_eq!(ask(vault).await, 403, "the pod does not ask for it");
    member.controller.shutdown().await;
}

//! Roles, bindings and acting as others.

use serde_json::json;

use super::*;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl Member {
    /// A request of somebody that is known, without groups.
    async fn as_user(&self, user: &str, method: Method, path: &str, body: &Value) -> Answer {
        let headers = [JSON, ("impersonate-user", user)];
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        send(&self.client, method, path, &headers, body).await
    }

    /// Waits until the user is answered so: roles take effect a moment after they are written.
    async fn answered(&self, user: &str, path: &str, code: u16) {
        loop {
            let answer = self.as_user(user, Method::GET, path, &Value::Null).await;
            if answer.code == code {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn role(kind: &str, name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({
        "metadata": {"name": name}, "kind": kind, "apiVersion": "rbac.authorization.k8s.io/v1",
        "rules": [{"apiGroups": [""], "verbs": verbs, "resources": resources}],
    })
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "metadata": {"name": name}, "kind": kind, "apiVersion": "rbac.authorization.k8s.io/v1",
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": [subject],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_gives_and_its_end_takes() {
    let member = member().await;
    member.answered("eve", SECRETS, 403).await;
    let reader = role("Role", "reader", &["get", "list"], &["secrets"]);
    let path = format!("{ROLES}/namespaces/default/roles");
    assert_eq!(member.post(&path, &reader).await.code, 201);
    let subject = json!({"kind": "User", "name": "eve"});
    let bound = binding("RoleBinding", "eve", "Role", "reader", subject);
    let path = format!("{ROLES}/namespaces/default/rolebindings");
    let stored = member.post(&path, &bound).await.ok();
    assert_eq!(
        stored["subjects"][0]["apiGroup"],
        "rbac.authorization.k8s.io"
    );
    member.answered("eve", SECRETS, 200).await;
    let elsewhere = "/api/v1/namespaces/kube-system/secrets";
    let answer = member
        .as_user("eve", Method::GET, elsewhere, &Value::Null)
        .await;
    assert_eq!(answer.code, 403);
    let rules = member
        .as_user(
            "eve",
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            &json!({"spec": {"namespace": "default"}}),
        )
        .await
        .ok();
    let secrets = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"]});
    let rules = rules["status"]["resourceRules"].as_array().unwrap().clone();
    assert!(rules.contains(&secrets), "{rules:?}");
    let deleted = member.delete(&format!("{path}/eve"), &Value::Null).await;
    assert_eq!(deleted.code, 200);
    member.answered("eve", SECRETS, 403).await;
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_roles_are_there_and_sums_are_summed() {
    let member = member().await;
    let subject = json!({"kind": "ServiceAccount", "namespace": "default", "name": "bot"});
    let bound = binding("RoleBinding", "bot", "ClusterRole", "view", subject);
    let path = format!("{ROLES}/namespaces/default/rolebindings");
    assert_eq!(member.post(&path, &bound).await.code, 201);
    let bot = "system:serviceaccount:default:bot";
    member.answered(bot, CM, 200).await;
    member.answered(bot, SECRETS, 403).await;
    member.answered(bot, "/apis", 200).await;
    member.answered(bot, "/metrics", 403).await;
    let admin = loop {
        let admin = member.get(&format!("{ROLES}/clusterroles/admin")).await;
        let admin = admin.ok();
        if admin["rules"].to_string().contains("pods/log") {
            break admin;
        }
        tokio::task::yield_now().await;
    };
    assert!(admin["rules"].to_string().contains("rolebindings"));
    let row = member
        .get_as(
            &path,
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .await
        .ok();
    assert_eq!(row["rows"][0]["cells"][1], "ClusterRole/view");
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_others_what_they_do_not_have() {
    let member = member().await;
    let own = json!({
        "metadata": {"name": "role-writer"},
        "rules": [
            {"apiGroups": ["rbac.authorization.k8s.io"], "verbs": ["*"], "resources": ["roles", "rolebindings"]},
            {"apiGroups": [""], "verbs": ["get"], "resources": ["configmaps"]},
        ],
    });
    // `*` on roles includes `escalate` and `bind`; here the verbs are named.
    let mut own = own;
    own["rules"][0]["verbs"] = json!(["create", "update", "patch", "get"]);
    assert_eq!(
        member
            .post(&format!("{ROLES}/clusterroles"), &own)
            .await
            .code,
        201
    );
    let subject = json!({"kind": "User", "name": "eve"});
    let bound = binding(
        "RoleBinding",
        "eve",
        "ClusterRole",
        "role-writer",
        subject.clone(),
    );
    let bindings = format!("{ROLES}/namespaces/default/rolebindings");
    assert_eq!(member.post(&bindings, &bound).await.code, 201);
    let roles = format!("{ROLES}/namespaces/default/roles");
    let config_map = format!("{CM}/nothing");
    member.answered("eve", &config_map, 404).await;

    let harmless = role("Role", "harmless", &["get"], &["configmaps"]);
    let allowed = member.as_user("eve", Method::POST, &roles, &harmless).await;
    assert_eq!(allowed.code, 201, "{}", allowed.json);
    let greedy = role("Role", "greedy", &["get"], &["secrets"]);
    let refused = member.as_user("eve", Method::POST, &roles, &greedy).await;
    assert_eq!((refused.code, refused.reason()), (403, "Forbidden"));
    assert_eq!(
        refused.message(),
        "roles.rbac.authorization.k8s.io \"greedy\" is forbidden: user \"eve\" (groups=[\"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], \
         Verbs:[\"get\"]}"
    );
    // Nor by changing what was harmless.
    let mut changed = harmless.clone();
    changed["rules"][0]["resources"] = json!(["secrets"]);
    let path = format!("{roles}/harmless");
    let refused = member.as_user("eve", Method::PUT, &path, &changed).await;
    assert_eq!(refused.code, 403, "{}", refused.json);
    // Nor by binding a role of somebody else.
    let all = binding(
        "RoleBinding",
        "all",
        "ClusterRole",
        "cluster-admin",
        subject.clone(),
    );
    let refused = member.as_user("eve", Method::POST, &bindings, &all).await;
    assert_eq!(refused.code, 403, "{}", refused.json);
    let missing = binding("RoleBinding", "none", "Role", "nowhere", subject);
    let refused = member
        .as_user("eve", Method::POST, &bindings, &missing)
        .await;
    assert_eq!(refused.code, 404, "{}", refused.json);
    assert_eq!(member.get(&format!("{bindings}/all")).await.code, 404);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_roles_and_bindings_are_refused_by_field() {
    let member = member().await;
    let roles = format!("{ROLES}/namespaces/default/roles");
    let bad = json!({"metadata": {"name": "a/b"}, "rules": [{"nonResourceURLs": ["/x"]}]});
    let refused = member.post(&roles, &bad).await;
    assert_eq!(refused.code, 422);
    let fields: Vec<&str> = refused.json["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "rules[0].verbs",
            "rules[0].nonResourceURLs"
        ]
    );
    let bindings = format!("{ROLES}/clusterrolebindings");
    let bad = binding(
        "ClusterRoleBinding",
        "b",
        "Role",
        "x",
        json!({"kind": "Robot", "name": "r"}),
    );
    let refused = member.post(&bindings, &bad).await;
    assert_eq!(
        refused.message(),
        "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: [roleRef.kind: Unsupported value: \"Role\": \
         supported values: \"ClusterRole\", subjects[0].kind: Unsupported value: \"Robot\": supported values: \
         \"ServiceAccount\", \"User\", \"Group\"]"
    );
    let subject = json!({"kind": "User", "name": "u"});
    let good = binding("ClusterRoleBinding", "b", "ClusterRole", "view", subject);
    assert_eq!(member.post(&bindings, &good).await.code, 201);
    let mut other = good.clone();
    other["roleRef"]["name"] = "edit".into();
    let refused = member.put(&format!("{bindings}/b"), &other).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("cannot change roleRef"));
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_as_others_must_be_allowed() {
    let member = member().await;
    let me = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [
        JSON,
        ("impersonate-user", "eve"),
        ("impersonate-group", "ops"),
    ];
    let eve = send(&member.client, Method::POST, me, &headers, "{}")
        .await
        .ok();
    assert_eq!(
        eve["status"]["userInfo"],
        json!({"username": "eve", "groups": ["ops", "system:authenticated"]})
    );
    // Whoever acts as somebody is judged as that, also when acting as another.
    let refused = member.as_user("eve", Method::GET, CM, &Value::Null).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("User \"eve\" cannot list"));
    let headers = [JSON, ("impersonate-group", "ops")];
    let nameless = send(&member.client, Method::POST, me, &headers, "{}").await;
    assert_eq!(nameless.code, 400);
    member.controller.shutdown().await;
}

//! Admission webhooks and policies, as clients see them; the webhooks are real servers on loopback.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{CM, Member, member};

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Answers every AdmissionReview with what `answer` says to its request. Returns URL and CA bundle.
pub(super) async fn webhook(
    answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
) -> (String, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = hyper::service::service_fn(
                    move |request: http::Request<hyper::body::Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move {
                            let bytes = request.into_body().collect().await.unwrap().to_bytes();
                            let review: Value = serde_json::from_slice(&bytes).unwrap();
                            let mut response = answer(&review["request"]);
                            response["uid"] = review["request"]["uid"].clone();
                            let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                            "response": response});
                            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(
                                bytes::Bytes::from(body.to_string()),
                            )))
                        }
                    },
                );
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            });
        }
    });
    (url, STANDARD.encode(made.cert.pem()))
}

pub(super) fn configuration(
    kind: &str,
    name: &str,
    url: &str,
    bundle: &str,
    more: &Value,
) -> Value {
    let mut webhook = json!({
        "name": format!("{name}.example.com"),
        "clientConfig": {"url": url, "caBundle": bundle},
        "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        webhook[field.as_str()] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [webhook]})
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

pub(super) async fn registered(member: &Member, plural: &str, body: &Value) {
    let answer = member.post(&format!("{REGISTRATION}/{plural}"), body).await;
    assert_eq!(answer.code, 201, "{}", answer.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_change_and_refuse() {
    let member = member().await;
    let (url, bundle) = webhook(|request| {
        assert_eq!(request["userInfo"]["groups"][0], "system:masters");
        let patch = json!([{"op": "add", "path": "/data/added", "value": request["operation"]}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()),
            "warnings": ["changed on the way"]})
    })
    .await;
    let mutating = configuration(
        "MutatingWebhookConfiguration",
        "mutate",
        &url,
        &bundle,
        &json!({}),
    );
    registered(&member, "mutatingwebhookconfigurations", &mutating).await;
    let made = member.post(CM, &config_map("x")).await;
    assert_eq!(
        made.json["data"],
        json!({"a": "b", "added": "CREATE"}),
        "{}",
        made.json
    );
    assert_eq!(made.headers["warning"], "299 - \"changed on the way\"");

    let (url, bundle) = webhook(|request| {
        let bad = request["object"]["data"]["a"] == "bad";
        json!({"allowed": !bad, "status": {"message": "a is bad", "code": 403}})
    })
    .await;
    let validating = configuration(
        "ValidatingWebhookConfiguration",
        "validate",
        &url,
        &bundle,
        &json!({}),
    );
    registered(&member, "validatingwebhookconfigurations", &validating).await;
    let patched = member
        .patch(
            &format!("{CM}/x"),
            "merge-patch",
            &json!({"data": {"a": "bad"}}),
        )
        .await;
    assert_eq!(patched.code, 403, "{}", patched.json);
    assert_eq!(
        patched.message(),
        "admission webhook \"validate.example.com\" denied the request: a is bad"
    );
    let patched = member
        .patch(
            &format!("{CM}/x"),
            "merge-patch",
            &json!({"data": {"a": "good"}}),
        )
        .await
        .ok();
    assert_eq!(patched["data"]["added"], "UPDATE");
    // Another namespace is not selected.
    let elsewhere = CM.replace("default", "kube-public");
    assert_eq!(
        member.post(&elsewhere, &config_map("x")).await.ok()["data"],
        json!({"a": "b"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_away_fails_the_write_or_is_passed_over() {
    let member = member().await;
    let gone = "https://127.0.0.1:1/hook";
    let insists = configuration(
        "ValidatingWebhookConfiguration",
        "away",
        gone,
        "",
        &json!({}),
    );
    registered(&member, "validatingwebhookconfigurations", &insists).await;
    let refused = member.post(CM, &config_map("x")).await;
    assert_eq!(refused.code, 500, "{}", refused.json);
    assert!(
        refused.message().starts_with(
            "Internal error occurred: failed calling webhook \"away.example.com\": failed to call webhook: Post \
             \"https://127.0.0.1:1/hook?timeout=10s\": dial tcp 127.0.0.1:1"
        ),
        "{}",
        refused.message()
    );
    let path = format!("{REGISTRATION}/validatingwebhookconfigurations/away");
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    assert_eq!(member.patch(&path, "json-patch", &ignore).await.code, 200);
    assert_eq!(member.post(CM, &config_map("x")).await.code, 201);
    // Conditions in CEL keep it out.
    let conditional = json!([
        {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
        {"op": "add", "path": "/webhooks/0/matchConditions", "value": [
            {"name": "only-y", "expression": "object.metadata.name == 'y'"}]}]);
    assert_eq!(
        member.patch(&path, "json-patch", &conditional).await.code,
        200
    );
    assert_eq!(member.post(CM, &config_map("z")).await.code, 201);
    assert_eq!(member.post(CM, &config_map("y")).await.code, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_judged_too() {
    let member = member().await;
    let (url, bundle) = webhook(|request| {
        assert_eq!(
            (
                &request["operation"],
                &request["subResource"],
                &request["resource"]["resource"]
            ),
            (&json!("CONNECT"), &json!("attach"), &json!("pods"))
        );
        assert_eq!(request["kind"]["kind"], "PodAttachOptions");
        assert_eq!(request["object"]["container"], "c");
        json!({"allowed": false, "status": {"message": "nobody looks in here", "code": 403}})
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["pods/attach"]}]});
    let configuration = configuration(
        "ValidatingWebhookConfiguration",
        "attach",
        &url,
        &bundle,
        &rules,
    );
    registered(&member, "validatingwebhookconfigurations", &configuration).await;
    let path = "/api/v1/namespaces/default/pods/p";
    let attached = member
        .get(&format!("{path}/attach?stdout=true&container=c"))
        .await;
    assert_eq!(
        (attached.code, attached.message()),
        (
            403,
            "admission webhook \"attach.example.com\" denied the request: nobody looks in here"
        )
    );
    // Another connection is not the webhook's business: it fails for the pod that is not there.
    let exec = member
        .get(&format!("{path}/exec?stdout=true&command=x"))
        .await;
    assert_eq!(exec.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_where_they_are_bound() {
    let member = member().await;
    let policy = json!({"metadata": {"name": "small"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "variables": [{"name": "size", "expression": "size(object.data)"}],
        "validations": [{"expression": "variables.size <= 1",
            "messageExpression": "'has ' + string(variables.size) + ' entries'"}]}});
    registered(&member, "validatingadmissionpolicies", &policy).await;
    let large = json!({"metadata": {"name": "x"}, "data": {"a": "1", "b": "2"}});
    assert_eq!(member.post(CM, &large).await.code, 201);
    let binding = json!({"metadata": {"name": "everywhere"}, "spec": {"policyName": "small",
        "validationActions": ["Deny"]}});
    registered(&member, "validatingadmissionpolicybindings", &binding).await;
    let mut second = large.clone();
    second["metadata"]["name"] = "y".into();
    let refused = member.post(CM, &second).await;
    assert_eq!(
        (refused.code, refused.reason()),
        (422, "Invalid"),
        "{}",
        refused.json
    );
    assert_eq!(
        refused.message(),
        "configmaps \"y\" is forbidden: ValidatingAdmissionPolicy 'small' with binding 'everywhere' denied \
         request: has 2 entries"
    );
    assert_eq!(member.post(CM, &config_map("z")).await.code, 201);
}

/// A policy that changes config maps, and its binding.
async fn changes(member: &Member, name: &str, spec: &Value) {
    let mut policy = json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]},
        "reinvocationPolicy": "Never"}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        policy["spec"][field.as_str()] = value.clone();
    }
    registered(member, "mutatingadmissionpolicies", &policy).await;
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    registered(member, "mutatingadmissionpolicybindings", &binding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_change_what_is_written() {
    let member = member().await;
    changes(&member, "a-configures", &json!({
        "variables": [{"name": "who", "expression": "request.userInfo.username"}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'by': variables.who}}, data: {'size': string(size(object.data))}}"}}],
    })).await;
    changes(&member, "b-patches", &json!({
        "matchConditions": [{"name": "not-plain", "expression": "object.metadata.name != 'plain'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {}}, \
             JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/size'), \
                value: object.data.size}]"}}],
    })).await;
    let made = member.post(CM, &config_map("x")).await.ok();
    assert_eq!(made["data"], json!({"a": "b", "size": "1"}));
    assert_eq!(made["metadata"]["labels"]["by"], "kubernetes-admin");
    assert_eq!(
        made["metadata"]["annotations"],
        json!({"example.com/size": "1"})
    );
    let made = member.post(CM, &config_map("plain")).await.ok();
    assert_eq!(made["metadata"].get("annotations"), None);
    // What somebody else changed is not taken back.
    let grown = json!({"data": {"c": "d"}});
    let patched = member
        .patch(&format!("{CM}/x"), "merge-patch", &grown)
        .await
        .ok();
    assert_eq!(patched["data"]["size"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_refuses_or_is_passed_over_and_bad_ones_are_not_taken() {
    let member = member().await;
    let nonsense = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'remove', path: '/data/none'}]"}}]);
    changes(
        &member,
        "insists",
        &json!({
            "mutations": nonsense,
            "matchConditions": [{"name": "x", "expression": "object.metadata.name == 'x'"}],
        }),
    )
    .await;
    changes(
        &member,
        "minds-not",
        &json!({"mutations": nonsense, "failurePolicy": "Ignore"}),
    )
    .await;
    let refused = member.post(CM, &config_map("x")).await;
    assert_eq!(
        (refused.code, refused.reason()),
        (422, "Invalid"),
        "{}",
        refused.json
    );
    assert!(
        refused
            .message()
            .contains("policy 'insists' with binding 'insists' denied request: JSON Patch:"),
        "{}",
        refused.message()
    );
    assert_eq!(member.post(CM, &config_map("y")).await.code, 201);

    let bad = |mutation: Value| {
        json!({"metadata": {"name": "bad"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "mutations": [mutation]}})
    };
    for (mutation, field) in [
        (json!({}), "spec.mutations[0].patchType"),
        (json!({"patchType": "Merge"}), "spec.mutations[0].patchType"),
        (
            json!({"patchType": "JSONPatch"}),
            "spec.mutations[0].jsonPatch",
        ),
        (
            json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "1 +"}}),
            "spec.mutations[0].jsonPatch.expression",
        ),
        (
            json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"},
                "jsonPatch": {"expression": "[]"}}),
            "spec.mutations[0].jsonPatch",
        ),
    ] {
        let answer = member
            .post(
                &format!("{REGISTRATION}/mutatingadmissionpolicies"),
                &bad(mutation.clone()),
            )
            .await;
        assert_eq!(answer.code, 422, "{mutation}: {}", answer.json);
        let causes = answer.json["details"]["causes"].as_array().unwrap();
        assert!(
            causes.iter().any(|cause| cause["field"] == field),
            "{mutation}: {}",
            answer.json
        );
    }
}

/// A policy sees what a webhook made of the object after it, where it asked to.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_asked_again_after_a_webhook() {
    let member = member().await;
    let counts = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.metadata{labels: {'keys': string(object.data.size())}}}"}}]);
    changes(
        &member,
        "counts",
        &json!({"mutations": counts, "reinvocationPolicy": "IfNeeded"}),
    )
    .await;
    let (url, bundle) = webhook(|_| {
        let patch = json!([{"op": "add", "path": "/data/added", "value": "x"}]);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
    })
    .await;
    let kind = "MutatingWebhookConfiguration";
    let mutating = configuration(kind, "adds", &url, &bundle, &json!({}));
    registered(&member, "mutatingwebhookconfigurations", &mutating).await;
    let made = member.post(CM, &config_map("x")).await.ok();
    assert_eq!(made["metadata"]["labels"]["keys"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_ask_what_the_requester_may_do_and_do_not_run_for_ever() {
    let member = member().await;
    let policy = |name: &str, only: &str, expression: &str| {
        json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "matchConditions": [{"name": "one", "expression": format!("object.metadata.name == '{only}'")}],
        "validations": [{"expression": expression}]}})
    };
    let may = "authorizer.group('apps').resource('deployments').namespace('x').check('delete').allowed() && \
        !authorizer.serviceAccount('x', 'y').group('').resource('secrets').check('get').allowed()";
    let dear = "object.data.all(a, lists.range(1000).all(b, lists.range(1000).all(c, b + c >= 0)))";
    for (name, expression) in [("may", may), ("dear", dear)] {
        registered(
            &member,
            "validatingadmissionpolicies",
            &policy(name, name, expression),
        )
        .await;
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name,
            "validationActions": ["Deny"]}});
        registered(&member, "validatingadmissionpolicybindings", &binding).await;
    }
    assert_eq!(member.post(CM, &config_map("may")).await.code, 201);
    let refused = member.post(CM, &config_map("dear")).await;
    assert_eq!(refused.code, 422, "{}", refused.json);
    assert!(
        refused
            .message()
            .ends_with("resulted in error: operation cancelled: actual cost limit exceeded"),
        "{}",
        refused.message()
    );
}

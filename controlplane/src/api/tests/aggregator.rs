//! A group version that another server answers; that server is a real one on loopback.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::runtime::{WatchStreamExt as _, watcher};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Member, member, send};

const APIS: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const GROUP: &str = "/apis/wardle.example.com/v1alpha1";
const QUEUE: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue";

/// Says what it was asked, by whom, for whom. Takes only clients of that CA. Returns port and CA bundle.
async fn extension(clients: &str) -> (u16, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["api.default.svc".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(clients.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = hyper::service::service_fn(async |request| {
                    let body = answer(&request).to_string();
                    Ok::<_, std::convert::Infallible>(http::Response::new(
                        http_body_util::Full::new(bytes::Bytes::from(body)),
                    ))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            });
        }
    });
    (port, STANDARD.encode(made.cert.pem()))
}

fn answer(request: &http::Request<hyper::body::Incoming>) -> Value {
    if request.uri().path() == GROUP {
        return json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [{"name": "flunders", "singularName": "", "namespaced": true, "kind": "Flunder",
                "verbs": ["create", "get", "list"]}]});
    }
    if request.uri().path() == QUEUE {
        let asked = request.uri().query() == Some("labelSelector=name%3Dq");
        let items = asked.then(|| json!({"metricName": "queue", "value": "20"}));
        return json!({"items": Vec::from_iter(items)});
    }
    if request.uri().path() == "/openapi/v3" {
        // One of its own, and one that would be another server's.
        return json!({"paths": {
            "apis/wardle.example.com/v1alpha1":
                {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"},
            "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=2"}}});
    }
    if request.uri().path() == "/openapi/v2" {
        return json!({"swagger": "2.0",
            "paths": {(format!("{GROUP}/flunders")): {"get": {"responses": {"200":
                {"description": "OK", "schema": {"$ref": "#/definitions/example.Flunder"}}}}}},
            "definitions": {"example.Flunder": {"type": "object", "description": "A flunder of the other server.",
                "x-kubernetes-group-version-kind":
                    [{"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"}]}}});
    }
    let said = |name: &str| -> Vec<&str> {
        let values = request.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    };
    json!({"method": request.method().as_str(), "uri": request.uri().to_string(), "host": said("host"),
        "user": said("x-remote-user"), "groups": said("x-remote-group"), "authorization": said("authorization")})
}

async fn condition(member: &Member, reason: &str) {
    let api = kube::Api::<APIService>::all(member.client.clone());
    let mut seen = watcher(api, watcher::Config::default())
        .applied_objects()
        .boxed();
    loop {
        let api = seen.next().await.unwrap().unwrap();
        let conditions = api.status.and_then(|status| status.conditions);
        if conditions
            .into_iter()
            .flatten()
            .any(|known| known.reason.as_deref() == Some(reason))
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_server_behind_the_service() {
    let member = member().await;
    let published = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let published = member.get(published).await.ok()["data"].clone();
    assert_eq!(
        published["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
    assert!(
        published["client-ca-file"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let ca = published["requestheader-client-ca-file"].as_str().unwrap();
    let (port, bundle) = extension(ca).await;
    let api = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": bundle, "service": {"namespace": "default", "name": "api", "port": port}}});
    member.post(APIS, &api).await.ok();
    condition(&member, "ServiceNotFound").await;
    let flunders = format!("{GROUP}/namespaces/default/flunders");
    assert_eq!(member.get(&flunders).await.code, 503);
    let groups = member.get("/apis").await.ok()["groups"].to_string();
    assert!(!groups.contains("wardle"), "{groups}");

    let service = json!({"metadata": {"name": "api"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    member
        .post("/api/v1/namespaces/default/services", &service)
        .await
        .ok();
    condition(&member, "Passed").await;
    let headers = [
        ("x-remote-user", "somebody-else"),
        ("x-remote-group", "others"),
    ];
    let path = format!("{flunders}?limit=1");
    let said = send(&member.client, http::Method::GET, &path, &headers, "")
        .await
        .ok();
    assert_eq!(
        said,
        json!({"method": "GET", "uri": path, "host": ["api.default.svc"], "user": ["kubernetes-admin"],
            "groups": ["system:masters", "system:authenticated"], "authorization": []})
    );
    // Discovery is that server's, in both forms.
    assert_eq!(
        member.get(GROUP).await.ok()["resources"][0]["name"],
        "flunders"
    );
    let group = member.get("/apis/wardle.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1alpha1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let whole = member.get_as("/apis", accept).await.ok();
    let found = whole["items"].as_array().unwrap().iter();
    let found = found
        .clone()
        .find(|item| item["metadata"]["name"] == "wardle.example.com");
    assert_eq!(
        found.unwrap()["versions"][0]["resources"][0]["resource"],
        "flunders"
    );
    // So are its descriptions.
    let path = "apis/wardle.example.com/v1alpha1";
    let index = member.get("/openapi/v3").await.ok();
    let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(url, format!("/openapi/v3/{path}?hash=1"));
    assert_eq!(member.get(url).await.ok()["uri"], url);
    let own = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    assert!(!own.ends_with("?hash=2"), "{own}");
    let document = member.get("/openapi/v2").await.ok();
    assert!(document["paths"][format!("{GROUP}/flunders")].is_object());
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let proto = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let proto = member.get_as("/openapi/v2", proto).await;
    let described = b"A flunder of the other server.";
    assert!(
        proto
            .bytes
            .windows(described.len())
            .any(|found| found == described)
    );

    // What this server has itself nobody takes over.
    let mut apps = api.clone();
    apps["metadata"]["name"] = "v1.apps".into();
    apps["spec"]["group"] = "apps".into();
    apps["spec"]["version"] = "v1".into();
    member
        .delete(&format!("{APIS}/v1.apps"), &Value::Null)
        .await
        .ok();
    member.post(APIS, &apps).await.ok();
    let deployments = member.get("/apis/apps/v1/deployments").await.ok();
    assert_eq!(deployments["kind"], "DeploymentList");
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_asks_the_server_that_measures_what_it_names() {
    let member = member().await;
    let published = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let published = member.get(published).await.ok()["data"].clone();
    let ca = published["requestheader-client-ca-file"].as_str().unwrap();
    let (port, bundle) = extension(ca).await;
    let service = json!({"metadata": {"name": "api"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    member
        .post("/api/v1/namespaces/default/services", &service)
        .await
        .ok();
    let api = json!({"metadata": {"name": "v1beta1.external.metrics.k8s.io"}, "spec": {
        "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "caBundle": bundle, "service": {"namespace": "default", "name": "api", "port": port}}});
    member.post(APIS, &api).await.ok();
    condition(&member, "Passed").await;
    let labels = json!({"app": "worker"});
    let deployment = json!({"metadata": {"name": "worker"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "i"}]}}}});
    member
        .post("/apis/apps/v1/namespaces/default/deployments", &deployment)
        .await
        .ok();
    let scaler = json!({"metadata": {"name": "worker"}, "spec": {"maxReplicas": 9,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
        "metrics": [{"type": "External", "external": {
            "metric": {"name": "queue", "selector": {"matchLabels": {"name": "q"}}},
            "target": {"type": "AverageValue", "averageValue": "5"}}}]}});
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    member.post(scalers, &scaler).await.ok();
    let deployments = kube::Api::<Deployment>::namespaced(member.client.clone(), "default");
    let mut seen = watcher(deployments, watcher::Config::default())
        .applied_objects()
        .boxed();
    loop {
        let deployment = seen.next().await.unwrap().unwrap();
        if deployment.spec.unwrap().replicas == Some(4) {
            break;
        }
    }
    member.controller.shutdown().await;
}

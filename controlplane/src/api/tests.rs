//! The API as clients see it: a real member on loopback, TLS and all, the `kube` client and raw HTTP.
#![allow(clippy::unwrap_used)]

mod aggregator;
mod audit;
mod bad_input;
mod cluster_status;
mod definitions;
mod doors;
mod frames;
mod grpc_doors;
mod judged_parts;
mod kube_client;
mod lists;
mod members;
mod namespaces;
mod nodes;
mod pods;
mod policies;
mod quotas;
mod roles;
mod services;
mod shapes;
mod streams;
mod tokens;
mod watches;
mod webhooks;
mod who;
mod writes;

use http::Method;
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::{Controller, ControllerConfig};

pub(super) const CM: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn config(dir: &std::path::Path) -> ControllerConfig {
    ControllerConfig {
        node_grace: std::time::Duration::from_secs(40),
        node_eviction: crate::NodeEviction::default(),
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        extra_sans: Vec::new(),
        service_cidrs: vec![
            "10.96.0.0/24".parse().unwrap(),
            "fd00:96::/112".parse().unwrap(),
        ],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        termination: crate::Termination::default(),
        node_ports: 30000..=32767,
        node_ranges: crate::NodeRanges::default(),
        name: "c1".to_owned(),
        peers: None,
        advertise: None,
        audit: crate::AuditConfig::default(),
        max_requests: 600,
        tokens: crate::TokenConfig::default(),
    }
}

/// A member with an administrator's client.
pub(super) struct Member {
    pub(super) controller: Controller,
    pub(super) client: kube::Client,
    pub(super) dir: tempfile::TempDir,
}

pub(super) async fn member() -> Member {
    let dir = tempfile::tempdir().unwrap();
    let controller = Controller::start(config(dir.path())).await.unwrap();
    Member::of(controller, dir).await
}

pub(super) fn url(controller: &Controller) -> String {
    format!("https://{}", controller.address())
}

pub(super) async fn admin(controller: &Controller) -> kube::Client {
    client(&controller.admin_kubeconfig(&url(controller))).await
}

pub(super) async fn client(kubeconfig: &str) -> kube::Client {
    // Another test may have done it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let parsed = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &options)
        .await
        .unwrap();
    // What the server says is what is tested.
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) bytes: bytes::Bytes,
    pub(super) json: Value,
}

impl Answer {
    pub(super) fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or("")
    }

    pub(super) fn reason(&self) -> &str {
        self.json["reason"].as_str().unwrap_or("")
    }

    pub(super) fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.code),
            "{} {}",
            self.code,
            self.json
        );
        self.json
    }
}

pub(super) async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Answer {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::from(body.into())).unwrap();
    let response = client.send(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        json: serde_json::from_slice(&bytes).unwrap_or_default(),
        bytes,
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");

impl Member {
    pub(super) async fn of(controller: Controller, dir: tempfile::TempDir) -> Self {
        let client = admin(&controller).await;
        Self {
            controller,
            client,
            dir,
        }
    }

    /// Ended and started again on the same data, with other settings.
    pub(super) async fn restarted(self, change: impl FnOnce(&mut ControllerConfig)) -> Self {
        self.controller.shutdown().await;
        let mut config = config(self.dir.path());
        change(&mut config);
        let controller = Controller::start(config).await.unwrap();
        Self::of(controller, self.dir).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        send(&self.client, Method::GET, path, &[], "").await
    }

    pub(super) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        send(&self.client, Method::GET, path, &[("accept", accept)], "").await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(&self.client, Method::POST, path, &[JSON], body.to_string()).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Answer {
        send(&self.client, Method::PUT, path, &[JSON], body.to_string()).await
    }

    pub(super) async fn delete(&self, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        send(&self.client, Method::DELETE, path, &[JSON], body).await
    }

    /// `kind` is the part of the media type before `+json`.
    pub(super) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media = match kind {
            "apply-patch" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}+json"),
        };
        let headers = [("content-type", media.as_str())];
        send(
            &self.client,
            Method::PATCH,
            path,
            &headers,
            body.to_string(),
        )
        .await
    }
}

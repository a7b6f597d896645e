//! What a node gets over its stream: the CAs that count, a new certificate, tokens for its own pods.

use proto::node::v1 as wire;
use proto::node::v1::control_message::Message as Down;
use proto::node::v1::node_message::Message as Up;
use proto::node::v1::node_sync_client::NodeSyncClient;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::*;
use crate::auth::User;

struct Node {
    up: mpsc::Sender<wire::NodeMessage>,
    down: tonic::Streaming<wire::ControlMessage>,
}

impl Node {
    async fn connect(member: &Member, name: &str) -> Self {
        let node = member.controller.issue_node_identity(name).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&node.ca_pem))
            .identity(Identity::from_pem(&node.certificate_pem, &node.key_pem));
        let endpoint = Endpoint::from_shared(url(&member.controller)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let (up, messages) = mpsc::channel(16);
        let hello = wire::Hello {
            node_name: name.to_owned(),
            node_json: json!({"metadata": {"name": name}}).to_string().into(),
            ..wire::Hello::default()
        };
        let hello = wire::NodeMessage {
            message: Some(Up::Hello(hello)),
        };
        up.send(hello).await.unwrap();
        let mut client = NodeSyncClient::new(channel);
        let stream = client.sync(ReceiverStream::new(messages)).await;
        let down = stream.unwrap().into_inner();
        Self { up, down }
    }

    async fn send(&self, message: Up) {
        let message = wire::NodeMessage {
            message: Some(message),
        };
        self.up.send(message).await.unwrap();
    }

    async fn until<T>(&mut self, wanted: impl Fn(Down) -> Option<T>) -> T {
        let found = async {
            loop {
                let next = self.down.message().await.unwrap().unwrap();
                if let Some(found) = next.message.and_then(&wanted) {
                    return found;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), found)
            .await
            .expect("an answer in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_renews_its_certificate_and_gets_tokens_over_its_stream() {
    let member = member().await;
    let mut node = Node::connect(&member, "n1").await;
    let trust = node
        .until(|message| match message {
            Down::Trust(trust) => Some(trust.ca_pem),
            _ => None,
        })
        .await;
    assert_eq!(trust, member.controller.ca_pem());

    let certificate = async |node: &Node, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::OrganizationName, "system:nodes");
        subject.push(rcgen::DnType::CommonName, format!("system:node:{name}"));
        params.distinguished_name = subject;
        let csr_pem = params.serialize_request(&key).unwrap().pem().unwrap();
        node.send(Up::CertificateRequest(wire::CertificateRequest { csr_pem }))
            .await;
    };
    certificate(&node, "n1").await;
    let response = node
        .until(|message| match message {
            Down::CertificateResponse(response) => Some(response),
            _ => None,
        })
        .await;
    assert_eq!(response.error, "");
    let der = CertificateDer::from_pem_slice(response.certificate_pem.as_bytes()).unwrap();
    let user = User::from_certificate(&der).unwrap();
    assert_eq!(user.node_name(), Some("n1"));
    let list = member
        .get("/apis/certificates.k8s.io/v1/certificatesigningrequests")
        .await
        .ok();
    assert_eq!(list["items"][0]["spec"]["username"], "system:node:n1");
    assert_eq!(
        list["items"][0]["status"]["conditions"][0]["type"],
        "Approved"
    );

    let pods = "/api/v1/namespaces/default/pods";
    let mut requests = Vec::new();
    for (id, on) in [(1, "n1"), (2, "n2")] {
        let name = format!("pod-{id}");
        let pod = json!({"metadata": {"name": name}, "spec": {
            "nodeName": on, "containers": [{"name": "c", "image": "i"}],
        }});
        let made = member.post(pods, &pod).await.ok();
        requests.push(wire::TokenRequest {
            id,
            namespace: "default".to_owned(),
            pod: name,
            pod_uid: made["metadata"]["uid"].as_str().unwrap().to_owned(),
            service_account: "default".to_owned(),
            audiences: Vec::new(),
            expiration_seconds: 3607,
        });
    }
    for request in requests {
        let id = request.id;
        node.send(Up::TokenRequest(request)).await;
        let response = node
            .until(|message| match message {
                Down::TokenResponse(response) => Some(response),
                _ => None,
            })
            .await;
        assert_eq!(response.id, id);
        assert_eq!(response.token.is_empty(), id == 2, "{}", response.error);
        assert_eq!(response.error.contains("different node"), id == 2);
    }
    member.controller.shutdown().await;
}

//! What a node asks for besides reporting: tokens for its pods, and a new certificate for itself.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::node::v1 as wire;
use proto::node::v1::control_message::Message as Down;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::auth::token::Wanted;
use crate::auth::{Pki, Tokens};
use crate::registry::{ApiError, Client};

/// Questions of one node that wait; a node has a hundred pods or so.
pub(super) const QUESTIONS: usize = 1024;
/// Questions of one node that are being answered.
const AT_ONCE: usize = 8;
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// How long a certificate may take to be approved and signed before the node asks again.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) enum Question {
    Token(wire::TokenRequest),
    Certificate(wire::CertificateRequest),
}

/// What gives out tokens and certificates.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) tokens: Tokens,
    pub(crate) pki: Arc<Pki>,
}

impl Credentials {
    /// Answers the questions of a node until there are no more to come.
    pub(super) async fn answer(
        self,
        client: Client,
        node: &str,
        questions: mpsc::Receiver<Box<Question>>,
        answers: mpsc::Sender<Box<Down>>,
    ) {
        let answer = |question: Box<Question>| async {
            let answer = match *question {
                Question::Token(request) => Down::TokenResponse(self.token(node, request).await),
                Question::Certificate(request) => {
                    Down::CertificateResponse(self.certificate(&client, node, request).await)
                }
            };
            // The stream has ended: the node asks again on its next one.
            let _ = answers.send(Box::new(answer)).await;
        };
        ReceiverStream::new(questions)
            // In a place of its own, which is there only while it is under way.
            .for_each_concurrent(AT_ONCE, |question| Box::pin(answer(question)))
            .await;
    }

    async fn token(&self, node: &str, request: wire::TokenRequest) -> wire::TokenResponse {
        let spec = TokenRequestSpec {
            audiences: Some(request.audiences),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(request.pod),
                uid: Some(request.pod_uid),
            }),
            expiration_seconds: (request.expiration_seconds != 0)
                .then_some(request.expiration_seconds),
        };
        let issued = self.tokens.request(Wanted {
            namespace: &request.namespace,
            account: &request.service_account,
            spec: &spec,
            node: Some(node),
        });
        match issued.await {
            Ok(issued) => wire::TokenResponse {
                id: request.id,
                token: issued.token,
                expiration: issued.expires.as_second(),
                error: String::new(),
            },
            Err(error) => wire::TokenResponse {
                id: request.id,
                error: error.to_string(),
                ..wire::TokenResponse::default()
            },
        }
    }

    async fn certificate(
        &self,
        client: &Client,
        node: &str,
        request: wire::CertificateRequest,
    ) -> wire::CertificateResponse {
        match signed(client, node, request.csr_pem).await {
            Ok(certificate_pem) => wire::CertificateResponse {
                certificate_pem,
                ca_pem: self.pki.trusted_pem(),
                error: String::new(),
            },
            Err(error) => wire::CertificateResponse {
                error: error.to_string(),
                ..wire::CertificateResponse::default()
            },
        }
    }
}

/// The request goes the way of every other: an object that is approved and signed by controllers.
async fn signed(client: &Client, node: &str, csr_pem: String) -> Result<String, ApiError> {
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr_pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec![
                "digital signature".to_owned(),
                "client auth".to_owned(),
            ]),
            username: Some(format!("system:node:{node}")),
            groups: Some(vec![
                "system:nodes".to_owned(),
                "system:authenticated".to_owned(),
            ]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = client.create(&request).await?;
    let name = made.metadata.name.unwrap_or_default();
    let answered = async {
        loop {
            let found = client.get::<CertificateSigningRequest>("", &name).await?;
            let Some(found) = found else {
                return Err(ApiError::unavailable("the request was removed"));
            };
            let status = found.status.unwrap_or_default();
            if let Some(certificate) = status.certificate {
                return String::from_utf8(certificate.0).map_err(ApiError::internal);
            }
            let refusal = status
                .conditions
                .into_iter()
                .flatten()
                .find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"));
            if let Some(refusal) = refusal {
                let why = refusal.message.unwrap_or(refusal.type_);
                return Err(ApiError::new(403, "Forbidden", why));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .unwrap_or_else(|_| Err(ApiError::timeout("nobody has approved the request yet")))
}

//! Servers that extend the API (APIService with a Service): which group versions are theirs, and how this server asks
//! them. A request is made as this server, by a certificate of its own, and says in headers for whom.
//!
//! `extension/identity` is what the headers say (pure). The condition `Available` is kept by a controller; requests are
//! passed on, and discovery is put together, in `api`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, ServiceReference};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::auth::{FrontProxy, User};
use crate::dialer::{self, Anybody, Connection, Dialer, NoEndpoint};
use crate::registry::Registry;

pub(crate) mod identity;

/// How long a server may take to be reached, or to say what it serves.
const LIMIT: Duration = Duration::from_secs(5);
/// An answer that is larger is no answer.
const MOST: usize = 16 << 20;
const DEFAULT_PORT: i32 = 443;

/// As whom this server asks on its own behalf.
const AGGREGATOR: &str = "system:kube-aggregator";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtensionError {
    #[error("{0}")]
    NoEndpoint(#[from] NoEndpoint),
    #[error("{0}")]
    Unreachable(String),
    #[error("bad status from {url}: {code}")]
    Status { url: String, code: u16 },
}

/// Asks extending servers; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Extensions {
    registry: Registry,
    dialer: Dialer,
    front_proxy: Arc<FrontProxy>,
}

/// The Service behind a group version, if it is not this server that answers for it.
pub(crate) fn service(api: &APIService) -> Option<&ServiceReference> {
    api.spec.as_ref()?.service.as_ref()
}

/// Whether its controller has found that it answers.
pub(crate) fn is_available(api: &APIService) -> bool {
    let status = api.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Available" && condition.status == "True")
}

/// Namespace, name and port.
pub(crate) fn place(reference: &ServiceReference) -> (&str, &str, i32) {
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let name = reference.name.as_deref().unwrap_or_default();
    (namespace, name, reference.port.unwrap_or(DEFAULT_PORT))
}

/// What the server's certificate must be for.
pub(crate) fn host(reference: &ServiceReference) -> String {
    let (namespace, name, _) = place(reference);
    format!("{name}.{namespace}.svc")
}

impl Extensions {
    pub(crate) fn new(registry: &Registry, dialer: &Dialer, front_proxy: FrontProxy) -> Self {
        Self {
            registry: registry.clone(),
            dialer: dialer.clone(),
            front_proxy: Arc::new(front_proxy),
        }
    }

    /// A connection to one of the endpoints, with TLS.
    pub(crate) async fn connect(
        &self,
        api: &APIService,
    ) -> Result<TlsStream<Connection>, ExtensionError> {
        let unreachable =
            |why: &dyn std::fmt::Display| ExtensionError::Unreachable(why.to_string());
        let reference = service(api).ok_or_else(|| unreachable(&"it is served here"))?;
        let (namespace, name, port) = place(reference);
        let destination =
            dialer::of_service(&self.registry, namespace, name, i64::from(port)).await?;
        let config = self.tls(api).map_err(ExtensionError::Unreachable)?;
        let name = ServerName::try_from(host(reference)).map_err(|error| unreachable(&error))?;
        let connected = tokio::time::timeout(LIMIT, async {
            let stream = destination.connect(&self.dialer).await?;
            let connected = TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await;
            connected.map_err(|error| error.to_string())
        });
        match connected.await {
            Ok(result) => result.map_err(ExtensionError::Unreachable),
            Err(_) => Err(unreachable(&"it did not answer in time")),
        }
    }

    fn tls(&self, api: &APIService) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let spec = api.spec.as_ref();
        let insecure = spec.and_then(|spec| spec.insecure_skip_tls_verify) == Some(true);
        let builder = if insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody::default()))
        } else {
            let bundle = spec.and_then(|spec| spec.ca_bundle.as_ref());
            builder.with_root_certificates(roots(bundle.map_or(&[][..], |bundle| &bundle.0))?)
        };
        let client = self.front_proxy.client(jiff::Timestamp::now());
        let client = client.map_err(|error| error.to_string())?;
        Ok(builder.with_client_cert_resolver(Arc::new(Own(client))))
    }

    /// What the server answers to a GET of this server's own, as JSON.
    pub(crate) async fn get(
        &self,
        api: &APIService,
        path: &str,
    ) -> Result<serde_json::Value, ExtensionError> {
        let host = service(api).map(host).unwrap_or_default();
        let url = format!("https://{host}{path}");
        let failed = |why: &dyn std::fmt::Display| {
            ExtensionError::Unreachable(format!("failing or missing response from {url}: {why}"))
        };
        let stream = self.connect(api).await.map_err(|error| match error {
            ExtensionError::Unreachable(why) => failed(&why),
            other => other,
        })?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .map_err(|error| failed(&error))?;
            // Ends with the sender.
            tokio::spawn(connection);
            let mut request = http::Request::get(path)
                .body(Empty::<Bytes>::new())
                .map_err(|error| failed(&error))?;
            let headers = request.headers_mut();
            identity::set(headers, &myself());
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            set_host(headers, &host);
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| failed(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST).collect().await;
            let body = body.map_err(|error| failed(&error))?.to_bytes();
            Ok::<_, ExtensionError>((status, body))
        };
        let (status, body) = match tokio::time::timeout(LIMIT, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(failed(&"it did not answer in time")),
        };
        if status != StatusCode::OK {
            let code = status.as_u16();
            return Err(ExtensionError::Status { url, code });
        }
        serde_json::from_slice(&body).map_err(|error| failed(&error))
    }
}

/// This server itself, in requests of its own.
fn myself() -> User {
    User::named(AGGREGATOR, vec!["system:masters".to_owned()])
}

pub(crate) fn set_host(headers: &mut HeaderMap, host: &str) {
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
}

/// The CAs of a bundle: PEM.
fn roots(bundle: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("caBundle: {error}"))?;
    }
    Ok(roots)
}

/// Shows the same certificate whoever asks.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

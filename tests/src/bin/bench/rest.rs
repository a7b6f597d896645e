//! A small client of the API over HTTP/2 and mutual TLS: one connection, made by hand, so that as little as possible of
//! what is measured is the client.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who asks, and whom it trusts.
#[derive(Clone)]
pub(crate) struct Identity {
    tls: Arc<rustls::ClientConfig>,
}

impl Identity {
    /// Of an administrator's kubeconfig.
    pub(crate) fn of_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let config: serde_json::Value = serde_saphyr::from_str(&text)?;
        let field = |place: &str| {
            let text = config.pointer(place).and_then(serde_json::Value::as_str);
            let text = text.with_context(|| format!("{}: no {place}", path.display()))?;
            anyhow::Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        Self::new(
            &field("/clusters/0/cluster/certificate-authority-data")?,
            &field("/users/0/user/client-certificate-data")?,
            &field("/users/0/user/client-key-data")?,
        )
    }

    pub(crate) fn new(ca: &[u8], certificate: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(ca) {
            roots.add(ca?)?;
        }
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }
}

/// One connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    send: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    pub(crate) async fn open(port: u16, identity: &Identity) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::clone(&identity.tls))
            .connect(name, stream)
            .await?;
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with the connection, which ends when nobody can send any more.
        tokio::spawn(connection);
        Ok(Self {
            send,
            authority: format!("127.0.0.1:{port}"),
        })
    }

    /// The head of the answer, whatever its status.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header("content-type", kind)
            .header("accept", "application/json")
            .body(Full::new(body.into()))?;
        self.send.ready().await?;
        Ok(self.send.send_request(request).await?)
    }

    /// The body of an answer that says that it was done.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Bytes> {
        let response = self.send(method.clone(), path, body).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!(
                "{method} {path}: {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(body)
    }

    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<serde_json::Value> {
        let body = self.ask(Method::GET, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        object: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let body = self.ask(Method::POST, path, object.to_string()).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

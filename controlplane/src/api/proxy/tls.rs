//! TLS to a pod: its certificate is its own affair, as with `kubectl proxy` to a Kubernetes API server.

use std::sync::{Arc, LazyLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::dialer::Anybody;

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody::default()))
        .with_no_client_auth();
    Arc::new(config)
});

pub(super) async fn connect<IO>(name: ServerName<'static>, io: IO) -> std::io::Result<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    TlsConnector::from(Arc::clone(&CONFIG))
        .connect(name, io)
        .await
}

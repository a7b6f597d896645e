//! Calls a webhook: by its URL, or at an endpoint of its Service, with TLS against the bundle that it names.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::dialer::{self, Destination, Dialer};
use crate::kinds::access::{at, integer, text};
use crate::registry::Registry;

const DEFAULT_SECONDS: u64 = 10;
/// An answer that is larger is no answer.
const MOST: usize = 8 * 1024 * 1024;

/// Where a webhook is.
struct Target {
    /// What the connection goes to.
    destination: Destination,
    /// What the certificate must be for.
    name: String,
    path: String,
    /// As messages write it.
    url: String,
}

/// The answer, as JSON, of what `webhook` (with its `clientConfig`) says to the body.
pub(super) async fn post(
    registry: &Registry,
    dialer: &Dialer,
    webhook: &Value,
    body: &Value,
) -> Result<Value, String> {
    let seconds =
        integer(webhook, &["timeoutSeconds"]).and_then(|seconds| u64::try_from(seconds).ok());
    let limit = Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS).clamp(1, 30));
    to(registry, dialer, &webhook["clientConfig"], limit, body).await
}

/// The same for a `clientConfig` alone.
pub(super) async fn to(
    registry: &Registry,
    dialer: &Dialer,
    config: &Value,
    limit: Duration,
    body: &Value,
) -> Result<Value, String> {
    let target = target(registry, config).await?;
    let url = format!("{}?timeout={}s", target.url, limit.as_secs());
    let problem = |why: String| format!("Post {url:?}: {why}");
    let called = tokio::time::timeout(
        limit,
        exchange(dialer, &target, config, limit, body.to_string()),
    );
    match called.await {
        Err(_) => Err(problem("context deadline exceeded".to_owned())),
        Ok(answer) => answer.map_err(problem),
    }
}

async fn exchange(
    dialer: &Dialer,
    target: &Target,
    config: &Value,
    limit: Duration,
    body: String,
) -> Result<Value, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let connector = TlsConnector::from(Arc::new(tls(config)?));
    let stream = target.destination.connect(dialer).await?;
    let name = ServerName::try_from(target.name.clone()).map_err(|error| told(&error))?;
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|error| format!("tls: failed to verify certificate: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| told(&error))?;
    // Ends with the sender.
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("{}?timeout={}s", target.path, limit.as_secs()))
        .header(HOST, &target.name)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| told(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| told(&error))?;
    let status = response.status();
    let read = Limited::new(response.into_body(), MOST).collect().await;
    drop(sender);
    connection.abort();
    let bytes = read.map_err(|error| told(&error))?.to_bytes();
    if !status.is_success() {
        let said = String::from_utf8_lossy(&bytes);
        let line = said
            .lines()
            .next()
            .unwrap_or("")
            .chars()
            .take(256)
            .collect::<String>();
        return Err(format!(
            "the server responded with status {}: {line}",
            status.as_u16()
        ));
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no JSON: {error}"))
}

fn tls(config: &Value) -> Result<rustls::ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let bundle = STANDARD
        .decode(text(config, &["caBundle"]))
        .map_err(|error| format!("caBundle: {error}"))?;
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("caBundle: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn target(registry: &Registry, config: &Value) -> Result<Target, String> {
    if let Some(service) = at(config, &["service"]) {
        return of_service(registry, service).await;
    }
    let url = text(config, &["url"]);
    let parsed: http::Uri = url
        .parse()
        .map_err(|error| format!("parse {url:?}: {error}"))?;
    let host = parsed
        .host()
        .unwrap_or("")
        .trim_matches(['[', ']'])
        .to_owned();
    Ok(Target {
        name: host.clone(),
        destination: Destination::Outside {
            host,
            port: parsed.port_u16().unwrap_or(443),
        },
        path: parsed.path().to_owned(),
        url: url.to_owned(),
    })
}

/// A Service is called at one of its ready endpoints.
async fn of_service(registry: &Registry, reference: &Value) -> Result<Target, String> {
    let (namespace, name) = (text(reference, &["namespace"]), text(reference, &["name"]));
    let port = integer(reference, &["port"]).unwrap_or(443);
    let path = match text(reference, &["path"]) {
        "" => "/",
        path => path,
    };
    let destination = dialer::of_service(registry, namespace, name, port).await;
    let destination = destination.map_err(|error| error.to_string())?;
    Ok(Target {
        destination,
        name: format!("{name}.{namespace}.svc"),
        path: path.to_owned(),
        url: format!("https://{name}.{namespace}.svc:{port}{path}"),
    })
}

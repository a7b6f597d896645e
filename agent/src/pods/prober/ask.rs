//! One question to a container over HTTP or TCP: for probes and for hooks. Time limits are the asker's.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::tls;

/// What is read of a page at most.
const MAX_PAGE: usize = 10 << 10;
/// As many redirections are followed.
const MOST_REDIRECTIONS: usize = 10;

/// The host that is asked: of the action, or the pod itself.
pub(crate) fn address(pod: Option<IpAddr>, host: Option<&str>) -> Result<String, String> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => pod
            .map(|address| address.to_string())
            .ok_or_else(|| "the pod has no address".to_owned()),
    }
}

/// A number, or the name of one of the container's ports.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| match port {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => format!("couldn't find port: {name:?}"),
        })
}

/// `host:port`, with brackets where they are needed.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

pub(crate) async fn connect(address: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {}: {why}", authority(address, port))
    })
}

/// Where an `httpGet` leads.
pub(crate) fn url(
    container: &Container,
    pod: Option<IpAddr>,
    get: &HTTPGetAction,
) -> Result<Uri, String> {
    let host = address(pod, get.host.as_deref())?;
    let port = port(container, &get.port)?;
    let scheme = match get.scheme.as_deref() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        _ => "http",
    };
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let text = format!("{scheme}://{}{slash}{path}", authority(&host, port));
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

/// What came of asking for a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) code: u16,
    /// Where a redirection that was not followed leads.
    pub(crate) elsewhere: Option<String>,
}

/// Asks for a page. Redirections are followed as long as they stay on the host.
pub(crate) async fn http(url: &Uri, headers: Option<&[HTTPHeader]>) -> Result<Page, String> {
    let mut at = url.clone();
    for _ in 0..MOST_REDIRECTIONS {
        let (code, location) = once(&at, headers.unwrap_or_default()).await?;
        let elsewhere = location.filter(|_| (300..400).contains(&code));
        let next = elsewhere
            .as_ref()
            .and_then(|location| redirected(&at, location));
        match next {
            Some(next) if next.host() == url.host() => at = next,
            _ => return Ok(Page { code, elsewhere }),
        }
    }
    Err(format!("stopped after {MOST_REDIRECTIONS} redirects"))
}

/// An absolute address, or a path on the same host.
fn redirected(at: &Uri, location: &str) -> Option<Uri> {
    let location: Uri = location.parse().ok()?;
    if location.host().is_some() && location.scheme().is_some() {
        return Some(location);
    }
    let mut parts = at.clone().into_parts();
    parts.path_and_query = location.path_and_query().cloned();
    Uri::from_parts(parts).ok()
}

async fn once(url: &Uri, headers: &[HTTPHeader]) -> Result<(u16, Option<String>), String> {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = connect(host, port).await?;
    if is_tls {
        request(tls::wrap(stream, host).await?, url, headers).await
    } else {
        request(stream, url, headers).await
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
    headers: &[HTTPHeader],
) -> Result<(u16, Option<String>), String> {
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    // Ends with this question: the guard aborts it.
    let _connection = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = http::Request::get(path);
    for header in headers {
        builder = builder.header(&header.name, &header.value);
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    for (name, value) in [
        ("host", authority),
        ("user-agent", "kube-probe/1.36"),
        ("accept", "*/*"),
        ("connection", "close"),
    ] {
        let given = |header: &HTTPHeader| header.name.eq_ignore_ascii_case(name);
        if !headers.iter().any(given) {
            builder = builder.header(name, value);
        }
    }
    let request = builder
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let code = response.status().as_u16();
    let location = response.headers().get(http::header::LOCATION);
    let location = location
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    // The page is read, up to a bound, so that a server that writes it is not cut off.
    let _ = Limited::new(response.into_body(), MAX_PAGE).collect().await;
    Ok((code, location))
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

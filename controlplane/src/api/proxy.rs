//! `pods/proxy`, `services/proxy` and `nodes/proxy`: a request goes on to what the object serves, by a connection that
//! its node makes, and the answer comes back, both as they come; upgrades too.
//!
//! `proxy/place` says where a request goes, `proxy/kubelet` what of a node's paths leads into its pods,
//! `proxy/headers` what of it goes on, `proxy/links` how the
//! links on a page lead back here (all pure), `proxy/tls` is TLS to
//! servers that nobody vouches for.

use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::node::v1::stream_request::Kind;
use proto::node::v1::{DialRequest, NodeServerRequest, StreamRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::read::Subject;
use super::remote::accepted;
use super::request::{Target, proxied_path};
use super::{Api, upgrade};
use crate::auth::User;
use crate::nodestream::Tunnel;
use crate::registry::ApiError;

pub(super) mod headers;
mod kubelet;
mod links;
mod place;
mod tls;

use links::Links;
use place::{Place, Server};

const METHODS: &[Method] = &[
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl Api {
    pub(super) async fn proxy(
        &self,
        user: &User,
        parts: &Parts,
        body: Body,
        subject: Subject<'_>,
        target: &Target,
    ) -> Result<Response<Body>, ApiError> {
        if !METHODS.contains(&parts.method) {
            return Err(ApiError::method_not_allowed());
        }
        let place = self.place(target).await?;
        let path = proxied_path(parts.uri.path());
        if path.is_empty() && !upgrade::is_asked(&parts.headers) {
            return Ok(with_slash(&parts.uri));
        }
        if place.server == Server::Node
            && let Some(asked) = kubelet::parse(path)
        {
            return self
                .in_pod_of(&place.node, user, parts, body, subject, &asked)
                .await;
        }
        let tunnel = self.tunnel(&place).await?;
        let stopping = self.stopping.clone();
        let exchange = Exchange {
            request: onwards(parts, body, path, &place)?,
            // What is below this is the object's.
            prefix: parts.uri.path()[..parts.uri.path().len() - path.len()].to_owned(),
            client: parts.extensions.get::<OnUpgrade>().cloned(),
            stopping,
        };
        match place.tls_name() {
            Some(name) => {
                let stream = tls::connect(name, tunnel).await.map_err(unreachable)?;
                exchange.run(stream).await
            }
            None => exchange.run(tunnel).await,
        }
    }

    /// The connection that the node makes.
    async fn tunnel(&self, place: &Place) -> Result<Tunnel, ApiError> {
        let kind = match place.server {
            Server::Address { ip, port, .. } => Kind::Dial(DialRequest {
                ip: match ip {
                    std::net::IpAddr::V4(ip) => ip.octets().to_vec().into(),
                    std::net::IpAddr::V6(ip) => ip.octets().to_vec().into(),
                },
                port: u32::from(port),
            }),
            Server::Node => Kind::NodeServer(NodeServerRequest {}),
        };
        let request = StreamRequest {
            kind: Some(kind),
            ..StreamRequest::default()
        };
        let opened = self.streams.open(&place.node, request).await;
        let mut node = opened.map_err(unreachable)?;
        match accepted(&mut node).await {
            Ok(_) => Ok(Tunnel::new(node)),
            Err(refused) => Err(unreachable(refused.message())),
        }
    }
}

fn unreachable(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(
        503,
        "ServiceUnavailable",
        format!("error trying to reach service: {why}"),
    )
}

/// Relative links on a page would lead elsewhere without it.
fn with_slash(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}"));
    let location = format!("{}/{}", uri.path(), query.unwrap_or_default());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The request as the server gets it.
fn onwards(
    parts: &Parts,
    body: Body,
    path: &str,
    place: &Place,
) -> Result<Request<Body>, ApiError> {
    let path = if path.is_empty() { "/" } else { path };
    let uri = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let uri: Uri = uri
        .parse()
        .map_err(|_| ApiError::bad_request("the path cannot be that of a request"))?;
    let mut headers = headers::onwards(&parts.headers, &parts.uri);
    if !headers.contains_key(HOST) {
        let host = HeaderValue::from_str(&place.host()).map_err(ApiError::internal)?;
        headers.insert(HOST, host);
    }
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A request that goes on, and the way back.
pub(super) struct Exchange {
    pub(super) request: Request<Body>,
    /// The path that leads to the server, as the client has it.
    pub(super) prefix: String,
    /// The client's connection, should the two agree on another protocol.
    pub(super) client: Option<OnUpgrade>,
    pub(super) stopping: CancellationToken,
}

impl Exchange {
    pub(super) async fn run<IO>(self, server: IO) -> Result<Response<Body>, ApiError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let host = self.request.headers().get(HOST).cloned();
        let head_alone = self.request.method() == Method::HEAD;
        let (mut sender, connection) = http1::handshake(TokioIo::new(server))
            .await
            .map_err(unreachable)?;
        // Ends with the exchange: there is one per connection.
        tokio::spawn(connection.with_upgrades());
        let mut response = sender
            .send_request(self.request)
            .await
            .map_err(unreachable)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = hyper::upgrade::on(&mut response);
            let client = self.client.ok_or_else(|| {
                unreachable("the server wants another protocol, the client does not")
            })?;
            tokio::spawn(carry(client, server, self.stopping));
            return Ok(response.map(|_| Body::empty()));
        }
        headers::back(response.headers_mut(), &self.prefix, host.as_ref());
        if head_alone || !headers::is_plain_page(response.headers()) {
            return Ok(response.map(Body::new));
        }
        response.headers_mut().remove(CONTENT_LENGTH);
        let host = host.and_then(|host| Some(host.to_str().ok()?.to_owned()));
        let links = Links::new(self.prefix, host.unwrap_or_default());
        Ok(response.map(|page| with_links(Body::new(page), links)))
    }
}

/// A page as the client can use it.
fn with_links(page: Body, links: Links) -> Body {
    let state = Some((page.into_data_stream(), links));
    Body::from_stream(futures::stream::unfold(state, |state| async move {
        let (mut page, mut links) = state?;
        Some(match page.next().await {
            Some(Ok(chunk)) => (Ok(Bytes::from(links.push(&chunk))), Some((page, links))),
            Some(Err(error)) => (Err(error), None),
            None => (Ok(Bytes::from(links.finish())), None),
        })
    }))
}

/// Both directions of a connection that has become something else.
async fn carry(client: OnUpgrade, server: OnUpgrade, stopping: CancellationToken) {
    let (client, server) = tokio::join!(client, server);
    let (Ok(client), Ok(server)) = (client, server) else {
        return;
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    tokio::select! {
        // However it ends, it is over for both.
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = stopping.cancelled() => {}
    }
}

/// Whether the headers ask for another protocol, which then is the server's to agree to.
fn upgrades(headers: &http::HeaderMap) -> bool {
    upgrade::is_asked(headers) && headers.contains_key(UPGRADE) && headers.contains_key(CONNECTION)
}

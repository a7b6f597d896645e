//! The listening side: TCP, TLS with optional client certificates, HTTP/1.1 and HTTP/2, and the drain at the
//! end. gRPC (node sync) shares the port; its paths go to its own router. `server/opening` lets go of who does not
//! begin, `server/reader` of who does not read; `server/refusal` says what hyper does not.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::audit::Peer;
use super::dispatch::goes_on;
use super::{Api, Waiting};
use crate::auth::User;

mod opening;
mod reader;
mod refusal;

use opening::Opening;
use reader::{Limit, Limits, Reader};
use refusal::{Completed, Ours};

/// For the handshake, and then for the head of each request. Tests do not wait that long.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_CONNECTIONS: usize = 8192;
const MAX_STREAMS: u32 = 1000;
const MAX_HEADERS: u32 = 64 * 1024;
/// The same over HTTP/1.1, with the request's line.
const MAX_HEAD: usize = 128 * 1024;
/// What one stream and one connection may have in flight towards us.
const WINDOW: u32 = 256 * 1024;
/// What may wait for one stream's reader: there are thousands of nodes, and some of them are slow.
const SEND_BUFFER: usize = 64 * 1024;
const RETRY_ACCEPT: Duration = Duration::from_millis(50);
/// All our gRPC services are in packages below this.
const GRPC_PREFIX: &str = "/waggle.";

/// What the listener serves.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) api: Arc<Api>,
    /// Node sync; requests carry their [`User`] as an extension.
    pub(crate) grpc: Option<axum::Router>,
}

/// What is behind the listener: at first somebody who says that there is nothing yet.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    waiting: Arc<Waiting>,
    served: Arc<OnceLock<Served>>,
}

impl Door {
    pub(crate) fn new(waiting: Waiting) -> Self {
        Self {
            waiting: Arc::new(waiting),
            served: Arc::default(),
        }
    }

    /// From now on this is served.
    pub(crate) fn open(&self, served: Served) {
        // Who opens it twice has not changed what is behind it.
        let _ = self.served.set(served);
    }
}

/// Serves until `stop`, then lets open requests end, at most for `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    door: Door,
    stop: CancellationToken,
    drain: Duration,
) {
    let acceptor = TlsAcceptor::from(tls);
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &limit) => accepted,
        };
        let (stream, peer, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others have to end first.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(RETRY_ACCEPT).await;
                continue;
            }
        };
        let (acceptor, door, stop) = (acceptor.clone(), door.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, peer, acceptor, door, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    limit: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(limit)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    door: Door,
    stop: CancellationToken,
) {
    // Nagle's algorithm would hold back single watch events.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(PATIENCE, acceptor.accept(stream));
    let stream = tokio::select! {
        () = stop.cancelled() => return,
        result = handshake => match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                return;
            }
        },
    };
    let user = match user(&stream) {
        Ok(user) => user,
        Err(()) => {
            tracing::debug!(%peer, "the client certificate names nobody");
            return;
        }
    };
    let limits = Limits::default();
    let ours = Ours::default();
    let stream = Completed::new(Opening::new(stream, PATIENCE), ours.clone());
    let stream = Reader::new(stream, limits.clone());
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (door, limits, ours) = (door.clone(), limits.clone(), ours.clone());
        let limit = limit(&request);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        async move {
            let response = answer(&door, request).await;
            let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            limits.set(if upgraded { Limit::None } else { limit });
            match upgraded {
                true => ours.all(),
                false => ours.next(),
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%peer, %error, "connection ended");
    }
}

/// How long a client may take nothing of its answer. Requests of HTTP/1.1 come one after the other.
fn limit<B>(request: &Request<B>) -> Limit {
    if request.version() >= Version::HTTP_2 {
        Limit::None
    } else if goes_on(request.method(), request.uri()) {
        Limit::Long
    } else {
        Limit::Short
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4);
    builder
}

/// `None` is a connection without a certificate; TLS has verified the others.
fn user(stream: &TlsStream<TcpStream>) -> Result<Option<User>, ()> {
    let (_, session) = stream.get_ref();
    match session.peer_certificates().and_then(|chain| chain.first()) {
        None => Ok(None),
        Some(leaf) => User::from_certificate(leaf).map(Some).ok_or(()),
    }
}

async fn answer(door: &Door, request: Request<Body>) -> Response<Body> {
    let Some(served) = door.served.get() else {
        return Box::pin(door.waiting.answer(request)).await;
    };
    match &served.grpc {
        Some(router) if request.uri().path().starts_with(GRPC_PREFIX) => router
            .clone()
            .oneshot(request)
            .await
            .unwrap_or_else(|never| match never {}),
        // What is kept for the request while its answer is sent (for hours, of a watch or a node's stream) has room for
        // this future, if it is not in a place of its own.
        _ => Box::pin(Arc::clone(&served.api).handle(request)).await,
    }
}

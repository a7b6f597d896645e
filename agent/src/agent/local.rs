//! What the agent answers on this machine: `<run_dir>/agent.sock` (root only) and, where asked for, a TCP
//! address with `/metrics` and `/healthz` alone.
//!
//! ```text
//!   GET  /healthz  /metrics  /status
//!   GET  /images
//!   POST /images/import?path=…[&name=…]
//! ```
//! Nothing here is for the control plane: that is node sync's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{AgentError, Shared};

pub(super) const SOCKET: &str = "agent.sock";

/// Connections that are served at once, each.
const MOST_CONNECTIONS: usize = 64;

/// Who asks: what they may do follows from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Socket,
    Tcp,
}

pub(super) async fn serve(
    run_dir: &Path,
    metrics_listen: Option<SocketAddr>,
    shared: &Arc<Shared>,
    stop: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, AgentError> {
    let mut tasks = vec![serve_socket(run_dir, shared, stop)?];
    if let Some(address) = metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AgentError::Listen { address, source })?;
        let (shared, mut stop) = (Arc::clone(shared), stop.clone());
        tasks.push(tokio::spawn(async move {
            let places = Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                if let Ok((stream, _)) = accepted {
                    connection(stream, Door::Tcp, &shared, &places).await;
                }
            }
        }));
    }
    Ok(tasks)
}

fn serve_socket(
    run_dir: &Path,
    shared: &Arc<Shared>,
    stop: &watch::Receiver<bool>,
) -> Result<JoinHandle<()>, AgentError> {
    let path = run_dir.join(SOCKET);
    let _ = std::fs::remove_file(&path);
    let failed = |source| AgentError::Directory {
        path: path.clone(),
        source,
    };
    let listener = UnixListener::bind(&path).map_err(failed)?;
    let only_root = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, only_root).map_err(failed)?;
    let (shared, mut stop) = (Arc::clone(shared), stop.clone());
    Ok(tokio::spawn(async move {
        let places = Arc::new(tokio::sync::Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if let Ok((stream, _)) = accepted {
                connection(stream, Door::Socket, &shared, &places).await;
            }
        }
    }))
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    shared: &Arc<Shared>,
    places: &Arc<tokio::sync::Semaphore>,
) {
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        return;
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&request, door, &shared).await) }
        });
        // A client that does not send its request within the time is cut off.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(std::time::Duration::from_secs(10))
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        drop(place);
    });
}

async fn answer(request: &Request<Incoming>, door: Door, shared: &Shared) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match (request.method(), path, door) {
        (&Method::GET, "/healthz", _) => reply(StatusCode::OK, "text/plain", "ok".to_owned()),
        (&Method::GET, "/metrics", _) => reply(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            shared.metrics(),
        ),
        (&Method::GET, "/status", Door::Socket) => json(&shared.status()),
        (&Method::GET, "/images", Door::Socket) => match shared.images.list().await {
            Ok(images) => json(
                &images
                    .iter()
                    .map(|image| (&image.reference, &image.digest, image.size_bytes))
                    .collect::<Vec<_>>(),
            ),
            Err(error) => failed(&error),
        },
        (&Method::POST, "/images/import", Door::Socket) => {
            let query = request.uri().query().unwrap_or_default();
            let Some(path) = parameter(query, "path") else {
                let message = "the parameter path is missing".to_owned();
                return reply(StatusCode::BAD_REQUEST, "text/plain", message);
            };
            let name = parameter(query, "name");
            match shared
                .images
                .import(Path::new(&path), name.as_deref())
                .await
            {
                Ok(references) => json(&references),
                Err(error) => failed(&error),
            }
        }
        _ => reply(
            StatusCode::NOT_FOUND,
            "text/plain",
            "there is nothing here".to_owned(),
        ),
    }
}

fn failed(error: &crate::images::ImageError) -> Response<Full<Bytes>> {
    reply(
        StatusCode::UNPROCESSABLE_ENTITY,
        "text/plain",
        error.to_string(),
    )
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(text) => reply(StatusCode::OK, "application/json", text),
        Err(error) => reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            error.to_string(),
        ),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    response
}

/// The value of a parameter, with `%xx` resolved.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)?
        .1;
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| value.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters() {
        let query = "path=/a%20b/c&name=x:1";
        assert_eq!(parameter(query, "path").as_deref(), Some("/a b/c"));
        assert_eq!(parameter(query, "name").as_deref(), Some("x:1"));
        assert_eq!(parameter(query, "other"), None);
        assert_eq!(parameter("path=%zz%", "path").as_deref(), Some("%zz%"));
    }

    proptest! {
        #[test]
        fn never_panics(query in "\\PC{0,60}") {
            let _ = parameter(&query, "path");
            let _ = parameter(&format!("path={query}"), "path");
        }
    }
}

//! What the node answers to those whom the API server lets through (`nodes/NAME/proxy/…`): what a kubelet serves and
//! people look at.
//!
//! ```text
//!   /healthz  /configz  /pods  /runningpods/  /logs/…
//!   /metrics  /metrics/resource  /metrics/cadvisor  /stats/summary
//! ```
//! Nothing can be changed here.

use std::convert::Infallible;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::io::DuplexStream;

use super::{Shared, stats};
use crate::sync::NodeServer;

/// Where the machine keeps its logs.
const LOGS: &str = "/var/log";
/// Longest file that is shown.
const MAX_LOG: u64 = 64 << 20;

pub(super) struct Server(pub(super) Arc<Shared>);

impl NodeServer for Server {
    fn serve(&self, connection: DuplexStream) -> BoxFuture<'_, ()> {
        let shared = Arc::clone(&self.0);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
            });
            // A client that breaks off is nobody's fault.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(std::time::Duration::from_secs(30))
                .serve_connection(TokioIo::new(connection), service)
                .await;
        }
        .boxed()
    }
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let exposition = |text: String| {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        reply(StatusCode::OK, content_type, text)
    };
    let json =
        |value: &serde_json::Value| reply(StatusCode::OK, "application/json", value.to_string());
    match request.uri().path() {
        "/healthz" | "/healthz/" | "/healthz/ping" | "/healthz/syncloop" => {
            text(StatusCode::OK, "ok")
        }
        "/metrics" => reply(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            shared.metrics(),
        ),
        "/metrics/resource" => exposition(stats::resource(&stats::measure(shared, false).await)),
        "/metrics/cadvisor" => exposition(stats::cadvisor(&stats::measure(shared, true).await)),
        "/stats/summary" | "/stats/" => json(&stats::summary(&stats::measure(shared, true).await)),
        "/configz" => json(&shared.configuration),
        "/pods" | "/pods/" => pods(shared, |_| true),
        "/runningpods" | "/runningpods/" => pods(shared, |phase| phase == "Running"),
        path => match path.strip_prefix("/logs") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => logs(rest),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

/// The pods of this node with the status that it reports.
fn pods(shared: &Shared, wanted: impl Fn(&str) -> bool) -> Response<Full<Bytes>> {
    let snapshots = shared.pods.snapshots().into_iter();
    let pods: Vec<Pod> = snapshots
        .filter(|snapshot| wanted(snapshot.status.phase.as_deref().unwrap_or_default()))
        .map(|snapshot| {
            let mut pod = Pod::clone(&snapshot.pod);
            pod.status = Some(snapshot.status);
            pod
        })
        .collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
    reply(StatusCode::OK, "application/json", list.to_string())
}

/// A file or a directory below the machine's logs. No link leads out: names are looked up one by one.
fn logs(rest: &str) -> Response<Full<Bytes>> {
    let rest = rest.trim_start_matches('/');
    let relative = Path::new(rest);
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let path = PathBuf::from(LOGS).join(relative);
    let inside = path
        .canonicalize()
        .ok()
        .filter(|path| plain && path.starts_with(LOGS));
    let Some(path) = inside else {
        return text(StatusCode::NOT_FOUND, "404 page not found");
    };
    if path.is_dir() {
        return listing(&path);
    }
    match std::fs::metadata(&path) {
        Ok(facts) if facts.is_file() && facts.len() <= MAX_LOG => match std::fs::read(&path) {
            Ok(bytes) => reply(StatusCode::OK, "text/plain; charset=utf-8", bytes),
            Err(_) => text(StatusCode::FORBIDDEN, "403 Forbidden"),
        },
        _ => text(StatusCode::FORBIDDEN, "403 Forbidden"),
    }
}

fn listing(path: &Path) -> Response<Full<Bytes>> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            let name = entry.file_name().to_string_lossy().into_owned() + slash;
            let name = name.replace('&', "&amp;").replace('<', "&lt;");
            format!("<a href=\"{0}\">{0}</a>\n", name.replace('"', "&quot;"))
        })
        .collect();
    names.sort();
    let page = format!("<pre>\n{}</pre>\n", names.concat());
    reply(StatusCode::OK, "text/html; charset=utf-8", page)
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body.to_owned())
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let content_type = http::HeaderValue::from_static(content_type);
    headers.insert(http::header::CONTENT_TYPE, content_type);
    response
}

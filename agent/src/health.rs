//! `healthCheckNodePort`: tells a load balancer outside whether this node has endpoints of a Service with
//! `externalTrafficPolicy: Local` (<https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/>).
//!
//! Every node answers for every such Service: 200 where there is a ready endpoint on the node, 503 where there is
//! none. Body and headers are those that load balancers know from kube-proxy.

mod count;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use self::count::{Check, Counts};
use crate::cluster::BatchReceiver;

/// Until a port that could not be listened on is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Connections that are served at once, on all ports together.
const MOST_CONNECTIONS: usize = 64;
/// A client that has not sent its request by then is cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the data plane may be behind and still be called healthy.
const BEHIND: Duration = Duration::from_secs(60);

/// What is answered on one port, now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    check: Check,
    /// The data plane has not caught up for too long.
    is_behind: bool,
}

/// One port that is listened on.
#[derive(Debug)]
struct Listening {
    answer: watch::Sender<Answer>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves until the channel closes. `applied` is the revision that the data plane has in force.
pub(crate) async fn follow(
    node: String,
    mut batches: BatchReceiver,
    applied: watch::Receiver<u64>,
) {
    let mut counts = Counts::new(node);
    let mut ports: BTreeMap<u16, Listening> = BTreeMap::new();
    let mut problems: BTreeMap<u16, String> = BTreeMap::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // The oldest revision that the data plane has not caught up with, and since when it is known.
    let mut waiting: Option<(u64, Instant)> = None;
    loop {
        // Sooner than anything is late, so that being behind is noticed though nothing else happens.
        match tokio::time::timeout(RETRY, batches.recv()).await {
            Ok(Some(batch)) => {
                counts.apply(&batch);
                waiting.get_or_insert((batch.revision, Instant::now()));
            }
            Ok(None) => return,
            Err(_) => {}
        }
        if waiting.is_some_and(|(revision, _)| *applied.borrow() >= revision) {
            waiting = None;
        }
        let is_behind = waiting.is_some_and(|(_, since)| since.elapsed() > BEHIND);
        let checks = counts.checks();
        ports.retain(|port, _| checks.contains_key(port));
        problems.retain(|port, _| checks.contains_key(port));
        for (port, check) in checks {
            let answer = Answer { check, is_behind };
            if let Some(listening) = ports.get(&port) {
                listening.answer.send_replace(answer);
                continue;
            }
            match listen(port) {
                Ok(listener) => {
                    problems.remove(&port);
                    let (sender, answers) = watch::channel(answer);
                    let task = tokio::spawn(serve(listener, answers, Arc::clone(&places)));
                    ports.insert(
                        port,
                        Listening {
                            answer: sender,
                            task,
                        },
                    );
                }
                Err(error) => {
                    let text = error.to_string();
                    if problems.get(&port) != Some(&text) {
                        let service = &answer.check.service;
                        tracing::error!(port, namespace = service.namespace, service = service.name, %error,
                            "the Service's health check port cannot be listened on");
                        problems.insert(port, text);
                    }
                }
            }
        }
    }
}

/// On all addresses of the node, of both families where there are two.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = match std::net::TcpListener::bind(any_v6) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn serve(listener: TcpListener, answers: watch::Receiver<Answer>, places: Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: not asked again at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = answers.borrow().clone();
                async move { Ok::<_, Infallible>(response(&answer)) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asks may go away at any moment; nobody else is told.
            let _ = tokio::time::timeout(2 * PATIENCE, connection).await;
            drop(place);
        });
    }
}

fn response(answer: &Answer) -> Response<Full<Bytes>> {
    let Check { service, endpoints } = &answer.check;
    let status = if *endpoints > 0 && !answer.is_behind {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({
        "service": { "namespace": service.namespace, "name": service.name },
        "localEndpoints": endpoints,
        "serviceProxyHealthy": !answer.is_behind,
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = http::HeaderValue::from_static;
    headers.insert(http::header::CONTENT_TYPE, text("application/json"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, text("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", (*endpoints).into());
    response
}

#[cfg(test)]
mod tests;

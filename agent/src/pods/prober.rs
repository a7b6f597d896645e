//! Asks a container how it is, for as long as one attempt runs: one task per probe.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::machine::PodSandbox;
use super::probe::{Pace, ProbeKind, Tally, eager_pause};

mod tls;

/// What is shown of a failing command or page at most.
const MAX_OUTPUT: usize = 10 << 10;

/// What a prober tells the worker.
#[derive(Debug)]
pub(crate) struct ProbeReport {
    pub(crate) container: String,
    pub(crate) number: u32,
    pub(crate) kind: ProbeKind,
    /// The verdict, when it changed.
    pub(crate) verdict: Option<bool>,
    /// Why this try failed, if it did.
    pub(crate) failure: Option<String>,
}

/// A probe of one attempt.
#[derive(Debug)]
pub(crate) struct Target<S> {
    pub(crate) container: Container,
    pub(crate) probe: Probe,
    pub(crate) kind: ProbeKind,
    pub(crate) number: u32,
    pub(crate) id: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) sandbox: S,
    /// Of the container's life, when probing begins; an adopted container is not waited for.
    pub(crate) age: Duration,
}

/// Probes until the worker is gone or ends it.
pub(crate) async fn run<S: PodSandbox>(target: Target<S>, reports: mpsc::Sender<ProbeReport>) {
    let pace = Pace::of(&target.probe);
    tokio::time::sleep(pace.initial_delay.saturating_sub(target.age)).await;
    let mut tally = Tally::default();
    let mut eager = (target.kind != ProbeKind::Liveness && target.age < pace.period).then_some(0);
    let mut ticks = tokio::time::interval(pace.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let failure = once(&target, pace.timeout).await.err();
        let pause = eager.and_then(|attempt| eager_pause(attempt, pace.period));
        match (eager, pause) {
            (Some(attempt), Some(pause)) if failure.is_some() => {
                eager = Some(attempt + 1);
                tokio::time::sleep(pause).await;
                continue;
            }
            _ => eager = None,
        }
        let verdict = tally.take(failure.is_none(), &pace);
        if verdict.is_some() || failure.is_some() {
            let report = ProbeReport {
                container: target.container.name.clone(),
                number: target.number,
                kind: target.kind,
                verdict,
                failure,
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        ticks.tick().await;
    }
}

async fn once<S: PodSandbox>(target: &Target<S>, timeout: Duration) -> Result<(), String> {
    let probe = &target.probe;
    if let Some(exec) = &probe.exec {
        let args = exec.command.clone().unwrap_or_default();
        return exec_once(target, &args, timeout).await;
    }
    let attempt = async {
        if let Some(http) = &probe.http_get {
            return http_once(target, http).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let address = address(target, tcp.host.as_deref())?;
            let port = port(&target.container, &tcp.port)?;
            return connect(&address, port).await.map(|_| ());
        }
        if probe.grpc.is_some() {
            return Err("gRPC probes are not supported".to_owned());
        }
        Ok(())
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "no answer within {}s (context deadline exceeded)",
            timeout.as_secs()
        )),
    }
}

async fn exec_once<S: PodSandbox>(
    target: &Target<S>,
    args: &[String],
    timeout: Duration,
) -> Result<(), String> {
    let outcome = target
        .sandbox
        .exec(&target.id, args, timeout, MAX_OUTPUT)
        .await?;
    if outcome.timed_out {
        return Err(format!("command timed out after {}s", timeout.as_secs()));
    }
    if outcome.exit_code == 0 {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&outcome.output).into_owned())
    }
}

fn address<S>(target: &Target<S>, host: Option<&str>) -> Result<String, String> {
    match host.filter(|host| !host.is_empty()) {
        Some(host) => Ok(host.to_owned()),
        None => target
            .address
            .map(|address| address.to_string())
            .ok_or_else(|| "the pod has no address".to_owned()),
    }
}

/// A number, or the name of one of the container's ports.
fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
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
            IntOrString::Int(number) => format!("{number} is no port number"),
            IntOrString::String(name) => format!("the container has no port {name:?}"),
        })
}

async fn connect(address: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port))
        .await
        .map_err(|error| format!("dial tcp {address}:{port}: {error}"))
}

async fn http_once<S>(target: &Target<S>, get: &HTTPGetAction) -> Result<(), String> {
    let host = address(target, get.host.as_deref())?;
    let port = port(&target.container, &get.port)?;
    let stream = connect(&host, port).await?;
    let scheme_is_tls = get.scheme.as_deref() == Some("HTTPS");
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let code = if scheme_is_tls {
        let stream = tls::wrap(stream, &host).await?;
        request(stream, get, &authority).await?
    } else {
        request(stream, get, &authority).await?
    };
    if (200..400).contains(&code) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {code}"))
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    get: &HTTPGetAction,
    authority: &str,
) -> Result<u16, String> {
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|error| error.to_string())?;
    // Ends with this probe: the guard aborts it.
    let _connection = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let path = get
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut builder = http::Request::get(path);
    let given = get.http_headers.iter().flatten();
    let mut names: Vec<String> = Vec::new();
    for header in given {
        names.push(header.name.to_ascii_lowercase());
        builder = builder.header(&header.name, &header.value);
    }
    for (name, value) in [
        ("host", authority),
        ("user-agent", "kube-probe/1.36"),
        ("accept", "*/*"),
        ("connection", "close"),
    ] {
        if !names.iter().any(|known| known == name) {
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
    // The page is read, up to a bound, so that a server that writes it is not cut off.
    let _ = Limited::new(response.into_body(), MAX_OUTPUT)
        .collect()
        .await;
    Ok(code)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a prober; dropping the handle's owner must abort it.
pub(crate) fn spawn<S: PodSandbox>(
    target: Target<S>,
    reports: mpsc::Sender<ProbeReport>,
) -> tokio::task::AbortHandle {
    tokio::spawn(run(target, reports)).abort_handle()
}

/// Shared by all probes over TLS.
pub(crate) type TlsConfig = Arc<rustls::ClientConfig>;

#[cfg(test)]
mod tests;

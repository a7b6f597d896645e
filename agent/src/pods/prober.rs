//! Asks a container how it is, for as long as one attempt runs: one task per probe.
//!
//! `prober/ask` knows how to ask over HTTP and TCP, `prober/grpc` over gRPC.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

use super::machine::PodSandbox;
use super::probe::{Pace, ProbeKind, Tally, eager_pause};

pub(super) mod ask;
mod grpc;
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
    /// What was strange about one that did not.
    pub(crate) warning: Option<String>,
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
        let (failure, warning) = match once(&target, pace.timeout).await {
            Ok(warning) => (None, warning),
            Err(failure) => (Some(failure), None),
        };
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
        if verdict.is_some() || failure.is_some() || warning.is_some() {
            let report = ProbeReport {
                container: target.container.name.clone(),
                number: target.number,
                kind: target.kind,
                verdict,
                failure,
                warning,
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        ticks.tick().await;
    }
}

/// Asks once; what is well may still be strange.
async fn once<S: PodSandbox>(
    target: &Target<S>,
    timeout: Duration,
) -> Result<Option<String>, String> {
    let probe = &target.probe;
    let container = &target.container;
    if let Some(exec) = &probe.exec {
        let args = exec.command.clone().unwrap_or_default();
        return exec_once(target, &args, timeout).await.map(|()| None);
    }
    if let Some(get) = &probe.http_get {
        let url = ask::url(container, target.address, get)?;
        let page = within(timeout, ask::http(&url, get.http_headers.as_deref()))
            .await
            .unwrap_or_else(|| {
                let late =
                    "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
                Err(late.to_owned())
            })
            .map_err(|error| format!("Get \"{url}\": {error}"))?;
        return if (200..400).contains(&page.code) {
            let warning = |at| format!("Probe terminated redirects, Location: {at}");
            Ok(page.elsewhere.map(warning))
        } else {
            let code = page.code;
            Err(format!("HTTP probe failed with statuscode: {code}"))
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = ask::address(target.address, tcp.host.as_deref())?;
        let port = ask::port(container, &tcp.port)?;
        let connected = within(timeout, ask::connect(&address, port)).await;
        let late = || {
            Err(format!(
                "dial tcp {}: i/o timeout",
                ask::authority(&address, port)
            ))
        };
        return connected.unwrap_or_else(late).map(|_| None);
    }
    if let Some(grpc) = &probe.grpc {
        let address = ask::address(target.address, None)?;
        let port = u16::try_from(grpc.port).map_err(|_| format!("{} is no port", grpc.port))?;
        let service = grpc.service.as_deref().unwrap_or_default();
        let authority = ask::authority(&address, port);
        return grpc::check(&authority, service, timeout)
            .await
            .map(|()| None);
    }
    Err("missing probe handler".to_owned())
}

async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(timeout, work).await.ok()
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
        return Err(format!(
            "command timed out: {:?} timed out after {}s",
            args.join(" "),
            timeout.as_secs()
        ));
    }
    if outcome.exit_code == 0 {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&outcome.output).into_owned())
    }
}

/// Shared by all probes over TLS.
pub(crate) type TlsConfig = Arc<rustls::ClientConfig>;

#[cfg(test)]
mod tests;

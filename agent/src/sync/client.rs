//! The stream to the control plane: dialled, held, dialled again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use proto::node::v1 as wire;
use proto::node::v1::control_message::Message;
use proto::node::v1::node_sync_client::NodeSyncClient;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::identity::Identity;
use super::intake::Intake;
use super::streams::{NodeServer, Streams};
use crate::pods::{Machine, TokenWish};

/// A full state of a large cluster comes in batches; one batch is not larger than this.
const MOST_BYTES: usize = 64 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long the last reports may take when the agent stops.
const LAST_WORDS: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("control plane address {server:?}: {source}")]
    Server {
        server: String,
        source: tonic::transport::Error,
    },
    #[error("connect to the control plane: {0}")]
    Connect(tonic::transport::Error),
    #[error("node sync: {0}")]
    Refused(Box<tonic::Status>),
    #[error("node sync: the control plane ended the stream")]
    Ended,
}

#[derive(Clone)]
pub(crate) struct ClientConfig {
    pub(crate) server: String,
    pub(crate) node_name: String,
    pub(crate) ca_pem: Vec<u8>,
    pub(crate) certificate_pem: Vec<u8>,
    pub(crate) key_pem: Vec<u8>,
    /// Where renewed certificates are written; they are kept in memory alone where there is none.
    pub(crate) identity_dir: Option<PathBuf>,
}

pub(crate) struct Client<M: Machine> {
    /// The members of the control plane that are known, any of which will do: those that were given, and those that
    /// the control plane has told of since.
    servers: Vec<String>,
    /// How many of them were given.
    given: usize,
    /// Which of them is next.
    turn: usize,
    identity: Identity,
    intake: Intake<M>,
    streams: Arc<Streams<M>>,
    /// The node as it is to be registered, made anew for each stream.
    hello: Box<dyn Fn() -> wire::Hello + Send + Sync>,
    pub(crate) metrics: ClientMetrics,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ClientMetrics {
    pub(crate) connected: Gauge,
    pub(crate) connections: Counter,
    pub(crate) batches: Counter,
}

impl ClientMetrics {
    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        registry.register(
            "sync_connected",
            "1 while the stream to the control plane is up",
            self.connected.clone(),
        );
        registry.register(
            "sync_connections",
            "Streams to the control plane that were opened",
            self.connections.clone(),
        );
        registry.register(
            "sync_batches",
            "Batches taken from the control plane",
            self.batches.clone(),
        );
    }
}

impl<M: Machine> Client<M> {
    pub(crate) fn new(
        config: &ClientConfig,
        intake: Intake<M>,
        hello: Box<dyn Fn() -> wire::Hello + Send + Sync>,
        metrics: ClientMetrics,
        node_server: Option<Arc<dyn NodeServer>>,
    ) -> Result<Self, ClientError> {
        let identity = Identity::new(config);
        let servers: Vec<String> = addresses(&config.server);
        // What cannot work is told at once.
        for server in &servers {
            endpoint(server, &identity)?;
        }
        let streams = Streams::new(Arc::clone(&intake.pods), node_server);
        Ok(Self {
            // Nodes do not all go to the same one.
            turn: rand::rng().random_range(0..servers.len().max(1)),
            given: servers.len(),
            servers,
            identity,
            intake,
            streams: Arc::new(streams),
            hello,
            metrics,
        })
    }

    /// Until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = tokio::time::Instant::now();
            let patience = async {
                let _ = stop.clone().wait_for(|stop| *stop).await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            let outcome = tokio::select! {
                outcome = self.once(&stop) => outcome,
                () = patience => return,
            };
            self.metrics.connected.set(0);
            if *stop.borrow() {
                return;
            }
            tracing::warn!("{}", chain(&outcome));
            if begun.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.5));
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            // One round over all of them before the pause grows.
            if self.turn.is_multiple_of(self.servers.len()) {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// One stream, until it is lost; or, when `stop` says so, until all that waits is told and the control
    /// plane has ended the stream, too.
    async fn once(&mut self, stop: &watch::Receiver<bool>) -> ClientError {
        let server = self.servers[self.turn % self.servers.len()].clone();
        // Whatever becomes of this one, another is asked next.
        self.turn += 1;
        let endpoint = match endpoint(&server, &self.identity) {
            Ok(endpoint) => endpoint,
            Err(error) => return error,
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return ClientError::Connect(error),
        };
        let mut client = NodeSyncClient::new(channel)
            .max_decoding_message_size(MOST_BYTES)
            .max_encoding_message_size(MOST_BYTES);
        let (send, messages) = mpsc::channel(64);
        let hello = wire::NodeMessage {
            message: Some(wire::node_message::Message::Hello((self.hello)())),
        };
        if send.try_send(hello).is_err() {
            return ClientError::Ended;
        }
        let mut incoming = match client.sync(ReceiverStream::new(messages)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return ClientError::Refused(Box::new(status)),
        };
        tracing::info!(server, "connected to the control plane");
        self.metrics.connections.inc();
        self.metrics.connected.set(1);
        self.intake.begin();
        let outbox = Arc::clone(&self.intake.outbox);
        outbox.begin();
        let objects = Arc::clone(&self.intake.objects);
        objects.tokens.begin();
        let identity = self.identity.clone();
        let mut stop = stop.clone();
        let _sending = AbortOnDrop(tokio::spawn(async move {
            let certificate = identity.request();
            tokio::pin!(certificate);
            loop {
                let message = tokio::select! {
                    biased;
                    message = outbox.next() => message,
                    (id, wish) = objects.tokens.next() => token_request(id, wish),
                    request = &mut certificate => {
                        // What is done may not be looked at again; the next one is due at another time.
                        certificate.set(identity.request());
                        certificate_request(request)
                    }
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                if send.send(message).await.is_err() {
                    return;
                }
            }
        }));
        loop {
            match incoming.message().await {
                Ok(Some(message)) => {
                    if let Err(error) = self.take(&server, message).await {
                        let why = format!("a batch that cannot be read: {error}");
                        return ClientError::Refused(Box::new(tonic::Status::data_loss(why)));
                    }
                }
                Ok(None) => return ClientError::Ended,
                Err(status) => return ClientError::Refused(Box::new(status)),
            }
        }
    }

    /// After an error the state has a hole: only a new stream, with the full state, fills it.
    async fn take(
        &mut self,
        server: &str,
        message: wire::ControlMessage,
    ) -> Result<(), prost::DecodeError> {
        match message.message {
            Some(Message::Batch(batch)) => {
                let batch = wire::Batch::decode(batch)?;
                self.metrics.batches.inc();
                self.intake.batch(batch).await;
            }
            Some(Message::StreamRequest(request)) => match endpoint(
                // Another member than ours may wait for it.
                match request.server.as_str() {
                    "" => server,
                    waiting => waiting,
                },
                &self.identity,
            ) {
                Ok(endpoint) => {
                    tokio::spawn(Arc::clone(&self.streams).serve(endpoint, request));
                }
                Err(error) => tracing::warn!(%error, "a stream was not opened"),
            },
            Some(Message::TokenResponse(response)) => self.intake.token(response),
            Some(Message::CertificateResponse(response)) => self.identity.answered(response),
            Some(Message::Servers(told)) => {
                self.servers = servers(&self.servers[..self.given], told.urls);
            }
            Some(Message::Trust(trust)) => self.identity.trust(&trust.ca_pem),
            None => tracing::warn!("passed over: an empty message from the control plane"),
        }
        Ok(())
    }
}

/// Those that were given, then those that are told of beside them.
fn servers(given: &[String], told: Vec<String>) -> Vec<String> {
    let mut all = given.to_vec();
    for url in told {
        if !all.contains(&url) {
            all.push(url);
        }
    }
    all
}

/// Several addresses are given with commas between them. There is always one.
fn addresses(server: &str) -> Vec<String> {
    server
        .split(',')
        .map(|address| address.trim().to_owned())
        .collect()
}

/// The control plane, spoken to as who this node is now.
fn endpoint(server: &str, identity: &Identity) -> Result<Endpoint, ClientError> {
    let wrong = |source| ClientError::Server {
        server: server.to_owned(),
        source,
    };
    let (ca, certificate, key) = identity.pem();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(tonic::transport::Identity::from_pem(certificate, key));
    Ok(Endpoint::from_shared(server.to_owned())
        .map_err(wrong)?
        .tls_config(tls)
        .map_err(wrong)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

fn token_request(id: u64, wish: TokenWish) -> wire::NodeMessage {
    let audiences = (!wish.audience.is_empty()).then_some(wish.audience);
    wire::NodeMessage {
        message: Some(wire::node_message::Message::TokenRequest(
            wire::TokenRequest {
                id,
                namespace: wish.namespace,
                pod: wish.pod,
                pod_uid: wish.pod_uid,
                service_account: wish.account,
                audiences: audiences.into_iter().collect(),
                expiration_seconds: wish.seconds,
            },
        )),
    }
}

fn certificate_request(csr_pem: String) -> wire::NodeMessage {
    wire::NodeMessage {
        message: Some(wire::node_message::Message::CertificateRequest(
            wire::CertificateRequest { csr_pem },
        )),
    }
}

/// The error with its causes: "connection refused" is at the end of the chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_told_of_are_dialled_too_and_those_that_are_not_any_more_are_not() {
        let list =
            |urls: &[&str]| -> Vec<String> { urls.iter().map(|it| (*it).to_owned()).collect() };
        let given = list(&["https://a:1", "https://b:1"]);
        let all = servers(&given, list(&["https://b:1", "https://c:1"]));
        assert_eq!(all, ["https://a:1", "https://b:1", "https://c:1"]);
        assert_eq!(
            servers(&all[..given.len()], list(&["https://d:1"])).len(),
            3
        );
    }
}

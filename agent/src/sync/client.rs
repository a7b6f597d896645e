//! The stream to the control plane: dialled, held, dialled again.

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
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::intake::Intake;
use super::streams::{NodeServer, Streams};
use crate::pods::Machine;

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
    pub(crate) ca_pem: Vec<u8>,
    pub(crate) certificate_pem: Vec<u8>,
    pub(crate) key_pem: Vec<u8>,
}

pub(crate) struct Client<M: Machine> {
    endpoint: Endpoint,
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
        let wrong = |source| ClientError::Server {
            server: config.server.clone(),
            source,
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&config.ca_pem))
            .identity(Identity::from_pem(&config.certificate_pem, &config.key_pem));
        let endpoint = Endpoint::from_shared(config.server.clone())
            .map_err(wrong)?
            .tls_config(tls)
            .map_err(wrong)?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let pods = Arc::clone(&intake.pods);
        let streams = Streams::new(endpoint.clone(), pods, node_server);
        Ok(Self {
            endpoint,
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
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream, until it is lost; or, when `stop` says so, until all that waits is told and the control
    /// plane has ended the stream, too.
    async fn once(&mut self, stop: &watch::Receiver<bool>) -> ClientError {
        let channel = match self.endpoint.connect().await {
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
        tracing::info!(server = %self.endpoint.uri(), "connected to the control plane");
        self.metrics.connections.inc();
        self.metrics.connected.set(1);
        self.intake.begin();
        let outbox = Arc::clone(&self.intake.outbox);
        outbox.begin();
        let mut stop = stop.clone();
        let _sending = AbortOnDrop(tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    biased;
                    message = outbox.next() => message,
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
                    if let Err(error) = self.take(message).await {
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
    async fn take(&mut self, message: wire::ControlMessage) -> Result<(), prost::DecodeError> {
        match message.message {
            Some(Message::Batch(batch)) => {
                let batch = wire::Batch::decode(batch)?;
                self.metrics.batches.inc();
                self.intake.batch(batch).await;
            }
            Some(Message::StreamRequest(request)) => {
                tokio::spawn(Arc::clone(&self.streams).serve(request));
            }
            None => tracing::warn!("passed over: an empty message from the control plane"),
        }
        Ok(())
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

//! The store's clients: what a member that does not lead does for those who ask it. Transactions that wait at the same
//! time go to the leader together, a few such requests at once; all readers that wait share one read index.

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use proto::raft::v1 as pb;
use proto::raft::v1::peer_request::Request;
use proto::raft::v1::peer_response::Response;
use proto::raft::v1::peers_client::PeersClient;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::transport::Channel;

use super::session::Session;

/// As in the store: requests under way, and transactions in one of them.
const PIPELINE: usize = 4;
const MOST: usize = 512;

type Answer = Result<(), String>;

struct Write {
    transaction: pb::Transaction,
    reply: oneshot::Sender<Answer>,
}

/// One connection to the leader's port for members.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) client: PeersClient<Channel>,
    pub(super) header: pb::Header,
}

impl Peer {
    async fn call(&self, request: Request) -> anyhow::Result<Response> {
        let request = pb::PeerRequest {
            header: Some(self.header.clone()),
            request: Some(request),
        };
        let answer = self.client.clone().call(request).await?.into_inner();
        answer.response.context("an answer")
    }

    async fn write(&self, transactions: Vec<pb::Transaction>) -> anyhow::Result<()> {
        let count = transactions.len();
        let transactions = Some(pb::Transactions { transactions });
        let request = Request::Propose(pb::ProposeRequest { transactions });
        match self.call(request).await? {
            Response::Propose(done) if done.outcomes.len() == count => Ok(()),
            other => bail!("the leader does not write: {other:?}"),
        }
    }

    async fn read(&self) -> anyhow::Result<()> {
        let request = Request::ReadIndex(pb::ReadIndexRequest {});
        match self.call(request).await? {
            Response::ReadIndex(_) => Ok(()),
            other => bail!("the leader does not confirm: {other:?}"),
        }
    }
}

/// Ends when its last session does.
#[derive(Clone)]
pub(super) struct StoreSession {
    writes: mpsc::Sender<Write>,
    reads: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl StoreSession {
    /// So many sessions of one member.
    pub(super) fn many(peer: &Peer, count: u32) -> Vec<Self> {
        let (writes, waiting) = mpsc::channel(4_096);
        tokio::spawn(write(peer.clone(), waiting));
        let (reads, waiting) = mpsc::channel(4_096);
        tokio::spawn(read(peer.clone(), waiting));
        let session = Self { writes, reads };
        (0..count).map(|_| session.clone()).collect()
    }
}

fn told(outcome: &anyhow::Result<()>) -> Answer {
    outcome
        .as_ref()
        .copied()
        .map_err(|error| format!("{error:#}"))
}

async fn write(peer: Peer, mut waiting: mpsc::Receiver<Write>) {
    let under_way = Arc::new(Semaphore::new(PIPELINE));
    let mut writes = Vec::new();
    while waiting.recv_many(&mut writes, MOST).await > 0 {
        // Those whom the last request has just answered come along.
        tokio::task::yield_now().await;
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else {
            return;
        };
        while writes.len() < MOST
            && let Ok(write) = waiting.try_recv()
        {
            writes.push(write);
        }
        let (transactions, replies): (Vec<_>, Vec<_>) = writes
            .drain(..)
            .map(|write| (write.transaction, write.reply))
            .unzip();
        let peer = peer.clone();
        tokio::spawn(async move {
            let outcome = peer.write(transactions).await;
            drop(permit);
            for reply in replies {
                // Whoever asked may have been ended.
                let _ = reply.send(told(&outcome));
            }
        });
    }
}

async fn read(peer: Peer, mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>) {
    let mut readers = Vec::new();
    while waiting.recv_many(&mut readers, 4_096).await > 0 {
        let outcome = peer.read().await;
        for reader in readers.drain(..) {
            // As above.
            let _ = reader.send(told(&outcome));
        }
    }
}

impl Session for StoreSession {
    async fn write(&mut self, number: u32, value: &str) -> anyhow::Result<()> {
        let put = pb::Operation {
            key: format!("/bench/{number:04}"),
            action: Some(pb::operation::Action::Put(value.to_owned().into())),
        };
        let transaction = pb::Transaction {
            comparisons: Vec::new(),
            operations: vec![put],
        };
        let (reply, answer) = oneshot::channel();
        let write = Write { transaction, reply };
        self.writes
            .send(write)
            .await
            .map_err(|_| anyhow!("ended"))?;
        answer.await?.map_err(anyhow::Error::msg)
    }

    async fn read(&mut self, _: u32) -> anyhow::Result<()> {
        let (reply, answer) = oneshot::channel();
        self.reads.send(reply).await.map_err(|_| anyhow!("ended"))?;
        answer.await?.map_err(anyhow::Error::msg)
    }
}

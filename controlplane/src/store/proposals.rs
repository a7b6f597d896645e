//! The queue of proposed transactions: those that wait together become one log entry, and share its sync.
//!
//! One entry is under way at a time. While it is being made durable the next one fills, so a single client
//! waits for one sync and many clients share them. Ends when the last [`Proposals`] is dropped.

use std::sync::Weak;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::metrics::ProposalMetrics;
use super::raft::{Command, Node, NodeId, Outcome, Raft};
use super::{StoreError, Txn, TxnOutcome};

/// Transactions that may wait; behind them callers wait to be queued.
const QUEUE: usize = 4_096;
/// What one entry holds at most. One transaction alone may be larger.
const ENTRY_TXNS: usize = 512;
const ENTRY_BYTES: usize = 1 << 20;
/// How long a caller waits. Only a disk that hangs, or a lost quorum, takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Proposal {
    txn: Txn,
    reply: oneshot::Sender<Result<TxnOutcome, StoreError>>,
}

#[derive(Debug, Clone)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Proposal>,
}

impl Proposals {
    /// Starts the queue. With less than `reserve` bytes free on the disk, transactions are refused.
    pub(super) fn start(
        raft: Raft,
        disk: Weak<dyn Disk>,
        reserve: u64,
        metrics: ProposalMetrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let worker = Worker {
            raft,
            space: Space { disk, reserve },
            metrics,
        };
        let task = tokio::spawn(worker.run(receiver));
        (Self { queue }, task)
    }

    /// Returns once the transaction is durable and applied.
    pub(super) async fn propose(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let wait = async {
            let proposal = Proposal { txn, reply };
            self.queue
                .send(proposal)
                .await
                .map_err(|_| StoreError::Closed)?;
            answer.await.unwrap_or(Err(StoreError::Closed))
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or(Err(StoreError::Timeout))
    }
}

struct Worker {
    raft: Raft,
    space: Space,
    metrics: ProposalMetrics,
}

impl Worker {
    async fn run(self, mut queue: mpsc::Receiver<Proposal>) {
        let mut waiting = Vec::new();
        while !waiting.is_empty() || queue.recv_many(&mut waiting, ENTRY_TXNS).await > 0 {
            // Clients that the last entry has just answered get to propose before the next one is closed.
            tokio::task::yield_now().await;
            while waiting.len() < ENTRY_TXNS
                && let Ok(proposal) = queue.try_recv()
            {
                waiting.push(proposal);
            }
            let count = pack(waiting.iter().map(|p| p.txn.size()));
            let batch: Vec<Proposal> = waiting.drain(..count).collect();
            self.propose(batch).await;
        }
    }

    async fn propose(&self, batch: Vec<Proposal>) {
        let (txns, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.txn, p.reply)).unzip();
        self.metrics.transactions.inc_by(txns.len() as u64);
        self.metrics.per_entry.observe(txns.len() as f64);
        let result = match self.space.check() {
            Ok(()) => write(&self.raft, Command::Txns(txns.into())).await,
            Err(error) => Err(error),
        };
        // A caller that was cancelled waits for no answer.
        match result {
            Ok(Outcome::Txns(outcomes)) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Ok(other) => {
                let error = StoreError::Storage(format!("unexpected outcome {other:?}"));
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// How many of the waiting transactions, given by size, go into the next entry: at least one.
fn pack(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0usize;
    let fitting = sizes.take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= ENTRY_BYTES
    });
    fitting.count().max(1)
}

/// Writes one command through Raft.
pub(super) async fn write(raft: &Raft, command: Command) -> Result<Outcome, StoreError> {
    match raft.client_write(command).await {
        Ok(response) => Ok(response.data),
        Err(error) => Err(write_error(error)),
    }
}

fn write_error(error: RaftError<NodeId, ClientWriteError<NodeId, Node>>) -> StoreError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            StoreError::NoLeader(match to.leader_id {
                Some(leader) => format!("member {leader} leads, this one does not"),
                None => "none is elected".into(),
            })
        }
        RaftError::APIError(other) => StoreError::Storage(other.to_string()),
        RaftError::Fatal(fatal) => fatal_error(&fatal),
    }
}

/// Why Raft has stopped.
pub(super) fn fatal_error(fatal: &openraft::error::Fatal<NodeId>) -> StoreError {
    match fatal {
        openraft::error::Fatal::Stopped => StoreError::Closed,
        other => StoreError::Storage(other.to_string()),
    }
}

/// Refuses writes before the file system is so full that the disk thread would fail, which ends the member.
struct Space {
    disk: Weak<dyn Disk>,
    reserve: u64,
}

impl Space {
    /// One system call, next to a sync it costs nothing.
    fn check(&self) -> Result<(), StoreError> {
        let free = self.disk.upgrade().and_then(|disk| disk.available());
        match free {
            Some(free) if free < self.reserve => Err(StoreError::DiskFull(format!(
                "{free} bytes are free, {} are kept in reserve",
                self.reserve
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

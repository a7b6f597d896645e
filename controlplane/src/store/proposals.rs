//! The queue of proposed transactions: those that wait together become one log entry, and share its sync.
//!
//! A few entries are under way at a time. While they are being made durable the next one fills, so a single
//! client waits for one sync and many clients share them. Ends when the last [`Proposals`] is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::group::Group;
use super::metrics::ProposalMetrics;
use super::raft::{Batch, NodeId};
use super::{Op, StoreError, Txn, TxnOutcome};

/// Transactions that may wait; behind them callers wait to be queued.
const QUEUE: usize = 4_096;
/// What one entry holds at most. One transaction alone may be larger.
const ENTRY_TXNS: usize = 512;
const ENTRY_BYTES: usize = 1 << 20;
/// Entries under way from one member. Alone, one sync after the other is fastest; with others there is a way
/// there and back to fill.
const ALONE: usize = 1;
const PIPELINE: usize = 4;
/// How long a caller waits. Only a disk that hangs, or a lost quorum, takes that long.
const PATIENCE: Duration = Duration::from_secs(12);

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
    pub(super) fn start(
        group: Arc<Group>,
        metrics: ProposalMetrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let worker = Worker {
            group,
            metrics,
            under_way: Arc::new(Semaphore::new(PIPELINE)),
        };
        let task = tokio::spawn(worker.run(receiver));
        (Self { queue }, task)
    }

    /// Returns once the transaction is durable and applied.
    pub(super) async fn propose(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal { txn, reply };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let sent = tokio::time::timeout_at(deadline, self.queue.send(proposal)).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::Closed),
            // It was never taken.
            Err(_) => return Err(StoreError::NoLeader("too many writes wait".to_owned())),
        }
        let unknown = |why: &str| Err(StoreError::OutcomeUnknown(why.to_owned()));
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => unknown("this member stops"),
            Err(_) => unknown("no answer in time"),
        }
    }
}

#[derive(Clone)]
struct Worker {
    group: Arc<Group>,
    metrics: ProposalMetrics,
    under_way: Arc<Semaphore>,
}

impl Worker {
    async fn run(self, mut queue: mpsc::Receiver<Proposal>) {
        let mut waiting = Vec::new();
        // Ends what is under way with this task.
        let mut entries = tokio::task::JoinSet::new();
        while !waiting.is_empty() || queue.recv_many(&mut waiting, ENTRY_TXNS).await > 0 {
            // Clients that the last entry has just answered get to propose before the next one is closed.
            tokio::task::yield_now().await;
            let permits = match self.group.is_alone() {
                true => PIPELINE / ALONE,
                false => 1,
            };
            let Ok(permit) = Arc::clone(&self.under_way)
                .acquire_many_owned(permits as u32)
                .await
            else {
                return;
            };
            while waiting.len() < ENTRY_TXNS
                && let Ok(proposal) = queue.try_recv()
            {
                waiting.push(proposal);
            }
            let count = pack(waiting.iter().map(|p| p.txn.size()));
            let batch: Vec<Proposal> = waiting.drain(..count).collect();
            while entries.try_join_next().is_some() {}
            let worker = self.clone();
            entries.spawn(async move {
                worker.propose(batch).await;
                drop(permit);
            });
        }
        while entries.join_next().await.is_some() {}
    }

    async fn propose(&self, batch: Vec<Proposal>) {
        let (txns, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.txn, p.reply)).unzip();
        self.metrics.transactions.inc_by(txns.len() as u64);
        self.metrics.per_entry.observe(txns.len() as f64);
        let batch = Batch::from(txns);
        let result = match self.group.write(&batch).await {
            // What makes space must not be refused because of what it came with.
            Err(StoreError::DiskFull(_)) if has_both(&batch) => {
                return self.propose_one_by_one(&batch, replies).await;
            }
            result => result,
        };
        // A caller that was cancelled waits for no answer.
        match result {
            Ok(outcomes) => {
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    async fn propose_one_by_one(
        &self,
        txns: &[Txn],
        replies: Vec<oneshot::Sender<Result<TxnOutcome, StoreError>>>,
    ) {
        for (txn, reply) in txns.iter().zip(replies) {
            let batch = Batch::from(vec![txn.clone()]);
            let outcome = self.group.write(&batch).await;
            let outcome = outcome.and_then(|mut outcomes| {
                let one = outcomes.pop();
                one.ok_or_else(|| StoreError::Storage("an entry without an outcome".to_owned()))
            });
            let _ = reply.send(outcome);
        }
    }
}

/// Transactions that put, and others that only delete.
fn has_both(txns: &[Txn]) -> bool {
    let only_deletes = |txn: &&Txn| txn.ops.iter().all(|op| matches!(op, Op::Delete { .. }));
    let count = txns.iter().filter(only_deletes).count();
    count > 0 && count < txns.len()
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

/// Why Raft has stopped.
pub(super) fn fatal_error(fatal: &openraft::error::Fatal<NodeId>) -> StoreError {
    match fatal {
        openraft::error::Fatal::Stopped => StoreError::Closed,
        other => StoreError::Storage(other.to_string()),
    }
}

#[cfg(test)]
mod tests;

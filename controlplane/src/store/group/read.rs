//! How far a reader must wait to see everything that was acknowledged before it asked: the read index.
//!
//! The leader names its last committed entry once a majority has confirmed, after the question, that it still
//! leads. All readers that wait together share one such round; one that comes while a round is under way waits
//! for the next.

use std::sync::{Arc, Weak};
use std::time::Duration;

use proto::raft::v1 as pb;
use tokio::sync::{mpsc, oneshot};

use super::{Group, Miss, unconfirmed};
use crate::store::StoreError;
use crate::store::peers::Peer;

/// Readers that may wait for a round.
const QUEUE: usize = 4_096;
/// One question to the leader, with its round.
const ROUND: Duration = Duration::from_secs(1);
/// How long the entries up to the read index may take to be applied here.
const CATCH_UP: Duration = Duration::from_secs(5);

type Answer = Result<u64, StoreError>;

#[derive(Clone)]
pub(in crate::store) struct ReadIndex {
    queue: mpsc::Sender<oneshot::Sender<Answer>>,
}

impl ReadIndex {
    /// Ends with the group.
    pub(in crate::store) fn start(group: &Arc<Group>) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let task = tokio::spawn(rounds(Arc::downgrade(group), waiting));
        (Self { queue }, task)
    }

    /// Returns when this member's state is as new as everything that was acknowledged before the call.
    pub(in crate::store) async fn catch_up(&self, group: &Group) -> Result<(), StoreError> {
        let index = self.index().await?;
        tokio::time::timeout(CATCH_UP, group.applied(index))
            .await
            .unwrap_or_else(|_| {
                let why = "this member is too far behind the leader";
                Err(StoreError::NoLeader(why.to_owned()))
            })
    }

    async fn index(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        let sent = self.queue.send(reply).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

async fn rounds(group: Weak<Group>, mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>) {
    let mut readers = Vec::new();
    while waiting.recv_many(&mut readers, QUEUE).await > 0 {
        let Some(group) = group.upgrade() else {
            return;
        };
        let index = group.read_index().await;
        for reader in readers.drain(..) {
            // One that was cancelled does not wait.
            let _ = reader.send(index.clone());
        }
    }
}

impl Group {
    async fn read_index(&self) -> Answer {
        let mut search = self.search();
        loop {
            let attempt = match search.leader().await? {
                None => self.read_index_here().await,
                Some(peer) => self.read_index_there(&peer).await,
            };
            if let Some(index) = search.judge(attempt)? {
                return Ok(index);
            }
        }
    }

    /// Only the leader knows.
    pub(in crate::store) async fn read_index_here(&self) -> Result<u64, Miss> {
        self.stays()?;
        let (read, _) = self.raft.get_read_log_id().await.map_err(unconfirmed)?;
        Ok(read.map_or(0, |id| id.index))
    }

    async fn read_index_there(&self, peer: &Peer) -> Result<u64, Miss> {
        let request = pb::peer_request::Request::ReadIndex(pb::ReadIndexRequest {});
        match self.ask(peer, request, ROUND).await? {
            pb::peer_response::Response::ReadIndex(answer) => Ok(answer.index),
            _ => Err(Miss::NotLeader(format!(
                "member {} answers something else",
                peer.id
            ))),
        }
    }
}

//! A leader that is about to stop lets another member lead, so that nobody has to find out first that it is gone.
//!
//! openraft 0.9 cannot transfer leadership, and members refuse their vote for as long as the leader's lease lasts. So
//! the leader takes nothing more, waits until one of the others has all that it has, keeps silent until the lease
//! has ended, and then tells that one to call an election. It never does so in the name of the other: this is no more
//! than an election at a good moment, and safe at any other.

use std::time::Duration;

use proto::raft::v1 as pb;

use super::election::LEASE;
use super::{Group, Miss};
use crate::store::peers::Peer;
use crate::store::raft::NodeId;

/// For what was under way when the lease began.
const MARGIN: Duration = Duration::from_millis(80);
/// All of it. The others elect a leader without help in about the same time.
const PATIENCE: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

impl Group {
    /// Returns when another member leads, or when that cannot be had soon. Does nothing where this one does not lead,
    /// or nobody else could. This member takes no writes as a leader any more.
    pub(in crate::store) async fn hand_over(&self) {
        if !self.leads_for_sure() || self.candidates().is_empty() {
            return;
        }
        self.leaving
            .store(true, std::sync::atomic::Ordering::Release);
        match tokio::time::timeout(PATIENCE, self.appoint()).await {
            Ok(Ok(leader)) => tracing::info!(leader, "another member leads from now on"),
            Ok(Err(why)) => tracing::warn!(why, "nobody has taken over"),
            Err(_) => tracing::warn!("nobody has taken over in time"),
        }
    }

    /// Whether this member, though it leads, takes nothing more.
    pub(super) fn stays(&self) -> Result<(), Miss> {
        match self.leaving.load(std::sync::atomic::Ordering::Acquire) {
            true => Err(Miss::NotLeader("the leader hands over".to_owned())),
            false => Ok(()),
        }
    }

    /// Voters that are there, without this one.
    fn candidates(&self) -> Vec<Peer> {
        let server = self.server.borrow();
        let voters: Vec<NodeId> = server.membership_config.voter_ids().collect();
        let present = self.reports.present();
        drop(server);
        let mut others = self.others();
        others.retain(|peer| voters.contains(&peer.id) && present.contains(&peer.id));
        others
    }

    async fn appoint(&self) -> Result<NodeId, String> {
        let successor = loop {
            // What was taken before may still be written.
            if let Some(peer) = self.level() {
                break peer;
            }
            tokio::time::sleep(PAUSE).await;
        };
        tokio::time::sleep(LEASE + MARGIN).await;
        let mut server = self.server.clone();
        let request = pb::peer_request::Request::TakeOver(pb::TakeOverRequest {});
        if let Err(Miss::NotLeader(why)) = self.ask(&successor, request, ANSWER).await {
            return Err(why);
        }
        let own = self.own.id;
        let other = |leader: Option<NodeId>| leader.filter(|leader| *leader != own);
        let led = server.wait_for(|server| other(server.current_leader).is_some());
        let led = led.await.map_err(|_| "Raft has stopped".to_owned())?;
        other(led.current_leader).ok_or_else(|| "nobody leads".to_owned())
    }

    /// One of the others that has all entries of the log.
    fn level(&self) -> Option<Peer> {
        let metrics = self.raft.metrics().borrow().clone();
        let replication = metrics.replication?;
        let level = |peer: &Peer| {
            let matched = replication.get(&peer.id).copied().flatten();
            matched.map(|id| id.index) == metrics.last_log_index
        };
        self.candidates().into_iter().find(level)
    }

    /// The leader asks this member to lead.
    pub(in crate::store) async fn take_over(&self, from: NodeId) -> Result<(), Miss> {
        if self.server.borrow().current_leader != Some(from) {
            return Err(Miss::NotLeader(format!("member {from} does not lead")));
        }
        let elect = self.raft.trigger().elect().await;
        elect.map_err(|error| Miss::Final(crate::store::proposals::fatal_error(&error)))
    }
}

//! When a member calls an election, and how often a leader says that it is there.
//!
//! openraft's own timers are off. They call an election as soon as a member has heard nothing for a while, also where all
//! others hear the leader, and so either disturb a cluster on a busy machine or find a dead leader late. Here a member that
//! hears nothing asks the others first (Raft's pre-vote, as in section 9.6 of Ongaro's thesis), and so may ask early: it
//! calls an election only where a majority would vote for it. What it has not heard because it did not run itself does not
//! count. How long it waits then depends on what it learns of the leader: `plan` says.
//!
//! Safety does not hang on any of this: whatever is decided here, Raft's votes decide who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::error::Fatal;
use proto::raft::v1 as pb;
use tokio::time::Instant;

use self::plan::{Allegiance, Opinion, Role, Standing, Verdict};
use super::{Called, Group, Miss};
use crate::store::codec;
use crate::store::metrics::GroupMetrics;
use crate::store::peers::{CallError, Peer};
use crate::store::raft::{LogId, NodeId, Raft};

mod plan;

pub(in crate::store) use self::plan::{LEASE, VOTING};

/// How often a leader says that it is there, whatever else it sends.
const BEAT: Duration = Duration::from_millis(150);
/// For the answer of one member.
const ANSWER: Duration = Duration::from_millis(250);
/// How long a member may take to say how it stands while its disk is slow.
const OWN_ANSWER: Duration = Duration::from_millis(200);
/// Before the others are asked again.
const PAUSE: Duration = Duration::from_millis(80);
/// The same, when they have been asked in vain for long.
const LONG_PAUSE: Duration = Duration::from_millis(400);
/// How much later than planned this member may run without counting as having slept.
const SLACK: Duration = Duration::from_millis(50);

/// How long nothing was heard, by a member that may itself have slept meanwhile.
#[derive(Debug, Default)]
struct Attention {
    heard: Option<Instant>,
    /// Time since then in which this member could have heard nothing.
    missed: Duration,
}

impl Attention {
    /// It looks `late` after the time at which it wanted to.
    fn quiet(&mut self, heard: Option<Instant>, now: Instant, late: Duration) -> Duration {
        if self.heard != heard {
            self.heard = heard;
            self.missed = Duration::ZERO;
        }
        self.missed += late.saturating_sub(SLACK);
        match heard {
            Some(heard) => (now - heard).saturating_sub(self.missed),
            None => Duration::MAX,
        }
    }
}

impl Group {
    /// Calls elections when they are due, and beats while this member leads; until it is stopped, or Raft is.
    pub(in crate::store) async fn keep_electing(self: Arc<Self>, metrics: GroupMetrics) {
        let mut attention = Attention::default();
        let mut rounds = 0u32;
        let mut deferred = false;
        let mut wake = Instant::now();
        loop {
            let Ok((mut standing, heard)) = self.standing().await else {
                return;
            };
            let now = Instant::now();
            standing.quiet = attention.quiet(heard, now, now - wake);
            let left = standing.due().saturating_sub(standing.quiet);
            let pause = match standing.role {
                Role::Leads => {
                    if self.beat().await.is_err() {
                        return;
                    }
                    BEAT
                }
                Role::Listens => LEASE,
                Role::Votes if !left.is_zero() => left,
                Role::Votes => {
                    let opinions = self.canvass(&standing).await;
                    let asked = now.elapsed().min(ANSWER);
                    // Asking takes a while, in which the leader may have been heard.
                    let Ok((now_standing, heard_now)) = self.standing().await else {
                        return;
                    };
                    // While Raft waits for the disk it hears nobody.
                    attention.missed += now.elapsed() - asked;
                    if heard_now != heard || now_standing.role != Role::Votes {
                        wake = Instant::now();
                        continue;
                    }
                    standing.quiet = standing.quiet.saturating_add(asked);
                    match standing.verdict(&opinions, deferred) {
                        Verdict::Elect => {
                            tracing::info!(?opinions, quiet = ?standing.quiet, "calling an election");
                            metrics.elections.inc();
                            if self.raft.trigger().elect().await.is_err() {
                                return;
                            }
                            VOTING
                        }
                        verdict => {
                            tracing::debug!(?opinions, quiet = ?standing.quiet, "no election yet");
                            deferred = verdict == Verdict::Defer;
                            rounds = rounds.saturating_add(1);
                            if rounds < 10 { PAUSE } else { LONG_PAUSE }
                        }
                    }
                }
            };
            if standing.role != Role::Votes || !left.is_zero() {
                (rounds, deferred) = (0, false);
            }
            wake = Instant::now() + pause;
            tokio::time::sleep_until(wake).await;
        }
    }

    /// A leader that is about to stop is silent.
    async fn beat(&self) -> Result<(), Fatal<NodeId>> {
        match self.leaving.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.raft.trigger().heartbeat().await,
        }
    }

    /// How this member stands by what Raft itself knows, after everything that Raft was told before; and when it last
    /// heard its leader, or voted. Waits for Raft where that waits for the disk.
    async fn standing(&self) -> Result<(Standing, Option<Instant>), Fatal<NodeId>> {
        let (standing, heard) = standing(self.raft.clone(), self.own.id).await?;
        let last = self.log.last();
        Ok((Standing { last, ..standing }, heard))
    }

    /// What all other voters say.
    async fn canvass(&self, standing: &Standing) -> BTreeMap<NodeId, Opinion> {
        let voters: BTreeSet<NodeId> = standing.voters.iter().flatten().copied().collect();
        let mut others = self.others();
        others.retain(|peer| voters.contains(&peer.id));
        let asked = others
            .iter()
            .map(|peer| self.opinion_of(peer, standing.last));
        let opinions = futures::future::join_all(asked).await;
        let ids = others.iter().map(|peer| peer.id);
        ids.zip(opinions).collect()
    }

    async fn opinion_of(&self, peer: &Peer, last: Option<LogId>) -> Opinion {
        use pb::canvass_response::Opinion as Said;
        let request = pb::peer_request::Request::Canvass(pb::CanvassRequest {
            last_log_id: last.as_ref().map(codec::log_id_to_pb),
        });
        match self.call(peer, request, ANSWER).await {
            Ok(pb::peer_response::Response::Canvass(answer)) => match answer.opinion() {
                Said::Agrees => Opinion::Agrees,
                Said::Competes => Opinion::Competes,
                Said::Leads => Opinion::Leads,
                Said::Declines | Said::Unspecified => Opinion::Declines,
            },
            Ok(_) => Opinion::Declines,
            Err(Called::Failed(CallError::Unsent(_))) => Opinion::Gone,
            // One of an older version does not know the question, and has timers of its own: it is asked for its
            // vote. One that stops is silent as well.
            Err(Called::Failed(CallError::Rejected(_))) => Opinion::Agrees,
            Err(Called::Failed(CallError::Lost(_)) | Called::Refused(_)) => Opinion::Silent,
        }
    }

    /// What this member says when it is asked.
    pub(in crate::store) async fn canvassed(
        &self,
        from: NodeId,
        last: Option<LogId>,
    ) -> Result<pb::CanvassResponse, Miss> {
        use pb::canvass_response::Opinion as Said;
        // First, so that a leader that waits for its disk can say that it is there.
        if self.leads_for_sure() {
            return Ok(pb::CanvassResponse {
                opinion: Said::Leads.into(),
            });
        }
        // Raft answers whether that is waited for or not.
        let asked = tokio::spawn(standing(self.raft.clone(), self.own.id));
        let (mut standing, heard) = match tokio::time::timeout(OWN_ANSWER, asked).await {
            Ok(Ok(Ok(standing))) => standing,
            Ok(Ok(Err(fatal))) => {
                return Err(Miss::Final(crate::store::proposals::fatal_error(&fatal)));
            }
            Ok(Err(_)) | Err(_) => {
                return Err(Miss::NotLeader("this member waits for its disk".to_owned()));
            }
        };
        standing.last = self.log.last();
        standing.quiet = heard.map_or(Duration::MAX, |heard| heard.elapsed());
        let opinion = match standing.opinion(from, last) {
            Opinion::Agrees => Said::Agrees,
            Opinion::Competes => Said::Competes,
            _ => Said::Declines,
        };
        Ok(pb::CanvassResponse {
            opinion: opinion.into(),
        })
    }
}

/// By Raft alone: without the end of the log.
async fn standing(raft: Raft, own: NodeId) -> Result<(Standing, Option<Instant>), Fatal<NodeId>> {
    let read = raft.with_raft_state(move |state| {
        let voters = state.membership_state.effective();
        let voters = voters.membership().get_joint_config().clone();
        let votes = voters.iter().any(|voters| voters.contains(&own));
        let vote = state.vote_ref();
        let standing = Standing {
            own,
            role: match state.server_state {
                ServerState::Leader => Role::Leads,
                _ if votes => Role::Votes,
                _ => Role::Listens,
            },
            allegiance: match vote.leader_id().voted_for() {
                Some(leader) if vote.is_committed() => Allegiance::Leader(leader),
                _ => Allegiance::Candidate,
            },
            quiet: Duration::ZERO,
            last: None,
            voters,
        };
        (standing, state.vote_last_modified())
    });
    read.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_in_which_a_member_did_not_run_is_no_silence() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut attention = Attention::default();
        assert_eq!(attention.quiet(None, start, ms(0)), Duration::MAX);
        // In time.
        let quiet = attention.quiet(Some(start), start + ms(500), ms(5));
        assert_eq!(quiet, ms(500));
        // It wanted to look after 100 ms, and could after 1,100.
        let quiet = attention.quiet(Some(start), start + ms(1_600), ms(1_000));
        assert_eq!(quiet, ms(650));
        let quiet = attention.quiet(Some(start), start + ms(1_700), ms(0));
        assert_eq!(quiet, ms(750));
        // Heard again, just before it slept.
        let heard = start + ms(1_750);
        let quiet = attention.quiet(Some(heard), start + ms(2_750), ms(900));
        assert_eq!(quiet, ms(150));
    }
}

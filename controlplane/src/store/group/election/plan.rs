//! Whether a member should call an election: a pure plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::store::raft::{LogId, NodeId};

/// How long members refuse their vote after they have heard a leader, whoever asks for it (openraft's greatest election
/// timeout). A leader that hands over has to be silent for so long.
pub(in crate::store) const LEASE: Duration = Duration::from_millis(500);
/// How long a vote may take, with the disks of those who give it (openraft's least election timeout).
pub(in crate::store) const VOTING: Duration = Duration::from_millis(450);
/// For what was under way when the lease began.
const MARGIN: Duration = Duration::from_millis(50);
/// Between two members that find an election without an end.
const STAGGER: Duration = Duration::from_millis(60);
/// How long a leader may be silent that says nothing when it is asked: another machine may have lost its power.
const SILENCE: Duration = Duration::from_millis(750);
/// How long a leader may be silent that says that it leads: perhaps its disk is slow.
const EXCUSE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leads,
    Votes,
    /// A learner, or no member any more.
    Listens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allegiance {
    Leader(NodeId),
    /// It has voted, or never did anything.
    Candidate,
}

/// What another voter says, or does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    Agrees,
    /// It agrees, but would be no worse a leader, and is about to ask itself.
    Competes,
    Declines,
    Leads,
    Silent,
    /// Nobody is at its address.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Elect,
    /// Another one may do it, once.
    Defer,
    Wait,
}

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) own: NodeId,
    pub(super) role: Role,
    pub(super) allegiance: Allegiance,
    /// Since the leader was heard, or since this member voted.
    pub(super) quiet: Duration,
    /// The end of its log.
    pub(super) last: Option<LogId>,
    /// A majority of each is needed; two while the voters change.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
}

impl Standing {
    /// How long it must be quiet before the others are asked.
    pub(super) fn due(&self) -> Duration {
        let others = self.voters.iter().flatten().filter(|id| **id != self.own);
        let others: BTreeSet<&NodeId> = others.collect();
        let rank = others.iter().filter(|id| ***id < self.own).count();
        match self.allegiance {
            _ if others.is_empty() => Duration::ZERO,
            Allegiance::Leader(_) => LEASE + MARGIN,
            // Not at the same time as the others, who would vote for themselves.
            Allegiance::Candidate => VOTING + MARGIN + STAGGER * rank as u32,
        }
    }

    pub(super) fn verdict(&self, opinions: &BTreeMap<NodeId, Opinion>, deferred: bool) -> Verdict {
        let has = |opinion| opinions.values().any(|other| *other == opinion);
        if has(Opinion::Leads) && self.quiet < EXCUSE {
            return Verdict::Wait;
        }
        if let Allegiance::Leader(leader) = self.allegiance
            && opinions.get(&leader) == Some(&Opinion::Silent)
            && self.quiet < SILENCE
        {
            return Verdict::Wait;
        }
        let agrees = |id: &NodeId| {
            let opinion = opinions.get(id);
            let for_us = matches!(opinion, Some(Opinion::Agrees | Opinion::Competes));
            *id == self.own || for_us
        };
        let majority = |voters: &BTreeSet<NodeId>| {
            let agreeing = voters.iter().filter(|id| agrees(id)).count();
            agreeing > voters.len() / 2
        };
        match self.voters.iter().all(majority) {
            false => Verdict::Wait,
            true if has(Opinion::Competes) && !deferred => Verdict::Defer,
            true => Verdict::Elect,
        }
    }

    /// Of another voter with this log that asks. The same that Raft's vote would say, and whether this member would be
    /// no worse.
    pub(super) fn opinion(&self, from: NodeId, last: Option<LogId>) -> Opinion {
        let faithful = match self.allegiance {
            Allegiance::Leader(_) => self.quiet <= LEASE,
            Allegiance::Candidate => self.quiet < VOTING,
        };
        if faithful || last < self.last {
            return Opinion::Declines;
        }
        let no_worse = (self.last, self.own) > (last, from);
        match self.role == Role::Votes && no_worse && self.quiet >= LEASE {
            true => Opinion::Competes,
            false => Opinion::Agrees,
        }
    }
}

#[cfg(test)]
mod tests;

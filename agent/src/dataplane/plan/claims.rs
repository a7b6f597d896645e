//! Who may have a key. The best rank wins; among equals, who claimed it first keeps it.

use std::collections::HashMap;

use agent_ebpf::layout::ServiceKey;

use super::spec::Rank;
use super::{Hashing, OwnerId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    rank: Rank,
    /// Claims are numbered as they are made.
    since: u64,
    owner: OwnerId,
}

#[derive(Debug, Default)]
pub(crate) struct Claims {
    holders: HashMap<ServiceKey, Claim, Hashing>,
    /// All others' claims, for the few keys where there are any.
    waiting: HashMap<ServiceKey, Vec<Claim>, Hashing>,
    made: u64,
}

/// Who is affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    Held,
    /// This one has it, and keeps it.
    Refused,
    /// This one had it.
    Displaced(OwnerId),
}

impl Claims {
    pub(crate) fn holder(&self, key: &ServiceKey) -> Option<OwnerId> {
        self.holders.get(key).map(|claim| claim.owner)
    }

    pub(crate) fn claim(&mut self, key: ServiceKey, owner: OwnerId, rank: Rank) -> Claimed {
        self.made += 1;
        let claim = Claim {
            rank,
            since: self.made,
            owner,
        };
        match self.holders.get_mut(&key) {
            None => {
                self.holders.insert(key, claim);
                Claimed::Held
            }
            Some(holder) if *holder < claim => {
                self.waiting.entry(key).or_default().push(claim);
                Claimed::Refused
            }
            Some(holder) => {
                let displaced = std::mem::replace(holder, claim);
                self.waiting.entry(key).or_default().push(displaced);
                Claimed::Displaced(displaced.owner)
            }
        }
    }

    /// A claim is of another rank than before; it is as old as it was. All whom that may affect.
    pub(crate) fn rerank(
        &mut self,
        key: ServiceKey,
        owner: OwnerId,
        rank: Rank,
    ) -> Option<OwnerId> {
        let Some(waiting) = self.waiting.get_mut(&key) else {
            if let Some(holder) = self.holders.get_mut(&key) {
                holder.rank = rank;
            }
            return None;
        };
        let holder = self.holders.get_mut(&key)?;
        let before = holder.owner;
        waiting.push(*holder);
        if let Some(claim) = waiting.iter_mut().find(|claim| claim.owner == owner) {
            claim.rank = rank;
        }
        *holder = take_best(waiting)?;
        Some(if holder.owner == owner {
            before
        } else {
            holder.owner
        })
    }

    /// Who has the key now, if it changed hands.
    pub(crate) fn release(&mut self, key: &ServiceKey, owner: OwnerId) -> Option<OwnerId> {
        let waiting = self.waiting.get_mut(key);
        if self
            .holders
            .get(key)
            .is_some_and(|holder| holder.owner != owner)
        {
            if let Some(waiting) = waiting {
                waiting.retain(|claim| claim.owner != owner);
                if waiting.is_empty() {
                    self.waiting.remove(key);
                }
            }
            return None;
        }
        let Some(waiting) = waiting else {
            self.holders.remove(key);
            return None;
        };
        let next = take_best(waiting);
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        match next {
            Some(next) => self.holders.insert(*key, next),
            None => self.holders.remove(key),
        };
        next.map(|next| next.owner)
    }

    /// Keys with several claims, and all who may have them by rank: the holder first.
    pub(crate) fn contested(&self) -> Vec<(ServiceKey, Vec<OwnerId>)> {
        self.waiting
            .iter()
            .filter_map(|(key, waiting)| {
                let holder = self.holders.get(key)?;
                let mut peers: Vec<Claim> = waiting
                    .iter()
                    .copied()
                    .filter(|claim| claim.rank == holder.rank)
                    .collect();
                peers.push(*holder);
                peers.sort_unstable();
                Some((*key, peers.into_iter().map(|claim| claim.owner).collect()))
            })
            .collect()
    }

    /// This claim counts as the first of its rank. Who had the key, if another one has it now.
    pub(crate) fn prefer(&mut self, key: &ServiceKey, owner: OwnerId) -> Option<OwnerId> {
        let (holder, waiting) = (self.holders.get_mut(key)?, self.waiting.get_mut(key)?);
        let claim = waiting.iter_mut().find(|claim| claim.owner == owner)?;
        claim.since = 0;
        if *claim >= *holder {
            return None;
        }
        std::mem::swap(holder, claim);
        Some(claim.owner)
    }

    /// A claim changes hands, as old as it is.
    pub(crate) fn transfer(&mut self, key: &ServiceKey, from: OwnerId, to: OwnerId) {
        let claims = self
            .holders
            .get_mut(key)
            .into_iter()
            .chain(self.waiting.get_mut(key).into_iter().flatten());
        for claim in claims.filter(|claim| claim.owner == from) {
            claim.owner = to;
        }
    }

    /// Gives back what loading everything took beyond what is there.
    pub(crate) fn shrink(&mut self) {
        self.holders.shrink_to_fit();
    }
}

fn take_best(waiting: &mut Vec<Claim>) -> Option<Claim> {
    let best = waiting
        .iter()
        .enumerate()
        .min_by_key(|(_, claim)| **claim)?
        .0;
    Some(waiting.swap_remove(best))
}

//! hostPorts: pods tell of them in their own time, so what an earlier run left is kept until then.

use std::collections::HashSet;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{SERVICE_HOST_PORT, ServiceKey};

use super::claims::Claimed;
use super::fixtures;
use super::place::OwnerState;
use super::spec::Rank;
use super::{HostPort, OwnerId, Plan, Planner, Problem};

impl Planner {
    /// The hostPorts that a pod of this node has from now on; none of them when it goes. To be followed by
    /// [`Self::retry`].
    pub fn host_ports(&mut self, uid: &str, ports: &[HostPort]) -> Vec<Problem> {
        let owner = match self.pods.get(uid) {
            Some(owner) => *owner,
            None if ports.is_empty() => return Vec::new(),
            None => {
                let owner = OwnerId(self.owners.insert(OwnerState::fixed()));
                self.pods.insert(uid.to_owned(), owner);
                owner
            }
        };
        let Some(OwnerState::Fixed(state)) = self.owners.get_mut(owner.0) else {
            return Vec::new();
        };
        let wanted = fixtures::host_ports(ports);
        let before = std::mem::take(&mut state.fixtures);
        let (fixtures, left) = fixtures::carry_over(before, wanted);
        let news: HashSet<ServiceKey> = fixtures
            .iter()
            .flat_map(|fixture| fixture.keys.iter().copied())
            .collect();
        let olds: HashSet<ServiceKey> = left.into_iter().collect();
        state.fixtures = fixtures;
        for key in olds.difference(&news) {
            self.release(*key, owner);
        }
        for key in news.difference(&olds) {
            // What an earlier run left for this pod is its own.
            match self.orphanage {
                Some(orphanage)
                    if self.orphans.contains(key) && self.evidence(key, owner).is_some() =>
                {
                    self.orphans.remove(key);
                    self.claims.transfer(key, orphanage, owner);
                }
                _ => self.claim(*key, owner, Rank::External),
            }
        }
        let mut plan = Plan::default();
        self.name_conflicts(&mut plan);
        if ports.is_empty() {
            self.pods.remove(uid);
            self.owners.remove(owner.0);
        } else {
            self.mark(owner);
        }
        plan.problems
    }

    /// Lets hostPorts go that an earlier run left for a pod that is there no more. To be followed by [`Self::retry`].
    pub fn forget_orphans(&mut self, is_pod: impl Fn(&Address) -> bool) {
        let Some(orphanage) = self.orphanage else {
            return;
        };
        let is_gone = |key: &ServiceKey| {
            let backends = self
                .kernel
                .entry(key)
                .map(|value| self.kernel.backends_of(value));
            !backends
                .is_some_and(|backends| backends.iter().any(|backend| is_pod(&backend.address)))
        };
        let gone: Vec<ServiceKey> = self.orphans.iter().copied().filter(is_gone).collect();
        for key in gone {
            self.orphans.remove(&key);
            self.release(key, orphanage);
        }
    }

    /// Everything that there is has been claimed, but that pods tell of their hostPorts in their own time.
    pub(super) fn release_unclaimed(&mut self) {
        let orphanage = OwnerId(self.owners.insert(OwnerState::fixed()));
        self.orphanage = Some(orphanage);
        let is_pods = |owner| matches!(self.owners.get(owner), Some(OwnerState::Fixed(_)));
        for (key, value) in self.kernel.entries() {
            let holder = self.claims.holder(key);
            if value.flags & SERVICE_HOST_PORT != 0
                && value.set != 0
                && !holder.is_some_and(|owner| is_pods(owner.0))
            {
                self.orphans.insert(*key);
            } else if holder.is_none() {
                self.released.push(*key);
            }
        }
        for key in &self.orphans {
            if let Claimed::Displaced(other) = self.claims.claim(*key, orphanage, Rank::External) {
                self.refused.push((*key, other));
            }
            if let Some(other) = self.claims.prefer(key, orphanage) {
                self.refused.push((*key, other));
            }
        }
        self.released.sort_unstable();
        self.released.dedup();
    }
}

//! Carries out plans on the maps, and remembers when, so that retired slots rest before they are reused.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use agent_ebpf::layout::{MAX_SERVICES, MAX_SLOTS, ServiceKey, Slot};

use super::error::DataPlaneError;
use super::objects::Objects;
use super::plan::{Fixed, Gone, HostPort, Operation, Plan, Planner};
use super::syscall::{array_update_batch, map_update_batch};
use super::wire::{Wire, is_missing};
use crate::cluster::Batch;

/// A program runs for microseconds; slots that it may be reading rest much longer.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Tables {
    planner: Planner,
    retired: VecDeque<(u64, Instant)>,
    pub(crate) problems: u64,
    pub(crate) revision: u64,
}

/// What happened to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    InForce,
    /// Some of it could not be done; [`Tables::retry`] tries again.
    Incomplete,
}

impl Tables {
    /// Starts from what the maps hold.
    pub(crate) fn adopt(node: &str, objects: &Objects) -> Result<Self, DataPlaneError> {
        let mut planner = Planner::new(node, MAX_SERVICES, MAX_SLOTS as u32);
        let mut found = Vec::new();
        for item in objects.services.iter() {
            let (Wire(key), Wire(value)) = item.map_err(DataPlaneError::map("SERVICES"))?;
            let mut slots = Vec::new();
            for index in value.base..value.base.saturating_add(value.count).min(MAX_SLOTS as u32) {
                let Wire(slot) = objects
                    .slots
                    .get(&index, 0)
                    .map_err(DataPlaneError::map("SLOTS"))?;
                slots.push(slot);
            }
            found.push((key, value, slots));
        }
        planner.adopt(found.into_iter());
        Ok(Self {
            planner,
            retired: VecDeque::new(),
            problems: 0,
            revision: 0,
        })
    }

    pub(crate) fn planner(&self) -> &Planner {
        &self.planner
    }

    pub(crate) fn fix(&mut self, objects: &mut Objects, fixed: Vec<Fixed>) -> Outcome {
        for entry in fixed {
            self.planner.fix(entry);
        }
        self.retry(objects).0
    }

    /// The ports of the node that lead to a pod.
    pub(crate) fn host_ports(
        &mut self,
        objects: &mut Objects,
        uid: &str,
        ports: &[HostPort],
    ) -> (Outcome, Vec<Gone>) {
        self.planner.host_ports(uid, ports);
        self.retry(objects)
    }

    /// Also returns the backends that services have no more from now on.
    pub(crate) fn apply(&mut self, objects: &mut Objects, batch: &Batch) -> (Outcome, Vec<Gone>) {
        self.reclaim();
        let mut plan = self.planner.apply(batch);
        let gone = std::mem::take(&mut plan.gone);
        let outcome = self.execute(objects, plan);
        if outcome == Outcome::InForce {
            self.revision = batch.revision;
        }
        (outcome, gone)
    }

    pub(crate) fn retry(&mut self, objects: &mut Objects) -> (Outcome, Vec<Gone>) {
        if !self.planner.is_pending() {
            return (Outcome::InForce, Vec::new());
        }
        self.reclaim();
        let mut plan = self.planner.retry();
        let gone = std::mem::take(&mut plan.gone);
        (self.execute(objects, plan), gone)
    }

    fn reclaim(&mut self) {
        while let Some((epoch, at)) = self.retired.front().copied() {
            if at.elapsed() < GRACE {
                break;
            }
            self.retired.pop_front();
            self.planner.reclaim(epoch);
        }
    }

    fn execute(&mut self, objects: &mut Objects, plan: Plan) -> Outcome {
        for problem in &plan.problems {
            tracing::error!(%problem, "service not programmed");
            self.problems += 1;
        }
        let mut failed = Vec::new();
        if let Err(error) = write(objects, &plan.operations, &mut failed) {
            tracing::error!(%error, services = failed.len(), "service maps not written");
            self.problems += failed.len() as u64;
        }
        self.planner.failed(failed);
        self.retired
            .push_back((self.planner.epoch(), Instant::now()));
        if self.planner.is_pending() {
            Outcome::Incomplete
        } else {
            Outcome::InForce
        }
    }
}

/// Does the operations in their order, in few calls; what could not be done is in `failed`.
fn write(
    objects: &mut Objects,
    operations: &[Operation],
    failed: &mut Vec<ServiceKey>,
) -> io::Result<()> {
    let mut indices = Vec::new();
    let mut values: Vec<Slot> = Vec::new();
    let mut keys = Vec::new();
    let mut services = Vec::new();
    let mut result = Ok(());
    for operation in operations {
        match operation {
            Operation::Slots { base, slots } => {
                indices.extend((*base..).take(slots.len()));
                values.extend(slots);
            }
            Operation::Set { key, value } => {
                keys.push(*key);
                services.push(*value);
            }
            Operation::Remove { key } => match objects.services.remove(&Wire(*key)) {
                Err(error) if !is_missing(&error) => {
                    failed.push(*key);
                    result = Err(io::Error::other(error));
                }
                _ => {}
            },
        }
    }
    if let Err(error) = array_update_batch(objects.slots_fd.as_fd(), &indices, &values) {
        // Nothing points to the slots yet, and nothing shall.
        failed.extend(keys);
        return Err(error);
    }
    if map_update_batch(objects.services_fd.as_fd(), &keys, &services).is_err() {
        // One by one, to learn which.
        for (key, value) in keys.iter().zip(&services) {
            if let Err(error) = objects.services.insert(Wire(*key), Wire(*value), 0) {
                failed.push(*key);
                result = Err(io::Error::other(error));
            }
        }
    }
    result
}

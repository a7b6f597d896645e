//! The kernel's tables, simulated.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf::layout::{
    MAGLEV_BLOCKS, SCOPE_INSIDE, SCOPE_LOCAL, SERVICE_SOURCE_RANGES, ServiceKey, ServiceValue, Slot,
};

use super::super::kernel::is_wildcard;
use super::super::{Backend, Failures, Found, GoneState, Operation, Plan, Range, maglev};

#[derive(Debug, Default, Clone)]
pub(super) struct Maps {
    pub(super) services: BTreeMap<ServiceKey, ServiceValue>,
    pub(super) slots: BTreeMap<u32, Slot>,
    /// What each table was made from; the number of its blocks.
    pub(super) tables: BTreeMap<u32, (Vec<Backend>, u32)>,
    pub(super) ranges: BTreeSet<Range>,
    pub(super) node_ports: Option<(u16, u16)>,
}

/// What a program sees of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) backends: BTreeSet<Backend>,
    pub(super) has_table: bool,
    pub(super) affinity: u32,
    pub(super) flags: u32,
    /// If its flags ask for them: address and prefix.
    pub(super) ranges: BTreeSet<(agent_ebpf::address::Address, u32)>,
}

impl Maps {
    pub(super) fn execute(&mut self, operation: &Operation) {
        match operation {
            Operation::NodePorts { minimum, maximum } => {
                self.node_ports = Some((*minimum, *maximum))
            }
            Operation::Slots {
                base,
                set,
                backends,
            } => {
                for (index, backend) in (*base..).zip(backends.iter()) {
                    let slot = Slot {
                        address: backend.address,
                        port: backend.port.to_be(),
                        flags: 0,
                        set: *set,
                    };
                    self.slots.insert(index, slot);
                }
            }
            Operation::Maglev { table, backends } => {
                self.tables
                    .insert(*table, (backends.to_vec(), MAGLEV_BLOCKS));
            }
            Operation::RemoveMaglev { table } => {
                self.tables.remove(table);
            }
            Operation::Admit { range } => {
                self.ranges.insert(*range);
            }
            Operation::Unadmit { range } => {
                assert!(
                    self.ranges.remove(range),
                    "removes {range:?}, which is not there"
                );
            }
            Operation::Set { key, value } => {
                self.services.insert(*key, *value);
            }
            Operation::Remove { key } => {
                assert!(
                    self.services.remove(key).is_some(),
                    "removes {key:?}, which is not there"
                );
            }
        }
    }

    /// Panics if something that the key refers to is not its own, or not there.
    pub(super) fn look(&self, key: &ServiceKey) -> Option<Look> {
        let value = self.services.get(key)?;
        let backends: Vec<Backend> = (value.base..value.base + value.count)
            .map(|index| {
                let slot = &self.slots[&index];
                assert_eq!(slot.set, value.set, "{key:?} points to foreign slots");
                Backend::from(slot)
            })
            .collect();
        if value.maglev != 0 {
            let (made_from, blocks) = &self.tables[&value.maglev];
            assert_eq!(
                (made_from, *blocks),
                (&backends, MAGLEV_BLOCKS),
                "{key:?} has a foreign table"
            );
        }
        let wants_table =
            key.scope != SCOPE_INSIDE && (2..=maglev::MAXIMUM_BACKENDS).contains(&backends.len());
        assert!(
            wants_table || value.maglev == 0,
            "{key:?} has a table in vain"
        );
        if is_wildcard(key) {
            let (minimum, maximum) = self.node_ports.unwrap();
            let port = u16::from_be(key.port);
            assert!(
                minimum <= port && port <= maximum,
                "{key:?} is not looked up"
            );
        }
        let is_asking = value.flags & SERVICE_SOURCE_RANGES != 0;
        let ranges = self
            .ranges
            .iter()
            .filter(|range| is_asking && range.service == value.service);
        Some(Look {
            backends: backends.into_iter().collect(),
            has_table: value.maglev != 0,
            affinity: value.affinity,
            flags: value.flags,
            ranges: ranges.map(|range| (range.address, range.prefix)).collect(),
        })
    }

    pub(super) fn all(&self) -> BTreeMap<ServiceKey, Look> {
        self.services
            .keys()
            .map(|key| (*key, self.look(key).unwrap()))
            .collect()
    }

    /// Carries out a plan one operation at a time; after each, every key is as it was or as it will be.
    pub(super) fn run(&mut self, plan: &Plan) {
        let failures = self.run_but(plan, || false);
        assert_eq!(failures.operations(), &[]);
    }

    /// As [`Self::run`], but some operations fail.
    pub(super) fn run_but(&mut self, plan: &Plan, mut fails: impl FnMut() -> bool) -> Failures {
        let before = self.all();
        let mut end = self.clone();
        for operation in &plan.operations {
            end.execute(operation);
        }
        let after = end.all();
        let mut failures = Failures::default();
        for operation in &plan.operations {
            if failures.rule_out(operation) || fails() {
                if let Operation::Maglev { table, .. } = operation {
                    self.tables.insert(*table, (Vec::new(), 3));
                }
                failures.add(operation.clone());
                continue;
            }
            self.execute(operation);
            for (key, look) in self.all() {
                assert_half(&key, &look, before.get(&key), after.get(&key));
            }
        }
        for gone in &plan.gone {
            let is_picked = after
                .get(&gone.key)
                .is_some_and(|look| look.backends.contains(&gone.backend));
            assert!(
                !is_picked && gone.key.scope != SCOPE_LOCAL,
                "{gone:?} is not gone"
            );
            let was_picked = before
                .get(&gone.key)
                .is_some_and(|look| look.backends.contains(&gone.backend));
            assert!(
                was_picked || gone.state == GoneState::Removed,
                "{gone:?} was not picked before"
            );
        }
        for (key, look) in before.iter().filter(|(key, _)| key.scope != SCOPE_LOCAL) {
            for backend in &look.backends {
                let is_kept = after
                    .get(key)
                    .is_some_and(|now| now.backends.contains(backend));
                let announced = plan
                    .gone
                    .iter()
                    .filter(|gone| gone.key == *key && gone.backend == *backend)
                    .count();
                assert_eq!(announced, usize::from(!is_kept), "{backend:?} of {key:?}");
            }
        }
        failures
    }

    /// What a new process finds.
    pub(super) fn found(&self) -> Found {
        let slots = self.slots.keys().next_back().map_or(0, |last| last + 1);
        Found {
            services: self
                .services
                .iter()
                .map(|(key, value)| (*key, *value))
                .collect(),
            slots: (0..slots)
                .map(|index| self.slots.get(&index).copied().unwrap_or_default())
                .collect(),
            tables: self
                .tables
                .iter()
                .map(|(table, (_, blocks))| (*table, *blocks))
                .collect(),
            ranges: self.ranges.iter().copied().collect(),
        }
    }
}

/// Ranges come one at a time: whoever is admitted before and after is admitted all the while.
fn assert_half(key: &ServiceKey, look: &Look, before: Option<&Look>, after: Option<&Look>) {
    let is_like = |known: &&Look| {
        let known = (*known).clone();
        Look {
            ranges: look.ranges.clone(),
            ..known
        } == *look
    };
    let known: Vec<&Look> = before.into_iter().chain(after).filter(is_like).collect();
    assert!(
        !known.is_empty(),
        "{key:?} is neither as before nor as after: {look:?}"
    );
    let is_asking = |look: &Look| look.flags & SERVICE_SOURCE_RANGES != 0;
    let admits = |known: &Look, range| !is_asking(known) || known.ranges.contains(range);
    let all = before
        .into_iter()
        .chain(after)
        .flat_map(|known| &known.ranges);
    for range in all {
        let is_admitted = [before, after]
            .into_iter()
            .flatten()
            .all(|known| admits(known, range));
        assert!(
            !is_admitted || admits(look, range),
            "{key:?} refuses {range:?}: {look:?}"
        );
    }
}

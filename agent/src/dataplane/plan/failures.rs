//! Which operations must not be done because one that they need was not.

use std::collections::HashSet;

use agent_ebpf::layout::SERVICE_SOURCE_RANGES;

use super::Operation;
use super::kernel::is_wildcard;

/// What was not done of a plan. Whoever carries it out asks before each operation whether it still makes sense.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    operations: Vec<Operation>,
    sets: HashSet<u32>,
    tables: HashSet<u32>,
    services: HashSet<u32>,
    node_ports: bool,
}

impl Failures {
    pub(crate) fn add(&mut self, operation: Operation) {
        match &operation {
            Operation::Slots { set, .. } => drop(self.sets.insert(*set)),
            Operation::Maglev { table, .. } => drop(self.tables.insert(*table)),
            Operation::Admit { range } => drop(self.services.insert(range.service)),
            Operation::NodePorts { .. } => self.node_ports = true,
            _ => {}
        }
        self.operations.push(operation);
    }

    /// Whether the operation needs one that was not done.
    pub(crate) fn rule_out(&self, operation: &Operation) -> bool {
        if self.operations.is_empty() {
            return false;
        }
        match operation {
            Operation::Set { key, value } => {
                self.sets.contains(&value.set)
                    || (value.maglev != 0 && self.tables.contains(&value.maglev))
                    || (value.flags & SERVICE_SOURCE_RANGES != 0
                        && self.services.contains(&value.service))
                    || (self.node_ports && is_wildcard(key))
            }
            // The key that was to stop asking may still ask.
            Operation::Unadmit { .. } | Operation::RemoveMaglev { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

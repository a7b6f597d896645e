//! Does a plan's operations in their order, in few calls, and remembers what could not be done.

use std::io;
use std::os::fd::AsFd as _;

use agent_ebpf::layout::{
    Config, MAGLEV_BLOCKS, MaglevBlock, MaglevKey, ServiceKey, ServiceValue, Slot, SourceRange,
};
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;

use crate::dataplane::objects::Objects;
use crate::dataplane::plan::{Failures, Operation, Range, maglev_blocks};
use crate::dataplane::syscall::{array_update_batch, map_update_batch};
use crate::dataplane::wire::{Wire, is_missing};

/// Elements that are written in one call: what waits for it is small, whatever the plan's size.
const CHUNK: usize = 8192;

/// Operations of one kind that wait to be written together.
#[derive(Debug)]
struct Waiting<'a, K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    operations: Vec<&'a Operation>,
}

impl<K, V> Default for Waiting<'_, K, V> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            operations: Vec::new(),
        }
    }
}

impl<K, V> Waiting<'_, K, V> {
    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.operations.clear();
    }
}

#[derive(Debug)]
pub(super) struct Writer<'a> {
    objects: &'a mut Objects,
    settings: &'a mut Config,
    failures: Failures,
    /// The last one.
    error: Option<io::Error>,
}

#[derive(Debug, Default)]
struct Queues<'a> {
    slots: Waiting<'a, u32, Slot>,
    blocks: Waiting<'a, MaglevKey, MaglevBlock>,
    services: Waiting<'a, ServiceKey, ServiceValue>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(objects: &'a mut Objects, settings: &'a mut Config) -> Self {
        Self {
            objects,
            settings,
            failures: Failures::default(),
            error: None,
        }
    }

    pub(super) fn finish(self) -> (Failures, Option<io::Error>) {
        (self.failures, self.error)
    }

    pub(super) fn write(&mut self, operations: &[Operation]) {
        let mut queues = Queues::default();
        let mut before = None;
        for operation in operations {
            // What is written together is of one kind: what comes later may need what came before.
            let kind = std::mem::discriminant(operation);
            if before.replace(kind) != Some(kind) {
                self.flush(&mut queues);
            }
            if self.failures.rule_out(operation) {
                self.failures.add(operation.clone());
                continue;
            }
            self.one(operation, &mut queues);
        }
        self.flush(&mut queues);
    }

    fn one<'o>(&mut self, operation: &'o Operation, queues: &mut Queues<'o>) {
        match operation {
            Operation::Slots {
                base,
                set,
                backends,
            } => {
                queues.slots.keys.extend((*base..).take(backends.len()));
                queues
                    .slots
                    .values
                    .extend(backends.iter().map(|backend| Slot {
                        address: backend.address,
                        port: backend.port.to_be(),
                        flags: 0,
                        set: *set,
                    }));
                queues.slots.operations.push(operation);
            }
            Operation::Maglev { table, backends } => {
                queues
                    .blocks
                    .keys
                    .extend((0..MAGLEV_BLOCKS).map(|block| MaglevKey {
                        table: *table,
                        block,
                    }));
                queues.blocks.values.extend(maglev_blocks(backends));
                queues.blocks.operations.push(operation);
            }
            Operation::Set { key, value } => {
                queues.services.keys.push(*key);
                queues.services.values.push(*value);
                queues.services.operations.push(operation);
            }
            Operation::Remove { key } => {
                let result = self.objects.services.remove(&Wire(*key));
                self.note(operation, missing_is_gone(result));
            }
            Operation::RemoveMaglev { table } => {
                let result = (0..MAGLEV_BLOCKS).try_for_each(|block| {
                    let key = MaglevKey {
                        table: *table,
                        block,
                    };
                    missing_is_gone(self.objects.maglev.remove(&Wire(key)))
                });
                self.note(operation, result);
            }
            Operation::Admit { range } => {
                let result = self.objects.source_ranges.insert(&trie_key(range), 1, 0);
                self.note(operation, result);
            }
            Operation::Unadmit { range } => {
                let result = self.objects.source_ranges.remove(&trie_key(range));
                self.note(operation, missing_is_gone(result));
            }
            Operation::NodePorts { minimum, maximum } => {
                let settings = Config {
                    node_port_minimum: *minimum,
                    node_port_maximum: *maximum,
                    ..*self.settings
                };
                let result = self.objects.config.set(0, Wire(settings), 0);
                if result.is_ok() {
                    *self.settings = settings;
                }
                self.note(operation, result);
            }
        }
        let most = queues
            .slots
            .keys
            .len()
            .max(queues.blocks.keys.len())
            .max(queues.services.keys.len());
        if most >= CHUNK {
            self.flush(queues);
        }
    }

    fn flush(&mut self, queues: &mut Queues<'_>) {
        let Queues {
            slots,
            blocks,
            services,
        } = queues;
        if let Err(error) =
            array_update_batch(self.objects.slots_fd.as_fd(), &slots.keys, &slots.values)
        {
            self.fail_all(&slots.operations, error);
        }
        if let Err(error) =
            map_update_batch(self.objects.maglev_fd.as_fd(), &blocks.keys, &blocks.values)
        {
            self.fail_all(&blocks.operations, error);
        }
        if map_update_batch(
            self.objects.services_fd.as_fd(),
            &services.keys,
            &services.values,
        )
        .is_err()
        {
            // One by one, to learn which.
            for (index, operation) in services.operations.iter().enumerate() {
                let (key, value) = (Wire(services.keys[index]), Wire(services.values[index]));
                let result = self.objects.services.insert(key, value, 0);
                self.note(operation, result);
            }
        }
        slots.clear();
        blocks.clear();
        services.clear();
    }

    fn fail_all(&mut self, operations: &[&Operation], error: io::Error) {
        for operation in operations {
            self.failures.add((*operation).clone());
        }
        self.error = Some(error);
    }

    fn note(&mut self, operation: &Operation, result: Result<(), MapError>) {
        if let Err(error) = result {
            self.fail_all(&[operation], io::Error::other(error));
        }
    }
}

fn missing_is_gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

fn trie_key(range: &Range) -> Key<Wire<SourceRange>> {
    let data = SourceRange {
        service: range.service,
        address: range.address,
    };
    Key::new(u32::BITS + range.prefix, Wire(data))
}

//! What the kernel's tables hold, as far as Services are concerned, and what it takes to change that.
//!
//! Keys of one Service port that have the same backends share a set: one range of slots, one Maglev table (which
//! bears the set's number). A set that no key names any more is retired: its slots and its table are given back by
//! [`Kernel::reclaim`] once no program can still be reading them.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use agent_ebpf::layout::{MAGLEV_BLOCKS, SERVICE_SOURCE_RANGES, ServiceKey, ServiceValue, Slot};

use super::slots::SlotSpace;
use super::{Backend, Found, Hashing, Limits, Operation, Range};

/// Backends that keys point to.
#[derive(Debug)]
pub(crate) struct Set {
    base: u32,
    pub(crate) backends: Arc<[Backend]>,
    /// Keys that name it.
    keys: u32,
    /// Keys that name its Maglev table.
    table_keys: u32,
    table: Table,
    /// The last plan in which a count became zero.
    retired: u64,
}

/// How much of a set's Maglev table the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    None,
    /// Writing it failed; nothing refers to it.
    Part,
    Whole,
}

/// Operations of a plan by the phase that they belong to.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    /// Ranges to be admitted, before somebody asks for them.
    admit: Vec<Operation>,
    /// Keys that go make room.
    remove: Vec<Operation>,
    slots: Vec<Operation>,
    tables: Vec<Operation>,
    set: Vec<Operation>,
    /// What nobody asks for any more.
    sweep: Vec<Operation>,
}

impl Phases {
    fn into_operations(self, first: Option<Operation>) -> Vec<Operation> {
        let mut all: Vec<Operation> = first.into_iter().collect();
        let phases = [
            self.remove,
            self.admit,
            self.slots,
            self.tables,
            self.set,
            self.sweep,
        ];
        all.reserve_exact(phases.iter().map(Vec::len).sum());
        for mut phase in phases {
            all.append(&mut phase);
        }
        all
    }
}

#[derive(Debug)]
pub(crate) struct Kernel {
    limits: Limits,
    entries: HashMap<ServiceKey, ServiceValue, Hashing>,
    sets: HashMap<u32, Set, Hashing>,
    space: SlotSpace,
    tables: usize,
    /// Tables that an earlier run left, and that no key names.
    stray_tables: Vec<u32>,
    /// By Service number.
    ranges: HashMap<u32, Vec<Range>, Hashing>,
    ranges_used: usize,
    /// Wildcard keys by port, host order.
    wildcards: BTreeMap<u16, u32>,
    /// What the programs believe, minimum and maximum.
    node_ports: (u16, u16),
    /// As before the plan that is being carried out.
    node_ports_before: (u16, u16),
    retired: VecDeque<(u64, u32)>,
    phases: Phases,
    /// What each key was before the plan that is being carried out.
    undo: Vec<(ServiceKey, Option<ServiceValue>)>,
    pub(crate) epoch: u64,
    next: u32,
}

/// No wildcard key.
const NO_NODE_PORTS: (u16, u16) = (1, 0);

pub(crate) fn is_wildcard(key: &ServiceKey) -> bool {
    use agent_ebpf::address::Address;
    key.address == Address::ANY_V4 || key.address == Address::ANY_V6
}

impl Kernel {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::default(),
            sets: HashMap::default(),
            space: SlotSpace::new(limits.slots),
            tables: 0,
            stray_tables: Vec::new(),
            ranges: HashMap::default(),
            ranges_used: 0,
            wildcards: BTreeMap::new(),
            node_ports: NO_NODE_PORTS,
            node_ports_before: NO_NODE_PORTS,
            retired: VecDeque::new(),
            phases: Phases::default(),
            undo: Vec::new(),
            epoch: 0,
            next: 1,
            limits,
        }
    }

    /// Takes over what an earlier run left. An entry that contradicts itself or another one is remembered as being
    /// there with nothing that could be kept.
    pub(crate) fn adopt(&mut self, found: &Found) {
        let highest = found
            .services
            .iter()
            .flat_map(|(_, value)| [value.set, value.service, value.maglev])
            // Slots are never erased: this is the last set that was ever written.
            .chain(found.slots.iter().map(|slot| slot.set))
            .chain(found.tables.keys().copied())
            .chain(found.ranges.iter().map(|range| range.service))
            .max();
        self.next = self
            .next
            .max(highest.map_or(1, |highest| highest.wrapping_add(1)))
            .max(1);
        for (key, value) in &found.services {
            let value = if self.adopt_set(value, found) {
                *value
            } else {
                // Owns no slots, and equals no wanted value.
                ServiceValue {
                    base: 0,
                    count: 0,
                    set: 0,
                    maglev: 0,
                    ..*value
                }
            };
            if let Some(old) = self.entries.insert(*key, value) {
                self.forget(&old);
            }
            self.remember(&value);
            if is_wildcard(key) {
                *self.wildcards.entry(u16::from_be(key.port)).or_default() += 1;
            }
        }
        self.node_ports = self.used_node_ports();
        self.stray_tables = found
            .tables
            .keys()
            .copied()
            .filter(|table| {
                !self
                    .sets
                    .get(table)
                    .is_some_and(|set| set.table == Table::Whole)
            })
            .collect();
        self.tables += self.stray_tables.len();
        for range in &found.ranges {
            self.ranges.entry(range.service).or_default().push(*range);
        }
        for ranges in self.ranges.values_mut() {
            ranges.sort_unstable();
            ranges.dedup();
        }
        self.ranges_used = self.ranges.values().map(Vec::len).sum();
    }

    /// Whether the value's set is whole, and as other keys that name it say.
    fn adopt_set(&mut self, value: &ServiceValue, found: &Found) -> bool {
        let is_complete = found.tables.get(&value.set) == Some(&MAGLEV_BLOCKS);
        if value.maglev != 0 && !(value.maglev == value.set && is_complete) || value.set == 0 {
            return false;
        }
        if let Some(set) = self.sets.get(&value.set) {
            return set.base == value.base && set.backends.len() == value.count as usize;
        }
        let (start, count) = (value.base as usize, value.count as usize);
        let Some(slots) = start
            .checked_add(count)
            .and_then(|end| found.slots.get(start..end))
        else {
            return false;
        };
        if slots.iter().any(|slot| slot.set != value.set)
            || !self.space.claim(value.base, value.count)
        {
            return false;
        }
        let set = Set {
            base: value.base,
            backends: slots.iter().map(Backend::from).collect(),
            keys: 0,
            table_keys: 0,
            table: if is_complete {
                Table::Whole
            } else {
                Table::None
            },
            retired: 0,
        };
        self.tables += usize::from(is_complete);
        self.sets.insert(value.set, set);
        true
    }

    pub(crate) fn entries(&self) -> &HashMap<ServiceKey, ServiceValue, Hashing> {
        &self.entries
    }

    pub(crate) fn entry(&self, key: &ServiceKey) -> Option<&ServiceValue> {
        self.entries.get(key)
    }

    /// A set that keys name.
    pub(crate) fn set(&self, number: u32) -> Option<&Set> {
        self.sets.get(&number).filter(|set| set.keys > 0)
    }

    /// Where a set's slots begin.
    pub(crate) fn base(&self, number: u32) -> u32 {
        self.sets.get(&number).map_or(0, |set| set.base)
    }

    pub(crate) fn backends_of(&self, value: &ServiceValue) -> Arc<[Backend]> {
        self.sets
            .get(&value.set)
            .map_or_else(|| Arc::from([]), |set| Arc::clone(&set.backends))
    }

    pub(crate) fn ranges(&self, service: u32) -> &[Range] {
        self.ranges.get(&service).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn slots_used(&self) -> u32 {
        self.space.used()
    }

    pub(crate) fn tables_used(&self) -> usize {
        self.tables
    }

    pub(crate) fn ranges_used(&self) -> usize {
        self.ranges_used
    }

    pub(crate) fn node_ports(&self) -> (u16, u16) {
        self.node_ports
    }

    /// Whether so many more keys and ranges fit.
    pub(crate) fn has_room(&self, keys: usize, ranges: usize) -> (bool, bool) {
        (
            self.entries.len() + keys <= self.limits.services,
            self.ranges_used + ranges <= self.limits.source_ranges,
        )
    }

    pub(crate) fn number(&mut self) -> u32 {
        loop {
            let number = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1);
            if !self.sets.contains_key(&number) {
                return number;
            }
        }
    }

    /// A new set; nothing if there is no room for its slots. It is [`Self::discard`]ed or [`Self::write`]n.
    pub(crate) fn allocate(&mut self, backends: &[Backend]) -> Option<u32> {
        let base = self.space.allocate(u32::try_from(backends.len()).ok()?)?;
        let number = self.number();
        let set = Set {
            base,
            backends: backends.into(),
            keys: 0,
            table_keys: 0,
            table: Table::None,
            retired: self.epoch,
        };
        self.sets.insert(number, set);
        Some(number)
    }

    pub(crate) fn discard(&mut self, number: u32) {
        if let Some(set) = self.sets.remove(&number) {
            self.space.free(set.base, set.backends.len() as u32);
        }
    }

    pub(crate) fn write(&mut self, number: u32) {
        if let Some(set) = self.sets.get(&number)
            && !set.backends.is_empty()
        {
            self.phases.slots.push(Operation::Slots {
                base: set.base,
                set: number,
                backends: Arc::clone(&set.backends),
            });
        }
    }

    /// Sees to it that a set has its Maglev table; false if there is no room for it.
    pub(crate) fn write_table(&mut self, number: u32) -> bool {
        let Some(set) = self.sets.get_mut(&number) else {
            return false;
        };
        if set.table != Table::Whole {
            if set.table == Table::None {
                if self.tables >= self.limits.maglev_tables {
                    return false;
                }
                self.tables += 1;
            }
            set.table = Table::Whole;
            self.phases.tables.push(Operation::Maglev {
                table: number,
                backends: Arc::clone(&set.backends),
            });
        }
        true
    }

    /// The Service of this number admits these ranges, and no others.
    pub(crate) fn admit(&mut self, service: u32, wanted: Vec<Range>) {
        let known = self.ranges.get(&service).map_or(&[][..], Vec::as_slice);
        if known == wanted {
            return;
        }
        let news = wanted
            .iter()
            .filter(|range| known.binary_search(range).is_err());
        self.phases
            .admit
            .extend(news.map(|range| Operation::Admit { range: *range }));
        let gone = known
            .iter()
            .filter(|range| wanted.binary_search(range).is_err());
        self.phases
            .sweep
            .extend(gone.map(|range| Operation::Unadmit { range: *range }));
        self.ranges_used = self.ranges_used - known.len() + wanted.len();
        if wanted.is_empty() {
            self.ranges.remove(&service);
        } else {
            self.ranges.insert(service, wanted);
        }
    }

    /// The key's value before, if it changes.
    pub(crate) fn put(
        &mut self,
        key: ServiceKey,
        value: ServiceValue,
    ) -> Option<Option<ServiceValue>> {
        if self.entries.get(&key) == Some(&value) {
            return None;
        }
        let old = self.replace(key, Some(value));
        self.undo.push((key, old));
        self.phases.set.push(Operation::Set { key, value });
        Some(old)
    }

    pub(crate) fn remove(&mut self, key: ServiceKey) -> Option<ServiceValue> {
        let old = self.replace(key, None)?;
        self.undo.push((key, Some(old)));
        self.phases.remove.push(Operation::Remove { key });
        Some(old)
    }

    fn replace(&mut self, key: ServiceKey, value: Option<ServiceValue>) -> Option<ServiceValue> {
        let old = match value {
            Some(value) => {
                self.remember(&value);
                self.entries.insert(key, value)
            }
            None => self.entries.remove(&key),
        };
        if let Some(old) = &old {
            self.forget(old);
        }
        if is_wildcard(&key) && old.is_some() != value.is_some() {
            let count = self.wildcards.entry(u16::from_be(key.port)).or_default();
            if value.is_some() {
                *count += 1;
            } else {
                *count -= 1;
                if *count == 0 {
                    self.wildcards.remove(&u16::from_be(key.port));
                }
            }
        }
        old
    }

    fn remember(&mut self, value: &ServiceValue) {
        if let Some(set) = self.sets.get_mut(&value.set) {
            set.keys += 1;
            set.table_keys += u32::from(value.maglev != 0);
        }
    }

    fn forget(&mut self, value: &ServiceValue) {
        if let Some(set) = self.sets.get_mut(&value.set) {
            set.keys -= 1;
            set.table_keys -= u32::from(value.maglev != 0);
            if set.keys == 0 || (value.maglev != 0 && set.table_keys == 0) {
                set.retired = self.epoch;
                self.retired.push_back((self.epoch, value.set));
            }
        }
    }

    fn used_node_ports(&self) -> (u16, u16) {
        match (
            self.wildcards.first_key_value(),
            self.wildcards.last_key_value(),
        ) {
            (Some((first, _)), Some((last, _))) => (*first, *last),
            _ => NO_NODE_PORTS,
        }
    }

    /// A new plan begins; the one before was carried out.
    pub(crate) fn begin(&mut self) {
        self.epoch += 1;
        self.undo = Vec::new();
    }

    /// All operations since [`Self::begin`], in their order.
    pub(crate) fn take_operations(&mut self) -> Vec<Operation> {
        let used = self.used_node_ports();
        let (before, mut now) = (self.node_ports, self.node_ports);
        if before == NO_NODE_PORTS {
            now = used;
        } else if used != NO_NODE_PORTS {
            now = (before.0.min(used.0), before.1.max(used.1));
        }
        (self.node_ports_before, self.node_ports) = (before, now);
        let widen = (now != before).then_some(Operation::NodePorts {
            minimum: now.0,
            maximum: now.1,
        });
        std::mem::take(&mut self.phases).into_operations(widen)
    }

    /// What plans up to `epoch` retired is out of every program's sight.
    pub(crate) fn reclaim(&mut self, epoch: u64) -> Vec<Operation> {
        let mut operations = Vec::new();
        while let Some((retired, number)) = self.retired.front().copied() {
            if retired > epoch {
                break;
            }
            self.retired.pop_front();
            let Some(set) = self.sets.get_mut(&number) else {
                continue;
            };
            if set.retired != retired {
                continue;
            }
            if set.table != Table::None && set.table_keys == 0 {
                set.table = Table::None;
                self.tables -= 1;
                operations.push(Operation::RemoveMaglev { table: number });
            }
            if set.keys == 0 {
                self.discard(number);
            }
        }
        let used = self.used_node_ports();
        if self.retired.is_empty() && used != self.node_ports {
            self.node_ports = used;
            operations.push(Operation::NodePorts {
                minimum: used.0,
                maximum: used.1,
            });
        }
        operations
    }

    /// Everything that the cluster has is in force: what nothing refers to is an earlier run's.
    pub(crate) fn sweep(&mut self) {
        let tables = std::mem::take(&mut self.stray_tables);
        self.tables -= tables.len();
        for (number, set) in &mut self.sets {
            if set.table != Table::None && set.table_keys == 0 && set.retired == 0 {
                set.table = Table::None;
                self.tables -= 1;
                self.phases
                    .sweep
                    .push(Operation::RemoveMaglev { table: *number });
            }
        }
        self.phases.sweep.extend(
            tables
                .into_iter()
                .map(|table| Operation::RemoveMaglev { table }),
        );
        let asking: HashSet<u32> = self
            .entries
            .values()
            .filter(|value| value.flags & SERVICE_SOURCE_RANGES != 0)
            .map(|value| value.service)
            .collect();
        let strays: Vec<u32> = self
            .ranges
            .keys()
            .copied()
            .filter(|service| !asking.contains(service))
            .collect();
        for service in strays {
            self.admit(service, Vec::new());
        }
        self.entries.shrink_to_fit();
        self.sets.shrink_to_fit();
    }

    /// These keys' last operation was not done: they are as they were before it.
    pub(crate) fn undo(&mut self, keys: &HashSet<ServiceKey, Hashing>) {
        if keys.is_empty() {
            return;
        }
        for (key, old) in std::mem::take(&mut self.undo).into_iter().rev() {
            if keys.contains(&key) {
                self.replace(key, old);
            }
        }
    }

    /// A table was not, or not wholly, written.
    pub(crate) fn table_failed(&mut self, table: u32) {
        if let Some(set) = self.sets.get_mut(&table) {
            set.table = Table::Part;
        }
    }

    /// A table that nothing names was not removed.
    pub(crate) fn table_left(&mut self, table: u32) {
        self.tables += 1;
        match self.sets.get_mut(&table) {
            Some(set) => (set.table, set.retired) = (Table::Part, 0),
            None => self.stray_tables.push(table),
        }
    }

    /// The programs believe what they did.
    pub(crate) fn node_ports_failed(&mut self) {
        self.node_ports = self.node_ports_before;
    }

    /// A range was not written or not removed: what is there for its Service is not known.
    pub(crate) fn range_failed(&mut self, range: &Range, is_there: bool) {
        let ranges = self.ranges.entry(range.service).or_default();
        let before = ranges.len();
        match ranges.binary_search(range) {
            Ok(at) if !is_there => drop(ranges.remove(at)),
            Err(at) if is_there => ranges.insert(at, *range),
            _ => {}
        }
        self.ranges_used = self.ranges_used - before + ranges.len();
    }
}

impl From<&Slot> for Backend {
    fn from(slot: &Slot) -> Self {
        Self {
            address: slot.address,
            port: u16::from_be(slot.port),
        }
    }
}

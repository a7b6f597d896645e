//! Which set a group of keys gets, and what has gone from it. A port's keys change together or not at all.

use std::cell::OnceCell;
use std::collections::HashSet;

use agent_ebpf::layout::{
    SCOPE_INSIDE, SCOPE_LOCAL, SERVICE_SOURCE_RANGES, ServiceKey, ServiceValue,
};

use super::kernel::Kernel;
use super::spec::{Ask, Spec};
use super::{Backend, Gone, GoneState, Hashing, Limits, Plan, Problem, Range, maglev};

/// What a group of keys has in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GroupState {
    /// [`ServiceValue::service`]; 0 while it has no keys.
    pub(crate) number: u32,
    pub(crate) set: u32,
}

/// Keys that are to have the same backends.
pub(crate) struct Part<'a> {
    pub(crate) asks: &'a [Ask],
    pub(crate) backends: Vec<Backend>,
    pub(crate) affinity: u32,
    pub(crate) spec: Option<&'a Spec>,
    pub(crate) state: GroupState,
    /// Every endpoint that the Service has, whatever its state.
    pub(crate) known: &'a dyn Fn() -> Vec<Backend>,
    /// Endpoints that it had.
    pub(crate) had: Vec<Backend>,
}

/// What a part gets.
struct Placed {
    set: u32,
    is_new: bool,
    number: u32,
    wanted: usize,
}

/// The kernel and what decides about room in it.
pub(crate) struct Placer<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) adopted: &'a mut HashSet<u32, Hashing>,
    pub(crate) limits: &'a Limits,
    pub(crate) plan: &'a mut Plan,
}

impl Placer<'_> {
    /// All parts or none; what they have then, or nothing.
    pub(crate) fn place(&mut self, mut parts: Vec<Part<'_>>) -> Option<Vec<GroupState>> {
        let mut placed: Vec<Placed> = Vec::with_capacity(parts.len());
        let mut admitted: Vec<(u32, Vec<Range>)> = Vec::new();
        let (mut keys, mut ranges) = (0, 0);
        let mut problem = None;
        for index in 0..parts.len() {
            let is_v4 = |part: &Part<'_>| part.asks[0].group.v4;
            let earlier = parts[..index]
                .iter()
                .zip(&placed)
                .find(|(part, _)| part.spec.is_some() && is_v4(part) == is_v4(&parts[index]));
            if let Some((_, one)) = earlier {
                parts[index].state.number = one.number;
            }
            let part = &parts[index];
            match self.prepare(part) {
                Ok(one) => {
                    keys += part
                        .asks
                        .iter()
                        .filter(|ask| self.kernel.entry(&ask.key).is_none())
                        .count();
                    let wanted = ranges_of(part, one.number);
                    match admitted
                        .iter_mut()
                        .find(|(number, _)| *number == one.number)
                    {
                        Some((_, known)) if known.is_empty() => *known = wanted,
                        Some(_) => {}
                        None => admitted.push((one.number, wanted)),
                    }
                    placed.push(one);
                }
                Err(found) => {
                    problem = Some(found);
                    break;
                }
            }
        }
        for (number, wanted) in &admitted {
            ranges += wanted
                .len()
                .saturating_sub(self.kernel.ranges(*number).len());
        }
        let key = parts.first()?.asks.first()?.key;
        let (is_room_for_keys, is_room_for_ranges) = self.kernel.has_room(keys, ranges);
        if keys > 0 && !is_room_for_keys {
            let size = self.limits.services;
            problem.get_or_insert(Problem::Services { key, size });
        } else if ranges > 0 && !is_room_for_ranges {
            let size = self.limits.source_ranges;
            problem.get_or_insert(Problem::SourceRanges { key, size });
        }
        if let Some(problem) = problem {
            for one in placed.iter().filter(|one| one.is_new) {
                self.kernel.discard(one.set);
            }
            self.plan.problems.push(problem);
            return None;
        }
        for (number, wanted) in admitted {
            self.kernel.admit(number, wanted);
        }
        Some(
            parts
                .iter()
                .zip(placed)
                .map(|(part, one)| self.commit(part, one))
                .collect(),
        )
    }

    fn prepare(&mut self, part: &Part<'_>) -> Result<Placed, Problem> {
        let mut set = part.state.set;
        let mut number = part.state.number;
        let wanted = part.backends.len();
        let backends = &part.backends[..wanted.min(self.limits.backends)];
        let mut is_same = self
            .kernel
            .set(set)
            .is_some_and(|known| *known.backends == *backends);
        if set == 0 {
            // Perhaps the kernel has it from an earlier run, or from who had the key before.
            for ask in part.asks {
                let Some(value) = self.kernel.entry(&ask.key).copied() else {
                    continue;
                };
                if number == 0 && self.adopted.remove(&value.service) {
                    number = value.service;
                }
                if !is_same
                    && self
                        .kernel
                        .set(value.set)
                        .is_some_and(|known| *known.backends == *backends)
                {
                    (set, is_same) = (value.set, true);
                }
            }
        }
        if !is_same {
            set = self
                .kernel
                .allocate(backends)
                .ok_or_else(|| Problem::Slots {
                    key: part.asks[0].key,
                    wanted: backends.len(),
                    used: self.kernel.slots_used(),
                    size: self.limits.slots,
                })?;
        }
        if number == 0 {
            number = self.kernel.number();
        }
        Ok(Placed {
            set,
            is_new: !is_same,
            number,
            wanted,
        })
    }

    fn commit(&mut self, part: &Part<'_>, placed: Placed) -> GroupState {
        let Placed { set, number, .. } = placed;
        let key = part.asks[0].key;
        if placed.is_new {
            self.kernel.write(set);
            if placed.wanted > self.limits.backends {
                self.plan.problems.push(Problem::Truncated {
                    key,
                    wanted: placed.wanted,
                    kept: self.limits.backends,
                });
            }
        }
        let count = placed.wanted.min(self.limits.backends);
        let wants_table = (2..=maglev::MAXIMUM_BACKENDS).contains(&count)
            && part.asks.iter().any(|ask| ask.key.scope != SCOPE_INSIDE);
        let has_table = wants_table && self.kernel.write_table(set);
        if wants_table && !has_table {
            let size = self.limits.maglev_tables;
            self.plan.problems.push(Problem::Maglev { key, size });
        }
        let base = self.kernel.base(set);
        let known = OnceCell::new();
        for ask in part.asks {
            let value = ServiceValue {
                base,
                count: count as u32,
                set,
                service: number,
                affinity: part.affinity,
                flags: ask.flags,
                maglev: if has_table && ask.key.scope != SCOPE_INSIDE {
                    set
                } else {
                    0
                },
                padding: 0,
            };
            let before = match self.kernel.put(ask.key, value) {
                Some(Some(old)) => old,
                // New: nobody uses it yet.
                Some(None) => continue,
                None => value,
            };
            if ask.key.scope != SCOPE_LOCAL {
                self.announce(ask.key, before, value, part, &known);
            }
        }
        GroupState { number, set }
    }

    /// What a key had and has no more, and what its Service had and has no more.
    fn announce(
        &mut self,
        key: ServiceKey,
        before: ServiceValue,
        now: ServiceValue,
        part: &Part<'_>,
        known: &OnceCell<Vec<Backend>>,
    ) {
        let is_other_service = before.service != now.service;
        let mut gone: Vec<Backend> = if is_other_service {
            Vec::new()
        } else {
            part.had.clone()
        };
        let (old, new) = (
            self.kernel.backends_of(&before),
            self.kernel.backends_of(&now),
        );
        if before.set != now.set {
            gone.extend(
                old.iter()
                    .filter(|backend| new.binary_search(backend).is_err()),
            );
        }
        if gone.is_empty() {
            return;
        }
        gone.sort_unstable();
        gone.dedup();
        let known = known.get_or_init(|| (part.known)());
        for backend in gone {
            if new.binary_search(&backend).is_ok() {
                continue;
            }
            let state = if !is_other_service && known.binary_search(&backend).is_err() {
                GoneState::Removed
            } else if before.set != now.set && old.binary_search(&backend).is_ok() {
                GoneState::Unused
            } else {
                // One of many that are not picked.
                continue;
            };
            self.plan.gone.push(Gone {
                key,
                backend,
                state,
            });
        }
    }
}

/// What clients a part admits, if it does not admit all.
fn ranges_of(part: &Part<'_>, number: u32) -> Vec<Range> {
    let is_asking = part
        .asks
        .iter()
        .any(|ask| ask.flags & SERVICE_SOURCE_RANGES != 0);
    let spec = part.spec.filter(|_| is_asking);
    let mut ranges: Vec<Range> = spec
        .into_iter()
        .flat_map(|spec| spec.ranges(part.asks[0].group.v4, number))
        .collect();
    ranges.sort_unstable();
    ranges
}

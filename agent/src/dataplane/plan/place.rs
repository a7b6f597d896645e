//! One owner's keys: which backends they should have, which set that is, and what has gone. A port's keys change
//! together or not at all.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::Arc;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    SCOPE_INSIDE, SCOPE_LOCAL, SCOPE_OUTSIDE, SERVICE_HOST_PORT, SERVICE_SOURCE_RANGES, ServiceKey,
    ServiceValue,
};

use super::endpoints::Candidates;
use super::kernel::Kernel;
use super::slices::Slice;
use super::spec::{Ask, Group, Rank, Spec, number};
use super::{
    Backend, Gone, GoneState, Hashing, HostPort, Limits, OwnerId, Plan, Planner, Problem, maglev,
    usable,
};
use crate::cluster::ObjectName;

/// What a group of keys has in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct GroupState {
    /// [`ServiceValue::service`]; 0 while it has no keys.
    number: u32,
    set: u32,
}

/// What a Service's port has in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PortState {
    /// By family, IPv6 first.
    numbers: [u32; 2],
    /// By group.
    sets: [u32; 4],
}

#[derive(Debug)]
pub(crate) enum OwnerState {
    Service(ServiceState),
    Fixed(FixedState),
}

impl OwnerState {
    pub(crate) fn fixed() -> Self {
        Self::Fixed(FixedState::default())
    }

    pub(crate) fn is_dirty(&mut self) -> &mut bool {
        match self {
            Self::Service(state) => &mut state.is_dirty,
            Self::Fixed(state) => &mut state.is_dirty,
        }
    }
}

/// A Service, or slices that wait for one.
#[derive(Debug)]
pub(crate) struct ServiceState {
    pub(crate) name: Arc<ObjectName>,
    pub(crate) spec: Option<Spec>,
    pub(crate) slices: Vec<u32>,
    /// Slices as they were at the last plan, if they changed since.
    pub(crate) was: Vec<Slice>,
    /// By port of the spec.
    states: Vec<PortState>,
    is_dirty: bool,
    /// The full batch that last named the Service.
    pub(crate) seen: u32,
}

impl ServiceState {
    pub(crate) fn new(name: Arc<ObjectName>) -> Self {
        Self {
            name,
            spec: None,
            slices: Vec::new(),
            was: Vec::new(),
            states: Vec::new(),
            is_dirty: false,
            seen: 0,
        }
    }

    /// Ports that stay keep what they have; the numbers of those that go are returned.
    pub(crate) fn respecify(&mut self, before: Option<Spec>, spec: Option<Spec>) -> Vec<u32> {
        let mut left = std::mem::take(&mut self.states);
        if let (Some(before), Some(spec)) = (&before, &spec) {
            self.states.reserve_exact(spec.ports.len());
            for port in &spec.ports {
                let same = before.ports.iter().position(|old| old.is_same(port));
                let state = same
                    .and_then(|index| left.get_mut(index))
                    .map(std::mem::take);
                self.states.push(state.unwrap_or_default());
            }
        } else if let Some(spec) = &spec {
            self.states = vec![PortState::default(); spec.ports.len()];
        }
        self.spec = spec;
        left.iter()
            .flat_map(|state| state.numbers)
            .filter(|number| *number != 0)
            .collect()
    }
}

/// Keys with one backend list that no Service decides.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) keys: Vec<ServiceKey>,
    backends: Vec<Backend>,
    flags: u32,
    state: GroupState,
}

impl Fixture {
    pub(crate) fn new(keys: Vec<ServiceKey>, mut backends: Vec<Backend>, flags: u32) -> Self {
        backends.sort_unstable();
        backends.dedup();
        Self {
            keys,
            backends,
            flags,
            state: GroupState::default(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct FixedState {
    pub(crate) fixtures: Vec<Fixture>,
    is_dirty: bool,
}

/// What a pod's hostPorts ask for: every key once.
pub(crate) fn host_ports(ports: &[HostPort]) -> Vec<Fixture> {
    let mut taken = HashSet::new();
    let mut fixtures = Vec::new();
    for port in ports
        .iter()
        .filter(|port| port.port != 0 && port.container_port != 0)
    {
        for ip in port
            .addresses
            .iter()
            .filter(|ip| usable(**ip).is_ok())
            .map(|ip| ip.to_canonical())
        {
            let any = if ip.is_ipv4() {
                Address::ANY_V4
            } else {
                Address::ANY_V6
            };
            let (address, is_loopback) = match port.host_ip.map(|host| host.to_canonical()) {
                None => (any, false),
                Some(host) if host.is_ipv4() != ip.is_ipv4() => continue,
                Some(host) if host.is_unspecified() => (any, false),
                Some(host) => (Address::from(host), host.is_loopback()),
            };
            // Nothing comes from outside to a loopback address.
            let scopes = if is_loopback {
                &[SCOPE_INSIDE][..]
            } else {
                &[SCOPE_INSIDE, SCOPE_OUTSIDE]
            };
            let key = |scope: &u8| ServiceKey {
                address,
                port: port.port.to_be(),
                protocol: number(port.protocol),
                scope: *scope,
            };
            let keys: Vec<ServiceKey> = scopes
                .iter()
                .map(key)
                .filter(|key| taken.insert(*key))
                .collect();
            if !keys.is_empty() {
                let backend = Backend {
                    address: Address::from(ip),
                    port: port.container_port,
                };
                fixtures.push(Fixture::new(keys, vec![backend], SERVICE_HOST_PORT));
            }
        }
    }
    fixtures
}

/// Fixtures that stay keep what they have in the kernel. Also the keys that there were.
pub(crate) fn carry_over(
    before: Vec<Fixture>,
    mut wanted: Vec<Fixture>,
) -> (Vec<Fixture>, Vec<ServiceKey>) {
    for fixture in &mut wanted {
        if let Some(old) = before.iter().find(|old| old.keys == fixture.keys) {
            fixture.state = old.state;
        }
    }
    let keys = before
        .into_iter()
        .flat_map(|fixture| fixture.keys)
        .collect();
    (wanted, keys)
}

/// Keys that are to have the same backends.
struct Part<'a> {
    asks: &'a [Ask],
    backends: Vec<Backend>,
    affinity: u32,
    spec: Option<&'a Spec>,
    state: GroupState,
    /// Every endpoint that the Service has, whatever its state.
    known: &'a dyn Fn() -> Vec<Backend>,
    /// Endpoints that it had.
    had: Vec<Backend>,
}

/// What a part gets.
struct Placed {
    set: u32,
    is_new: bool,
    number: u32,
    wanted: usize,
}

/// The kernel and what decides about room in it.
struct Placer<'a> {
    kernel: &'a mut Kernel,
    adopted: &'a mut HashSet<u32, Hashing>,
    limits: &'a Limits,
    plan: &'a mut Plan,
}

impl Placer<'_> {
    /// All parts or none; what they have then, or nothing.
    fn place(&mut self, mut parts: Vec<Part<'_>>) -> Option<Vec<GroupState>> {
        let mut placed: Vec<Placed> = Vec::with_capacity(parts.len());
        let mut admitted: Vec<(u32, Vec<super::Range>)> = Vec::new();
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

impl Planner {
    /// Brings an owner's keys up to date.
    pub(super) fn place_owner(&mut self, owner: OwnerId, plan: &mut Plan) {
        let Some(state) = self.owners.get_mut(owner.0) else {
            return;
        };
        *state.is_dirty() = false;
        let is_done = match state {
            OwnerState::Service(_) => self.place_service(owner, plan),
            OwnerState::Fixed(_) => self.place_fixed(owner, plan),
        };
        if !is_done {
            self.mark(owner);
        }
    }

    fn place_service(&mut self, owner: OwnerId, plan: &mut Plan) -> bool {
        let Self {
            owners,
            slices,
            kernel,
            adopted,
            limits,
            claims,
            asks,
            numbers,
            place,
            own,
            ..
        } = self;
        let Some(OwnerState::Service(state)) = owners.get_mut(owner.0) else {
            return true;
        };
        let Some(spec) = &state.spec else {
            state.was = Vec::new();
            return true;
        };
        spec.asks(self.dsr, |address| own.binary_search(address).is_ok(), asks);
        asks.retain(|ask| claims.holder(&ask.key) == Some(owner));
        asks.sort_unstable_by_key(|ask| (ask.port, ask.group.index(), ask.key));
        let mut placer = Placer {
            kernel,
            adopted,
            limits,
            plan,
        };
        let mut is_done = true;
        for (index, (port, port_state)) in spec.ports.iter().zip(&mut state.states).enumerate() {
            let candidates = |v4| Candidates {
                port,
                slices: state
                    .slices
                    .iter()
                    .filter_map(|id| Some(&slices.get(*id)?.slice)),
                v4,
                publish_not_ready: spec.publish_not_ready,
            };
            let known: [&dyn Fn() -> Vec<Backend>; 2] =
                [&|| candidates(false).known(), &|| candidates(true).known()];
            let mut parts = Vec::new();
            let mut used = Vec::new();
            for group in Group::ALL {
                let of_group = group_of(asks, index, group);
                if of_group.is_empty() {
                    port_state.sets[group.index()] = 0;
                    continue;
                }
                let had = if state.was.is_empty() {
                    Vec::new()
                } else {
                    Candidates {
                        port,
                        slices: state.was.iter(),
                        v4: group.v4,
                        publish_not_ready: false,
                    }
                    .known()
                };
                parts.push(Part {
                    asks: of_group,
                    backends: candidates(group.v4).backends(group.local, place),
                    affinity: spec.affinity,
                    spec: Some(spec),
                    state: GroupState {
                        number: port_state.numbers[usize::from(group.v4)],
                        set: port_state.sets[group.index()],
                    },
                    known: known[usize::from(group.v4)],
                    had,
                });
                used.push(group);
            }
            for v4 in [false, true] {
                let number = &mut port_state.numbers[usize::from(v4)];
                if *number != 0 && !used.iter().any(|group| group.v4 == v4) {
                    numbers.push(std::mem::take(number));
                }
            }
            if parts.is_empty() {
                continue;
            }
            match placer.place(parts) {
                Some(states) => {
                    for (group, state) in used.into_iter().zip(states) {
                        port_state.numbers[usize::from(group.v4)] = state.number;
                        port_state.sets[group.index()] = state.set;
                    }
                }
                None => is_done = false,
            }
        }
        if is_done {
            state.was = Vec::new();
        }
        is_done
    }

    fn place_fixed(&mut self, owner: OwnerId, plan: &mut Plan) -> bool {
        let Some(OwnerState::Fixed(state)) = self.owners.get_mut(owner.0) else {
            return true;
        };
        let (kernel, claims) = (&mut self.kernel, &self.claims);
        let asks: Vec<Vec<Ask>> = state
            .fixtures
            .iter()
            .map(|fixture| {
                let held = fixture
                    .keys
                    .iter()
                    .filter(|key| claims.holder(key) == Some(owner));
                held.map(|key| ask_of(*key, fixture.flags)).collect()
            })
            .collect();
        // Somebody may have the key from an earlier run, and has not been told of yet.
        let is_anothers = |(fixture, asks): (&Fixture, &Vec<Ask>)| {
            asks.iter()
                .filter_map(|ask| kernel.entry(&ask.key))
                .any(|value| {
                    value.set != 0
                        && (value.flags != fixture.flags
                            || *kernel.backends_of(value) != *fixture.backends)
                })
        };
        let is_own = self.fixed == Some(owner);
        if !self.is_synced && !is_own && state.fixtures.iter().zip(&asks).any(is_anothers) {
            return true;
        }
        let none = Vec::new;
        let mut parts = Vec::new();
        let mut used = Vec::new();
        for (index, (fixture, asks)) in state.fixtures.iter().zip(&asks).enumerate() {
            if !asks.is_empty() {
                parts.push(Part {
                    asks,
                    backends: fixture.backends.clone(),
                    affinity: 0,
                    spec: None,
                    state: fixture.state,
                    known: &none,
                    had: Vec::new(),
                });
                used.push(index);
            }
        }
        if parts.is_empty() {
            return true;
        }
        let mut placer = Placer {
            kernel,
            adopted: &mut self.adopted,
            limits: &self.limits,
            plan,
        };
        let Some(states) = placer.place(parts) else {
            return false;
        };
        for (index, placed) in used.into_iter().zip(states) {
            state.fixtures[index].state = placed;
        }
        true
    }

    /// Nobody claims it any more.
    pub(super) fn remove_key(&mut self, key: ServiceKey, plan: &mut Plan) {
        let Some(old) = self.kernel.remove(key) else {
            return;
        };
        if key.scope == SCOPE_LOCAL {
            return;
        }
        // A hostPort goes with its pod. A Service's pods may well live on.
        let state = if old.flags & SERVICE_HOST_PORT != 0 {
            GoneState::Removed
        } else {
            GoneState::Unused
        };
        let backends = self.kernel.backends_of(&old);
        plan.gone.extend(backends.iter().map(|backend| Gone {
            key,
            backend: *backend,
            state,
        }));
    }

    /// How much speaks for an owner having had a key in the run before: nothing, or that the kernel has for it what
    /// the owner wants, and that the owner's other keys bear the same number or at least no other one.
    pub(super) fn evidence(&self, key: &ServiceKey, owner: OwnerId) -> Option<i32> {
        let value = self.kernel.entry(key)?;
        let backends = self.kernel.backends_of(value);
        match self.owners.get(owner.0)? {
            OwnerState::Fixed(state) => {
                let is_like = |fixture: &&Fixture| {
                    fixture.keys.contains(key)
                        && *fixture.backends == *backends
                        && fixture.flags == value.flags
                };
                state.fixtures.iter().find(is_like).map(|_| 0)
            }
            OwnerState::Service(state) => {
                let asks = self.asks(state.spec.as_ref());
                let (spec, ask) = state
                    .spec
                    .as_ref()
                    .zip(asks.iter().find(|ask| ask.key == *key))?;
                let wanted = Candidates {
                    port: &spec.ports[usize::from(ask.port)],
                    slices: state
                        .slices
                        .iter()
                        .filter_map(|id| Some(&self.slices.get(*id)?.slice)),
                    v4: ask.group.v4,
                    publish_not_ready: spec.publish_not_ready,
                }
                .backends(ask.group.local, &self.place);
                if *wanted != *backends
                    || value.flags != ask.flags
                    || value.affinity != spec.affinity
                {
                    return None;
                }
                let is_sibling = |other: &&Ask| {
                    other.key != *key && other.port == ask.port && other.group.v4 == ask.group.v4
                };
                let numbers = asks
                    .iter()
                    .filter(is_sibling)
                    .filter_map(|other| self.kernel.entry(&other.key));
                Some(numbers.fold(0, |sum, other| {
                    sum + if other.service == value.service {
                        1
                    } else {
                        -1
                    }
                }))
            }
        }
    }
}

/// What clients a part admits, if it does not admit all.
fn ranges_of(part: &Part<'_>, number: u32) -> Vec<super::Range> {
    let is_asking = part
        .asks
        .iter()
        .any(|ask| ask.flags & SERVICE_SOURCE_RANGES != 0);
    let spec = part.spec.filter(|_| is_asking);
    let mut ranges: Vec<super::Range> = spec
        .into_iter()
        .flat_map(|spec| spec.ranges(part.asks[0].group.v4, number))
        .collect();
    ranges.sort_unstable();
    ranges
}

/// Of asks in the order of their ports and groups.
fn group_of(asks: &[Ask], port: usize, group: Group) -> &[Ask] {
    let place = |ask: &Ask| (usize::from(ask.port), ask.group.index());
    let start = asks.partition_point(|ask| place(ask) < (port, group.index()));
    let length = asks[start..].partition_point(|ask| place(ask) == (port, group.index()));
    &asks[start..start + length]
}

fn ask_of(key: ServiceKey, flags: u32) -> Ask {
    Ask {
        key,
        rank: Rank::External,
        port: 0,
        group: Group {
            v4: key.address.is_v4(),
            local: true,
        },
        flags,
    }
}

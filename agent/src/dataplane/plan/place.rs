//! One owner's keys: which backends they should have.

use std::sync::Arc;

use agent_ebpf::layout::{SCOPE_LOCAL, SERVICE_HOST_PORT, ServiceKey};

use super::endpoints::Candidates;
use super::fixtures::Fixture;
use super::placer::{GroupState, Part, Placer};
use super::slices::Slice;
use super::spec::{Ask, Group, Rank, Spec};
use super::{Backend, Gone, GoneState, OwnerId, Plan, Planner};
use crate::cluster::ObjectName;

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

#[derive(Debug, Default)]
pub(crate) struct FixedState {
    pub(crate) fixtures: Vec<Fixture>,
    is_dirty: bool,
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
            ..
        } = self;
        let Some(OwnerState::Service(state)) = owners.get_mut(owner.0) else {
            return true;
        };
        let Some(spec) = &state.spec else {
            state.was = Vec::new();
            return true;
        };
        spec.asks(self.dsr, |address| place.is_own(address), asks);
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

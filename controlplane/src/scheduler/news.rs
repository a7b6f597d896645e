//! What has changed since pods that fit nowhere were last tried, and for which of them it may make a difference. Pure.
//!
//! A node with room for ten does not wake ten thousand: of those that wait as many are tried again as it would hold, and the
//! node is looked at again once they were.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::filter::{has_room, may_be_on};
use super::node_info::Usage;
use super::request::{Load, Request};
use super::snapshot::{Placed, Snapshot};

#[derive(Debug, Default)]
pub(super) struct News {
    /// Nodes that changed, or that something has left, with the first round of decisions that knew of it: who was tried then
    /// or later has nothing of it.
    nodes: BTreeMap<String, Option<u64>>,
    /// Pods or nodes came, went or changed, which matters to those that are spread, or want to be near or far from others.
    near: bool,
    /// Claims, volumes or classes changed.
    storage: bool,
    /// What keeps pods away from more than one node.
    all: bool,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.near && !self.storage && !self.all
    }

    /// There may be room on the node.
    pub(super) fn node(&mut self, name: &str) {
        self.nodes.insert(name.to_owned(), None);
    }

    pub(super) fn near(&mut self) {
        self.near = true;
    }

    pub(super) fn storage(&mut self) {
        self.storage = true;
    }

    /// Nodes are near others than they were, or pods are others' neighbours.
    pub(super) fn regrouped(&mut self, snapshot: &Snapshot) {
        self.near = true;
        self.all |= !snapshot.holders.is_empty();
    }

    /// A pod is not there any more, or takes less.
    pub(super) fn left(&mut self, placed: &Placed) {
        self.node(&placed.node);
        self.near = true;
        self.storage |= !placed.load.claims.is_empty();
        let affinity = placed.load.affinity.as_ref();
        self.all |= affinity.is_some_and(|affinity| !affinity.anti.is_empty());
    }

    /// For the round of decisions that begins.
    pub(super) fn judge<'a>(&self, snapshot: &'a Snapshot, round: u64) -> Judge<'a> {
        let rooms = self.nodes.iter().filter_map(|(name, since)| {
            let slot = snapshot.slot(name)?;
            Some(Room {
                slot,
                since: since.unwrap_or(round),
                usage: snapshot.node(slot).usage.clone(),
                wanted: false,
            })
        });
        Judge {
            snapshot,
            near: self.near,
            storage: self.storage,
            all: self.all,
            rooms: rooms.collect(),
        }
    }
}

/// A node that has changed.
struct Room {
    slot: usize,
    since: u64,
    /// As it will be when those that were woken are there.
    usage: Usage,
    /// There is one that it would have been enough for without them.
    wanted: bool,
}

/// A pod that waits.
pub(super) struct Waiting<'a> {
    pub(super) request: &'a Request,
    /// The round in which it was last tried.
    pub(super) tried: u64,
    /// It does not back off.
    pub(super) ready: bool,
}

/// Asked of one pod after the other, the most important first.
pub(super) struct Judge<'a> {
    snapshot: &'a Snapshot,
    near: bool,
    storage: bool,
    all: bool,
    rooms: Vec<Room>,
}

impl Judge<'_> {
    /// Whether to try the pod again. `Break` when nothing is in it for those that come after it either.
    pub(super) fn wakes(&mut self, waiting: &Waiting<'_>) -> ControlFlow<(), bool> {
        let request = waiting.request;
        let particular = request.affinity.is_some() || !request.constraints.is_empty();
        if self.all || (self.near && particular) || (self.storage && !request.claims.is_empty()) {
            return ControlFlow::Continue(true);
        }
        let mut new = self
            .rooms
            .iter_mut()
            .filter(|room| waiting.tried < room.since);
        let wakes = new.any(|room| {
            let node = self.snapshot.node(room.slot);
            if !has_room(request, node, &room.usage) {
                room.wanted |= has_room(request, node, &node.usage) && may_be_on(request, node);
                let lower = |other: &Arc<Load>| other.priority < request.priority;
                return request.preempts()
                    && node.running.iter().any(lower)
                    && may_be_on(request, node);
            }
            let wakes = may_be_on(request, node);
            if wakes && waiting.ready {
                room.usage.add(request);
            }
            wakes
        });
        let settled = !self.near && !self.storage && self.rooms.iter().all(|room| room.wanted);
        if !wakes && settled {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(wakes)
    }

    /// What has to be asked again once those that were woken have been tried.
    pub(super) fn rest(self) -> News {
        let rooms = self.rooms.iter().filter(|room| room.wanted);
        News {
            nodes: rooms
                .map(|room| (self.snapshot.node(room.slot).name.clone(), Some(room.since)))
                .collect(),
            ..News::default()
        }
    }
}

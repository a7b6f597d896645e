//! Whether a pod can run on a node, and why not in the words that Kubernetes uses. Pure.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use super::affinity;
use super::interpod;
use super::node_info::{NodeInfo, Usage};
use super::request::{Load, Request};
use super::resources::Resources;
use super::snapshot::Snapshot;
use super::spread;
use super::volumes::{Needs, Obstacle};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    Unschedulable,
    Taint,
    Affinity,
    /// The pod names nodes, and this is none of them.
    NotNamed,
    Ports,
    TooManyPods,
    Insufficient(Cow<'static, str>),
    ClaimInUse,
    Volume(Obstacle),
    Spread(spread::Conflict),
    Interpod(interpod::Conflict),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::ClaimInUse => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::Volume(Obstacle::NodeAffinity) => {
                "node(s) didn't match PersistentVolume's node affinity"
            }
            Self::Volume(Obstacle::NoVolume) => {
                "node(s) didn't find available persistent volumes to bind"
            }
            Self::Volume(Obstacle::Zone) => "node(s) had no available volume zone",
            Self::Spread(spread::Conflict::MissingLabel) => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::Spread(spread::Conflict::Skew) => {
                "node(s) didn't match pod topology spread constraints"
            }
            Self::Interpod(interpod::Conflict::Affinity) => {
                "node(s) didn't match pod affinity rules"
            }
            Self::Interpod(interpod::Conflict::AntiAffinity) => {
                "node(s) didn't match pod anti-affinity rules"
            }
            Self::Interpod(interpod::Conflict::Existing) => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        })
    }
}

/// Why a node is not for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reasons: Vec<Reason>,
    /// Whether fewer pods on the node could change it.
    pub(super) resolvable: bool,
}

impl Failure {
    fn fixed(reason: Reason) -> Option<Self> {
        Some(Self {
            reasons: vec![reason],
            resolvable: false,
        })
    }

    fn resolvable(reason: Reason) -> Option<Self> {
        Some(Self {
            reasons: vec![reason],
            resolvable: true,
        })
    }
}

/// What was worked out once for all nodes.
#[derive(Debug, Default, Clone)]
pub(super) struct Prepared {
    pub(super) spread: Option<spread::Required>,
    pub(super) interpod: Option<interpod::Required>,
    pub(super) volumes: Option<Arc<Needs>>,
}

impl Prepared {
    /// Everything but the volumes.
    pub(super) fn new(request: &Request, snapshot: &Snapshot) -> Self {
        Self {
            spread: spread::Required::new(request, snapshot),
            interpod: interpod::Required::new(request, snapshot),
            volumes: None,
        }
    }

    /// A pod comes to (1) or leaves (-1) a node.
    pub(super) fn update(
        &mut self,
        request: &Request,
        other: &Load,
        snapshot: &Snapshot,
        slot: usize,
        by: i64,
    ) {
        if let Some(spread) = &mut self.spread {
            spread.update(request, other, snapshot, slot, by);
        }
        // Where nothing had to be looked at, what the other one keeps away may have to be now.
        let keeps_away = other
            .affinity
            .as_ref()
            .is_some_and(|all| !all.anti.is_empty());
        if self.interpod.is_none() && keeps_away {
            self.interpod = Some(interpod::Required::default());
        }
        if let Some(interpod) = &mut self.interpod {
            interpod.update(request, other, snapshot, slot, by);
        }
    }
}

/// `None` when the pod fits. Of the checks only the first that fails speaks, as in Kubernetes.
pub(super) fn filter(
    request: &Request,
    prepared: &Prepared,
    snapshot: &Snapshot,
    slot: usize,
    usage: &Usage,
) -> Option<Failure> {
    let node = snapshot.node(slot);
    unschedulable(request, node)
        .or_else(|| taints(request, node))
        .or_else(|| {
            if node.is_selected(request) {
                None
            } else {
                Failure::fixed(Reason::Affinity)
            }
        })
        .or_else(|| ports(request, usage))
        .or_else(|| fit(request, node, usage))
        .or_else(|| volumes(prepared, snapshot, node))
        .or_else(|| {
            let conflict = prepared.spread.as_ref()?.check(snapshot, slot)?;
            Some(Failure {
                reasons: vec![Reason::Spread(conflict)],
                resolvable: conflict == spread::Conflict::Skew,
            })
        })
        .or_else(|| {
            let conflict = prepared.interpod.as_ref()?.check(snapshot, slot)?;
            Some(Failure {
                reasons: vec![Reason::Interpod(conflict)],
                resolvable: conflict != interpod::Conflict::Affinity,
            })
        })
}

fn unschedulable(request: &Request, node: &NodeInfo) -> Option<Failure> {
    if !node.unschedulable {
        return None;
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerated = request
        .tolerations()
        .iter()
        .any(|toleration| affinity::tolerates(toleration, &taint));
    if tolerated {
        None
    } else {
        Failure::fixed(Reason::Unschedulable)
    }
}

fn taints(request: &Request, node: &NodeInfo) -> Option<Failure> {
    let effects = ["NoSchedule", "NoExecute"];
    affinity::untolerated(&node.taints, request.tolerations(), &effects).next()?;
    Failure::fixed(Reason::Taint)
}

fn ports(request: &Request, usage: &Usage) -> Option<Failure> {
    let taken = request
        .ports
        .iter()
        .any(|port| usage.ports.iter().any(|used| used.collides(port)));
    if taken {
        Failure::resolvable(Reason::Ports)
    } else {
        None
    }
}

/// Whether what the node has suffices, whatever else keeps the pod away.
pub(super) fn has_room(request: &Load, node: &NodeInfo, usage: &Usage) -> bool {
    let (want, have, used) = (&request.resources, &node.allocatable, &usage.requested);
    let fits = |want: i64, have: i64, used: i64| want <= 0 || want <= have.saturating_sub(used);
    usage.pods < node.pod_limit
        && fits(want.milli_cpu, have.milli_cpu, used.milli_cpu)
        && fits(want.memory, have.memory, used.memory)
        && fits(want.ephemeral, have.ephemeral, used.ephemeral)
        && want.other.iter().all(|(name, want)| {
            let amount = |all: &Resources| all.other.get(name).copied().unwrap_or(0);
            fits(*want, amount(have), amount(used))
        })
}

/// Whether the pod may be on the node at all, with nothing else on it and as far as the node itself says.
pub(super) fn may_be_on(request: &Request, node: &NodeInfo) -> bool {
    unschedulable(request, node).is_none()
        && taints(request, node).is_none()
        && node.is_selected(request)
        && has_room(request, node, &Usage::default())
}

fn fit(request: &Request, node: &NodeInfo, usage: &Usage) -> Option<Failure> {
    if has_room(request, node, usage) {
        return None;
    }
    let mut reasons = Vec::new();
    let mut resolvable = true;
    if usage.pods + 1 > node.pod_limit {
        reasons.push(Reason::TooManyPods);
    }
    let (want, have, used) = (&request.resources, &node.allocatable, &usage.requested);
    let mut check = |name: Cow<'static, str>, want: i64, have: i64, used: i64| {
        if want > 0 && want > have.saturating_sub(used) {
            reasons.push(Reason::Insufficient(name));
            resolvable &= want <= have;
        }
    };
    check("cpu".into(), want.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory".into(), want.memory, have.memory, used.memory);
    check(
        "ephemeral-storage".into(),
        want.ephemeral,
        have.ephemeral,
        used.ephemeral,
    );
    for (name, amount) in &want.other {
        let have = have.other.get(name).copied().unwrap_or(0);
        let used = used.other.get(name).copied().unwrap_or(0);
        check(name.clone().into(), *amount, have, used);
    }
    Some(Failure {
        reasons,
        resolvable,
    })
}

fn volumes(prepared: &Prepared, snapshot: &Snapshot, node: &NodeInfo) -> Option<Failure> {
    let needs = prepared.volumes.as_ref()?;
    if needs
        .exclusive
        .iter()
        .any(|claim| snapshot.uses_claim(claim))
    {
        return Failure::resolvable(Reason::ClaimInUse);
    }
    match needs.on(&node.node) {
        Ok(_) => None,
        Err(obstacle) => Failure::fixed(Reason::Volume(obstacle)),
    }
}

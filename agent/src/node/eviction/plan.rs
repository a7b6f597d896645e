//! Which resources of the node are short, and which pod goes first. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::super::host::Usage;
use crate::pods::Pressure;

/// From this priority on a pod is what the node or cluster itself needs.
pub(in crate::node) const CRITICAL: i32 = 2_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    Memory,
    Disk,
    Inodes,
    Pids,
}

impl Signal {
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Inodes, Self::Pids];

    /// As thresholds name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Disk => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// What is left, of what there is in all.
    pub(super) fn left(self, usage: &Usage) -> (u64, u64) {
        match self {
            Self::Memory => (usage.memory_available_bytes, usage.memory_bytes),
            Self::Disk => (usage.disk_available_bytes, usage.disk_bytes),
            Self::Inodes => (usage.inodes_free, usage.inodes),
            Self::Pids => (usage.pids_max.saturating_sub(usage.pids), usage.pids_max),
        }
    }

    /// For messages.
    pub(super) fn amount(self, value: u64) -> String {
        match self {
            Self::Memory | Self::Disk => format!("{}Ki", value / 1024),
            Self::Inodes | Self::Pids => value.to_string(),
        }
    }

    /// The resource, as messages and events name it.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

/// What must be left; zero is no threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    pub(crate) memory_bytes: u64,
    pub(crate) disk_percent: u8,
    pub(crate) inodes_percent: u8,
    pub(crate) pids_percent: u8,
}

/// A threshold that is crossed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) signal: Signal,
    pub(super) threshold: String,
    pub(super) available: String,
}

impl Thresholds {
    /// Those that are crossed, the most urgent first.
    pub(super) fn met(&self, usage: &Usage) -> Vec<Met> {
        let part = |whole: u64, percent: u8| whole / 100 * u64::from(percent);
        let bytes = |bytes: u64| format!("{}Ki", bytes / 1024);
        let percent = |percent: u8| format!("{percent}%");
        let all = [
            (
                Signal::Memory,
                usage.memory_available_bytes < self.memory_bytes,
                format!("{}Mi", self.memory_bytes >> 20),
                bytes(usage.memory_available_bytes),
            ),
            (
                Signal::Disk,
                usage.disk_available_bytes < part(usage.disk_bytes, self.disk_percent),
                percent(self.disk_percent),
                bytes(usage.disk_available_bytes),
            ),
            (
                Signal::Inodes,
                usage.inodes_free < part(usage.inodes, self.inodes_percent),
                percent(self.inodes_percent),
                usage.inodes_free.to_string(),
            ),
            (
                Signal::Pids,
                usage.pids_max.saturating_sub(usage.pids) < part(usage.pids_max, self.pids_percent),
                percent(self.pids_percent),
                usage.pids_max.saturating_sub(usage.pids).to_string(),
            ),
        ];
        let met = all.into_iter().filter(|(_, crossed, ..)| *crossed);
        met.map(|(signal, _, threshold, available)| Met {
            signal,
            threshold,
            available,
        })
        .collect()
    }
}

/// Pressure lasts for a while after its reason has gone, so that the node does not waver.
#[derive(Debug, Default)]
pub(super) struct Pressures {
    /// When each was noticed last, on a clock that begins with the agent.
    seen: BTreeMap<Signal, Duration>,
}

impl Pressures {
    pub(super) fn note(&mut self, met: &[Met], now: Duration, transition: Duration) -> Pressure {
        for met in met {
            self.seen.insert(met.signal, now);
        }
        self.seen
            .retain(|_, seen| now == *seen || now.saturating_sub(*seen) < transition);
        let has = |signal| self.seen.contains_key(&signal);
        Pressure {
            memory: has(Signal::Memory),
            disk: has(Signal::Disk) || has(Signal::Inodes),
            pids: has(Signal::Pids),
        }
    }
}

/// A pod that could be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) uid: String,
    pub(super) priority: i32,
    /// Of the resource that is short.
    pub(super) used: u64,
    pub(super) requested: u64,
    /// Name, use and request of its containers, for the message.
    pub(super) containers: Vec<(String, u64, u64)>,
}

/// The order in which pods go: those that use more than they asked for, then those of least priority, then those
/// that are furthest above what they asked for.
pub(super) fn rank(signal: Signal, candidates: &mut [Candidate]) {
    candidates.sort_by_key(|it| {
        let by_priority_alone = signal == Signal::Pids;
        let within = it.used <= it.requested && !by_priority_alone;
        let above = i128::from(it.used) - i128::from(it.requested);
        (within, it.priority, Reverse(above))
    });
}

/// In the words of the kubelet.
pub(super) fn message(met: &Met, candidate: &Candidate) -> String {
    let resource = met.signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        met.threshold, met.available
    );
    let amount = |value: u64| match met.signal {
        Signal::Memory | Signal::Disk if value > 0 => format!("{}Ki", value.div_ceil(1024)),
        _ => value.to_string(),
    };
    for (name, used, requested) in &candidate.containers {
        if used > requested {
            text.push_str(&format!(
                "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
                amount(*used),
                amount(*requested)
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        memory_bytes: 100 << 20,
        disk_percent: 10,
        inodes_percent: 5,
        pids_percent: 10,
    };

    fn plenty() -> Usage {
        Usage {
            memory_bytes: 2 << 30,
            memory_available_bytes: 1 << 30,
            disk_bytes: 1000,
            disk_available_bytes: 500,
            inodes: 1000,
            inodes_free: 500,
            pids: 10,
            pids_max: 1000,
        }
    }

    #[test]
    fn thresholds_are_crossed_from_above() {
        assert_eq!(THRESHOLDS.met(&plenty()), []);
        let mut usage = plenty();
        usage.disk_available_bytes = 99;
        usage.pids = 901;
        let signals: Vec<Signal> = THRESHOLDS.met(&usage).iter().map(|it| it.signal).collect();
        assert_eq!(signals, [Signal::Disk, Signal::Pids]);
    }

    #[test]
    fn pressure_outlasts_its_reason() {
        let seconds = Duration::from_secs;
        let mut usage = plenty();
        usage.memory_available_bytes = 1;
        let met = THRESHOLDS.met(&usage);
        let mut pressures = Pressures::default();
        for (now, met, expected) in [
            (0, &[][..], false),
            (10, &met[..], true),
            (300, &[], true),
            (310, &[], false),
        ] {
            let pressure = pressures.note(met, seconds(now), seconds(300));
            assert_eq!(pressure.memory, expected, "{now}");
            assert!(!pressure.disk && !pressure.pids);
        }
    }

    fn candidate(uid: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        Candidate {
            uid: uid.to_owned(),
            priority,
            used,
            requested,
            containers: vec![("c".to_owned(), used, requested)],
        }
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let mut all = [
            candidate("modest", 0, 10, 20),
            candidate("important", 5, 90, 10),
            candidate("greedy", 0, 50, 10),
            candidate("greediest", 0, 60, 10),
        ];
        rank(Signal::Memory, &mut all);
        let order: Vec<&str> = all.iter().map(|it| it.uid.as_str()).collect();
        assert_eq!(order, ["greediest", "greedy", "important", "modest"]);
        let met = Met {
            signal: Signal::Memory,
            threshold: "100Mi".to_owned(),
            available: "5Ki".to_owned(),
        };
        assert_eq!(
            message(&met, &candidate("x", 0, 2048, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 5Ki. \
             Container c was using 2Ki, request is 0, has larger consumption of memory. "
        );
    }

    proptest! {
        #[test]
        fn nobody_within_its_request_goes_before_one_that_is_not(
            pods in prop::collection::vec((0..3i32, 0..5u64, 0..5u64), 0..8),
        ) {
            let mut all: Vec<Candidate> = pods.iter().enumerate()
                .map(|(n, (priority, used, asked))| candidate(&n.to_string(), *priority, *used, *asked))
                .collect();
            rank(Signal::Disk, &mut all);
            let within: Vec<bool> = all.iter().map(|it| it.used <= it.requested).collect();
            prop_assert!(within.is_sorted());
        }
    }
}

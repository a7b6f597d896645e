//! What is wrong with a history: a pure function of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Change, End, History, Listed, name};

/// Of everything that ended, the greatest number that had been seen by a moment.
struct Floor(Vec<(Instant, u64)>);

impl Floor {
    fn new(mut ends: Vec<(Instant, u64)>) -> Self {
        ends.sort_unstable();
        let mut most = 0;
        for (_, number) in &mut ends {
            most = most.max(*number);
            *number = most;
        }
        Self(ends)
    }

    /// The greatest that had ended before `moment`.
    fn before(&self, moment: Instant) -> u64 {
        let count = self.0.partition_point(|(end, _)| *end < moment);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// All faults, as sentences. `finals` is what each member listed in the end.
pub(super) fn judge(history: &History, finals: &[Listed], registers: usize) -> Vec<String> {
    let mut faults = history.faults.clone();
    for register in 0..registers {
        one_register(history, register, &mut faults);
    }
    lists(history, &mut faults);
    endings(history, finals, &mut faults);
    watches(history, &mut faults);
    faults
}

/// Reads are linearizable: none is older than a write that was acknowledged, or a read that had ended, before it began.
fn one_register(history: &History, register: usize, faults: &mut Vec<String>) {
    let writes = || history.writes.iter().filter(|it| it.register == register);
    let reads = || history.reads.iter().filter(|it| it.register == register);
    let acknowledged = Floor::new(
        writes()
            .filter(|write| write.is_done())
            .map(|write| (write.ended, write.number))
            .collect(),
    );
    let read = Floor::new(reads().map(|read| (read.ended, read.number)).collect());
    let refused: BTreeSet<u64> = writes()
        .filter(|write| write.end == End::Refused)
        .map(|write| write.number)
        .collect();
    for it in reads() {
        let member = it.member;
        let floor = acknowledged.before(it.started);
        if it.number < floor {
            faults.push(format!(
                "stale read of {} at m{member}: {} though {floor} was acknowledged before",
                name(register),
                it.number
            ));
        }
        let floor = read.before(it.started);
        if it.number < floor {
            faults.push(format!(
                "stale read of {} at m{member}: {} though {floor} was read before",
                name(register),
                it.number
            ));
        }
        if refused.contains(&it.number) {
            faults.push(format!(
                "m{member} shows {} of {}, which was refused",
                it.number,
                name(register)
            ));
        }
    }
}

/// A list is at a revision that is no older than any that was acknowledged before it was asked for.
fn lists(history: &History, faults: &mut Vec<String>) {
    let written = history.writes.iter().filter_map(|write| match write.end {
        End::Done(revision) => Some((write.ended, revision)),
        _ => None,
    });
    let listed = history.lists.iter().map(|list| (list.ended, list.revision));
    let floor = Floor::new(written.chain(listed).collect());
    for list in &history.lists {
        let before = floor.before(list.started);
        if list.revision < before {
            faults.push(format!(
                "stale list at m{}: {} after {before}",
                list.member, list.revision
            ));
        }
    }
}

/// In the end all members say the same, and each register is at an attempt that is no older than the last one acknowledged.
fn endings(history: &History, finals: &[Listed], faults: &mut Vec<String>) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for write in history.writes.iter().filter(|write| write.is_done()) {
        let at = last.entry(name(write.register)).or_default();
        *at = write.number.max(*at);
    }
    for Listed { registers, .. } in finals {
        if *registers != finals[0].registers {
            faults.push(format!(
                "members differ: {registers:?}, {:?}",
                finals[0].registers
            ));
        }
        let found: BTreeMap<&String, u64> =
            registers.iter().map(|(name, at)| (name, *at)).collect();
        for (name, acknowledged) in &last {
            let found = found.get(name).copied().unwrap_or(0);
            if found < *acknowledged {
                faults.push(format!(
                    "lost: {name} is at {found}, {acknowledged} was acknowledged"
                ));
            }
        }
    }
}

/// Every watch has the same changes, each acknowledged write among them at the revision that its writer was told.
fn watches(history: &History, faults: &mut Vec<String>) {
    let upto = history.reached.iter().min().copied().unwrap_or(0);
    let cut = |changes: &[Change]| -> Vec<Change> {
        let all = changes.iter().filter(|change| change.revision <= upto);
        all.cloned().collect()
    };
    let Some(first) = history.changes.first().map(|changes| cut(changes)) else {
        return;
    };
    for (watch, changes) in history.changes.iter().enumerate().skip(1) {
        let changes = cut(changes);
        if changes != first {
            let at = changes
                .iter()
                .zip(&first)
                .position(|(one, other)| one != other);
            let at = at.unwrap_or(changes.len().min(first.len()));
            faults.push(format!(
                "watches differ: {watch} has {:?}, 0 has {:?}",
                changes.get(at),
                first.get(at)
            ));
        }
    }
    let shown: BTreeMap<u64, &Change> = first.iter().map(|it| (it.revision, it)).collect();
    let numbers: BTreeSet<(&str, u64)> = first
        .iter()
        .map(|it| (it.register.as_str(), it.number))
        .collect();
    for write in &history.writes {
        let name = name(write.register);
        match write.end {
            End::Done(revision) => match shown.get(&revision) {
                Some(change) if change.register == name && change.number == write.number => {}
                other => faults.push(format!(
                    "{name} = {} was acknowledged at {revision}, watches show {other:?}",
                    write.number
                )),
            },
            End::Refused if numbers.contains(&(name.as_str(), write.number)) => faults.push(
                format!("{name} = {} was refused and is shown", write.number),
            ),
            End::Refused | End::Unknown => {}
        }
    }
    let mut highest: BTreeMap<&str, u64> = BTreeMap::new();
    for change in &first {
        let before = highest.insert(&change.register, change.number);
        if before.is_some_and(|before| before >= change.number) {
            faults.push(format!("{change:?} comes after {before:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{List, Read, Write};
    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, millis: u64) -> Instant {
            self.0 + Duration::from_millis(millis)
        }
    }

    fn good(clock: &Clock) -> (History, Vec<Listed>) {
        let write = |number, ended, end| Write {
            register: 0,
            number,
            ended: clock.at(ended),
            end,
        };
        let change = |revision, number| Change {
            revision,
            register: name(0),
            number,
        };
        let shown = vec![change(5, 1), change(6, 2), change(8, 4)];
        let history = History {
            writes: vec![
                write(1, 10, End::Done(5)),
                write(2, 20, End::Unknown),
                write(3, 30, End::Refused),
                write(4, 40, End::Done(8)),
            ],
            reads: vec![Read {
                register: 0,
                member: 2,
                number: 2,
                started: clock.at(35),
                ended: clock.at(50),
            }],
            lists: vec![List {
                member: 3,
                revision: 8,
                started: clock.at(41),
                ended: clock.at(42),
            }],
            changes: vec![shown.clone(), shown],
            reached: vec![8, 8],
            ..History::default()
        };
        let listed = |revision| Listed {
            revision,
            registers: vec![(name(0), 4)],
        };
        (history, vec![listed(8), listed(9)])
    }

    fn faults(change: impl FnOnce(&Clock, &mut History)) -> String {
        let clock = Clock(Instant::now());
        let (mut history, finals) = good(&clock);
        change(&clock, &mut history);
        judge(&history, &finals, 1).join("; ")
    }

    #[test]
    fn what_is_right_has_no_faults() {
        assert_eq!(faults(|_, _| {}), "");
    }

    #[test]
    fn each_fault_is_found() {
        let late = |clock: &Clock, history: &mut History| history.reads[0].started = clock.at(41);
        assert!(faults(late).contains("stale read of register-0 at m2: 2 though 4 was acknow"));
        let back = |clock: &Clock, history: &mut History| {
            let first = history.reads[0];
            let (started, ended) = (clock.at(51), clock.at(60));
            history.writes[3].ended = clock.at(70);
            history.reads.push(Read {
                number: 1,
                started,
                ended,
                ..first
            });
        };
        assert!(faults(back).contains("1 though 2 was read before"));
        let refused = |_: &Clock, history: &mut History| history.reads[0].number = 3;
        assert!(faults(refused).contains("which was refused"));
        let old = |_: &Clock, history: &mut History| history.lists[0].revision = 7;
        assert!(faults(old).contains("stale list at m3: 7 after 8"));
        let lost = |clock: &Clock, history: &mut History| {
            let (register, number, ended, end) = (0, 5, clock.at(80), End::Done(9));
            history.writes.push(Write {
                register,
                number,
                ended,
                end,
            });
        };
        let lost = faults(lost);
        assert!(
            lost.contains("lost: register-0 is at 4, 5 was acknowledged"),
            "{lost}"
        );
        assert!(
            lost.contains("acknowledged at 9, watches show None"),
            "{lost}"
        );
        let gap = |_: &Clock, history: &mut History| drop(history.changes[1].remove(1));
        assert!(faults(gap).contains("watches differ: 1 has"));
        let twice = |_: &Clock, history: &mut History| {
            for changes in &mut history.changes {
                let again = Change {
                    revision: 7,
                    ..changes[0].clone()
                };
                changes.insert(2, again);
            }
        };
        assert!(faults(twice).contains("comes after Some(2)"));
    }
}

//! Reads and writes are linearizable: what was answered before something else was asked comes before it.
//!
//! Revisions order everything that happened, so it is enough that they agree with the clock: whatever began
//! after an answer that named a revision has at least that revision, and a write a greater one.

use std::fmt;
use std::time::Duration;

use super::super::history::{self, History, Outcome, Read, Write};

struct Moment<'a> {
    at: Duration,
    /// An answer, or a question whose answer has this revision at the least.
    kind: Kind,
    revision: u64,
    what: What<'a>,
}

/// Named where it broke something: there are thousands of them.
#[derive(Clone, Copy)]
enum What<'a> {
    Write(&'a Write),
    Read(&'a Read),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(write) => write!(
                f,
                "write of client {} at member {}, {write:?}",
                write.client, write.member
            ),
            Self::Read(read) => write!(
                f,
                "read of client {} at member {}, {:?} to {:?}, at {}",
                read.client, read.member, read.invoked, read.returned, read.revision
            ),
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Asked at the same instant as another one's answer: they overlap.
    Asked,
    Answered,
}

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut moments = Vec::new();
    let mut add = |invoked, returned, least, revision, what| {
        moments.push(Moment {
            at: invoked,
            kind: Kind::Asked,
            revision: least,
            what,
        });
        moments.push(Moment {
            at: returned,
            kind: Kind::Answered,
            revision,
            what,
        });
    };
    for write in &history.writes {
        if let Outcome::Committed(revision) = write.outcome {
            // One that changes nothing is a read. Whether one that only deletes has changed something cannot be
            // told: the revision may be that of somebody else who deleted the same just before.
            let changed = !history::only_deletes(&write.txn);
            let before = revision - u64::from(changed);
            let what = What::Write(write);
            add(write.invoked, write.returned, before, revision, what);
        }
    }
    for read in &history.reads {
        let (at, what) = (read.revision, What::Read(read));
        add(read.invoked, read.returned, at, at, what);
    }
    moments.sort_by(|a, b| (a.at, &a.kind).cmp(&(b.at, &b.kind)));
    let mut newest: Option<&Moment<'_>> = None;
    for moment in &moments {
        match moment.kind {
            Kind::Asked => {
                if let Some(newest) = newest.filter(|newest| newest.revision > moment.revision) {
                    return Err(format!("{} came after {}", moment.what, newest.what));
                }
            }
            Kind::Answered => {
                if newest.is_none_or(|newest| newest.revision < moment.revision) {
                    newest = Some(moment);
                }
            }
        }
    }
    Ok(())
}

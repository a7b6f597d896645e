//! Bugs that a simulation plants to see that it would find them. In tests only; of one thread.

use std::cell::Cell;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// A member answers reads from its memory, however old.
    StaleReads,
    /// A write without an answer is sent once more.
    WritesAgain,
    /// Disks say that they have written when they have not.
    LyingDisks,
    /// A leader that is started again goes on under its old vote.
    LeadsAgain,
    /// A leader takes what it has sent to the others for written on its own disk.
    CountsUnwritten,
}

thread_local! {
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
}

pub(super) fn plant(bug: Option<Bug>) {
    BUG.set(bug);
}

pub(super) fn is(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

//! The thread that gives sled what the journal has, so that nobody who waits for the journal waits for sled.
//!
//! It has one batch at a time, so batches are taken in their order. After an error, or a panic of sled, it takes nothing any more,
//! and says why to everybody.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::DiskError;
use super::journal::Place;

/// The last write of each key: its value or its removal.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Writes that are in the journal, which has nothing else up to that place that sled does not have.
pub(super) struct Batch {
    pub(super) writes: Writes,
    pub(super) place: Place,
}

pub(super) struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What sled is given.
    batch: Option<Arc<Batch>>,
    failure: Option<DiskError>,
    stop: bool,
}

impl State {
    fn check(&self) -> Result<(), DiskError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, take: impl Fn(&Batch) -> Result<(), DiskError>) {
        let mut state = self.lock();
        loop {
            let Some(batch) = state.batch.clone() else {
                if state.stop {
                    return;
                }
                state = self.wait(state);
                continue;
            };
            drop(state);
            let work = AssertUnwindSafe(|| take(&batch));
            let taken = catch_unwind(work)
                .unwrap_or_else(|_| Err(DiskError::Corrupt("the database panicked".into())));
            drop(batch);
            state = self.lock();
            let done = state.batch.take();
            if let Err(error) = taken {
                state.failure.get_or_insert(error);
            }
            self.changed.notify_all();
            drop(done);
        }
    }
}

impl Feeder {
    /// `take` gives a batch to sled.
    pub(super) fn start(
        take: impl Fn(&Batch) -> Result<(), DiskError> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-sled".into())
            .spawn(move || own.run(take))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Why it takes nothing any more, where that is so.
    pub(super) fn check(&self) -> Result<(), DiskError> {
        self.shared.lock().check()
    }

    /// Whether a batch would be taken at once.
    pub(super) fn is_idle(&self) -> Result<bool, DiskError> {
        let state = self.shared.lock();
        state.check()?;
        Ok(state.batch.is_none())
    }

    /// Whether any key of the range is in what sled is being given.
    pub(super) fn has_any(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
        let batch = self.shared.lock().batch.clone();
        batch.is_some_and(|batch| batch.writes.range::<[u8], _>(range).next().is_some())
    }

    /// Waits until what was given before is in sled, not until this is.
    pub(super) fn give(&self, batch: Batch) -> Result<(), DiskError> {
        let mut state = self.finished()?;
        state.batch = Some(Arc::new(batch));
        self.shared.changed.notify_all();
        Ok(())
    }

    /// All that was given is in sled when this returns.
    pub(super) fn finish(&self) -> Result<(), DiskError> {
        self.finished().map(drop)
    }

    fn finished(&self) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.shared.lock();
        loop {
            state.check()?;
            if state.batch.is_none() {
                return Ok(state);
            }
            state = self.shared.wait(state);
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught, and told as failures.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::channel;

    use super::*;

    fn batch(key: &str) -> Batch {
        Batch {
            writes: [(key.into(), None)].into(),
            place: Place::default(),
        }
    }

    fn range<'a>(from: &'a str, to: &'a str) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        (
            Bound::Included(from.as_bytes()),
            Bound::Excluded(to.as_bytes()),
        )
    }

    #[test]
    fn whoever_gives_a_batch_does_not_wait_for_it_but_for_the_one_before() {
        let (release, held) = channel::<()>();
        let (told, taken) = channel();
        let feeder = Feeder::start(move |batch| {
            held.recv().unwrap();
            told.send(batch.writes.keys().cloned().collect::<Vec<_>>())
                .unwrap();
            Ok(())
        })
        .unwrap();
        assert!(feeder.is_idle().unwrap());
        feeder.give(batch("b")).unwrap();
        assert!(taken.try_recv().is_err());
        assert!(!feeder.is_idle().unwrap());
        assert!(feeder.has_any(range("a", "c")));
        assert!(!feeder.has_any(range("c", "d")));
        release.send(()).unwrap();
        feeder.give(batch("c")).unwrap();
        assert_eq!(taken.recv().unwrap(), [b"b".to_vec()]);
        release.send(()).unwrap();
        feeder.finish().unwrap();
        assert!(!feeder.has_any(range("a", "z")));
        assert_eq!(taken.recv().unwrap(), [b"c".to_vec()]);
    }

    #[test]
    fn what_was_given_is_taken_before_the_end() {
        let (told, taken) = channel();
        let feeder = Feeder::start(move |_| {
            told.send(()).unwrap();
            Ok(())
        })
        .unwrap();
        feeder.give(batch("a")).unwrap();
        drop(feeder);
        taken.try_recv().unwrap();
    }

    #[test]
    fn an_error_and_a_panic_are_told_to_all_who_come() {
        let full = DiskError::Full("sled".into());
        let failed = full.clone();
        let fails = Feeder::start(move |_| Err(failed.clone())).unwrap();
        fails.give(batch("a")).unwrap();
        assert_eq!(fails.finish(), Err(full.clone()));
        assert_eq!(fails.give(batch("b")), Err(full.clone()));
        assert_eq!(fails.is_idle(), Err(full.clone()));
        assert_eq!(fails.check(), Err(full));
        let panics = Feeder::start(|_| panic!("as sled does on some damage")).unwrap();
        panics.give(batch("a")).unwrap();
        assert!(matches!(panics.finish(), Err(DiskError::Corrupt(_))));
    }
}

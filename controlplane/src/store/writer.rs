//! The one thread that writes to the disk: group commit, and tidying up in the gaps.
//!
//! Jobs are done in the order in which they are submitted, so "written earlier" means "survives at least as
//! well". All jobs that wait when the thread looks share one sync. Removals of what nobody can read any more
//! (purged log entries, compacted versions) are done in small slices between the jobs, so that they cost no
//! writer a long wait; what a crash interrupts is found and removed at the next start.
//!
//! After the first error nothing is written any more: what a failed sync has left on the disk is unknown, so
//! it is never tried again. [`Writer::failure`] tells the rest of the store.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::directory::Watermark;
use super::disk::{Disk, DiskError, Write};
use super::metrics::DiskMetrics;

/// Called on the writer's thread when a job is done; must not block.
pub(super) type Done = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// Keys `start..end`.
pub(super) type KeyRange = (Vec<u8>, Vec<u8>);

/// How many keys a slice of tidying looks at: the next writes wait for it, so not many, but more than were written since the
/// last one.
const REMOVE_SLICE: std::ops::RangeInclusive<usize> = 32..=1_024;
/// The same while nobody writes.
const REMOVE_IDLE: usize = 128;
/// Jobs that are taken into one sync at most, by bytes.
const GROUP_BYTES: usize = 8 << 20;
/// How often the size of the data is measured.
const MEASURE: Duration = Duration::from_secs(15);
/// What waits for the next job, by bytes; and how long, where none comes.
const LATER_BYTES: usize = 256 << 10;
const LATER: Duration = Duration::from_millis(500);
/// How long unsynced writes (the applied state) may stay without a sync when nothing else asks for one.
const IDLE_SYNC: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Job {
    pub(super) writes: Vec<Write>,
    /// Removed before `writes` are made, from the end.
    pub(super) remove_now: Vec<KeyRange>,
    /// Removed when there is time, from the start. Keys that are never written again.
    pub(super) remove_later: Vec<KeyRange>,
    /// Whether `done` means "survives loss of power".
    pub(super) durable: bool,
    /// The last log index that is acknowledged with this job.
    pub(super) last_log: Option<u64>,
    pub(super) done: Option<Done>,
}

impl Job {
    /// Nobody waits for it, nor for the room that it makes.
    fn may_wait(&self) -> bool {
        let removes = !self.remove_now.is_empty() || !self.remove_later.is_empty();
        !self.durable && self.done.is_none() && !removes
    }
}

enum Message {
    Job(Job),
    Stop,
}

/// A handle to the thread.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: Jobs,
    /// Locked by whoever sends, so that the order stays that of submission.
    later: Arc<Mutex<Later>>,
    failure: watch::Receiver<Option<DiskError>>,
}

/// Jobs that nobody waits for. They are done before the next one that somebody does wait for, and wake nobody: otherwise
/// each write would wake the thread once to be logged and once to be applied.
#[derive(Default)]
struct Later {
    jobs: Vec<Job>,
    bytes: usize,
}

impl Later {
    fn take(&mut self) -> Vec<Job> {
        self.bytes = 0;
        std::mem::take(&mut self.jobs)
    }
}

fn lock(later: &Mutex<Later>) -> MutexGuard<'_, Later> {
    later.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
enum Jobs {
    Thread(mpsc::Sender<Message>),
    /// In a simulation: a task, so that the order of things is the runtime's alone.
    #[cfg(test)]
    Task(tokio::sync::mpsc::UnboundedSender<Message>),
}

impl Jobs {
    /// Gives the message back where nobody takes it any more.
    fn send(&self, message: Message) -> Result<(), Message> {
        match self {
            Self::Thread(jobs) => jobs.send(message).map_err(|mpsc::SendError(back)| back),
            #[cfg(test)]
            Self::Task(jobs) => jobs.send(message).map_err(|back| back.0),
        }
    }
}

impl Writer {
    /// Starts the thread. It owns `keep` (the directory's lock) until it has ended.
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        watermark: Watermark,
        metrics: DiskMetrics,
        keep: impl Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, receiver) = mpsc::channel();
        let (failed, failure) = watch::channel(None);
        let later = Arc::default();
        let mut thread = Thread::new(disk, watermark, metrics, failed, Arc::clone(&later));
        let handle = std::thread::Builder::new()
            .name("store-disk".into())
            .spawn(move || {
                thread.run(&receiver);
                drop(thread);
                drop(keep);
            })?;
        let writer = Self {
            jobs: Jobs::Thread(jobs),
            later,
            failure,
        };
        Ok((writer, handle))
    }

    /// The same as a task, each group of jobs taking the time that `latency` says.
    #[cfg(test)]
    pub(super) fn simulate(
        disk: Arc<dyn Disk>,
        metrics: DiskMetrics,
        latency: impl Fn() -> Duration + Send + 'static,
    ) -> Self {
        let (jobs, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let (failed, failure) = watch::channel(None);
        let later = Arc::default();
        let watermark = Watermark::in_memory(0);
        let mut thread = Thread::new(disk, watermark, metrics, failed, Arc::clone(&later));
        tokio::spawn(async move {
            let mut messages = Vec::new();
            while receiver.recv_many(&mut messages, 64).await > 0 {
                let mut group = Vec::new();
                let mut stop = false;
                for message in messages.drain(..) {
                    match message {
                        Message::Stop => stop = true,
                        Message::Job(job) => group.push(job),
                    }
                }
                let written = thread.write_group(group);
                // A loss of power finds some of what was written.
                tokio::time::sleep(latency()).await;
                thread.commit(written);
                let tidied = loop {
                    match thread.tidy_up(Some(0)) {
                        Ok(()) if !thread.removals.is_empty() => {}
                        tidied => break tidied,
                    }
                };
                if let Err(error) = tidied {
                    thread.fail(error);
                }
                if stop {
                    return;
                }
            }
        });
        Self {
            jobs: Jobs::Task(jobs),
            later,
            failure,
        }
    }

    pub(super) fn submit(&self, job: Job) {
        let mut later = lock(&self.later);
        if job.may_wait() {
            later.bytes += size(&job.writes);
            later.jobs.push(job);
            if later.bytes > LATER_BYTES {
                self.send_later(&mut later);
            }
            return;
        }
        self.send_later(&mut later);
        if let Err(Message::Job(Job {
            done: Some(done), ..
        })) = self.jobs.send(Message::Job(job))
        {
            done(Err(stopped()));
        }
    }

    fn send_later(&self, later: &mut Later) {
        for job in later.take() {
            // Nobody is told: that the thread has ended is known from others.
            let _ = self.jobs.send(Message::Job(job));
        }
    }

    /// Submits and waits.
    pub(super) async fn run(&self, mut job: Job) -> Result<(), DiskError> {
        let (tx, rx) = oneshot::channel();
        job.done = Some(Box::new(move |result| {
            // Nobody waits any more: the caller was cancelled.
            let _ = tx.send(result);
        }));
        self.submit(job);
        rx.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Ends the thread after the jobs submitted so far, with a last sync.
    pub(super) fn stop(&self) {
        let mut later = lock(&self.later);
        self.send_later(&mut later);
        // It may have ended already.
        let _ = self.jobs.send(Message::Stop);
    }

    /// The error that stopped all writing, once there is one.
    pub(super) fn failure(&self) -> watch::Receiver<Option<DiskError>> {
        self.failure.clone()
    }
}

fn stopped() -> DiskError {
    DiskError::Io("the store is shut down".into())
}

/// A group of jobs between its writes and its sync.
struct Written {
    result: Result<(), DiskError>,
    durable: bool,
    last_log: Option<u64>,
    done: Vec<Done>,
}

struct Thread {
    disk: Arc<dyn Disk>,
    watermark: Watermark,
    metrics: DiskMetrics,
    failed: watch::Sender<Option<DiskError>>,
    removals: VecDeque<KeyRange>,
    unsynced_since: Option<Instant>,
    measured: Option<Instant>,
    later: Arc<Mutex<Later>>,
}

impl Thread {
    fn new(
        disk: Arc<dyn Disk>,
        watermark: Watermark,
        metrics: DiskMetrics,
        failed: watch::Sender<Option<DiskError>>,
        later: Arc<Mutex<Later>>,
    ) -> Self {
        Self {
            later,
            disk,
            watermark,
            metrics,
            failed,
            removals: VecDeque::new(),
            unsynced_since: None,
            measured: None,
        }
    }

    fn run(&mut self, jobs: &Receiver<Message>) {
        let mut open = true;
        while open {
            let mut group = Vec::new();
            open = self.collect(jobs, &mut group);
            // sled panics on some damage; that must end as any other failure of the disk.
            let work = AssertUnwindSafe(|| self.work(group));
            match catch_unwind(work) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error),
                Err(_) => self.fail(DiskError::Corrupt("the database panicked".into())),
            }
        }
        if self.failed.borrow().is_none()
            && let Err(error) = self.sync()
        {
            self.fail(error);
        }
    }

    /// Takes the jobs that wait; blocks for the first one while there is nothing to tidy. False at the end.
    fn collect(&mut self, jobs: &Receiver<Message>, group: &mut Vec<Job>) -> bool {
        let first = if !self.removals.is_empty() {
            match jobs.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        } else {
            let left = |since: Instant| IDLE_SYNC.saturating_sub(since.elapsed());
            let left = self.unsynced_since.map_or(LATER, left);
            match jobs.recv_timeout(left.min(LATER)) {
                Ok(message) => message,
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    let mut later = lock(&self.later);
                    // Nobody sends now. What was sent before goes first.
                    match jobs.try_recv() {
                        Ok(message) => message,
                        Err(_) => {
                            *group = later.take();
                            return true;
                        }
                    }
                }
            }
        };
        let mut next = Some(first);
        let mut bytes = 0;
        while let Some(message) = next {
            match message {
                Message::Stop => return false,
                Message::Job(job) => {
                    bytes += size(&job.writes);
                    group.push(job);
                }
            }
            next = match bytes < GROUP_BYTES {
                true => jobs.try_recv().ok(),
                false => None,
            };
        }
        true
    }

    /// Commits what waits, then tidies one slice: also under load the removals keep up with the writes.
    fn work(&mut self, group: Vec<Job>) -> Result<(), DiskError> {
        let written = match group.is_empty() {
            true => None,
            false => Some(group.iter().map(|job| job.writes.len()).sum()),
        };
        if written.is_some() {
            let written = self.write_group(group);
            self.commit(written);
        }
        self.tidy_up(written)
    }

    /// `written` is how many writes were made since it was done last, if there was anything to do.
    fn tidy_up(&mut self, written: Option<usize>) -> Result<(), DiskError> {
        if self.failed.borrow().is_some() {
            self.removals.clear();
            return Ok(());
        }
        if !self.removals.is_empty() {
            self.tidy(written.map_or(REMOVE_IDLE, slice))
        } else if written.is_none() {
            self.sync_leftovers()
        } else {
            Ok(())
        }
    }

    fn write_group(&mut self, group: Vec<Job>) -> Written {
        let mut written = Written {
            result: match self.failed.borrow().as_ref() {
                Some(error) => Err(error.clone()),
                None => Ok(()),
            },
            durable: false,
            last_log: None,
            done: Vec::with_capacity(group.len()),
        };
        for mut job in group {
            written.done.extend(job.done.take());
            written.durable |= job.durable;
            written.last_log = job.last_log.or(written.last_log);
            if written.result.is_ok() {
                written.result = self.write_job(job);
            }
        }
        written
    }

    /// Makes it durable where that was asked for, and says how it went.
    fn commit(&mut self, written: Written) {
        let result = written
            .result
            .and_then(|()| self.settle(written.durable, written.last_log));
        if let Err(error) = &result {
            self.fail(error.clone());
        }
        for done in written.done {
            done(result.clone());
        }
        if result.is_ok()
            && let Err(error) = self.disk.settle()
        {
            self.fail(error);
        }
    }

    fn settle(&mut self, durable: bool, last_log: Option<u64>) -> Result<(), DiskError> {
        if durable {
            self.sync()?;
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        match last_log {
            Some(index) => self.watermark.raise(index),
            None => Ok(()),
        }
    }

    fn write_job(&mut self, job: Job) -> Result<(), DiskError> {
        for (start, end) in &job.remove_now {
            // What is removed was perhaps acknowledged once: say first that it may be gone.
            if let Some(index) = job.last_log {
                self.watermark.lower(index)?;
            }
            self.remove_backwards(start, end)?;
        }
        self.removals.extend(job.remove_later);
        if job.writes.is_empty() {
            return Ok(());
        }
        self.disk.write(job.writes)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let start = Instant::now();
        self.disk.sync()?;
        self.unsynced_since = None;
        self.metrics.synced(start.elapsed());
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE) {
            self.metrics.uses(self.disk.size());
            self.measured = Some(start);
        }
        Ok(())
    }

    /// Nothing waits and nothing is left to tidy: syncs what nobody asked to have synced.
    fn sync_leftovers(&mut self) -> Result<(), DiskError> {
        match self.unsynced_since {
            Some(since) if since.elapsed() >= IDLE_SYNC => self.sync(),
            _ => Ok(()),
        }
    }

    /// Removes one slice of what is to be removed.
    fn tidy(&mut self, slice: usize) -> Result<(), DiskError> {
        let mut writes: Vec<Write> = Vec::new();
        while writes.len() < slice
            && let Some((start, end)) = self.removals.front_mut()
        {
            // A record loses its head first, so that one that is half removed is known as such.
            self.disk.scan_keys(start, end, &mut |key| {
                writes.push((key.to_vec(), None));
                writes.len() < slice
            })?;
            if writes.len() < slice {
                self.removals.pop_front();
            } else if let Some((last, _)) = writes.last() {
                // What was found is not looked at again: its removal may still be on its way.
                start.clone_from(last);
                start.push(0);
            }
        }
        if !writes.is_empty() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.disk.write(writes)
    }

    /// Removes a range from its end, so that a crash in between leaves no hole.
    fn remove_backwards(&self, start: &[u8], end: &[u8]) -> Result<(), DiskError> {
        let mut writes = Vec::new();
        self.disk.scan_keys(start, end, &mut |key| {
            writes.push((key.to_vec(), None));
            true
        })?;
        writes.reverse();
        self.disk.write(writes)
    }

    fn fail(&mut self, error: DiskError) {
        if self.failed.borrow().is_none() {
            tracing::error!(%error, "the store cannot write: this member stops");
            self.failed.send_replace(Some(error));
        }
        self.unsynced_since = None;
    }
}

/// How many keys are looked at after so many writes.
fn slice(written: usize) -> usize {
    (2 * written).clamp(*REMOVE_SLICE.start(), *REMOVE_SLICE.end())
}

fn size(writes: &[Write]) -> usize {
    writes
        .iter()
        .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
        .sum()
}

#[cfg(test)]
mod tests;

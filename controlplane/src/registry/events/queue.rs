//! Reports that wait to be written. What is said again while it waits is counted, not kept twice; when there is no
//! room left, what comes then is counted as lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::Report;
use super::correlate::SeriesKey;

/// Series that wait.
const ROOM: usize = 16 << 10;

/// A report, as often as it was made.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) report: Report,
    pub(super) count: i64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the number of their coming.
    waiting: std::collections::BTreeMap<u64, Waiting>,
    numbers: HashMap<SeriesKey, u64>,
    next: u64,
}

/// Where reports go, and where they are taken from.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue {
    inner: Arc<Mutex<Inner>>,
    news: Arc<Notify>,
    dropped: Arc<AtomicU64>,
}

impl EventQueue {
    pub(super) fn report(&self, report: Report, now: Timestamp) {
        let key = SeriesKey::of(&report);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner {
            waiting,
            numbers,
            next,
        } = &mut *inner;
        if let Some(known) = numbers.get(&key).and_then(|it| waiting.get_mut(it)) {
            known.count += 1;
            known.last = now;
            return;
        }
        if waiting.len() >= ROOM {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        numbers.insert(key, *next);
        let one = Waiting {
            report,
            count: 1,
            first: now,
            last: now,
        };
        waiting.insert(*next, one);
        *next += 1;
        self.news.notify_one();
    }

    /// Those that have waited longest, at least one.
    pub(super) async fn take(&self, most: usize) -> Vec<Waiting> {
        loop {
            let taken = self.take_now(most);
            if !taken.is_empty() {
                return taken;
            }
            self.news.notified().await;
        }
    }

    fn take_now(&self, most: usize) -> Vec<Waiting> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, one)) = inner.waiting.pop_first()
        {
            inner.numbers.remove(&SeriesKey::of(&one.report));
            taken.push(one);
        }
        taken
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::ObjectReference;

    use super::super::EventType;
    use super::*;

    fn report(name: usize) -> Report {
        Report {
            about: ObjectReference {
                name: Some(name.to_string()),
                ..ObjectReference::default()
            },
            event_type: EventType::Normal,
            reason: String::new(),
            message: String::new(),
            component: String::new(),
            host: String::new(),
        }
    }

    #[tokio::test]
    async fn what_is_said_again_is_counted_and_what_finds_no_room_is_lost() {
        let queue = EventQueue::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        for second in [1, 2, 3] {
            queue.report(report(0), at(second));
        }
        for name in 1..ROOM + 5 {
            queue.report(report(name), at(4));
        }
        queue.report(report(0), at(5));
        assert_eq!(queue.dropped(), 5);
        let taken = queue.take(2).await;
        let seen: Vec<_> = taken
            .iter()
            .map(|it| (it.count, it.first, it.last))
            .collect();
        assert_eq!(seen, [(4, at(1), at(5)), (1, at(4), at(4))]);
        // Taken: the next one is another.
        queue.report(report(0), at(6));
        let rest = queue.take(ROOM).await;
        assert_eq!((rest.len(), rest.last().unwrap().count), (ROOM - 1, 1));
        assert!(queue.inner.lock().unwrap().numbers.is_empty());
    }
}

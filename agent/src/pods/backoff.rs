//! Exponential back-off as the kubelet does it, as data: 10 s doubling to 300 s, forgotten after 10 quiet
//! minutes. Used for restarts of a container and for pulls of its image.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// How long to wait after a failure; `None` until there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Backoff {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

impl Backoff {
    /// When the next try may come after something that happened at `since`; `None` is at once.
    pub(crate) fn until(&self, since: Timestamp) -> Option<Timestamp> {
        let entry = self.entry?;
        if since.duration_since(entry.updated) > FORGOTTEN_AFTER {
            return None;
        }
        Some(since + entry.delay)
    }

    /// Notes a try at `now`: the next one will wait longer.
    pub(crate) fn step(&mut self, now: Timestamp) {
        let delay = match self.entry {
            Some(entry) if now.duration_since(entry.updated) <= FORGOTTEN_AFTER => {
                (entry.delay * 2).min(LONGEST)
            }
            _ => FIRST,
        };
        self.entry = Some(Entry {
            delay,
            updated: now,
        });
    }

    /// The delay in force as messages have it: `40s`, `1m20s`, `5m0s`.
    pub(crate) fn shown(&self) -> String {
        let seconds = self.entry.map_or(0, |entry| entry.delay.as_secs());
        match (seconds / 60, seconds % 60) {
            (0, seconds) => format!("{seconds}s"),
            (minutes, seconds) => format!("{minutes}m{seconds}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut backoff = Backoff::default();
        let mut now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000);
        assert_eq!(backoff.until(now), None);
        let shown = ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"];
        for (expected, shown) in [10, 20, 40, 80, 160, 300, 300].into_iter().zip(shown) {
            backoff.step(now);
            assert_eq!(backoff.shown(), shown);
            assert_eq!(
                backoff.until(now),
                Some(now + SignedDuration::from_secs(expected))
            );
            now = backoff.until(now).unwrap();
        }
        let later = now + SignedDuration::from_secs(700);
        assert_eq!(backoff.until(later), None);
        backoff.step(later);
        assert_eq!(backoff.until(later), Some(later + FIRST));
    }
}

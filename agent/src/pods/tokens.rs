//! Tokens of the accounts that pods run as: wanted by volumes, asked for over node sync, asked for anew at four
//! fifths of their life. The lock is held for a look-up only and no other lock is taken under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// No token is used for longer, however long it lives.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A question that was not answered by then is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A token that a volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    pub(crate) pod_uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) account: String,
    /// Empty for the API itself.
    pub(crate) audience: String,
    pub(crate) seconds: i64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    token: Option<String>,
    /// Why there is none yet.
    trouble: Option<String>,
    retry: Duration,
    /// When to ask (again).
    due: Instant,
}

#[derive(Debug, Default)]
struct Content {
    entries: BTreeMap<TokenWish, Entry>,
    last_id: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    content: Mutex<Content>,
    wanted: Notify,
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token, or why there is none yet; it is asked for from now on.
    pub(crate) fn get(&self, wish: &TokenWish) -> Result<String, String> {
        let mut content = self.lock();
        if let Some(entry) = content.entries.get(wish) {
            return match (&entry.token, &entry.trouble) {
                (Some(token), _) => Ok(token.clone()),
                (None, Some(why)) => Err(format!("failed to fetch token: {why}")),
                (None, None) => Err(NOT_YET.to_owned()),
            };
        }
        content.last_id += 1;
        let entry = Entry {
            id: content.last_id,
            token: None,
            trouble: None,
            retry: FIRST_RETRY,
            due: Instant::now(),
        };
        content.entries.insert(wish.clone(), entry);
        drop(content);
        self.wanted.notify_one();
        Err(NOT_YET.to_owned())
    }

    /// What was asked on a stream that is gone is asked again.
    pub(crate) fn begin(&self) {
        let now = Instant::now();
        for entry in self.lock().entries.values_mut() {
            if entry.token.is_none() {
                entry.due = now;
            }
        }
        self.wanted.notify_one();
    }

    /// The next question and its number; waits for one.
    pub(crate) async fn next(&self) -> (u64, TokenWish) {
        loop {
            let wanted = self.wanted.notified();
            let now = Instant::now();
            let earliest = {
                let mut content = self.lock();
                let first = content
                    .entries
                    .iter_mut()
                    .min_by_key(|(_, entry)| entry.due);
                match first {
                    Some((wish, entry)) if entry.due <= now => {
                        entry.due = now + PATIENCE;
                        return (entry.id, wish.clone());
                    }
                    first => first.map(|(_, entry)| entry.due),
                }
            };
            match earliest {
                Some(due) => tokio::select! {
                    () = wanted => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => wanted.await,
            }
        }
    }

    /// Returns whether somebody has waited for it. `lives` is counted from now, by clocks that may differ: no token is used
    /// for longer than it was asked for.
    pub(crate) fn answered(&self, id: u64, answer: Result<(String, Duration), String>) -> bool {
        let now = Instant::now();
        let mut content = self.lock();
        let mut entries = content.entries.iter_mut();
        let Some((wish, entry)) = entries.find(|(_, entry)| entry.id == id) else {
            return false;
        };
        match answer {
            Ok((token, lives)) => {
                entry.token = Some(token);
                entry.trouble = None;
                entry.retry = FIRST_RETRY;
                let asked = Duration::from_secs(u64::try_from(wish.seconds).unwrap_or(0));
                entry.due = now + lives.min(asked).mul_f64(0.8).min(LONGEST_USE);
            }
            Err(why) => {
                entry.trouble = Some(why);
                entry.due = now + entry.retry;
                entry.retry = (entry.retry * 2).min(LAST_RETRY);
            }
        }
        drop(content);
        self.wanted.notify_one();
        true
    }

    /// The pod is gone.
    pub(crate) fn forget(&self, pod_uid: &str) {
        self.lock()
            .entries
            .retain(|wish, _| wish.pod_uid != pod_uid);
    }

    /// These are all pods that there are.
    pub(crate) fn retain(&self, pod_uids: &BTreeSet<String>) {
        self.lock()
            .entries
            .retain(|wish, _| pod_uids.contains(&wish.pod_uid));
    }
}

/// Whether what failed did so for a token that was asked for and has neither come nor been refused.
pub(super) fn is_awaited(message: &str) -> bool {
    message.ends_with(NOT_YET)
}

const NOT_YET: &str = "the service account token was not received from the control plane yet";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn wish(uid: &str) -> TokenWish {
        TokenWish {
            pod_uid: uid.to_owned(),
            namespace: "ns".to_owned(),
            pod: "p".to_owned(),
            account: "default".to_owned(),
            audience: String::new(),
            seconds: 3600,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_asked_for_once_and_again_at_four_fifths_of_its_life() {
        let tokens = Tokens::default();
        assert!(tokens.get(&wish("a")).is_err());
        assert!(tokens.get(&wish("a")).is_err());
        let (id, asked) = tokens.next().await;
        assert_eq!(asked, wish("a"));
        assert!(tokens.answered(id, Ok(("one".to_owned(), Duration::from_secs(1000)))));
        assert_eq!(tokens.get(&wish("a")).unwrap(), "one");
        let begun = Instant::now();
        let (again, _) = tokens.next().await;
        assert_eq!(begun.elapsed().as_secs(), 800);
        assert_eq!(
            tokens.get(&wish("a")).unwrap(),
            "one",
            "good until there is a new one"
        );
        assert!(tokens.answered(again, Ok(("two".to_owned(), Duration::from_secs(1000)))));
        assert_eq!(tokens.get(&wish("a")).unwrap(), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_late_does_not_make_a_token_last() {
        let tokens = Tokens::default();
        assert!(tokens.get(&wish("a")).is_err());
        let (id, _) = tokens.next().await;
        let day = Duration::from_secs(24 * 3600);
        assert!(tokens.answered(id, Ok(("one".to_owned(), day))));
        let begun = Instant::now();
        tokens.next().await;
        assert_eq!(begun.elapsed().as_secs(), 2880);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_lost_streams_are_asked_again() {
        let tokens = Tokens::default();
        assert!(tokens.get(&wish("a")).is_err());
        let (id, _) = tokens.next().await;
        tokens.begin();
        let begun = Instant::now();
        assert_eq!(tokens.next().await.0, id);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        tokens.answered(id, Err("no such account".to_owned()));
        let why = tokens.get(&wish("a")).unwrap_err();
        assert_eq!(why, "failed to fetch token: no such account");
        assert_eq!(tokens.next().await.0, id);
        assert_eq!(begun.elapsed(), FIRST_RETRY);
        tokens.forget("a");
        assert!(!tokens.answered(id, Err(String::new())));
    }
}

//! Networks of pods that have ended, taken away behind them.
//!
//! With tcx the kernel takes a grace period of RCU for each program of a pod that it detaches, about 10 ms, and holds RTNL
//! meanwhile: of a hundred pods that end together the last would wait for two seconds. Nobody needs what is waited for: the
//! pod cannot be reached any more, and its address is given to another one only when its interface is gone. What an agent
//! does not come to do, the next one finds as a network that belongs to no pod.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// While one waits for the kernel after it has given RTNL back, another one has it. More would only stand in the way of networks
/// that are made.
const AT_ONCE: usize = 2;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Departures {
    /// Uids of the pods whose networks are not gone yet.
    under_way: watch::Sender<BTreeSet<String>>,
    turns: Arc<Semaphore>,
    /// They end with the agent.
    tasks: Mutex<JoinSet<()>>,
}

impl Departures {
    pub(super) fn new() -> Self {
        Self {
            under_way: watch::Sender::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            tasks: Mutex::default(),
        }
    }

    pub(super) fn is_under_way(&self, uid: &str) -> bool {
        self.under_way.borrow().contains(uid)
    }

    /// Does it, as often as it fails.
    pub(super) fn begin<F>(&self, uid: &str, mut remove: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let uid = uid.to_owned();
        if !self
            .under_way
            .send_if_modified(|all| all.insert(uid.clone()))
        {
            return;
        }
        let ended = Ended {
            under_way: self.under_way.clone(),
            uid,
        };
        let turns = Arc::clone(&self.turns);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let mut said = String::new();
            loop {
                // It is never closed; without a turn it is done all the same.
                let turn = turns.acquire().await;
                let Err(error) = remove().await else {
                    return;
                };
                drop(turn);
                if error != said {
                    tracing::warn!(uid = ended.uid, error, "a pod's network is not removed");
                    said = error;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        });
    }

    /// Until this one is gone.
    pub(super) async fn over(&self, uid: &str) {
        let mut under_way = self.under_way.subscribe();
        // The sender is here.
        let _ = under_way.wait_for(|all| !all.contains(uid)).await;
    }

    /// Until all are gone that are under way; whether there was one.
    pub(super) async fn all_over(&self) -> bool {
        let mut under_way = self.under_way.subscribe();
        let now = under_way.borrow_and_update().clone();
        let _ = under_way.wait_for(|all| all.is_disjoint(&now)).await;
        !now.is_empty()
    }
}

/// However it ends.
struct Ended {
    under_way: watch::Sender<BTreeSet<String>>,
    uid: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.under_way.send_modify(|all| {
            all.remove(&self.uid);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_until_it_is_done_and_waited_for() {
        let departures = Departures::new();
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        departures.begin("a", move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0..2 => Err("busy".to_owned()),
                    _ => Ok(()),
                }
            }
        });
        assert!(departures.is_under_way("a"));
        departures.over("b").await;
        let began = Instant::now();
        departures.over("a").await;
        assert_eq!(began.elapsed(), AGAIN_AFTER * 2);
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        assert!(!departures.all_over().await);
    }

    #[tokio::test(start_paused = true)]
    async fn few_at_the_same_time_and_each_once() {
        let departures = Departures::new();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..10 {
            let uid = (number / 2).to_string();
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            departures.begin(&uid, move || {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            });
        }
        let began = Instant::now();
        assert!(departures.all_over().await);
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
        // Five, each begun once.
        assert_eq!(began.elapsed(), Duration::from_millis(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_one_is_not_waited_for() {
        let departures = Departures::new();
        let release = Arc::new(Notify::new());
        let held = Arc::clone(&release);
        departures.begin("a", move || {
            let held = Arc::clone(&held);
            async move {
                held.notified().await;
                Ok(())
            }
        });
        let all_over = departures.all_over();
        tokio::pin!(all_over);
        let soon = Duration::from_millis(1);
        assert!(timeout(soon, &mut all_over).await.is_err());
        departures.begin("b", std::future::pending);
        release.notify_one();
        assert!(timeout(soon, all_over).await.unwrap());
        assert!(departures.is_under_way("b"));
    }
}

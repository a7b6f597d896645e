//! Turns at what takes the processor: how many pods begin at the same time.
//!
//! A hundred at once on two processors take a sixth more of their time than four at a time, and all of them are ready late.
//! Whoever takes long, waits for something else than the processor and keeps nobody from beginning; nobody waits for a
//! turn for ever.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Per processor; while one waits for the kernel another one goes on.
const PER_PROCESSOR: usize = 2;
/// A turn ends after this time, its work goes on.
const LONGEST: Duration = Duration::from_secs(1);
/// What waited so long begins without a turn.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Turns {
    /// As many as suit this machine.
    pub(crate) fn of_machine() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(processors * PER_PROCESSOR)
    }

    fn new(most: usize) -> Self {
        Self(Semaphore::new(most))
    }

    /// Does it when it is its turn, first come, first served.
    pub(crate) async fn take<T>(&self, work: impl Future<Output = T>) -> T {
        // Neither an error, which there is none of, nor a wait that is over gives a turn.
        let turn = timeout(PATIENCE, self.0.acquire()).await;
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(LONGEST) => {}
        }
        drop(turn);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_that_at_the_same_time() {
        let turns = Turns::new(3);
        let (now, most) = (Cell::new(0), Cell::new(0));
        let work = || async {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            sleep(Duration::from_millis(10)).await;
            now.set(now.get() - 1);
        };
        let began = Instant::now();
        join_all((0..12).map(|_| turns.take(work()))).await;
        assert_eq!(most.get(), 3);
        assert_eq!(began.elapsed(), Duration::from_millis(40));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_long_keeps_nobody_waiting() {
        let turns = Turns::new(1);
        let began = Instant::now();
        let stuck = turns.take(pending::<()>());
        let next = turns.take(async { began.elapsed() });
        tokio::select! {
            biased;
            () = stuck => unreachable!("it never ends"),
            waited = next => assert_eq!(waited, LONGEST),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_turn_for_ever() {
        let turns = Turns::new(1);
        let began = Instant::now();
        let stuck = join_all((0..100).map(|_| turns.take(pending::<()>())));
        let last = turns.take(async { began.elapsed() });
        tokio::select! {
            biased;
            _ = stuck => unreachable!("they never end"),
            waited = last => assert_eq!(waited, PATIENCE),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_takes_no_turn() {
        let turns = Turns::new(1);
        let gone = turns.take(pending::<()>());
        assert!(timeout(Duration::from_millis(1), gone).await.is_err());
        let began = Instant::now();
        turns.take(async {}).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

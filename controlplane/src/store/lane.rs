//! The thread on which a member with others runs: Raft, and the connections to the other members.
//!
//! A write passes through a dozen tasks of one member. On the workers of a runtime that is shared with everything else each
//! of these steps may wake another thread; on one thread a step is a place in a queue. What takes long (the disk, reading old entries, the API) is elsewhere.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads that read old entries for a member that is far behind, and the like.
const BLOCKING: usize = 4;

/// Ends its thread, and all tasks there, when it is dropped.
#[derive(Debug)]
pub(super) struct Lane {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Lane {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(BLOCKING)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("store".into()).spawn(move || {
            // The sender is dropped: nothing is ever sent.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _end: end })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn tasks_run_on_one_thread_of_their_own_until_it_is_dropped() {
        let lane = Lane::start().unwrap();
        let name = async || thread::current().name().map(str::to_owned);
        let there = lane.handle().spawn(async move {
            let inner = tokio::spawn(name());
            (name().await, inner.await.unwrap())
        });
        let named = Some("store".to_owned());
        assert_eq!(there.await.unwrap(), (named.clone(), named));
        let endless = lane.handle().spawn(std::future::pending::<()>());
        drop(lane);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}

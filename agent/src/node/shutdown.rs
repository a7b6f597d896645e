//! A machine that shuts down lets the node's pods end first: the login manager tells of it and waits while a lock is held.
//!
//! First the pods that the cluster can do without for longest, then those that are critical, each within the time that
//! they are given; what is left goes down with the machine. `shutdown/logind` speaks to the login manager,
//! `shutdown/message` is how.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::eviction::CRITICAL;
use super::heartbeat::Heartbeat;
use crate::pods::{Machine, Pods, Snapshot};

mod logind;
mod message;

pub(crate) use logind::BUS;
use logind::{Lock, Logind};

/// A bus that is not there is looked for again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// What the node says of itself meanwhile.
const WHY: &str = "node is shutting down";

pub(crate) struct Shutdown<M: Machine> {
    pub(crate) pods: Arc<Pods<M>>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) bus: PathBuf,
    /// How long a shutdown is held up at most; not at all if zero.
    pub(crate) period: Duration,
    /// The part of it that is for critical pods.
    pub(crate) critical: Duration,
}

/// What was heard of the login manager.
enum Heard {
    /// From now on shutdowns wait for as long as the lock is kept.
    Locked(Lock, Duration),
    Begins,
    CalledOff,
    Lost(std::io::Error),
}

impl<M: Machine> Shutdown<M> {
    /// Until `stop` says so.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        if self.period.is_zero() {
            return;
        }
        let mut told = false;
        loop {
            let (heard, mut all) = mpsc::channel(4);
            let bus = self.bus.clone();
            let (handle, listener) = std::sync::mpsc::channel();
            // A thread of its own: it waits for as long as the machine runs.
            std::thread::spawn(move || {
                if let Err(error) = listen(&bus, &heard, &handle) {
                    let _ = heard.blocking_send(Heard::Lost(error));
                }
            });
            tokio::select! {
                lost = self.follow(&mut all) => if !told && let Some(error) = lost {
                    told = true;
                    tracing::warn!(%error, "shutdowns of the machine will not wait for pods");
                },
                _ = stop.wait_for(|stop| *stop) => {}
            }
            if let Ok(stream) = listener.try_recv() {
                let stream: std::os::unix::net::UnixStream = stream;
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Returns why the login manager is lost.
    async fn follow(&self, all: &mut mpsc::Receiver<Heard>) -> Option<std::io::Error> {
        let mut lock = None;
        while let Some(heard) = all.recv().await {
            match heard {
                Heard::Locked(taken, longest) => {
                    lock = Some(taken);
                    if longest < self.period {
                        tracing::warn!(?longest, period = ?self.period,
                            "the login manager waits for less than pods are given (InhibitDelayMaxSec of logind.conf)");
                    }
                }
                Heard::Begins => {
                    self.end_pods().await;
                    // The machine may go down now.
                    lock = None;
                }
                Heard::CalledOff => {
                    self.pods.set_shutting_down(false);
                    self.heartbeat.set_shutting_down(None);
                }
                Heard::Lost(error) => return Some(error),
            }
        }
        drop(lock);
        None
    }

    /// Two rounds, the critical pods last.
    async fn end_pods(&self) {
        tracing::warn!("the machine shuts down; pods are ended");
        self.heartbeat.set_shutting_down(Some(WHY.to_owned()));
        self.pods.set_shutting_down(true);
        let others = self.period.saturating_sub(self.critical);
        for (critical, grace) in [(false, others), (true, self.critical)] {
            let deadline = Instant::now() + grace;
            let round: Vec<Snapshot> = self
                .pods
                .snapshots()
                .into_iter()
                .filter(|snapshot| is_live(snapshot) && is_critical(snapshot) == critical)
                .collect();
            for snapshot in &round {
                self.pods.shut_down(&snapshot.key.uid, grace).await;
            }
            for snapshot in round {
                let Some(mut watched) = self.pods.watch(&snapshot.key.uid) else {
                    continue;
                };
                let ended = watched.wait_for(|it| it.as_ref().is_none_or(|it| !is_live(it)));
                let _ = tokio::time::timeout_at(deadline, ended).await;
            }
        }
    }
}

fn is_live(snapshot: &Snapshot) -> bool {
    let phase = snapshot.status.phase.as_deref();
    !matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_critical(snapshot: &Snapshot) -> bool {
    let spec = snapshot.pod.spec.as_ref();
    spec.and_then(|spec| spec.priority).unwrap_or(0) >= CRITICAL || snapshot.is_static()
}

/// Blocks until the connection or whoever listens is gone.
fn listen(
    bus: &std::path::Path,
    heard: &mpsc::Sender<Heard>,
    handle: &std::sync::mpsc::Sender<std::os::unix::net::UnixStream>,
) -> std::io::Result<()> {
    let mut logind = Logind::connect(bus)?;
    let _ = handle.send(logind.handle()?);
    let longest = logind.longest_delay()?;
    let lock = logind.inhibit()?;
    let mut next = Heard::Locked(lock, longest);
    loop {
        if heard.blocking_send(next).is_err() {
            return Ok(());
        }
        next = if logind.next()? {
            Heard::Begins
        } else {
            let lock = logind.inhibit()?;
            if heard.blocking_send(Heard::CalledOff).is_err() {
                return Ok(());
            }
            Heard::Locked(lock, longest)
        };
    }
}

#[cfg(test)]
mod tests;

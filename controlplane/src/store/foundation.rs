//! The parts below Raft, opened in order: disk thread, log, state machine. Here the data is read and checked.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::StoreError;
use super::compaction::Retention;
use super::directory::Watermark;
use super::disk::{Disk, DiskError};
use super::log::LogStore;
use super::machine::{Published, StateMachine};
use super::metrics::Metrics;
use super::raft::NodeId;
use super::record;
use super::writer::{Job, Writer};

pub(super) const MEMBER: &str = "member";

/// The parts below Raft.
pub(super) struct Foundation {
    pub(super) disk: Weak<dyn Disk>,
    /// None in a simulation.
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) writer: Writer,
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
    pub(super) published: mpsc::UnboundedReceiver<Published>,
}

impl Foundation {
    /// Reads and checks everything on the disk. The thread holds `keep` (the directory's lock) until it ends.
    pub(super) fn lay(
        disk: Arc<dyn Disk>,
        watermark: Watermark,
        keep: impl Send + 'static,
        node_id: NodeId,
        retention: &Retention,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let reach = watermark.index();
        let weak = Arc::downgrade(&disk);
        let (writer, thread) =
            Writer::start(Arc::clone(&disk), watermark, metrics.disk.clone(), keep)
                .map_err(|e| StoreError::Storage(format!("start the disk thread: {e}")))?;
        let (hub, published) = mpsc::unbounded_channel();
        let parts = open_parts(&disk, &writer, node_id, reach, hub, retention, metrics);
        drop(disk);
        match parts {
            Ok((log, machine)) => Ok(Self {
                disk: weak,
                thread: Some(thread),
                writer,
                log,
                machine,
                published,
            }),
            Err(error) => {
                writer.stop();
                // The directory must be free when the caller learns of the error.
                let _ = thread.join();
                Err(error.into())
            }
        }
    }

    /// On a disk whose writes take the time that `latency` says.
    #[cfg(test)]
    pub(super) fn simulate(
        disk: Arc<dyn Disk>,
        node_id: NodeId,
        retention: &Retention,
        metrics: &Metrics,
        latency: impl Fn() -> std::time::Duration + Send + 'static,
    ) -> Result<Self, StoreError> {
        let weak = Arc::downgrade(&disk);
        let writer = Writer::simulate(Arc::clone(&disk), metrics.disk.clone(), latency);
        let (hub, published) = mpsc::unbounded_channel();
        let (log, machine) = open_parts(&disk, &writer, node_id, 0, hub, retention, metrics)?;
        Ok(Self {
            disk: weak,
            thread: None,
            writer,
            log,
            machine,
            published,
        })
    }
}

fn open_parts(
    disk: &Arc<dyn Disk>,
    writer: &Writer,
    node_id: NodeId,
    reach: u64,
    hub: mpsc::UnboundedSender<Published>,
    retention: &Retention,
    metrics: &Metrics,
) -> Result<(LogStore, StateMachine), DiskError> {
    check_member(&**disk, writer, node_id)?;
    let (log, cover) = LogStore::open(disk, writer.clone(), node_id, reach)?;
    let state = metrics.state.clone();
    let machine = StateMachine::open(&**disk, writer.clone(), cover, hub, state, retention)?;
    Ok((log, machine))
}

/// The data must be this member's: another one's votes would break the promises of Raft.
fn check_member(disk: &dyn Disk, writer: &Writer, node_id: NodeId) -> Result<(), DiskError> {
    let base = record::meta_key(MEMBER);
    match record::get(disk, &base)? {
        Some(found) if found == node_id.to_be_bytes() => Ok(()),
        Some(found) => {
            let found = found.try_into().map_or(0, u64::from_be_bytes);
            Err(DiskError::Corrupt(format!(
                "the data belongs to member {found}, this is member {node_id}"
            )))
        }
        None => {
            let mut job = Job::default();
            record::put(&mut job.writes, &base, &node_id.to_be_bytes());
            writer.submit(job);
            Ok(())
        }
    }
}

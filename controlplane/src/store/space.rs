//! Refuses writes before the disk is so full that the disk thread would fail, which ends the member.
//!
//! What only deletes is let through for longer: it is how space is made. One member whose disk is short makes
//! the whole group refuse, because all members hold all data.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::{Disk, DiskError};
use super::group::report::Reports;
use super::metrics::SpaceMetrics;
use super::{Op, StoreError, Txn};

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// With less than this many bytes free on the file system, nothing is added.
    pub(super) reserve: u64,
    /// What the store's files may take, all in all.
    pub(super) quota: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            reserve: 32 << 20,
            quota: 8 << 30,
        }
    }
}

pub(super) struct Space {
    disk: Weak<dyn Disk>,
    bounds: Bounds,
    short: AtomicBool,
    metrics: SpaceMetrics,
}

impl Space {
    pub(super) fn new(disk: Weak<dyn Disk>, bounds: Bounds, metrics: SpaceMetrics) -> Self {
        Self {
            disk,
            bounds,
            short: AtomicBool::new(false),
            metrics,
        }
    }

    /// Bytes free on the file system, where that can be known.
    pub(super) fn free(&self) -> Option<u64> {
        self.disk.upgrade().and_then(|disk| disk.available())
    }

    /// Whether it is worth to give back space on the disk.
    pub(super) async fn is_mostly_garbage(&self) -> Result<bool, StoreError> {
        self.on_the_disk(|disk| disk.is_mostly_garbage()).await
    }

    /// Gives back space on the disk: what it took before and takes now.
    ///
    /// # Errors
    /// Also of a disk that is well: there is no room for a copy.
    pub(super) async fn defragment(&self) -> Result<(u64, u64), StoreError> {
        self.on_the_disk(|disk| disk.defragment()).await
    }

    async fn on_the_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.upgrade().ok_or(StoreError::Closed)?;
        if disk.is_memory() {
            return Ok(work(&*disk)?);
        }
        let work = tokio::task::spawn_blocking(move || work(&*disk));
        let done = work.await;
        Ok(done.map_err(|error| StoreError::Storage(format!("rewriting the database: {error}")))??)
    }

    /// Whether the files take more than half of what they may.
    pub(super) fn is_half_full(&self) -> bool {
        self.used() > self.bounds.quota / 2
    }

    pub(super) fn used(&self) -> u64 {
        self.disk.upgrade().map_or(0, |disk| disk.size())
    }

    /// Why nothing may be added, if so. Two system calls, next to a sync they cost nothing.
    fn shortage(&self) -> Option<String> {
        let Bounds { reserve, quota } = self.bounds;
        let why = match (self.free(), self.used()) {
            (Some(free), _) if free < reserve => Some(format!(
                "{free} bytes are free, {reserve} are kept in reserve"
            )),
            (_, used) if used > quota => Some(format!(
                "the store takes {used} bytes, its quota is {quota}; delete, compact and defragment"
            )),
            _ => None,
        };
        if self.short.swap(why.is_some(), Ordering::Relaxed) != why.is_some() {
            self.metrics.no_space.set(i64::from(why.is_some()));
            match &why {
                Some(why) => tracing::error!(why, "alarm: the store takes no more writes"),
                None => tracing::info!("the store takes writes again"),
            }
        }
        why
    }

    pub(super) fn is_short(&self) -> bool {
        self.shortage().is_some()
    }

    /// # Errors
    /// [`StoreError::DiskFull`] where the transactions cannot be taken.
    pub(super) fn admit(&self, txns: &[Txn], others: &Reports) -> Result<(), StoreError> {
        let shortage = self.shortage().or_else(|| {
            let member = others.crowded()?;
            Some(format!("member {member} has no space left"))
        });
        let Some(why) = shortage else {
            return Ok(());
        };
        // Half of the reserve is there for what makes space.
        let room = self
            .free()
            .is_none_or(|free| free >= self.bounds.reserve / 2);
        let only_deletes = |txn: &Txn| txn.ops.iter().all(|op| matches!(op, Op::Delete { .. }));
        if room && txns.iter().all(only_deletes) {
            return Ok(());
        }
        Err(StoreError::DiskFull(why))
    }
}

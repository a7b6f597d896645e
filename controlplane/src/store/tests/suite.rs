//! The storage suite that openraft ships, on sled in a directory.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::store::compaction::Retention;
use crate::store::directory::Directory;
use crate::store::disk::{Disk, SledDisk};
use crate::store::log::LogStore;
use crate::store::machine::StateMachine;
use crate::store::metrics::Metrics;
use crate::store::raft::{StorageError, TypeConfig};
use crate::store::writer::Writer;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        let watermark = directory.watermark().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(SledDisk::open(&directory.data()).unwrap());
        let metrics = Metrics::default();
        let (writer, _thread) =
            Writer::start(Arc::clone(&disk), watermark, metrics.disk, directory).unwrap();
        let (hub, _) = mpsc::unbounded_channel();
        let (log, cover) = LogStore::open(&disk, writer.clone(), 0, 0).unwrap();
        let retention = Retention::default();
        let machine =
            StateMachine::open(&*disk, writer, cover, hub, metrics.state, &retention).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_storage_suite() {
    Suite::test_all(Builder).unwrap();
}

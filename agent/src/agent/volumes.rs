//! Removes the data of local volumes that are being deleted, and says so.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use tokio::sync::watch;

use crate::pods::Objects;
use crate::sync::Outbox;
use crate::volumes::local;

const DRIVER: &str = "waggle.dev/local";
const FINALIZER: &str = "waggle.dev/local-volume";

/// Name and handle of a volume whose data has to go.
fn going(volume: &PersistentVolume) -> Option<(String, String)> {
    volume.metadata.deletion_timestamp.as_ref()?;
    let mut finalizers = volume.metadata.finalizers.iter().flatten();
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    let ours = csi.driver == DRIVER && finalizers.any(|known| known == FINALIZER);
    ours.then(|| {
        (
            volume.metadata.name.clone().unwrap_or_default(),
            csi.volume_handle.clone(),
        )
    })
}

pub(super) async fn remove(
    objects: Arc<Objects>,
    data_dir: PathBuf,
    outbox: Arc<Outbox>,
    mut stop: watch::Receiver<bool>,
) {
    let root = data_dir.join(local::ROOT);
    let mut changes = objects.changes();
    loop {
        changes.borrow_and_update();
        for (name, handle) in objects.volumes().iter().filter_map(|one| going(one)) {
            let root = root.clone();
            let done = tokio::task::spawn_blocking(move || local::remove(&root, &handle)).await;
            match done {
                // Said again as long as the volume is there: what was said may not have arrived.
                Ok(Ok(())) => outbox.volume_removed(name),
                Ok(Err(error)) => tracing::warn!(%name, %error, "local volume not removed"),
                Err(error) => tracing::warn!(%name, %error, "local volume not removed"),
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

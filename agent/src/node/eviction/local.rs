//! What a pod has written to the node's disk, and whether that is more than it may. Reads directories.

use k8s_openapi::api::core::v1::Volume;

use crate::pods::{Snapshot, quantity};
use crate::volumes::usage::{self, DiskUsage};

const RESOURCE: &str = "ephemeral-storage";

/// Its root file systems' changes, its logs, and its volumes that are on the disk.
pub(crate) fn pod_usage(snapshot: &Snapshot) -> DiskUsage {
    let spec = snapshot.pod.spec.as_ref();
    let volumes = spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let empty = volumes.filter(|volume| is_on_disk(volume));
    let volumes = empty.map(|volume| usage::of(&snapshot.dirs.volumes().join(&volume.name)));
    let containers = snapshot.containers.keys();
    let containers = containers.map(|name| container_usage(snapshot, name));
    volumes
        .chain(containers)
        .fold(DiskUsage::default(), DiskUsage::plus)
}

/// What one container wrote outside of volumes, and its logs.
pub(super) fn container_usage(snapshot: &Snapshot, name: &str) -> DiskUsage {
    let known = snapshot.containers.get(name);
    let written = known
        .and_then(|known| known.current)
        .map(|number| usage::of(&snapshot.dirs.attempt(name, number).join("upper")))
        .unwrap_or_default();
    written.plus(usage::of(&snapshot.dirs.logs.join(name)))
}

fn is_on_disk(volume: &Volume) -> bool {
    let empty = volume.empty_dir.as_ref();
    empty.is_some_and(|empty| empty.medium.as_deref().is_none_or(str::is_empty))
}

/// Why it has to go, if it has to.
pub(super) fn exceeded(snapshot: &Snapshot) -> Option<String> {
    let spec = snapshot.pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten().filter(|it| is_on_disk(it)) {
        let limit = volume
            .empty_dir
            .as_ref()
            .and_then(|it| it.size_limit.as_ref());
        let Some(limit) = limit else { continue };
        let used = usage::of(&snapshot.dirs.volumes().join(&volume.name)).bytes;
        if quantity::whole(limit).is_some_and(|most| most > 0 && used > most) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, limit.0
            ));
        }
    }
    let mut total = Some(0u64);
    for container in &spec.containers {
        let limits = container
            .resources
            .as_ref()
            .and_then(|it| it.limits.as_ref());
        let limit = limits.and_then(|limits| limits.get(RESOURCE));
        let Some(most) = limit.and_then(quantity::whole).filter(|most| *most > 0) else {
            total = None;
            continue;
        };
        total = total.map(|total| total.saturating_add(most));
        if container_usage(snapshot, &container.name).bytes > most {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name,
                limit.map(|limit| limit.0.as_str()).unwrap_or_default()
            ));
        }
    }
    let total = total.filter(|total| *total > 0)?;
    (pod_usage(snapshot).bytes > total).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {total}. ")
    })
}

//! ConfigMap, Secret, emptyDir and the files that every pod has, on the disk's side.
//!
//! Pure: which files a ConfigMap or Secret gives (`volumes/payload.rs`). Doing: writing them so that a
//! change appears whole (`volumes/atomic.rs`), host paths and sub-paths (`volumes/host_path.rs`,
//! `volumes/sub_path.rs`), tmpfs (`volumes/tmpfs.rs`), the directories of local PersistentVolumes
//! (`volumes/local.rs`), whose they are (`volumes/group.rs`), how much there is (`volumes/usage.rs`). What a pod refers to is resolved by `pods`.

pub(crate) mod atomic;
pub(crate) mod group;
pub(crate) mod host_path;
pub(crate) mod local;
pub(crate) mod payload;
pub(crate) mod sub_path;
pub(crate) mod tmpfs;
pub(crate) mod usage;

//! The cgroups of pods, on pure v2 hosts and on hybrid ones (v1 controllers, and a v2 tree beside them that
//! the data plane's socket hooks attach to).
//!
//! A pod's cgroup is `<parent>/pod<uid>` in every hierarchy, its containers' are below it (runc makes
//! those), and supervisors live in `<parent>/supervisor`, so that neither the end of the agent's cgroup nor a
//! pod's memory limit reaches them.

mod hierarchies;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use hierarchies::Hierarchies;

use super::resources::{self, Setting};
use super::{Resources, RuntimeError};
use crate::supervisor::cgroup;

/// How long killed processes may take to leave a cgroup.
const REMOVAL: Duration = Duration::from_secs(10);

/// How long a process that has ended may still be counted in its cgroup.
const DEPARTURE: Duration = Duration::from_secs(1);

/// Path of a pod's cgroup inside each hierarchy.
pub(crate) fn pod_cgroup(parent: &str, pod_uid: &str) -> Result<String, RuntimeError> {
    let parent = parent.trim_matches('/');
    let unsafe_part = |part: &str| matches!(part, "" | "." | "..");
    if parent.split('/').any(unsafe_part) || pod_uid.contains('/') || pod_uid.is_empty() {
        return Err(RuntimeError::InvalidName(format!("{parent}/pod{pod_uid}")));
    }
    Ok(format!("/{parent}/pod{pod_uid}"))
}

/// Makes the pod's cgroup wherever its resources are accounted or limited, and in the v2 tree.
pub(crate) fn create(
    hierarchies: &Hierarchies,
    pod_cgroup: &str,
    resources: &Resources,
) -> Result<(), RuntimeError> {
    if let Some(root) = &hierarchies.v2 {
        let dir = hierarchies::join(root, pod_cgroup);
        make(&dir)?;
        if hierarchies.is_unified() {
            delegate(root, &dir);
            let settings = resources::v2_settings(resources);
            apply(&dir, settings.iter())?;
        }
    }
    let settings = resources::v1_settings(resources);
    for (controller, root) in &hierarchies.v1 {
        // Processes cannot enter a new cpuset: runc fills in those that it makes.
        if controller == "cpuset" {
            continue;
        }
        let dir = hierarchies::join(root, pod_cgroup);
        make(&dir)?;
        apply(
            &dir,
            settings.iter().filter(|it| it.controller == controller),
        )?;
    }
    Ok(())
}

/// Sets the limits of a cgroup that is there: a pod's or a container's. What has no limit is left as it is.
pub(crate) fn update(
    hierarchies: &Hierarchies,
    cgroup: &str,
    resources: &Resources,
) -> Result<(), RuntimeError> {
    if hierarchies.is_unified()
        && let Some(root) = &hierarchies.v2
    {
        let settings = resources::v2_settings(resources);
        return apply(&hierarchies::join(root, cgroup), settings.iter());
    }
    let settings = resources::v1_settings(resources);
    for (controller, root) in &hierarchies.v1 {
        let own = settings.iter().filter(|it| it.controller == controller);
        apply(&hierarchies::join(root, cgroup), own)?;
    }
    Ok(())
}

/// Kills what is in the pod's cgroups and removes them with everything below. Idempotent.
pub(crate) fn remove(hierarchies: &Hierarchies, pod_cgroup: &str) -> Result<(), RuntimeError> {
    let deadline = Instant::now() + REMOVAL;
    for dir in hierarchies.directories(pod_cgroup) {
        let mut pause = Duration::from_millis(1);
        while let Err(error) = remove_tree(&dir) {
            if Instant::now() >= deadline {
                return Err(RuntimeError::io("remove cgroup", &dir, error));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Removes the agent's own cgroups when no pod is left; `false` when something is still in them.
pub(crate) fn remove_parent(hierarchies: &Hierarchies, parent: &str) -> bool {
    let parent = format!("/{}", parent.trim_matches('/'));
    let directories = hierarchies.directories(&parent);
    if directories.iter().any(|dir| has_pods(dir)) {
        return false;
    }
    // A supervisor that has just ended leaves its cgroup a little after it has closed its socket.
    let deadline = Instant::now() + DEPARTURE;
    loop {
        let removed = |dir: &PathBuf| remove_empty(&dir.join("supervisor")) && remove_empty(dir);
        let left = directories.iter().filter(|dir| !removed(dir)).count();
        if left == 0 || Instant::now() >= deadline {
            return left == 0;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn has_pods(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"pod"))
}

fn remove_empty(dir: &Path) -> bool {
    match std::fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn make(dir: &Path) -> Result<(), RuntimeError> {
    std::fs::create_dir_all(dir).map_err(|error| RuntimeError::io("make cgroup", dir, error))
}

/// Lets the controllers reach down to `dir` and its children. Those that the host does not give are found
/// missing when a limit is set.
fn delegate(root: &Path, dir: &Path) {
    let mut ancestors: Vec<&Path> = dir
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(root))
        .collect();
    ancestors.reverse();
    for ancestor in ancestors {
        let text = std::fs::read_to_string(ancestor.join("cgroup.controllers"));
        for controller in text.unwrap_or_default().split_whitespace() {
            let control = ancestor.join("cgroup.subtree_control");
            if let Err(error) = std::fs::write(&control, format!("+{controller}")) {
                tracing::debug!(controller, path = %control.display(), %error, "not delegated");
            }
        }
    }
}

fn apply<'a>(dir: &Path, settings: impl Iterator<Item = &'a Setting>) -> Result<(), RuntimeError> {
    for setting in settings {
        let path = dir.join(setting.file);
        std::fs::write(&path, &setting.value)
            .map_err(|error| RuntimeError::io("set limit", &path, error))?;
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    cgroup::kill(dir);
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The directories in which a pod's supervisor lives.
pub(crate) fn supervisor_directories(hierarchies: &Hierarchies, parent: &str) -> Vec<PathBuf> {
    let path = format!("/{}/supervisor", parent.trim_matches('/'));
    let v1 = hierarchies.v1.iter().filter(|(name, _)| *name != "cpuset");
    let roots = v1.map(|(_, root)| root).chain(&hierarchies.v2);
    let mut dirs: Vec<PathBuf> = roots.map(|root| hierarchies::join(root, &path)).collect();
    dirs.sort_unstable();
    dirs.dedup();
    dirs
}

//! What a pod uses of memory and process ids, from its cgroup.

use std::path::Path;

use super::cgroups::pod_cgroup;
use super::launch;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// The working set: without what the kernel would take back first.
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u64,
}

/// `below` is a container's id, or empty for the whole pod. `None` when there is no such cgroup.
pub(crate) fn usage(cgroup_parent: &str, pod_uid: &str, below: &str) -> Option<Usage> {
    let hierarchies = launch::hierarchies().ok()?;
    let cgroup = format!("{}/{below}", pod_cgroup(cgroup_parent, pod_uid).ok()?);
    let cgroup = cgroup.trim_matches('/');
    let dir = |controller: &str| {
        let root = hierarchies.v1.get(controller).or(hierarchies.v2.as_ref());
        root.map(|root| root.join(cgroup))
    };
    let unified = hierarchies.is_unified();
    let (current, inactive) = if unified {
        ("memory.current", "inactive_file ")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file ")
    };
    let memory = dir("memory")?;
    let used = number(&memory.join(current))?;
    let stat = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix(inactive));
    let idle = idle.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Some(Usage {
        memory_bytes: used.saturating_sub(idle),
        pids: dir("pids")
            .and_then(|dir| number(&dir.join("pids.current")))
            .unwrap_or(0),
    })
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

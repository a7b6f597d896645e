//! What a cgroup has used: CPU time, and memory that the kernel cannot take back at once.

use std::path::{Path, PathBuf};

use super::Hierarchies;
use super::cgroups::pod_cgroup;
use super::launch;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
}

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

/// What a cgroup uses, in the detail in which it is published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
    /// Without what the kernel would take back first.
    pub(crate) working_set_bytes: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) page_faults: u64,
    pub(crate) major_page_faults: u64,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) pids: u64,
}

/// Of a cgroup; `None` when it is gone or not accounted.
pub(crate) fn detail(hierarchies: &Hierarchies, cgroup: &str) -> Option<Detail> {
    /// Of v1: what is not limited is limited by the largest number of pages.
    const UNLIMITED: u64 = 1 << 60;
    let used = of(hierarchies, cgroup)?;
    let unified = hierarchies.is_unified();
    let dir = |controller: &str| {
        let root = match unified {
            true => hierarchies.v2.as_ref(),
            false => hierarchies.v1.get(controller),
        };
        root.map(|root| root.join(cgroup.trim_start_matches('/')))
    };
    let memory = dir("memory")?;
    let stat = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
    let [current, limit, rss, cache, faults, major] = match unified {
        true => [
            "memory.current",
            "memory.max",
            "anon",
            "file",
            "pgfault",
            "pgmajfault",
        ],
        false => [
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "total_rss",
            "total_cache",
            "total_pgfault",
            "total_pgmajfault",
        ],
    };
    let of_stat = |key: &str| line(&stat, key).unwrap_or(0);
    Some(Detail {
        cpu_nanos: used.cpu_nanos,
        memory_bytes: number(&memory.join(current))?,
        working_set_bytes: used.memory_bytes,
        rss_bytes: of_stat(rss),
        cache_bytes: of_stat(cache),
        page_faults: of_stat(faults),
        major_page_faults: of_stat(major),
        memory_limit_bytes: number(&memory.join(limit)).filter(|limit| *limit < UNLIMITED),
        pids: dir("pids")
            .and_then(|dir| number(&dir.join("pids.current")))
            .unwrap_or(0),
    })
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line `key value` of a file of such lines.
pub(crate) fn line(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

fn of_file(path: &Path, key: &str) -> Option<u64> {
    line(&std::fs::read_to_string(path).ok()?, key)
}

/// Of a cgroup; `None` when it is gone or not accounted.
pub(crate) fn of(hierarchies: &Hierarchies, cgroup: &str) -> Option<Used> {
    let below = |root: &PathBuf| root.join(cgroup.trim_start_matches('/'));
    if hierarchies.is_unified() {
        let dir = below(hierarchies.v2.as_ref()?);
        let memory = number(&dir.join("memory.current"))?;
        let cache = of_file(&dir.join("memory.stat"), "inactive_file").unwrap_or(0);
        return Some(Used {
            cpu_nanos: of_file(&dir.join("cpu.stat"), "usage_usec")?.saturating_mul(1_000),
            memory_bytes: memory.saturating_sub(cache),
        });
    }
    let cpu = below(hierarchies.v1.get("cpuacct")?);
    let dir = below(hierarchies.v1.get("memory")?);
    let memory = number(&dir.join("memory.usage_in_bytes"))?;
    let cache = of_file(&dir.join("memory.stat"), "total_inactive_file").unwrap_or(0);
    Some(Used {
        cpu_nanos: number(&cpu.join("cpuacct.usage"))?,
        memory_bytes: memory.saturating_sub(cache),
    })
}

/// Of the machine, from its `/proc/stat` and `/proc/meminfo`.
pub(crate) fn machine(stat: &str, meminfo: &str) -> Used {
    /// USER_HZ is 100 wherever Linux runs.
    const NANOS: u64 = 10_000_000;
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are part of user.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    let kib = |key: &str| {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let used = kib("MemTotal")
        .saturating_sub(kib("MemFree"))
        .saturating_sub(kib("Inactive(file)"));
    Used {
        cpu_nanos: busy.saturating_mul(NANOS),
        memory_bytes: used.saturating_mul(1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read() {
        let stat = "cpu  10 1 20 1000 5 2 3 4 7 0\ncpu0 1 1 1 1\n";
        let meminfo = "MemTotal: 1000 kB\nMemFree:  200 kB\nInactive(file): 300 kB\n";
        assert_eq!(
            machine(stat, meminfo),
            Used {
                cpu_nanos: 40 * 10_000_000,
                memory_bytes: 500 * 1024
            }
        );
        assert_eq!(machine("", ""), Used::default());
        assert_eq!(line("a 1\nb 2\n", "b"), Some(2));
    }
}

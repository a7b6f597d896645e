//! Memory of a cluster at rest: resident size of every process of its tree.

use std::collections::BTreeMap;
use std::time::Duration;

use waggle_tests::Cluster;

use super::table::{Row, row};

/// After a start nothing but heart-beats happens; the sizes have settled by then.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(cluster: &Cluster) -> Vec<Row> {
    let before = cpu_seconds(cluster.pid());
    std::thread::sleep(SETTLE);
    let used = cpu_seconds(cluster.pid()) - before;
    let sizes = tree(cluster);
    let total: f64 = sizes.values().sum();
    vec![
        row("memory at rest, resident, all processes", total, "MiB").at_most(100.0),
        row(
            "processor use at rest",
            used / SETTLE.as_secs_f64() * 100.0,
            "% core",
        ),
    ]
}

/// Resident MiB by process id: the cluster's process and whatever runs from its run directory.
pub(crate) fn tree(cluster: &Cluster) -> BTreeMap<i32, f64> {
    let run_dir = cluster.run_dir().to_string_lossy().into_owned();
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid == cluster.pid() || String::from_utf8_lossy(&command).contains(&run_dir) {
            sizes.insert(pid, resident(pid));
        }
    }
    sizes
}

fn resident(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    // SAFETY: sysconf has no precondition.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    (ticks(11) + ticks(12)) / per_second
}

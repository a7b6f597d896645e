//! Processors: where the two ends run, and whose time is counted.
//!
//! An operation's time is that of the client's and the server's processes and of `ksoftirqd`, as the scheduler
//! counts it, in nanoseconds. On a veth pair a packet's way through the node is run by the sender's own system
//! call or at its end, so it is in that. A kernel that counts interrupts' time apart
//! (`CONFIG_IRQ_TIME_ACCOUNTING`) takes it out of the processes again: then the machine's soft-interrupt time is
//! added, to a tick's precision.

use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Which processors the ends take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Processors {
    /// For operations one at a time: both ends, so that nothing is woken on another processor.
    together: Vec<usize>,
    /// For streams: the client's.
    client: Vec<usize>,
    /// For streams: the server's.
    server: Vec<usize>,
    is_apart_counted: bool,
    ksoftirqd: Vec<i32>,
}

/// How the two ends share processors during a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    Together,
    Apart,
}

impl Processors {
    pub(crate) fn of_this_machine(pinned: bool) -> anyhow::Result<Self> {
        let mine = sched_getaffinity(Pid::from_raw(0))?;
        let all: Vec<usize> = (0..CpuSet::count())
            .filter(|cpu| mine.is_set(*cpu).unwrap_or(false))
            .collect();
        let (together, client, server) = choose(&all, pinned);
        Ok(Self {
            together,
            client,
            server,
            is_apart_counted: counts_interrupts_apart(),
            ksoftirqd: ksoftirqd(),
        })
    }

    pub(crate) fn pin(&self, client: u32, server: u32, sharing: Sharing) -> anyhow::Result<()> {
        let (for_client, for_server) = match sharing {
            Sharing::Together => (&self.together, &self.together),
            Sharing::Apart => (&self.client, &self.server),
        };
        pin(client, for_client)?;
        pin(server, for_server)
    }

    /// Seconds, so far, of what is not a process of ours and works for it.
    pub(crate) fn kernel_time(&self) -> f64 {
        let daemons: f64 = self.ksoftirqd.iter().map(|pid| scheduled(*pid)).sum();
        if self.is_apart_counted {
            daemons + soft_interrupt_time()
        } else {
            daemons
        }
    }

    pub(crate) fn described(&self) -> String {
        format!(
            "one operation at a time: client and server on processor {:?}; streams: client on {:?}, server on {:?}",
            self.together, self.client, self.server
        )
    }
}

/// The last ones: the first usually serves the machine's interrupts.
fn choose(all: &[usize], pinned: bool) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    if !pinned {
        return (all.to_vec(), all.to_vec(), all.to_vec());
    }
    let last = all.last().copied().into_iter().collect::<Vec<_>>();
    let before = all.iter().rev().nth(1).copied();
    let server = before.map_or_else(|| last.clone(), |cpu| vec![cpu]);
    (last.clone(), last, server)
}

fn pin(process: u32, cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        let Ok(id) = thread.file_name().to_string_lossy().parse() else {
            continue;
        };
        sched_setaffinity(Pid::from_raw(id), &set)?;
    }
    Ok(())
}

fn counts_interrupts_apart() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let packed = std::fs::read("/proc/config.gz").ok().and_then(|packed| {
        use std::io::Read as _;
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    });
    let text = packed
        .or_else(|| std::fs::read_to_string(format!("/boot/config-{}", release.trim())).ok())
        .unwrap_or_default();
    text.lines()
        .any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y")
}

fn ksoftirqd() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid: &i32| {
            std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"))
                .is_ok_and(|name| name.starts_with("ksoftirqd/"))
        })
        .collect()
}

/// Time on a processor, seconds.
fn scheduled(pid: i32) -> f64 {
    std::fs::read_to_string(format!("/proc/{pid}/schedstat"))
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e9
}

fn soft_interrupt_time() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // SAFETY: sysconf has no precondition.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    soft_interrupt_ticks(&text) / per_second
}

/// Of all processors: the first line's hard and soft interrupts.
fn soft_interrupt_ticks(stat: &str) -> f64 {
    let first = stat.lines().next().unwrap_or_default();
    first
        .split_whitespace()
        .skip(6)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_take_the_last_processors() {
        assert_eq!(choose(&[0, 1, 2, 3], true), (vec![3], vec![3], vec![2]));
        assert_eq!(choose(&[5], true), (vec![5], vec![5], vec![5]));
        assert_eq!(choose(&[0, 1], false).0, vec![0, 1]);
    }

    #[test]
    fn interrupts_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 60 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(soft_interrupt_ticks(stat), 67.0);
    }
}

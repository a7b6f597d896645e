//! Memory of this process, of the BPF maps and programs that it holds, of the kernel.

use std::collections::BTreeMap;

use super::Memory;
use crate::bench::part::read;

/// Of the process that holds the data plane: this one.
pub(super) fn own() -> anyhow::Result<Memory> {
    let status = read("/proc/self/status")?;
    let mut objects = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")?.flatten() {
        // A descriptor that was closed meanwhile (that of the directory itself) is none of ours.
        if let Some((id, bytes)) = std::fs::read_to_string(entry.path())
            .ok()
            .as_deref()
            .and_then(object)
        {
            objects.insert(id, bytes);
        }
    }
    Ok(Memory {
        resident: kib(&status, "VmRSS:"),
        peak: kib(&status, "VmHWM:"),
        kernel: Some(objects.values().sum()),
        estimated: false,
    })
}

/// A map's or program's identity and the bytes that the kernel holds for it, if the descriptor is of one.
fn object(text: &str) -> Option<((&'static str, u64), u64)> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.trim().parse::<u64>().ok())
    };
    let id = field("map_id:")
        .map(|id| ("map", id))
        .or_else(|| field("prog_id:").map(|id| ("program", id)))?;
    Some((id, field("memlock:")?))
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// What of the machine's kernel memory can be rules: slab that cannot be reclaimed, vmalloc, per-CPU. Bytes.
pub(super) fn kernel_memory() -> anyhow::Result<u64> {
    let text = read("/proc/meminfo")?;
    Ok(["SUnreclaim:", "VmallocUsed:", "Percpu:"]
        .iter()
        .filter_map(|name| kib(&text, name))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_and_a_program_are_told_from_a_file() {
        let map = "pos:\t0\nmap_type:\t1\nmap_id:\t77\nmemlock:\t4096\n";
        assert_eq!(object(map), Some((("map", 77), 4096)));
        let program = "prog_type:\t3\nmemlock:\t8192\nprog_id:\t77\n";
        assert_eq!(object(program), Some((("program", 77), 8192)));
        assert_eq!(object("pos:\t0\nflags:\t02\n"), None);
        // A link names its program, and has no memory of its own.
        assert_eq!(object("link_id:\t1\nprog_id:\t3\n"), None);
    }

    #[test]
    fn kib_are_read_as_bytes() {
        assert_eq!(
            kib("VmHWM:\t  12 kB\nVmRSS:\t  10 kB\n", "VmRSS:"),
            Some(10_240)
        );
        assert_eq!(kib("", "VmRSS:"), None);
    }
}

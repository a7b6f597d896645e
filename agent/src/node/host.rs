//! The machine as it is: read from the kernel and from /etc, parsed apart from reading.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::runtime::huge_pages;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("read {path}: {source}")]
    Read {
        path: &'static str,
        source: std::io::Error,
    },
    #[error("{path} says nothing of {what}")]
    Missing {
        path: &'static str,
        what: &'static str,
    },
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) hostname: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) architecture: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) cpus: u64,
    pub(crate) memory_bytes: u64,
    /// Number of huge pages by their size in bytes.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
}

/// What changes: for pressure conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) memory_bytes: u64,
    pub(crate) memory_available_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_available_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    pub(crate) pids: u64,
    pub(crate) pids_max: u64,
}

fn read(path: &'static str) -> Result<String, HostError> {
    std::fs::read_to_string(path).map_err(|source| HostError::Read { path, source })
}

/// A file of one line that may be missing.
fn line(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Host {
    pub(crate) fn read() -> Result<Self, HostError> {
        let meminfo = read("/proc/meminfo")?;
        let memory_bytes = meminfo_bytes(&meminfo, "MemTotal").ok_or(HostError::Missing {
            path: "/proc/meminfo",
            what: "MemTotal",
        })?;
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            hostname: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            architecture: architecture(std::env::consts::ARCH).to_owned(),
            system_uuid: if uuid.is_empty() {
                machine_id.clone()
            } else {
                uuid
            },
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            cpus: u64::try_from(cpus).unwrap_or(1),
            memory_bytes,
            huge_pages: huge_pages::read(),
        })
    }
}

impl Usage {
    pub(crate) fn read(data_dir: &Path) -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let disk = nix::sys::statvfs::statvfs(data_dir).ok();
        let loadavg = line("/proc/loadavg");
        Self {
            memory_bytes: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0),
            memory_available_bytes: meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(u64::MAX),
            disk_bytes: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
            disk_available_bytes: disk
                .map_or(0, |disk| disk.blocks_available() * disk.fragment_size()),
            inodes: disk.map_or(0, |disk| disk.files()),
            inodes_free: disk.map_or(0, |disk| disk.files_free()),
            pids: tasks(&loadavg).unwrap_or(0),
            pids_max: line("/proc/sys/kernel/pid_max").parse().unwrap_or(u64::MAX),
        }
    }
}

/// A line of /proc/meminfo, which counts in KiB.
pub(crate) fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line
        .strip_prefix(':')?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    kib.checked_mul(1024)
}

/// `PRETTY_NAME` of os-release(5).
fn os_image(text: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim().trim_matches(['"', '\'']))
        .to_owned()
}

/// The name that images and Kubernetes give an architecture.
fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// All tasks, from the fourth field of /proc/loadavg (`running/all`).
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg
        .split_whitespace()
        .nth(3)?
        .split_once('/')?
        .1
        .parse()
        .ok()
}

/// The interface with the default route.
pub(crate) fn uplink() -> Option<String> {
    default_route(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// In the table of /proc/net/route: destination and mask zero, lowest metric.
fn default_route(table: &str) -> Option<String> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (interface, destination) = (*fields.first()?, *fields.get(1)?);
            let (metric, mask) = (fields.get(6)?.parse::<u32>().ok()?, *fields.get(7)?);
            (destination == "00000000" && mask == "00000000")
                .then(|| (metric, interface.to_owned()))
        })
        .min()
        .map(|(_, interface)| interface)
}

/// The node's addresses on `uplink`, IPv4 first; without an uplink, whatever a packet to the outside would
/// be sent from, or loopback.
pub(crate) fn addresses(uplink: Option<&str>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    if let (Some(uplink), Ok(all)) = (uplink, nix::ifaddrs::getifaddrs()) {
        for interface in all.filter(|interface| interface.interface_name == uplink) {
            let Some(address) = interface.address else {
                continue;
            };
            let ip = if let Some(v4) = address.as_sockaddr_in() {
                IpAddr::V4(v4.ip())
            } else if let Some(v6) = address.as_sockaddr_in6() {
                IpAddr::V6(v6.ip())
            } else {
                continue;
            };
            if is_global(&ip) && !found.contains(&ip) {
                found.push(ip);
            }
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    // One address per family is what a node is reached by.
    let first_v6 = found.iter().position(IpAddr::is_ipv6);
    let mut chosen: Vec<IpAddr> = found
        .iter()
        .copied()
        .filter(IpAddr::is_ipv4)
        .take(1)
        .collect();
    chosen.extend(first_v6.map(|at| found[at]));
    if chosen.is_empty() {
        chosen.push(source_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    chosen
}

fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => {
            !ip.is_loopback() && !ip.is_unspecified() && (ip.segments()[0] & 0xffc0) != 0xfe80
        }
    }
}

/// Asks the routing table; nothing is sent.
fn source_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn this_machine_can_be_read() {
        let host = Host::read().unwrap();
        assert!(host.cpus > 0 && host.memory_bytes > 0 && !host.kernel.is_empty());
        assert!(!addresses(None).is_empty());
        assert!(Usage::read(Path::new("/")).disk_bytes > 0);
    }

    #[test]
    fn files_of_the_kernel() {
        assert_eq!(
            meminfo_bytes("MemTotal:       24 kB\nMemFree: 1 kB\n", "MemTotal"),
            Some(24 * 1024)
        );
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(tasks("0.1 0.2 0.3 2/345 678"), Some(345));
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth1\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t10\t00000000\n\
            eth2\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(default_route(table), Some("eth0".to_owned()));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~\t\n]{0,200}") {
            let _ = meminfo_bytes(&text, "MemTotal");
            let _ = os_image(&text);
            let _ = tasks(&text);
            let _ = default_route(&text);
        }
    }
}

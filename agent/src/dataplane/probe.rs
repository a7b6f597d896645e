//! What must be there before anything is touched: capabilities, kernel, cgroup v2.

use std::path::Path;

use aya::util::KernelVersion;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::error::DataPlaneError;

/// The oldest kernel that every program is loaded on in tests.
const MINIMUM: (KernelVersion, &str) = (KernelVersion::new(6, 1, 0), "6.1");
/// tcx came with this one.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

pub(crate) fn check(cgroup: &Path) -> Result<(), DataPlaneError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(DataPlaneError::file("read", "/proc/self/status"))?;
    capabilities(&status)?;
    let version = KernelVersion::current().map_err(|error| DataPlaneError::System {
        action: "read the kernel's version",
        source: std::io::Error::other(error),
    })?;
    kernel(version)?;
    let at = statfs(cgroup)
        .map_err(|errno| DataPlaneError::file("look at", cgroup)(std::io::Error::from(errno)))?;
    if at.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(DataPlaneError::NotCgroup2(cgroup.to_owned()));
    }
    Ok(())
}

/// Whether programs can be attached by tcx; by clsact otherwise.
pub(crate) fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= TCX)
}

fn capabilities(status: &str) -> Result<(), DataPlaneError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    for (number, name) in CAPABILITIES {
        if effective & (1 << number) == 0 {
            return Err(DataPlaneError::Capability(name));
        }
    }
    Ok(())
}

fn kernel(version: KernelVersion) -> Result<(), DataPlaneError> {
    if version < MINIMUM.0 {
        return Err(DataPlaneError::KernelFeature {
            feature: "what the data plane's eBPF programs use",
            minimum: MINIMUM.1,
            detail: format!("this is {version:?}"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        capabilities(all).unwrap();
        let without_bpf = "CapEff:\t0000003fffffffff\n";
        let error = capabilities(without_bpf).unwrap_err();
        assert_eq!(error.to_string(), "missing capability CAP_BPF");
        assert!(capabilities("").is_err());
    }

    #[test]
    fn an_old_kernel_is_refused_with_the_minimum() {
        kernel(KernelVersion::new(6, 1, 0)).unwrap();
        let error = kernel(KernelVersion::new(5, 15, 3)).unwrap_err();
        assert!(error.to_string().contains("6.1"), "{error}");
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let error = check(Path::new("/proc")).unwrap_err();
        assert!(matches!(error, DataPlaneError::NotCgroup2(_)), "{error}");
    }
}

//! From requests and limits to what the kernel is told (pure): for containers in runc's terms, for the pod's
//! cgroup as files.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

use super::Resources;

/// Length of the period in which a CPU limit is counted, in microseconds.
const PERIOD: u64 = 100_000;
/// The kernel refuses less.
const MIN_QUOTA: u64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// The weight of a CPU request in the unit of v1, where 1,024 is one core; least when nothing is asked for.
pub(crate) fn cpu_shares(request_millis: Option<u64>) -> u64 {
    let shares = request_millis.unwrap_or(0).saturating_mul(1024) / 1000;
    shares.clamp(MIN_SHARES, MAX_SHARES)
}

/// The same in the unit of v2, 1 to 10,000.
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + (shares - MIN_SHARES) * 9_999 / (MAX_SHARES - MIN_SHARES)
}

/// Microseconds of CPU time per period.
pub(crate) fn cpu_quota(limit_millis: u64) -> u64 {
    (limit_millis.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA)
}

/// One file of a cgroup and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) controller: &'static str,
    pub(crate) file: &'static str,
    pub(crate) value: String,
}

impl Setting {
    fn new(controller: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self {
            controller,
            file,
            value: value.to_string(),
        }
    }
}

pub(crate) fn v1_settings(resources: &Resources) -> Vec<Setting> {
    let shares = cpu_shares(resources.cpu_request_millis);
    let mut settings = vec![Setting::new("cpu", "cpu.shares", shares)];
    if let Some(limit) = resources.cpu_limit_millis {
        settings.push(Setting::new("cpu", "cpu.cfs_period_us", PERIOD));
        settings.push(Setting::new("cpu", "cpu.cfs_quota_us", cpu_quota(limit)));
    }
    if let Some(limit) = resources.memory_limit_bytes {
        settings.push(Setting::new("memory", "memory.limit_in_bytes", limit));
    }
    if let Some(limit) = resources.pids_limit {
        settings.push(Setting::new("pids", "pids.max", limit));
    }
    settings
}

pub(crate) fn v2_settings(resources: &Resources) -> Vec<Setting> {
    let weight = cpu_weight(cpu_shares(resources.cpu_request_millis));
    let mut settings = vec![Setting::new("cpu", "cpu.weight", weight)];
    if let Some(limit) = resources.cpu_limit_millis {
        let value = format!("{} {PERIOD}", cpu_quota(limit));
        settings.push(Setting::new("cpu", "cpu.max", value));
    }
    if let Some(limit) = resources.memory_limit_bytes {
        settings.push(Setting::new("memory", "memory.max", limit));
    }
    if let Some(limit) = resources.pids_limit {
        settings.push(Setting::new("pids", "pids.max", limit));
    }
    settings
}

/// For every size that can be limited; what was not asked for is not to be had.
pub(crate) fn huge_pages(
    limits: &BTreeMap<u64, u64>,
    sizes: &[u64],
) -> Option<Vec<LinuxHugepageLimit>> {
    let limit = |size: &u64| {
        let limit = limits.get(size).copied().unwrap_or(0);
        let mut result = LinuxHugepageLimit::default();
        result
            .set_page_size(page_size(*size))
            .set_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        result
    };
    (!sizes.is_empty()).then(|| sizes.iter().map(limit).collect())
}

/// As the files of the controller have it in their names.
fn page_size(bytes: u64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB")];
    let unit = units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    let (unit, name) = unit.copied().unwrap_or((1 << 10, "KB"));
    format!("{}{name}", bytes / unit)
}

/// A container's resources as runc wants them; runc converts to the units of v2 itself.
pub(crate) fn container(resources: &Resources, privileged: bool) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(cpu_shares(resources.cpu_request_millis)));
    if let Some(limit) = resources.cpu_limit_millis {
        cpu.set_period(Some(PERIOD));
        cpu.set_quota(i64::try_from(cpu_quota(limit)).ok());
    }
    let mut result = LinuxResources::default();
    result.set_cpu(Some(cpu));
    if let Some(limit) = resources.memory_limit_bytes {
        let mut memory = LinuxMemory::default();
        memory.set_limit(i64::try_from(limit).ok());
        result.set_memory(Some(memory));
    }
    if let Some(limit) = resources.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        result.set_pids(Some(pids));
    }
    // runc adds the devices that every container has (null, zero, tty…) after this rule.
    let mut devices = LinuxDeviceCgroup::default();
    devices.set_allow(privileged);
    devices.set_access(Some("rwm".to_owned()));
    result.set_devices(Some(vec![devices]));
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn text(settings: &[Setting]) -> Vec<String> {
        let text = |it: &Setting| format!("{} {}={}", it.controller, it.file, it.value);
        settings.iter().map(text).collect()
    }

    #[test]
    fn pods_are_limited_on_both_kinds_of_host() {
        let resources = Resources {
            cpu_request_millis: Some(1000),
            cpu_limit_millis: Some(250),
            memory_request_bytes: Some(1),
            memory_limit_bytes: Some(4096),
            pids_limit: Some(10),
        };
        let v1 = [
            "cpu cpu.shares=1024",
            "cpu cpu.cfs_period_us=100000",
            "cpu cpu.cfs_quota_us=25000",
            "memory memory.limit_in_bytes=4096",
            "pids pids.max=10",
        ];
        assert_eq!(text(&v1_settings(&resources)), v1);
        let v2 = [
            "cpu cpu.weight=39",
            "cpu cpu.max=25000 100000",
            "memory memory.max=4096",
            "pids pids.max=10",
        ];
        assert_eq!(text(&v2_settings(&resources)), v2);
        let none = Resources::default();
        assert_eq!(text(&v1_settings(&none)), ["cpu cpu.shares=2"]);
        assert_eq!(text(&v2_settings(&none)), ["cpu cpu.weight=1"]);
    }

    proptest! {
        #[test]
        fn values_are_within_what_the_kernel_takes(millis: u64) {
            let shares = cpu_shares(Some(millis));
            prop_assert!((MIN_SHARES..=MAX_SHARES).contains(&shares));
            prop_assert!((1..=10_000).contains(&cpu_weight(shares)));
            prop_assert!(cpu_quota(millis) >= MIN_QUOTA);
        }
    }
}

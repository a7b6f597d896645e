//! Which capabilities a container's processes have.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::runtime::ContainerSpec;

/// What containers have everywhere unless they say otherwise.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// What Linux knows since 5.9, by number.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown capability {0:?}")]
pub(crate) struct UnknownCapability(pub(crate) String);

/// The capabilities in a mask as `/proc/<pid>/status` has it.
pub(super) fn from_mask(mask: u64) -> Capabilities {
    let numbered = ALL.into_iter().enumerate();
    numbered
        .filter(|(number, _)| mask & (1 << number) != 0)
        .map(|(_, capability)| capability)
        .collect()
}

/// `ALL` means all that this node has to give, and is handled first, so that dropping all and adding one gives the one.
pub(super) fn build(
    container: &ContainerSpec,
    available: u64,
) -> Result<LinuxCapabilities, UnknownCapability> {
    let says_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set = Capabilities::from(DEFAULT);
    if container.privileged || says_all(&container.add_capabilities) {
        set = from_mask(available);
    }
    if says_all(&container.drop_capabilities) {
        set.clear();
    }
    set.extend(parse(&container.add_capabilities)?);
    for capability in parse(&container.drop_capabilities)? {
        set.remove(&capability);
    }
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        // What is inheritable would survive the switch to another user by way of file capabilities.
        .set_inheritable(None)
        .set_ambient(None);
    Ok(capabilities)
}

/// Names with or without `CAP_`, in any case.
fn parse(names: &[String]) -> Result<Vec<Capability>, UnknownCapability> {
    let names = names
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"));
    names
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            Capability::from_str(short).map_err(|_| UnknownCapability(name.clone()))
        })
        .collect()
}

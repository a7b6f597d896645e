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

/// The rest of what Linux knows; 41 in all since 5.9.
const OTHERS: [Capability; 27] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::NetAdmin,
    Capability::NetBroadcast,
    Capability::Perfmon,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown capability {0:?}")]
pub(crate) struct UnknownCapability(pub(crate) String);

/// `ALL` is handled first, so that dropping all and adding one gives the one.
pub(super) fn build(container: &ContainerSpec) -> Result<LinuxCapabilities, UnknownCapability> {
    let all = || DEFAULT.into_iter().chain(OTHERS).collect::<Capabilities>();
    let says_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set = Capabilities::from(DEFAULT);
    if container.privileged || says_all(&container.add_capabilities) {
        set = all();
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

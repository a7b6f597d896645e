//! What a container's processes may not do, or share: the parts of a specification that most containers leave at
//! their defaults.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxSeccomp;

#[derive(Debug, Clone, Default)]
pub(crate) struct Confinement {
    pub(crate) seccomp: Seccomp,
    /// The AppArmor profile.
    pub(crate) app_armor: Option<String>,
    /// `/proc` without the masks that containers have.
    pub(crate) unmasked_proc: bool,
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Groups that the image gives the user do not count.
    pub(crate) strict_groups: bool,
    pub(crate) pid: PidNamespace,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Seccomp {
    #[default]
    Unconfined,
    /// What containers have elsewhere: see `spec/seccomp`.
    RuntimeDefault,
    Profile(Box<LinuxSeccomp>),
}

/// Which processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    #[default]
    Own,
    /// The one that all containers of the pod share.
    Pod,
    Host,
    /// That of a process of another container.
    Of(u32),
}

/// How mounts that are made on one side appear on the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

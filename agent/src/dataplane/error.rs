//! What can go wrong with the data plane, by name.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A kernel that lacks something; names it and the minimum version.
    #[error("the kernel lacks {feature} (needs Linux {minimum}): {detail}")]
    KernelFeature {
        feature: &'static str,
        minimum: &'static str,
        detail: String,
    },
    #[error("missing capability {0}")]
    Capability(&'static str),
    #[error("{} is not a directory of cgroup v2", .0.display())]
    NotCgroup2(PathBuf),
    #[error("no interface named {0}")]
    NoInterface(String),
    #[error("uplink {0} is not an Ethernet interface")]
    NotEthernet(String),
    #[error("more than {maximum} {what} ranges")]
    TooManyRanges { what: &'static str, maximum: usize },
    #[error("range {0} overlaps range {1}")]
    Overlap(ipnet::IpNet, ipnet::IpNet),
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    #[error("load eBPF program {program}")]
    Program {
        program: &'static str,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("attach {program} to {hook}")]
    Attach {
        program: &'static str,
        hook: String,
        source: io::Error,
    },
    #[error("attach {program} to {hook} by clsact")]
    Classifier {
        program: &'static str,
        hook: String,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("eBPF map {map}")]
    Map {
        map: &'static str,
        source: Box<aya::maps::MapError>,
    },
    #[error("{action}")]
    Netlink {
        action: String,
        source: rtnetlink::Error,
    },
    #[error("{action}")]
    System {
        action: &'static str,
        source: io::Error,
    },
}

impl DataPlaneError {
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |source| Self::Map {
            map,
            source: Box::new(source),
        }
    }

    pub(crate) fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let action = action.into();
        move |source| Self::Netlink { action, source }
    }
}

//! Layout 1, of the first releases: one node, ClusterIPs only.

use std::path::Path;

use agent_ebpf::layout::{Plain, ServiceKey, ServiceValue};
use aya::maps::MapError;

use super::{Older, add, table};
use crate::dataplane::wire::Wire;

pub(super) const OLDER: Older = Older {
    number: 1,
    same: &[
        "SLOTS",
        "PODS",
        "SOURCES",
        "ORIGINS",
        "UDP_STATE",
        "FLOWS",
        "RETURNS",
    ],
    convert,
};

/// Value of `SERVICES`; the key was today's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(in crate::dataplane) struct OldService {
    pub(in crate::dataplane) base: u32,
    pub(in crate::dataplane) count: u32,
    pub(in crate::dataplane) set: u32,
    pub(in crate::dataplane) service: u32,
    pub(in crate::dataplane) affinity: u32,
    pub(in crate::dataplane) flags: u32,
}

// SAFETY: repr(C), integers only, the size is the sum of the fields' sizes (asserted below).
unsafe impl Plain for OldService {}
const _: () = assert!(size_of::<OldService>() == 24);

fn service(old: &OldService) -> ServiceValue {
    ServiceValue {
        base: old.base,
        count: old.count,
        set: old.set,
        service: old.service,
        affinity: old.affinity,
        flags: old.flags,
        maglev: 0,
        padding: 0,
    }
}

fn convert(old: &Path, new: &Path) -> Result<(), MapError> {
    let from = table::<ServiceKey, OldService>(old, "SERVICES")?;
    let mut to = table(new, "SERVICES")?;
    for entry in from.iter() {
        let (Wire(key), Wire(value)) = entry?;
        add(&mut to, key, service(&value))?;
    }
    Ok(())
}

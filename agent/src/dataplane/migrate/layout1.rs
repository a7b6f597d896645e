//! Layout 1, of the first releases: one node, ClusterIPs only.

use std::path::Path;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    FLOW_KIND_MASQUERADE, FLOW_REPLIED, FLOW_REVERSE, FlowKey, FlowValue, Plain, ServiceKey,
    ServiceValue,
};
use aya::maps::{Array, Map, MapData, MapError};

use super::{Older, add, table};
use crate::dataplane::wire::Wire;

pub(super) const OLDER: Older = Older {
    number: 1,
    same: &["SLOTS", "PODS", "SOURCES", "ORIGINS", "UDP_STATE"],
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

/// Value of `FLOWS`, whose key was today's: the port that a masqueraded flow was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(in crate::dataplane) struct OldFlow {
    pub(in crate::dataplane) address: Address,
    pub(in crate::dataplane) port: u16,
    pub(in crate::dataplane) flags: u16,
    pub(in crate::dataplane) seen: u32,
}

/// Value of `CONFIG`, of which only the uplink's addresses matter.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) struct OldConfig {
    pub(in crate::dataplane) before: [u32; 14],
    pub(in crate::dataplane) uplink_v4: Address,
    pub(in crate::dataplane) uplink_v6: Address,
    pub(in crate::dataplane) behind: [u32; 96],
}

// SAFETY: repr(C), integers only, the sizes are the sums of the fields' sizes (asserted below).
unsafe impl Plain for OldFlow {}
// SAFETY: as above.
unsafe impl Plain for OldConfig {}
const _: () = assert!(size_of::<OldFlow>() == 24 && size_of::<OldConfig>() == 472);

/// Both entries of a masqueraded flow. Whether it has ended is not taken over: it goes when it is idle.
fn flow(config: &OldConfig, key: FlowKey, old: &OldFlow) -> [(FlowKey, FlowValue); 2] {
    let mut to = key;
    to.source = if key.source.is_v4() {
        config.uplink_v4
    } else {
        config.uplink_v6
    };
    to.source_port = old.port;
    let value = |to, flags| FlowValue {
        to,
        service: 0,
        seen: old.seen,
        flags,
        kind: FLOW_KIND_MASQUERADE,
    };
    [
        (to.reply(), value(key.reply(), FLOW_REVERSE | FLOW_REPLIED)),
        (key, value(to, 0)),
    ]
}

fn convert(old: &Path, new: &Path) -> Result<(), MapError> {
    services(old, new)?;
    flows(old, new)
}

fn flows(old: &Path, new: &Path) -> Result<(), MapError> {
    let config = MapData::from_pin(old.join("CONFIG"))?;
    let config: Array<_, Wire<OldConfig>> = Map::Array(config).try_into()?;
    let Wire(config) = config.get(&0, 0)?;
    let from = table::<FlowKey, OldFlow>(old, "FLOWS")?;
    let mut to = table(new, "FLOWS")?;
    for entry in from.iter() {
        let (Wire(key), Wire(value)) = entry?;
        for (key, value) in flow(&config, key, &value) {
            add(&mut to, key, value)?;
        }
    }
    Ok(())
}

fn services(old: &Path, new: &Path) -> Result<(), MapError> {
    let from = table::<ServiceKey, OldService>(old, "SERVICES")?;
    let mut to = table(new, "SERVICES")?;
    for entry in from.iter() {
        let (Wire(key), Wire(value)) = entry?;
        add(&mut to, key, service(&value))?;
    }
    Ok(())
}

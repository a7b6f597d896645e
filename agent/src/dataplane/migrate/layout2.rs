//! Layout 2, as seen by the later version that the feature `next-layout` stands for: the same entries, in tables of
//! another size. A real layout 3 takes the place of this.

use std::path::Path;

use agent_ebpf::layout::{FlowKey, FlowValue, Plain, ServiceKey, ServiceValue};
use aya::maps::MapError;

use super::{Older, add, table};
use crate::dataplane::wire::Wire;

pub(super) const OLDER: Older = Older {
    number: 2,
    same: &[
        "SLOTS",
        "PODS",
        "SOURCES",
        "REMOTES",
        "LINKS",
        "LOCALS",
        "MAGLEV",
        "SOURCE_RANGES",
        "AFFINITIES",
        "FRAGMENTS",
        "OPTED_OUT",
        "NAMESPACES",
        "ORIGIN_PLACES",
        "ORIGINS",
        "UDP_STATE",
        "DROPS",
        "FORWARDS",
        "EVENTS",
    ],
    convert,
};

fn convert(old: &Path, new: &Path) -> Result<(), MapError> {
    copy::<ServiceKey, ServiceValue>("SERVICES", old, new)?;
    copy::<FlowKey, FlowValue>("FLOWS", old, new)
}

fn copy<K: Plain, V: Plain>(name: &str, old: &Path, new: &Path) -> Result<(), MapError> {
    let from = table::<K, V>(old, name)?;
    let mut to = table(new, name)?;
    for entry in from.iter() {
        let (Wire(key), Wire(value)) = entry?;
        add(&mut to, key, value)?;
    }
    Ok(())
}

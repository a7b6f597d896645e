//! How full the tables are, by name: for `/metrics`, and said in the log before one is full.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use agent_ebpf::layout::{
    MAGLEV_BLOCKS, MAX_FLOWS, MAX_LOCALS, MAX_MAGLEV_BLOCKS, MAX_OPTED_OUT, MAX_PODS, MAX_SERVICES,
    MAX_SLOTS, MAX_SOURCE_RANGES,
};

use super::State;
use super::objects::Counted;
use super::syscall::Scan;

/// Entries of a table in use, and how many there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) table: &'static str,
    pub(crate) used: usize,
    pub(crate) size: usize,
}

/// Percent of a table in use from which on the log warns, and below which it may warn anew.
const WARN: usize = 80;
const RELAX: usize = 75;

#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    /// What programs fill (or others of us), when it was last counted.
    counted: BTreeMap<&'static str, usize>,
    warned: BTreeMap<&'static str, ()>,
}

impl Occupancy {
    /// Tables that have become nearly full since it was last asked.
    fn alarms(&mut self, fills: &[Fill]) -> Vec<Fill> {
        let mut alarms = Vec::new();
        for fill in fills {
            let percent = fill.used * 100 / fill.size.max(1);
            if percent < RELAX {
                self.warned.remove(fill.table);
            } else if percent >= WARN && self.warned.insert(fill.table, ()).is_none() {
                alarms.push(*fill);
            }
        }
        alarms
    }
}

/// Counts what only the kernel knows. Takes milliseconds when tables are large.
pub(crate) fn count(state: &mut State) {
    for Counted {
        table,
        map,
        key,
        value,
        ..
    } in &state.objects.counted
    {
        match Scan::new(map.as_fd(), *key, *value).count() {
            Ok(count) => drop(state.occupancy.counted.insert(table, count)),
            Err(error) => tracing::warn!(%error, table, "cannot count a table's entries"),
        }
    }
}

pub(crate) fn fills(state: &State) -> Vec<Fill> {
    let planner = state.tables.planner();
    let fill = |table, used, size| Fill { table, used, size };
    let mut fills = vec![
        fill("services", planner.services(), MAX_SERVICES),
        fill("slots", planner.slots_used() as usize, MAX_SLOTS),
        fill(
            "maglev_blocks",
            planner.maglev_tables_used() * MAGLEV_BLOCKS as usize,
            MAX_MAGLEV_BLOCKS,
        ),
        fill(
            "source_ranges",
            planner.source_ranges_used(),
            MAX_SOURCE_RANGES,
        ),
        fill("pods", state.pods, MAX_PODS),
        fill("flows", state.flows, MAX_FLOWS),
        fill("locals", state.reached.locals.len(), MAX_LOCALS),
        fill(
            "opted_out",
            state.settings.opted_out as usize,
            MAX_OPTED_OUT,
        ),
    ];
    fills.extend(state.objects.counted.iter().map(|counted| {
        Fill {
            table: counted.table,
            used: state
                .occupancy
                .counted
                .get(counted.table)
                .copied()
                .unwrap_or(0),
            size: counted.entries,
        }
    }));
    fills
}

/// Says which tables have become nearly full.
pub(crate) fn warn(state: &mut State) {
    let fills = fills(state);
    for fill in state.occupancy.alarms(&fills) {
        tracing::warn!(
            table = fill.table,
            used = fill.used,
            size = fill.size,
            "a table of the data plane is nearly full"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_reported_once_before_it_is_full() {
        let mut occupancy = Occupancy::default();
        let mut alarms = |used| {
            let fill = Fill {
                table: "slots",
                used,
                size: 1000,
            };
            !occupancy.alarms(&[fill]).is_empty()
        };
        assert!(!alarms(799));
        assert!(alarms(800));
        assert!(!alarms(900), "said already");
        assert!(!alarms(760), "still nearly full");
        assert!(!alarms(810));
        assert!(!alarms(700));
        assert!(alarms(1000), "anew");
    }
}

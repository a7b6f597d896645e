//! Forgets translated flows that have been idle for too long, or whose end is gone. Nothing else removes them: a full
//! table refuses new flows, under a named reason, rather than break live ones.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{FlowKey, FlowValue, MAX_FLOWS};
use agent_ebpf::nat::{SHORTEST_LIMIT, idle_limit};

use super::error::DataPlaneError;
use super::syscall::{Scan, map_delete, map_lookup, object_get};

/// The table of flows, apart from the other maps: looking through it takes no lock.
#[derive(Debug)]
pub(crate) struct FlowTable {
    fd: OwnedFd,
}

/// What a look through the table found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Occupancy {
    /// Entries that are left; a flow has two.
    pub(crate) entries: usize,
    pub(crate) removed: usize,
}

impl Occupancy {
    /// More than three quarters full: what is over or never got an answer goes sooner.
    pub(crate) fn is_pressed(self) -> bool {
        self.entries > MAX_FLOWS / 4 * 3
    }

    /// Until the next look: sooner the fuller the table is.
    pub(crate) fn next_look(self) -> Duration {
        Duration::from_secs(match self.entries {
            entries if entries > MAX_FLOWS / 4 * 3 => 1,
            entries if entries > MAX_FLOWS / 2 => 3,
            _ => 10,
        })
    }
}

/// Seconds on the clock that the programs read (`CLOCK_MONOTONIC`).
pub(crate) fn now() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer to a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u32
}

/// Whether a flow is over at `now`, by one of its entries and the other, which may be gone.
fn is_idle(
    now: u32,
    key: &FlowKey,
    value: &FlowValue,
    partner: Option<&FlowValue>,
    pressed: bool,
) -> bool {
    let seen = value.seen.max(partner.map_or(0, |partner| partner.seen));
    let other = partner.map_or(0, |partner| partner.flags);
    let (forward, reverse) = if value.is_reverse() {
        (other, value.flags)
    } else {
        (value.flags, other)
    };
    now.saturating_sub(seen) > idle_limit(key.protocol, forward, reverse, pressed)
}

/// Of the keys of a flow's two entries, the forward one first: a packet between the two removals then opens the flow
/// anew, and an agent that dies between them leaves nothing that sends packets without a way back.
fn in_order(key: FlowKey, value: &FlowValue) -> [FlowKey; 2] {
    let partner = value.to.reply();
    if value.is_reverse() {
        [partner, key]
    } else {
        [key, partner]
    }
}

impl FlowTable {
    pub(crate) fn open(at: &Path) -> Result<Self, DataPlaneError> {
        let fd = object_get(at).map_err(DataPlaneError::file("open", at))?;
        Ok(Self { fd })
    }

    /// Calls `with` for all entries. Entries that come or go meanwhile may be missed, or seen twice.
    fn each(&self, mut with: impl FnMut(FlowKey, &FlowValue)) {
        let scan = Scan::of::<FlowKey, FlowValue>(self.fd.as_fd());
        if let Err(error) = scan.for_each(|key, value| with(key, &value)) {
            tracing::warn!(%error, "cannot look through the table of flows");
        }
    }

    /// Not found means that it is gone: as wanted.
    fn remove(&self, keys: [FlowKey; 2]) -> usize {
        keys.iter()
            .filter(|key| map_delete(self.fd.as_fd(), *key).is_ok())
            .count()
    }

    /// Removes idle flows at `now` (seconds since boot).
    pub(crate) fn sweep(&self, now: u32, pressed: bool) -> Occupancy {
        let mut entries = 0;
        let mut idle = Vec::new();
        self.each(|key, value| {
            entries += 1;
            if now.saturating_sub(value.seen) > SHORTEST_LIMIT {
                let partner = map_lookup(self.fd.as_fd(), &value.to.reply())
                    .ok()
                    .flatten();
                if is_idle(now, &key, value, partner.as_ref(), pressed) {
                    idle.push(in_order(key, value));
                }
            }
        });
        let removed = idle.into_iter().map(|keys| self.remove(keys)).sum();
        Occupancy {
            entries: usize::saturating_sub(entries, removed),
            removed,
        }
    }

    /// Forgets all flows of an address: its next owner must not get their packets.
    pub(crate) fn forget(&self, address: Address) {
        self.forget_if(|key, value| {
            [key, &value.to]
                .iter()
                .any(|at| at.source == address || at.destination == address)
        });
    }

    pub(crate) fn forget_if(&self, mut gone: impl FnMut(&FlowKey, &FlowValue) -> bool) {
        let mut found = Vec::new();
        self.each(|key, value| {
            if gone(&key, value) {
                found.push(in_order(key, value));
            }
        });
        for keys in found {
            self.remove(keys);
        }
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> std::collections::BTreeMap<FlowKey, FlowValue> {
        let mut entries = std::collections::BTreeMap::new();
        self.each(|key, value| {
            entries.insert(key, *value);
        });
        entries
    }

    #[cfg(test)]
    pub(crate) fn set(&self, key: FlowKey, value: FlowValue) {
        self.set_all(&[key], &[value]);
    }

    #[cfg(test)]
    pub(crate) fn set_all(&self, keys: &[FlowKey], values: &[FlowValue]) {
        super::syscall::map_update_batch(self.fd.as_fd(), keys, values).expect("room");
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::layout::{FLOW_CLOSED, FLOW_REPLIED, FLOW_REVERSE, PROTOCOL_TCP, PROTOCOL_UDP};

    use super::*;

    fn value(seen: u32, flags: u16) -> FlowValue {
        FlowValue {
            seen,
            flags,
            ..FlowValue::default()
        }
    }

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            protocol,
            ..FlowKey::default()
        }
    }

    #[test]
    fn a_flow_lives_as_long_as_either_direction() {
        let (udp, out) = (key(PROTOCOL_UDP), value(100, 0));
        let back = value(150, FLOW_REVERSE | FLOW_REPLIED);
        assert!(!is_idle(161, &udp, &out, Some(&back), false));
        assert!(!is_idle(161, &udp, &back, Some(&out), false));
        assert!(is_idle(161, &udp, &out, None, false));
        assert!(is_idle(500, &udp, &out, Some(&back), false));
        // A clock that stands before the entry's.
        assert!(!is_idle(1, &udp, &out, None, false));
    }

    #[test]
    fn a_connection_closed_by_both_sides_goes_soon() {
        let tcp = key(PROTOCOL_TCP);
        let out = value(0, FLOW_CLOSED);
        let back = value(0, FLOW_REVERSE | FLOW_CLOSED | FLOW_REPLIED);
        assert!(is_idle(121, &tcp, &out, Some(&back), false));
        assert!(!is_idle(
            121,
            &tcp,
            &value(0, 0),
            Some(&value(0, FLOW_REVERSE | FLOW_REPLIED)),
            false
        ));
    }
    #[test]
    fn the_fuller_the_sooner() {
        let at = |entries| Occupancy {
            entries,
            removed: 0,
        };
        assert!(at(MAX_FLOWS).next_look() < at(MAX_FLOWS / 2 + 1).next_look());
        assert!(at(MAX_FLOWS / 2 + 1).next_look() < at(0).next_look());
        assert!(at(MAX_FLOWS).is_pressed() && !at(MAX_FLOWS / 2).is_pressed());
    }
}

//! Forgets masqueraded flows that have been idle for too long. Nothing else removes them: a full table
//! refuses new flows, under a named reason, rather than break live ones.

use agent_ebpf::address::Address;
use agent_ebpf::layout::{FlowKey, FlowValue, ReturnKey};
use agent_ebpf::nat::idle_limit;

use super::objects::Objects;
use super::wire::Wire;

fn return_key(key: &FlowKey, port: u16) -> ReturnKey {
    ReturnKey {
        remote: key.destination,
        remote_port: key.destination_port,
        port,
        protocol: key.protocol,
        padding: [0; 3],
    }
}

/// Whether a flow with these two directions is over at `now` (seconds since boot).
fn is_idle(now: u32, protocol: u8, out: &FlowValue, back: Option<&FlowValue>) -> bool {
    let flags = out.flags | back.map_or(0, |value| value.flags);
    let seen = out.seen.max(back.map_or(0, |value| value.seen));
    now.saturating_sub(seen) > idle_limit(protocol, flags)
}

/// Seconds on the clock that the programs read (`CLOCK_MONOTONIC`).
fn now() -> u32 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer to a timespec. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u32
}

/// Removes idle flows; returns how many are left.
pub(crate) fn sweep(objects: &mut Objects) -> usize {
    let now = now();
    let mut idle = Vec::new();
    let mut left = 0;
    for (Wire(key), Wire(out)) in objects.flows.iter().flatten() {
        let back_key = return_key(&key, out.port);
        let back = objects.returns.get(&Wire(back_key), 0).ok();
        if is_idle(
            now,
            key.protocol,
            &out,
            back.as_ref().map(|Wire(value)| value),
        ) {
            idle.push((key, back_key));
        } else {
            left += 1;
        }
    }
    for (key, back) in idle {
        remove(objects, &key, &back);
    }
    left
}

/// Forgets all flows of an address: its next owner must not get their packets.
pub(crate) fn forget(objects: &mut Objects, address: Address) {
    let gone: Vec<_> = objects
        .flows
        .iter()
        .flatten()
        .filter(|(Wire(key), _)| key.source == address)
        .map(|(Wire(key), Wire(out))| (key, return_key(&key, out.port)))
        .collect();
    for (key, back) in gone {
        remove(objects, &key, &back);
    }
}

fn remove(objects: &mut Objects, key: &FlowKey, back: &ReturnKey) {
    // Outward first: a packet in between opens the flow anew. Not found means that it is gone: as wanted.
    let _ = objects.flows.remove(&Wire(*key));
    let _ = objects.returns.remove(&Wire(*back));
}

#[cfg(test)]
mod tests {
    use agent_ebpf::layout::{FLOW_CLOSED_IN, FLOW_CLOSED_OUT, FLOW_REPLIED, PROTOCOL_TCP};

    use super::*;

    #[test]
    fn a_flow_lives_as_long_as_either_direction() {
        let value = |seen, flags| FlowValue {
            seen,
            flags,
            ..FlowValue::default()
        };
        let out = value(100, 0);
        assert!(!is_idle(161, 17, &out, Some(&value(150, FLOW_REPLIED))));
        assert!(is_idle(161, 17, &out, None));
        assert!(is_idle(500, 17, &out, Some(&value(150, FLOW_REPLIED))));
        // A clock that stands before the entry's.
        assert!(!is_idle(1, 17, &out, None));
    }

    #[test]
    fn a_connection_closed_by_both_sides_goes_soon() {
        let out = FlowValue {
            seen: 0,
            flags: FLOW_CLOSED_OUT,
            ..FlowValue::default()
        };
        let back = FlowValue {
            seen: 0,
            flags: FLOW_CLOSED_IN | FLOW_REPLIED,
            ..FlowValue::default()
        };
        assert!(is_idle(121, PROTOCOL_TCP, &out, Some(&back)));
        assert!(!is_idle(
            121,
            PROTOCOL_TCP,
            &FlowValue { flags: 0, ..out },
            Some(&FlowValue {
                flags: FLOW_REPLIED,
                ..back
            })
        ));
    }
}

//! Which port a translated flow is given, and how long a flow without traffic is remembered.

use crate::flow::is_over;
use crate::layout::{
    FLOW_CLOSED, FLOW_ONE_WAY, FLOW_REPLIED, FLOW_RESET, PROTOCOL_ICMP, PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
};

/// Ports tried before a flow is refused. Bounded because the verifier must see an end; with half of all
/// ports taken, the chance that all tries fail is below one in sixteen million.
pub const PORT_TRIES: u32 = 24;

/// The port to try in round `round`: the flow's own port first, then random ones. `minimum <= maximum`.
#[inline(always)]
#[must_use]
pub const fn candidate(round: u32, own: u16, random: u32, minimum: u16, maximum: u16) -> u16 {
    if round == 0 && own >= minimum && own <= maximum {
        return own;
    }
    let span = maximum as u32 - minimum as u32 + 1;
    (minimum as u32 + crate::select::pick(random, span)) as u16
}

/// Seconds without traffic in either direction after which a flow with these flags of its two entries may be
/// forgotten. TCP's 2 h 4 min are RFC 5382's, UDP's RFC 4787's, ICMP's RFC 5508's minimum. When the table fills
/// (`pressed`), what has ended or never got an answer goes sooner; what lives does not.
#[must_use]
pub const fn idle_limit(protocol: u8, forward: u16, reverse: u16, pressed: bool) -> u32 {
    // Answers to one-way flows are not seen here: there may well be some.
    let one_way = forward & FLOW_ONE_WAY != 0;
    let answered = one_way || reverse & FLOW_REPLIED != 0;
    let reverse = if one_way { FLOW_CLOSED } else { reverse };
    match protocol {
        PROTOCOL_TCP => {
            if (forward | reverse) & FLOW_RESET != 0 {
                10
            } else if is_over(forward, reverse) {
                if pressed { 10 } else { 120 }
            } else if !answered {
                // Beyond the last retransmission of a SYN that anybody waits for (RFC 6298: 1 + 2 + 4 + 8 s).
                if pressed { 20 } else { 240 }
            } else {
                7440
            }
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            if pressed && !answered {
                10
            } else {
                60
            }
        }
        _ => {
            if answered {
                300
            } else if pressed {
                10
            } else {
                60
            }
        }
    }
}

/// No flow is idle before this many seconds, whatever its flags.
pub const SHORTEST_LIMIT: u32 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn candidates_are_in_range(
            round in 0u32..PORT_TRIES, own in any::<u16>(), random in any::<u32>(), a in any::<u16>(), b in any::<u16>(),
        ) {
            let (minimum, maximum) = (a.min(b), a.max(b));
            let port = candidate(round, own, random, minimum, maximum);
            prop_assert!((minimum..=maximum).contains(&port));
        }
    }

    #[test]
    fn pressure_shortens_only_what_is_over_or_unanswered() {
        use crate::layout::{FLOW_REVERSE, PROTOCOL_UDP};
        let back = FLOW_REVERSE | FLOW_REPLIED;
        for protocol in [PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP] {
            let live = idle_limit(protocol, 0, back, false);
            assert_eq!(idle_limit(protocol, 0, back, true), live);
            assert!(idle_limit(protocol, 0, FLOW_REVERSE, true) < live);
        }
        assert_eq!(idle_limit(PROTOCOL_TCP, FLOW_ONE_WAY, 0, true), 7440);
        assert_eq!(
            idle_limit(PROTOCOL_TCP, FLOW_CLOSED, back, false),
            7440,
            "half closed is open"
        );
        for flags in 0..32 {
            for other in 0..32 {
                for (protocol, pressed) in [(PROTOCOL_TCP, true), (PROTOCOL_UDP, true)] {
                    assert!(idle_limit(protocol, flags, other, pressed) >= SHORTEST_LIMIT);
                }
            }
        }
    }

    #[test]
    fn the_own_port_is_kept_when_it_is_in_range() {
        assert_eq!(candidate(0, 12_000, 7, 10_000, 20_000), 12_000);
        assert_ne!(candidate(0, 40_000, 7, 10_000, 20_000), 40_000);
    }
}

//! Masquerading: which port a flow leaves with, and how long a flow without traffic is remembered.

use crate::layout::{
    FLOW_CLOSED_IN, FLOW_CLOSED_OUT, FLOW_REPLIED, FLOW_RESET, PROTOCOL_ICMP, PROTOCOL_TCP,
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

/// Seconds without traffic after which a flow may be forgotten. TCP's 2 h 4 min are RFC 5382's, UDP's
/// RFC 4787's, ICMP's RFC 5508's minimum.
#[must_use]
pub const fn idle_limit(protocol: u8, flags: u16) -> u32 {
    match protocol {
        PROTOCOL_TCP => {
            if flags & FLOW_RESET != 0 {
                10
            } else if flags & FLOW_CLOSED_OUT != 0 && flags & FLOW_CLOSED_IN != 0 {
                120
            } else if flags & FLOW_REPLIED == 0 {
                240
            } else {
                7440
            }
        }
        PROTOCOL_ICMP | 58 => 60,
        _ => {
            if flags & FLOW_REPLIED == 0 {
                60
            } else {
                300
            }
        }
    }
}

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
    fn the_own_port_is_kept_when_it_is_in_range() {
        assert_eq!(candidate(0, 12_000, 7, 10_000, 20_000), 12_000);
        assert_ne!(candidate(0, 40_000, 7, 10_000, 20_000), 40_000);
    }
}

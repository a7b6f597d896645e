//! Any bytes as a packet, and as the packet inside an ICMP error.
#![no_main]

use agent_ebpf::packet::{ETHERNET, Fragment, embedded, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = parse(bytes) else { return };
    assert!(packet.l4 >= ETHERNET + 20);
    assert_eq!(packet.source.is_v4(), !packet.v6);
    assert_eq!(packet.destination.is_v4(), !packet.v6);
    if matches!(packet.fragment, Fragment::Later) {
        assert_eq!((packet.source_port, packet.destination_port), (0, 0));
    } else if matches!(packet.protocol, 1 | 6 | 17 | 58 | 132) {
        assert!(packet.l4 as usize + 8 <= bytes.len());
    }
    if packet.is_icmp_error()
        && let Some(inner) = embedded(bytes, &packet)
    {
        // Where it is rewritten lies in the packet.
        assert!(inner.port as usize + 2 <= bytes.len());
        assert!(inner.l3 as usize + 20 <= bytes.len());
        assert_eq!(inner.source.is_v4(), !packet.v6 || inner.source.is_v4());
    }
});

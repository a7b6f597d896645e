//! Tests of `packet`.

#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2];
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// An IPv4 packet with `options` words of options, and what is behind its header.
fn v4_packet(protocol: u8, options: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let mut header = vec![0x45 + options, 0, 0, 0, 0, 0];
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header.extend(vec![0; usize::from(options) * 4]);
    frame.extend(header);
    frame.extend(payload);
    frame
}

fn v6_packet(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, 0, next, 63]);
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend(payload);
    frame
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = source.to_be_bytes().to_vec();
    header.extend(destination.to_be_bytes());
    header.extend([0, 8, 0, 0]);
    header
}

proptest! {
    /// Any bytes at all: an answer, never a panic; and what it says lies within the packet.
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = parse(bytes.as_slice()) {
            if packet.fragment != Fragment::Later && matches!(packet.protocol, 6 | 17 | 132 | 1 | 58) {
                prop_assert!(packet.l4 as usize + 8 <= bytes.len());
            }
            let _ = embedded(bytes.as_slice(), &packet);
        }
    }

    /// As above, but likely to get past the first checks.
    #[test]
    fn arbitrary_bytes_behind_an_ip_header(
        v6 in any::<bool>(), protocol in prop_oneof![Just(0u8), Just(6), Just(17), Just(1), Just(44), Just(43), Just(58), any::<u8>()],
        options in 0u8..11, fragment in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let bytes = if v6 { v6_packet(protocol, &payload) } else { v4_packet(protocol, options, fragment, &payload) };
        if let Ok(packet) = parse(bytes.as_slice()) {
            prop_assert_eq!(packet.v6, v6);
            prop_assert!(packet.l4 >= ETHERNET + 20);
            let _ = embedded(bytes.as_slice(), &packet);
        }
    }

    #[test]
    fn ports_are_found_behind_options(options in 0u8..11, source in any::<u16>(), destination in any::<u16>()) {
        let bytes = v4_packet(17, options, 0, &udp(source, destination));
        let packet = parse(bytes.as_slice()).unwrap();
        prop_assert_eq!(u16::from_be(packet.source_port), source);
        prop_assert_eq!(u16::from_be(packet.destination_port), destination);
        prop_assert_eq!(packet.source, Address::from_v4([10, 0, 0, 1]));
        prop_assert_eq!(packet.destination, Address::from_v4([10, 0, 0, 2]));
        prop_assert_eq!(packet.fragment, Fragment::Whole);
    }

    #[test]
    fn a_packet_that_is_cut_is_malformed(cut in 0usize..42) {
        let bytes = v4_packet(17, 0, 0, &udp(1, 2));
        prop_assert_eq!(parse(&bytes[..cut]), Err(DropReason::Malformed));
    }
}

#[test]
fn fragments() {
    let first = parse(v4_packet(17, 0, 0x2000, &udp(1, 2)).as_slice()).unwrap();
    assert_eq!(
        (first.fragment, first.destination_port),
        (Fragment::First, 2u16.to_be())
    );
    let later = parse(v4_packet(17, 0, 0x0001, &udp(1, 2)).as_slice()).unwrap();
    assert_eq!(
        (later.fragment, later.destination_port),
        (Fragment::Later, 0)
    );
}

#[test]
fn fragments_are_known_by_their_identification() {
    let mut bytes = v4_packet(17, 0, 0x2000, &udp(1, 2));
    bytes[18..20].copy_from_slice(&[0xab, 0xcd]);
    let v4 = parse(bytes.as_slice()).unwrap();
    assert_eq!(v4.identification, u16::from_ne_bytes([0xab, 0xcd]).into());

    for (offset, fragment) in [(0x0001u16, Fragment::First), (0x0008, Fragment::Later)] {
        let mut payload = vec![17, 0];
        payload.extend(offset.to_be_bytes());
        payload.extend([1, 2, 3, 4]);
        payload.extend(udp(5, 6));
        let v6 = parse(v6_packet(44, &payload).as_slice()).unwrap();
        assert_eq!(v6.fragment, fragment);
        assert_eq!(v6.protocol, 17);
        assert_eq!(v6.identification, u32::from_ne_bytes([1, 2, 3, 4]));
    }
}

#[test]
fn an_error_about_a_later_fragment_is_about_no_flow() {
    let mut about = v4_packet(17, 0, 0, &udp(7, 9));
    let error = |about: &[u8]| {
        let mut payload = vec![11, 1, 0, 0, 0, 0, 0, 0];
        payload.extend(&about[14..]);
        let bytes = v4_packet(1, 0, 0, &payload);
        embedded(bytes.as_slice(), &parse(bytes.as_slice()).unwrap())
    };
    assert!(error(&about).is_some());
    about[21] = 1;
    assert_eq!(error(&about), None);
}

#[test]
fn extension_headers_are_walked_up_to_the_bound() {
    let mut payload = Vec::new();
    for next in [60u8, 17] {
        payload.extend([next, 0, 0, 0, 0, 0, 0, 0]);
    }
    payload.extend(udp(5, 53));
    let packet = parse(v6_packet(0, &payload).as_slice()).unwrap();
    assert_eq!(
        (packet.protocol, packet.destination_port),
        (17, 53u16.to_be())
    );
    assert_eq!(packet.l4, ETHERNET + 40 + 16);

    let endless: Vec<u8> = [60u8, 0, 0, 0, 0, 0, 0, 0].repeat(10);
    assert_eq!(
        parse(v6_packet(60, &endless).as_slice()),
        Err(DropReason::Malformed)
    );
}

#[test]
fn a_mapped_address_on_the_wire_is_refused() {
    let mut bytes = v6_packet(17, &udp(1, 2));
    bytes[22..38].copy_from_slice(&Address::from_v4([10, 0, 0, 1]).bytes());
    assert_eq!(parse(bytes.as_slice()), Err(DropReason::Malformed));
}

#[test]
fn icmp() {
    let echo = parse(v4_packet(1, 0, 0, &[8, 0, 0, 0, 0x12, 0x34, 0, 1]).as_slice()).unwrap();
    assert!(echo.is_echo() && !echo.is_icmp_error());
    assert_eq!(echo.source_port, 0x1234u16.to_be());

    let about = v4_packet(17, 0, 0, &udp(7, 9));
    let mut payload = vec![3, 4, 0, 0, 0, 0, 5, 0];
    payload.extend(&about[14..]);
    let bytes = v4_packet(1, 0, 0, &payload);
    let error = parse(bytes.as_slice()).unwrap();
    assert!(error.is_icmp_error());
    let inner = embedded(bytes.as_slice(), &error).unwrap();
    assert_eq!(
        (inner.protocol, inner.source_port, inner.destination_port),
        (17, 7u16.to_be(), 9u16.to_be())
    );
}

#[test]
fn arp_is_not_ip() {
    let mut frame = ethernet(0x0806);
    frame.extend([0; 28]);
    assert_eq!(parse(frame.as_slice()), Err(DropReason::NotIp));
}

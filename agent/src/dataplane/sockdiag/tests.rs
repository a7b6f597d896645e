//! Tests of `sockdiag`: what is sent, by a model of the kernel's filter; what is read, whatever it is.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// What the kernel does with a filter (`inet_diag_bc_run`), for addresses and ports of peers.
fn passes(program: &[u8], peer: &Address, port: u16) -> bool {
    let (mut at, mut left) = (0usize, program.len() as isize);
    while left > 0 {
        let (code, yes) = (program[at], program[at + 1]);
        let no = take_u16(program, at + 2).unwrap();
        let holds = match code {
            BC_JMP => false,
            BC_D_COND => {
                let bits = usize::from(program[at + 5]);
                let wanted = take_u32(program, at + 8).unwrap();
                let bytes = &program[at + 12..at + 12 + bits / 8];
                wanted == u32::from(port)
                    && peer.bytes().ends_with(bytes)
                    && (bits == 128 || peer.is_v4())
            }
            other => panic!("code {other}"),
        };
        let step = if holds {
            usize::from(yes)
        } else {
            usize::from(no)
        };
        assert!(step >= 4 && step % 4 == 0, "only forward");
        at += step;
        left -= step as isize;
    }
    left == 0
}

fn any_peer() -> impl Strategy<Value = (Address, u16)> {
    let ip = prop_oneof![
        (0u32..4).prop_map(|low| IpAddr::from((0x0a00_0000 + low).to_be_bytes())),
        (0u128..4).prop_map(|low| IpAddr::from(((0xfd00 << 112) + low).to_be_bytes())),
    ];
    (ip, 80u16..84).prop_map(|(ip, port)| (Address::from(ip), port.to_be()))
}

/// A list entry as the kernel writes it.
fn entry(peer: &Address, port: u16, cookie: u64, storage: Option<&[u8]>) -> Vec<u8> {
    let v4 = peer.is_v4();
    let mut bytes = vec![if v4 { 2 } else { 10 }, 1, 0, 0];
    bytes.extend(1234u16.to_be_bytes());
    bytes.extend(port.to_ne_bytes());
    bytes.extend([0; 16]);
    if v4 {
        bytes.extend(&peer.bytes()[12..]);
        bytes.extend([0; 12]);
    } else {
        bytes.extend(peer.bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(cookie.to_ne_bytes());
    bytes.extend([0; 20]);
    // Attributes before it are stepped over.
    attribute(&mut bytes, 8, &[3]);
    if let Some(value) = storage {
        let (mut one, mut all) = (Vec::new(), Vec::new());
        attribute(&mut one, 2, &7u32.to_ne_bytes());
        attribute(&mut one, STORAGE_MAP_VALUE, value);
        attribute(&mut all, STORAGE | NLA_F_NESTED, &one);
        attribute(&mut bytes, SK_BPF_STORAGES | NLA_F_NESTED, &all);
    }
    bytes
}

proptest! {
    #[test]
    fn the_filter_lets_through_the_peers_and_nothing_else(
        peers in proptest::collection::vec(any_peer(), 0..20), other in any_peer(),
    ) {
        let program = filter(&peers);
        let expected = peers.contains(&other);
        prop_assert_eq!(passes(&program, &other.0, u16::from_be(other.1)), expected);
    }

    #[test]
    fn an_entry_is_read_as_it_was_written(
        (peer, port) in any_peer(), cookie in any::<u64>(), set in any::<u32>(), stored in any::<bool>(),
    ) {
        let origin = SocketOrigin { service: peer, backend: Address::LOOPBACK_V6, service_port: 1, backend_port: 2, set };
        let mut value = Vec::new();
        value.extend(origin.service.bytes());
        value.extend(origin.backend.bytes());
        value.extend(origin.service_port.to_ne_bytes());
        value.extend(origin.backend_port.to_ne_bytes());
        value.extend(origin.set.to_ne_bytes());
        let socket = parse(&entry(&peer, port, cookie, stored.then_some(&value))).unwrap();
        prop_assert_eq!((socket.peer, socket.peer_port, socket.cookie), (peer, port, cookie));
        prop_assert_eq!(socket.origin, stored.then_some(origin));
    }

    #[test]
    fn nothing_makes_the_parser_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Messages(&bytes).count() <= bytes.len());
        prop_assert!(attributes(&bytes).count() <= bytes.len());
        let _ = (parse(&bytes), status(&bytes), origin(&bytes));
    }

    #[test]
    fn a_damaged_entry_is_read_without_panic((peer, port) in any_peer(), at in 0usize..160, byte in any::<u8>(), cut in 0usize..160) {
        let mut bytes = entry(&peer, port, 1, Some(&[0; 40]));
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse(&bytes[..cut.min(bytes.len())]);
    }
}

#[test]
fn a_request_of_many_filters_stays_within_what_an_attribute_can_hold() {
    let peers: Vec<_> = (0..MOST_FILTERS as u32)
        .map(|low| {
            (
                Address::from_v6((u128::from(low) + (0xfd00 << 112)).to_be_bytes()),
                1,
            )
        })
        .collect();
    assert!(filter(&peers).len() < usize::from(u16::MAX) - 4);
    let more = [peers.as_slice(), &peers[..1]].concat();
    let without = list_request(2, 6, LIVE, &more, 3);
    assert!(without.len() < 100);
    assert_eq!(take_u32(&without, 0), Some(without.len() as u32));
}

#[test]
fn several_messages_in_a_datagram_and_a_bad_length() {
    let mut bytes = header(SOCK_DIAG_BY_FAMILY, 0);
    bytes.extend([1, 2, 3]);
    finish(&mut bytes);
    bytes.push(0);
    let mut done = header(NLMSG_DONE, 0);
    done.extend((-2i32).to_ne_bytes());
    finish(&mut done);
    bytes.extend(&done);
    let found: Vec<_> = Messages(&bytes).map(Result::unwrap).collect();
    assert_eq!(found[0], (SOCK_DIAG_BY_FAMILY, &[1, 2, 3][..]));
    assert_eq!(
        status(found[1].1).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    bytes[0] = 15;
    assert!(Messages(&bytes).next().unwrap().is_err());
}

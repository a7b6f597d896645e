//! A rewritten packet is the packet that would have been made with the new tuple in the first place.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::checksum::{checksum, pseudo_header};
use crate::packet::parse;

struct Frame(RefCell<Vec<u8>>);

impl Bytes for Frame {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.borrow().as_slice().read(offset)
    }
}

impl Edit for Frame {
    fn write<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        let offset = offset as usize;
        self.0
            .borrow_mut()
            .get_mut(offset..offset.checked_add(N)?)?
            .copy_from_slice(bytes);
        Some(())
    }
}

fn octets(address: &Address) -> Vec<u8> {
    match std::net::IpAddr::from(*address) {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet with right checksums; without one for UDP if `bare`.
fn packet(tuple: &FlowKey, hops: u8, data: &[u8], bare: bool) -> Vec<u8> {
    let (source, destination) = (octets(&tuple.source), octets(&tuple.destination));
    let mut payload = tuple.source_port.to_ne_bytes().to_vec();
    payload.extend(tuple.destination_port.to_ne_bytes());
    let at = if tuple.protocol == PROTOCOL_TCP {
        payload.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        16
    } else {
        payload.extend((8 + data.len() as u16).to_be_bytes());
        payload.extend([0, 0]);
        6
    };
    payload.extend(data);
    if !bare {
        let length = payload.len() as u32;
        let seed = pseudo_header(&source, &destination, tuple.protocol, length);
        let field = match checksum(&payload, seed) {
            0 if tuple.protocol == PROTOCOL_UDP => 0xffff,
            field => field,
        };
        payload[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    let mut frame = vec![2; 12];
    if source.len() == 4 {
        frame.extend([8, 0]);
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 7, 0, 0, hops, tuple.protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        let field = checksum(&header, 0);
        header[10..12].copy_from_slice(&field.to_be_bytes());
        frame.extend(header);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([tuple.protocol, hops]);
        frame.extend(source);
        frame.extend(destination);
    }
    frame.extend(payload);
    frame
}

fn tuples() -> impl Strategy<Value = (FlowKey, FlowKey)> {
    let four = any::<[[u8; 16]; 4]>();
    (any::<bool>(), any::<bool>(), four, any::<[u16; 4]>()).prop_map(|(v4, tcp, bytes, ports)| {
        let address = |bytes: [u8; 16]| {
            if v4 {
                Address::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                let mut bytes = bytes;
                bytes[0] = 0x20;
                Address::from_v6(bytes)
            }
        };
        let tuple = |at: usize| FlowKey {
            source: address(bytes[at]),
            destination: address(bytes[at + 1]),
            source_port: ports[at],
            destination_port: ports[at + 1],
            protocol: if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP },
            padding: [0; 3],
        };
        (tuple(0), tuple(2))
    })
}

proptest! {
    #[test]
    fn is_the_packet_made_anew(
        (from, to) in tuples(), hops in 1u8.., data in proptest::collection::vec(any::<u8>(), 0..64), bare in any::<bool>(),
    ) {
        let bare = bare && from.protocol == PROTOCOL_UDP && from.source.is_v4();
        let frame = Frame(RefCell::new(packet(&from, hops, &data, bare)));
        let parsed = parse(&frame).unwrap();
        rewrite(&frame, &parsed, &to).unwrap();
        prop_assert_eq!(frame.0.into_inner(), packet(&to, hops - 1, &data, bare));
    }

    #[test]
    fn a_packet_that_is_cut_is_not_written_beyond_its_end((from, to) in tuples(), at in 0usize..60) {
        let whole = packet(&from, 9, b"x", false);
        let parsed = parse(whole.as_slice()).unwrap();
        let cut = at.min(whole.len());
        let frame = Frame(RefCell::new(whole[..cut].to_vec()));
        let _ = rewrite(&frame, &parsed, &to);
        prop_assert_eq!(frame.0.borrow().len(), cut);
    }
}

//! Packets as bytes, with right checksums; and what a packet says, once its checksums are found right.

use std::net::IpAddr;

use agent_ebpf::checksum::{checksum, pseudo_header, sum};

pub(super) const POD_MAC: [u8; 6] = [6, 0, 0, 0, 0, 2];
pub(super) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[derive(Debug, Clone)]
pub(super) enum L4 {
    Udp(u16, u16, Vec<u8>),
    Tcp(u16, u16, u8),
    /// Type, identifier.
    Echo(u8, u16),
    /// Type, code, then what is behind the first eight bytes.
    Icmp(u8, u8, Vec<u8>),
    Other(u8),
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet with right checksums.
pub(super) fn packet(source: &str, destination: &str, l4: &L4) -> Vec<u8> {
    let (source, destination) = (ip(source), ip(destination));
    let v4 = source.is_ipv4();
    let (protocol, mut payload, at) = match l4 {
        L4::Udp(from, to, data) => {
            let mut bytes = from.to_be_bytes().to_vec();
            bytes.extend(to.to_be_bytes());
            bytes.extend((8 + data.len() as u16).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(data);
            (17, bytes, 6)
        }
        L4::Tcp(from, to, flags) => {
            let mut bytes = from.to_be_bytes().to_vec();
            bytes.extend(to.to_be_bytes());
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
            (6, bytes, 16)
        }
        L4::Echo(kind, identifier) => {
            let mut bytes = vec![*kind, 0, 0, 0];
            bytes.extend(identifier.to_be_bytes());
            bytes.extend([0, 1, b'h', b'i']);
            (if v4 { 1 } else { 58 }, bytes, 2)
        }
        L4::Icmp(kind, code, rest) => {
            let mut bytes = vec![*kind, *code, 0, 0, 0, 0, 5, 0xdc];
            bytes.extend(rest);
            (if v4 { 1 } else { 58 }, bytes, 2)
        }
        L4::Other(protocol) => (*protocol, vec![0; 16], 0),
    };
    let seed = if protocol == 1 {
        0
    } else {
        pseudo_header(
            &octets(source),
            &octets(destination),
            protocol,
            payload.len() as u32,
        )
    };
    if at > 0 {
        let field = checksum(&payload, seed);
        payload[at..at + 2].copy_from_slice(&field.to_be_bytes());
    }
    let mut frame = HOST_MAC.to_vec();
    frame.extend(POD_MAC);
    if v4 {
        frame.extend([8, 0]);
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
        header.extend(octets(source));
        header.extend(octets(destination));
        let field = checksum(&header, 0);
        header[10..12].copy_from_slice(&field.to_be_bytes());
        frame.extend(header);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(octets(source));
        frame.extend(octets(destination));
    }
    frame.extend(payload);
    frame
}

/// Addresses, ports and hop limit of a packet whose checksums are all right.
pub(super) fn read(frame: &[u8]) -> (IpAddr, IpAddr, u16, u16, u8) {
    let packet = agent_ebpf::packet::parse(frame).unwrap();
    let (l4, v4) = (packet.l4 as usize, !packet.v6);
    if v4 {
        assert_eq!(sum(&frame[14..34], 0), 0xffff, "IP checksum");
    }
    let (source, destination) = (
        IpAddr::from(packet.source),
        IpAddr::from(packet.destination),
    );
    let payload = &frame[l4..];
    let seed = if packet.protocol == 1 {
        0
    } else {
        let length = payload.len() as u32;
        pseudo_header(
            &octets(source),
            &octets(destination),
            packet.protocol,
            length,
        )
    };
    assert_eq!(sum(payload, seed), 0xffff, "layer 4 checksum");
    let ports = [packet.source_port, packet.destination_port].map(u16::from_be);
    (source, destination, ports[0], ports[1], packet.hop_limit)
}

//! A UDP packet whose source is anybody's, headers and all (RFC 791, RFC 8200, RFC 768).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, socket,
};

use crate::Arguments;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let source: SocketAddr = arguments.required("a source").parse().context("source")?;
    let target: SocketAddr = arguments.required("a target").parse().context("target")?;
    let text = arguments.next().unwrap_or_else(|| "forged".to_owned());
    let (packet, family) = match (source.ip(), target.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + UDP_HEADER + text.len())?;
            let mut packet = vec![0x45, 0];
            packet.extend(length.to_be_bytes());
            // No identification, no fragment; time to live; the kernel fills the checksum in.
            packet.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            (packet, AddressFamily::Inet)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(UDP_HEADER + text.len())?;
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            (packet, AddressFamily::Inet6)
        }
        _ => bail!("two families"),
    };
    let packet = with_udp(packet, source, target, text.as_bytes())?;
    // IPPROTO_RAW means that the header is in the packet.
    let socket = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Raw,
    )?;
    let to = SockaddrStorage::from(SocketAddr::new(target.ip(), 0));
    sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    Ok(())
}

fn with_udp(
    mut packet: Vec<u8>,
    source: SocketAddr,
    target: SocketAddr,
    payload: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len())?;
    let mut udp = Vec::new();
    udp.extend(source.port().to_be_bytes());
    udp.extend(target.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut sum = u32::from(UDP) + u32::from(length);
    for address in [source.ip(), target.ip()] {
        sum += match address {
            IpAddr::V4(address) => words(&address.octets()),
            IpAddr::V6(address) => words(&address.octets()),
        };
    }
    sum += words(&udp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 => 0xffff,
        other => other,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(udp);
    Ok(packet)
}

fn words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

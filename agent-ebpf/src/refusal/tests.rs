//! Tests of `refusal`, against answers that are built another way: field by field, as the RFCs draw them.

#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::checksum::{checksum, pseudo_header, sum as sum_of};
use crate::layout::PROTOCOL_UDP;
use crate::packet::parse;

/// Makes the answer as a program does.
fn answer(frame: &[u8], why: Refusal, from: Option<Address>) -> Option<Vec<u8>> {
    let packet = parse(frame).ok()?;
    if !may_answer(&packet, why) {
        return None;
    }
    let mut answer = [0; WORDS];
    let length = if why == Refusal::Reset {
        let segment = segment(frame, &packet, frame.len() as u32)?;
        // What was there before does not matter.
        answer.fill(0xabab_cdcd);
        reset(&mut answer, &packet, &segment)
    } else {
        let quote = &frame[START..frame.len().min(START + QUOTE)];
        for (bytes, word) in quote.chunks(4).zip(&mut answer[quote_at(packet.v6)..]) {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(whole);
        }
        let from = from.unwrap_or(packet.destination);
        error(&mut answer, &packet, why, &from, quote.len() as u32)
    };
    let bytes: Vec<u8> = answer.into_iter().flat_map(u32::to_ne_bytes).collect();
    Some(bytes[LEAD..LEAD + length as usize].to_vec())
}

#[derive(Debug, Clone)]
struct Sent {
    v6: bool,
    protocol: u8,
    /// From layer 4 on.
    payload: Vec<u8>,
    /// Words of IPv4 options.
    options: u8,
    /// Zeroes behind the packet, as short Ethernet frames have.
    padding: usize,
    source: [u8; 16],
    destination: [u8; 16],
}

const MACS: [u8; 12] = [2, 1, 1, 1, 1, 1, 6, 2, 2, 2, 2, 2];

impl Sent {
    fn source(&self) -> &[u8] {
        if self.v6 {
            &self.source
        } else {
            &self.source[..4]
        }
    }
    fn destination(&self) -> &[u8] {
        if self.v6 {
            &self.destination
        } else {
            &self.destination[..4]
        }
    }
    fn frame(&self) -> Vec<u8> {
        let mut frame = MACS.to_vec();
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 1, 2, 3]);
            frame.extend((self.payload.len() as u16).to_be_bytes());
            frame.extend([self.protocol, 61]);
        } else {
            let header = 20 + 4 * usize::from(self.options);
            frame.extend([8, 0, 0x45 + self.options, 0]);
            frame.extend(((header + self.payload.len()) as u16).to_be_bytes());
            frame.extend([9, 9, 0, 0, 61, self.protocol, 0, 0]);
        }
        frame.extend(self.source());
        frame.extend(self.destination());
        if !self.v6 {
            frame.extend(vec![1; 4 * usize::from(self.options)]);
        }
        frame.extend(&self.payload);
        frame.extend(vec![0; self.padding]);
        frame
    }
}

/// The whole answer from its layer 4 on, whose checksum field is at `field`.
fn reference(
    sent: &Sent,
    protocol: u8,
    class: u8,
    mut l4: Vec<u8>,
    field: usize,
    from: &[u8],
) -> Vec<u8> {
    let mut frame = MACS[6..].to_vec();
    frame.extend(&MACS[..6]);
    let length = l4.len() as u32;
    let seed = if protocol == 1 {
        0
    } else {
        pseudo_header(from, sent.source(), protocol, length)
    };
    let value = checksum(&l4, seed);
    l4[field..field + 2].copy_from_slice(&value.to_be_bytes());
    if sent.v6 {
        frame.extend([0x86, 0xdd]);
        frame.extend((6u32 << 28 | u32::from(class) << 20).to_be_bytes());
        frame.extend((length as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(from);
        frame.extend(sent.source());
    } else {
        let mut header = vec![0x45, class];
        header.extend((20 + length as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(from);
        header.extend(sent.source());
        let value = checksum(&header, 0);
        header[10..12].copy_from_slice(&value.to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(header);
    }
    frame.extend(l4);
    frame
}

fn reference_error(sent: &Sent, why: Refusal, from: &[u8]) -> Vec<u8> {
    let frame = sent.frame();
    let mut l4 = match (sent.v6, why) {
        (false, Refusal::TooBig(mtu)) => {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            vec![3, 4, 0, 0, 0, 0, mtu[0], mtu[1]]
        }
        (false, Refusal::HopLimit) => vec![11, 0, 0, 0, 0, 0, 0, 0],
        (true, Refusal::HopLimit) => vec![3, 0, 0, 0, 0, 0, 0, 0],
        (false, _) => vec![3, 3, 0, 0, 0, 0, 0, 0],
        (true, Refusal::TooBig(mtu)) => {
            let mtu = mtu.max(1280).to_be_bytes();
            vec![2, 0, 0, 0, mtu[0], mtu[1], mtu[2], mtu[3]]
        }
        (true, _) => vec![1, 4, 0, 0, 0, 0, 0, 0],
    };
    l4.extend(&frame[14..frame.len().min(14 + 128)]);
    reference(sent, if sent.v6 { 58 } else { 1 }, 0xc0, l4, 2, from)
}

/// An address of one node that is of no special kind in either family.
fn unicast() -> impl Strategy<Value = [u8; 16]> {
    any::<[u8; 16]>().prop_map(|mut bytes| {
        bytes[0] = 1 + bytes[0] % 126;
        bytes
    })
}

fn sent(protocol: u8, shortest: usize) -> impl Strategy<Value = Sent> {
    let payload = proptest::collection::vec(any::<u8>(), shortest..400);
    let shape = (any::<bool>(), 0u8..11, 0usize..20);
    (shape, payload, unicast(), unicast()).prop_map(
        move |((v6, options, padding), payload, source, destination)| Sent {
            v6,
            protocol,
            payload,
            options,
            padding,
            source,
            destination,
        },
    )
}

proptest! {
    #[test]
    fn errors_are_as_the_reference_says(
        sent in sent(PROTOCOL_UDP, 8), mtu in prop_oneof![Just(0u32), 68u32..2000, any::<u32>()],
        kind in 0u8..3, router in unicast(),
    ) {
        let why = match kind {
            0 => Refusal::TooBig(mtu.max(1)),
            1 => Refusal::HopLimit,
            _ => Refusal::PortUnreachable,
        };
        let own = answer(&sent.frame(), why, None).unwrap();
        prop_assert_eq!(&own, &reference_error(&sent, why, sent.destination()));
        let from = if sent.v6 {
            Address::from_v6(router)
        } else {
            Address::from_v4([router[0], router[1], router[2], router[3]])
        };
        let routers = answer(&sent.frame(), why, Some(from)).unwrap();
        let source = if sent.v6 { &router[..] } else { &router[..4] };
        prop_assert_eq!(&routers, &reference_error(&sent, why, source));

        // Whoever gets it finds right checksums and the flow that it is about.
        let parsed = parse(own.as_slice()).unwrap();
        prop_assert!(parsed.is_icmp_error());
        let l4 = &own[parsed.l4 as usize..];
        let seed = if sent.v6 { pseudo_header(sent.destination(), sent.source(), 58, l4.len() as u32) } else { 0 };
        prop_assert_eq!(sum_of(l4, seed), 0xffff);
        let about = parse(sent.frame().as_slice()).unwrap();
        let inner = crate::packet::embedded(own.as_slice(), &parsed).unwrap();
        prop_assert_eq!((inner.source, inner.destination), (about.source, about.destination));
        prop_assert_eq!(
            (inner.source_port, inner.destination_port),
            (about.source_port, about.destination_port)
        );
        // It is not answered itself, and it amplifies nothing.
        prop_assert_eq!(answer(&own, Refusal::PortUnreachable, None), None);
        prop_assert_eq!(answer(&own, Refusal::TooBig(1280), None), None);
        prop_assert_eq!(answer(&own, Refusal::HopLimit, None), None);
        prop_assert!(own.len() <= sent.frame().len() + 48);
    }

    #[test]
    fn resets_are_as_rfc_9293_says(mut sent in sent(PROTOCOL_TCP, 20), offset in 5u8..16, flags in any::<u8>()) {
        let header = usize::from(offset) * 4;
        if sent.payload.len() < header {
            sent.payload.resize(header, 0);
        }
        sent.payload[12] = offset << 4;
        sent.payload[13] = flags;
        let own = answer(&sent.frame(), Refusal::Reset, None);
        let (syn, ack, fin) = (flags & 2 != 0, flags & 16 != 0, flags & 1 != 0);
        if flags & 4 != 0 {
            prop_assert_eq!(own, None, "a reset is not answered");
        } else {
            let word = |at: usize| u32::from_be_bytes(sent.payload[at..at + 4].try_into().unwrap());
            let length = (sent.payload.len() - header) as u32 + u32::from(syn) + u32::from(fin);
            let (sequence, acknowledgement, control) =
                if ack { (word(8), 0, 4) } else { (0, word(4).wrapping_add(length), 20) };
            let mut l4 = sent.payload[2..4].to_vec();
            l4.extend(&sent.payload[..2]);
            l4.extend(sequence.to_be_bytes());
            l4.extend(acknowledgement.to_be_bytes());
            l4.extend([0x50, control, 0, 0, 0, 0, 0, 0]);
            let expected = reference(&sent, 6, 0, l4, 16, sent.destination());
            let own = own.unwrap();
            prop_assert_eq!(&own, &expected);
            prop_assert_eq!(answer(&own, Refusal::Reset, None), None);
            prop_assert!(own.len() <= sent.frame().len());
        }
    }

    /// Any bytes at all: an answer or none, never a panic.
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), mtu in any::<u32>(), v6 in any::<bool>()) {
        let mut bytes = bytes;
        if bytes.len() > 20 {
            let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[14] = if v6 { 0x60 } else { 0x45 };
        }
        let all = [Refusal::PortUnreachable, Refusal::Reset, Refusal::TooBig(mtu), Refusal::HopLimit];
        for why in all {
            if let Some(answer) = answer(&bytes, why, None) {
                prop_assert!(parse(answer.as_slice()).is_ok());
            }
        }
    }

    #[test]
    fn an_allowance_is_never_exceeded(limit in 0u32..20, steps in proptest::collection::vec(0u32..3, 0..200)) {
        let mut allowance = Allowance::default();
        let (mut now, mut taken) = (7, std::collections::BTreeMap::<u32, u32>::new());
        for step in steps {
            now += step / 2;
            let tried = allowance.take(now, limit);
            let used = taken.entry(now).or_default();
            prop_assert_eq!(tried, *used < limit);
            *used += u32::from(tried);
        }
    }
}

fn udp(v6: bool) -> Sent {
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source[..4].copy_from_slice(&[10, 0, 0, 1]);
    destination[..4].copy_from_slice(&[10, 0, 0, 2]);
    Sent {
        v6,
        protocol: PROTOCOL_UDP,
        payload: vec![0, 7, 0, 9, 0, 8, 0, 0],
        options: 0,
        padding: 0,
        source,
        destination,
    }
}

#[test]
fn nobody_is_told_who_must_not_be() {
    const WHY: Refusal = Refusal::PortUnreachable;
    assert!(answer(&udp(false).frame(), WHY, None).is_some());
    assert!(answer(&udp(true).frame(), WHY, None).is_some());
    let sources_v4: [[u8; 4]; 6] = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ];
    for source in sources_v4 {
        let mut sent = udp(false);
        sent.source[..4].copy_from_slice(&source);
        assert_eq!(answer(&sent.frame(), WHY, None), None, "{source:?}");
    }
    let mut loopback = [0; 16];
    loopback[15] = 1;
    let mut multicast = [0; 16];
    multicast[0] = 0xff;
    for source in [[0; 16], loopback, multicast] {
        let sent = Sent {
            source,
            ..udp(true)
        };
        assert_eq!(answer(&sent.frame(), WHY, None), None, "{source:?}");
    }
    // To many: by address or by frame; but IPv6 tells a multicast sender of the path's MTU.
    let mut many = udp(false);
    many.destination[0] = 239;
    assert_eq!(answer(&many.frame(), WHY, None), None);
    let many = Sent {
        destination: multicast,
        ..udp(true)
    };
    assert_eq!(answer(&many.frame(), WHY, None), None);
    assert!(answer(&many.frame(), Refusal::TooBig(1400), None).is_some());
    let mut broadcast = udp(false).frame();
    broadcast[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(answer(&broadcast, WHY, None), None);
    // A fragment that is not the first.
    let mut later = udp(false).frame();
    later[20..22].copy_from_slice(&[0, 1]);
    assert_eq!(answer(&later, WHY, None), None);
    let mut first = udp(false).frame();
    first[20..22].copy_from_slice(&[0x20, 0]);
    assert!(answer(&first, WHY, None).is_some());
}

#[test]
fn errors_are_not_answered_but_echoes_are() {
    for (v6, kind, answered) in [
        (false, 3, false),
        (false, 4, false),
        (false, 5, false),
        (false, 11, false),
        (false, 12, false),
        (false, 8, true),
        (true, 1, false),
        (true, 2, false),
        (true, 100, false),
        (true, 137, false),
        (true, 128, true),
    ] {
        let sent = Sent {
            protocol: if v6 { 58 } else { 1 },
            payload: vec![kind, 0, 0, 0, 0, 0, 0, 0],
            ..udp(v6)
        };
        let told = answer(&sent.frame(), Refusal::TooBig(1300), None).is_some();
        assert_eq!(told, answered, "{v6} {kind}");
    }
}

#[test]
fn a_segment_in_fragments_is_reset_only_by_its_acknowledgement() {
    for (flags, answered) in [(2, false), (16, true)] {
        let mut payload = vec![0; 20];
        payload[12] = 0x50;
        payload[13] = flags;
        let mut frame = Sent {
            protocol: PROTOCOL_TCP,
            payload,
            ..udp(false)
        }
        .frame();
        frame[20..22].copy_from_slice(&[0x20, 0]);
        assert_eq!(answer(&frame, Refusal::Reset, None).is_some(), answered);
    }
}

#[test]
fn only_tcp_is_reset() {
    assert_eq!(answer(&udp(false).frame(), Refusal::Reset, None), None);
    let packet = parse(udp(false).frame().as_slice()).unwrap();
    assert_eq!(Refusal::of(&packet), Refusal::PortUnreachable);
}

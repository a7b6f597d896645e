//! Any packet refused: the answer is a packet with right checksums, and is not answered itself.
#![no_main]

use agent_ebpf::checksum::{pseudo_header, sum};
use agent_ebpf::packet::{ETHERNET, parse};
use agent_ebpf::refusal::{
    LEAD, QUOTE, Refusal, WORDS, error, may_answer, quote_at, reset, segment,
};
use libfuzzer_sys::fuzz_target;

fn answer(frame: &[u8], why: Refusal) -> Option<Vec<u8>> {
    let packet = parse(frame).ok()?;
    if !may_answer(&packet, why) {
        return None;
    }
    let mut words = [0; WORDS];
    let length = if why == Refusal::Reset {
        reset(&mut words, &packet, &segment(frame, &packet, frame.len() as u32)?)
    } else {
        let start = ETHERNET as usize;
        let quote = &frame[start..frame.len().min(start + QUOTE)];
        for (bytes, word) in quote.chunks(4).zip(&mut words[quote_at(packet.v6)..]) {
            let mut whole = [0; 4];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(whole);
        }
        error(&mut words, &packet, why, &packet.destination, quote.len() as u32)
    };
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    Some(bytes[LEAD..LEAD + length as usize].to_vec())
}

fuzz_target!(|input: (u32, &[u8])| {
    let (mtu, frame) = input;
    let all = [Refusal::PortUnreachable, Refusal::Reset, Refusal::TooBig(mtu), Refusal::HopLimit];
    for why in all {
        let Some(bytes) = answer(frame, why) else { continue };
        let packet = parse(bytes.as_slice()).expect("a packet");
        let asked = parse(frame).expect("what was answered");
        assert_eq!(packet.destination, asked.source);
        let l4 = &bytes[packet.l4 as usize..];
        let (source, destination) = if packet.v6 { (22..38, 38..54) } else { (26..30, 30..34) };
        let seed = if packet.protocol == 1 {
            0
        } else {
            let length = l4.len() as u32;
            pseudo_header(&bytes[source], &bytes[destination], packet.protocol, length)
        };
        assert_eq!(sum(l4, seed), 0xffff);
        assert!(packet.v6 || sum(&bytes[14..34], 0) == 0xffff);
        assert!(bytes.len() <= frame.len() + 48);
        for again in [Refusal::PortUnreachable, Refusal::Reset] {
            assert!(why == Refusal::Reset && again != why || answer(&bytes, again).is_none());
        }
    }
});

//! XDP at the uplink: packets for Services whose backend is on another node, and its answers, where routing is native:
//! turned around in the driver, before the kernel makes a socket buffer of them. Everything else, and everything that
//! is not entirely clear, passes to the tc program, which does the same and more.

use agent_ebpf::balance::{Choice, choose};
use agent_ebpf::counter::{DropReason, EventKind, ForwardKind};
use agent_ebpf::flow::{Pair, follow, open};
use agent_ebpf::layout::{
    CONFIG_DSR, CONFIG_OVERLAY, Config, FLOW_KIND_REMOTE, FlowKey, FlowValue, PROTOCOL_TCP,
    PROTOCOL_UDP, SCOPE_OUTSIDE,
};
use agent_ebpf::packet::{Bytes, ETHERNET, Fragment, Packet, TCP_RST, parse};
use agent_ebpf::rewrite::{Edit, rewrite};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_action::XDP_DROP,
    xdp_action::XDP_PASS, xdp_action::XDP_TX,
};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::flows::{Kernel, node_address, node_ports};
use crate::maps::{self, PODS};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `lo` of every network namespace. Routes are looked up as for a packet that came in there: looking them up needs
/// forwarding, which is on there and not on the uplink.
const LOOPBACK: u32 = 1;

struct Desk {
    packet: Packet,
    pair: Pair,
    length: u32,
}

/// One CPU's, and not that of the programs at tc: a driver may run this one while one of them runs.
#[btf_map]
static DESK: PerCpuArray<Desk, 1> = PerCpuArray::new();

/// A frame in the driver (helpers: Linux 5.18).
struct Frame<'a>(&'a XdpContext);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: `N` bytes of the buffer.
        let read =
            unsafe { bpf_xdp_load_bytes(self.0.ctx, offset, bytes.as_mut_ptr().cast(), N as u32) };
        (read == 0).then_some(bytes)
    }
}

impl Edit for Frame<'_> {
    #[inline(always)]
    fn write<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: `N` bytes of the buffer, which the helper only reads.
        let written = unsafe {
            bpf_xdp_store_bytes(
                self.0.ctx,
                offset,
                bytes.as_ptr().cast_mut().cast(),
                N as u32,
            )
        };
        (written == 0).then_some(())
    }
}

#[xdp]
pub(crate) fn xdp_uplink(ctx: XdpContext) -> u32 {
    turn_around(&ctx).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn turn_around(ctx: &XdpContext) -> Option<u32> {
    let config = maps::config().ok()?;
    if config.flags & (CONFIG_OVERLAY | CONFIG_DSR) != 0 {
        return None;
    }
    let desk = DESK.get_ptr_mut(0)?;
    // SAFETY: this CPU's element, which nobody else uses at the same time. All zeroes is a value of every field.
    let desk = unsafe { &mut *desk };
    if !read(ctx, desk) || !belongs(config, desk) || is_near(&desk.pair.value.to) {
        return None;
    }
    let [to, from] = route(ctx, config, desk)?;
    let frame = Frame(ctx);
    let done = rewrite(&frame, &desk.packet, &desk.pair.value.to)
        .and_then(|()| frame.write(0, &to))
        .and_then(|()| frame.write(6, &from));
    if done.is_none() {
        // Half of it may be written: nobody must see that.
        maps::count_drop(DropReason::Rewrite);
        return Some(XDP_DROP);
    }
    maps::count_forward(ForwardKind::Xdp, desk.length);
    Some(XDP_TX)
}

#[inline(never)]
fn read(ctx: &XdpContext, desk: &mut Desk) -> bool {
    let Ok(packet) = parse(&Frame(ctx)) else {
        return false;
    };
    desk.packet = packet;
    // SAFETY: the context is the kernel's.
    desk.length = unsafe { ((*ctx.ctx).data_end).wrapping_sub((*ctx.ctx).data) };
    matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
        && matches!(packet.fragment, Fragment::Whole)
        && packet.hop_limit > 1
}

/// Whether the packet is of a flow to a backend elsewhere, or opens one; what it becomes is in `desk.pair.value`.
#[inline(never)]
fn belongs(config: &Config, desk: &mut Desk) -> bool {
    let (packet, pair) = (&desk.packet, &mut desk.pair);
    if follow(&Kernel, packet, pair) {
        return pair.value.kind == FLOW_KIND_REMOTE;
    }
    if packet.tcp_flags & TCP_RST != 0 {
        return false;
    }
    let Ok(Choice::Backend { slot, service, .. }) = choose(&Kernel, config, packet, SCOPE_OUTSIDE)
    else {
        return false;
    };
    let Ok(address) = node_address(config, packet.v6) else {
        return false;
    };
    pair.value = FlowValue {
        to: FlowKey {
            source: address,
            destination: slot.address,
            destination_port: slot.port,
            ..pair.key
        },
        service,
        kind: FLOW_KIND_REMOTE,
        ..FlowValue::default()
    };
    // Those here keep the client's address: tc's.
    if is_near(&pair.value.to) || open(&Kernel, pair, &node_ports(config)).is_err() {
        return false;
    }
    maps::count_event(EventKind::PacketPicked);
    true
}

#[inline(always)]
fn is_near(to: &FlowKey) -> bool {
    PODS.get_ptr(to.destination).is_some() || maps::is_local(&to.destination)
}

/// The MAC addresses, destination's first, with which the packet leaves by the uplink again.
#[inline(never)]
fn route(ctx: &XdpContext, config: &Config, desk: &Desk) -> Option<[[u8; 6]; 2]> {
    let to = &desk.pair.value.to;
    // SAFETY: plain integers, for which zero is a value.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = to.protocol;
    lookup.ifindex = LOOPBACK;
    // Compared with the route's MTU.
    lookup.__bindgen_anon_1.tot_len = desk.length.saturating_sub(ETHERNET) as u16;
    if desk.packet.v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = to.source.words;
        lookup.__bindgen_anon_4.ipv6_dst = to.destination.words;
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = to.source.v4_word();
        lookup.__bindgen_anon_4.ipv4_dst = to.destination.v4_word();
    }
    // SAFETY: the struct is the helper's, with its size.
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            &raw mut lookup,
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    // A neighbour that is not known yet is for the kernel to ask for.
    let found = result as u32 == BPF_FIB_LKUP_RET_SUCCESS
        && lookup.ifindex == config.uplink
        && config.uplink != 0;
    found.then_some([lookup.dmac, lookup.smac])
}

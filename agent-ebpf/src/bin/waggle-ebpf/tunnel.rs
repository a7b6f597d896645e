//! The tunnel key of packets in the overlay: who sent it, who gets it.

use agent_ebpf::address::Address;
use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::Config;
use agent_ebpf::overlay::Peer;
use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key as TunnelKey};
use aya_ebpf::helpers::generated::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::TcContext;

const HOPS: u8 = 64;
const SIZE: u32 = size_of::<TunnelKey>() as u32;

#[inline(always)]
fn empty() -> TunnelKey {
    // SAFETY: plain integers, for which zero is a value.
    unsafe { core::mem::zeroed() }
}

/// The outer headers of a packet that came in through the overlay (both addresses: Linux 6.0).
#[inline(always)]
pub(crate) fn peer(ctx: &TcContext) -> Result<Peer, DropReason> {
    let mut key = empty();
    // SAFETY: the struct is the helper's, with its size. It refuses the wrong family.
    if unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, SIZE, 0) } == 0 {
        // SAFETY: the helper filled in the IPv4 ends, in host order.
        let (source, destination) = unsafe {
            (
                key.__bindgen_anon_1.remote_ipv4,
                key.__bindgen_anon_3.local_ipv4,
            )
        };
        return Ok(Peer {
            source: Address::from_v4_word(source.to_be()),
            destination: Address::from_v4_word(destination.to_be()),
            vni: key.tunnel_id,
        });
    }
    let v6 = u64::from(BPF_F_TUNINFO_IPV6);
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, &raw mut key, SIZE, v6) } != 0 {
        return Err(DropReason::UnknownTunnelPeer);
    }
    // SAFETY: the helper filled in the IPv6 ends, in network order.
    let (source, destination) = unsafe {
        (
            key.__bindgen_anon_1.remote_ipv6,
            key.__bindgen_anon_3.local_ipv6,
        )
    };
    Ok(Peer {
        source: Address { words: source },
        destination: Address { words: destination },
        vni: key.tunnel_id,
    })
}

/// Sends a packet, which is on its way out of the overlay device, to `node`'s end of the tunnel.
#[inline(always)]
pub(crate) fn set(ctx: &TcContext, config: &Config, node: &Address) -> Result<(), DropReason> {
    let mut key = empty();
    key.tunnel_id = config.vni;
    key.tunnel_ttl = HOPS;
    // The other end checks this one: it must not depend on which address a route prefers.
    let flags = if node.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node.v4_word());
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(config.node_v4.v4_word());
        // The inner checksums cover what matters; IPv6 must not go without (RFC 8200, section 8.1).
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = node.words;
        key.__bindgen_anon_3.local_ipv6 = config.node_v6.words;
        BPF_F_TUNINFO_IPV6
    };
    // SAFETY: the struct is the helper's, with its size.
    let result =
        unsafe { bpf_skb_set_tunnel_key(ctx.skb.skb, &raw mut key, SIZE, u64::from(flags)) };
    if result == 0 {
        Ok(())
    } else {
        Err(DropReason::Rewrite)
    }
}

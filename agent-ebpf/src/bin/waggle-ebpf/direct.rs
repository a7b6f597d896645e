//! Direct server return: the node that a client asks passes its packets on as they are, through the overlay, to the node
//! of the backend, which picks among its own and answers the client as the Service.

use agent_ebpf::address::Address;
use agent_ebpf::balance::{Choice, choose};
use agent_ebpf::counter::{DropReason, EventKind, ForwardKind};
use agent_ebpf::flow::open;
use agent_ebpf::layout::{CONFIG_DSR, Config, FLOW_KIND_DSR_LOCAL, FlowValue, SCOPE_LOCAL};
use agent_ebpf::overlay::TUNNEL_KEY_SET;
use agent_ebpf::packet::TCP_RST;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;

use crate::flows::{Kernel, own_ports};
use crate::maps;
use crate::onward::{Settled, fits, follow, onward, settle_error};
use crate::tc::hop;
use crate::translate::translate;
use crate::tunnel;
use crate::work::Work;

/// Whether the backend's node answers the client itself. Not a client within the cluster: its node takes no packet with
/// the address of one node through the tunnel of another.
#[inline(always)]
pub(crate) fn is_direct(config: &Config, client: &Address, backend: &Address) -> bool {
    config.flags & CONFIG_DSR != 0
        && config.overlay != 0
        && maps::remote(backend).is_some()
        && !config.in_pod_nets(client)
        && maps::remote(client).is_none()
}

/// To the node of the backend, `work.pair.value.to.destination`, as it is.
#[inline(never)]
pub(crate) fn pass_on(
    ctx: &TcContext,
    config: &Config,
    work: &mut Work,
) -> Result<i32, DropReason> {
    let remote = maps::remote(&work.pair.value.to.destination).ok_or(DropReason::NoSuchNode)?;
    fits(ctx, config, work)?;
    hop(ctx, &work.packet)?;
    tunnel::set(ctx, config, &remote.node)?;
    // SAFETY: the context is the kernel's; programs may write this field.
    unsafe { (&raw mut (*ctx.skb.skb).cb[0]).write_volatile(TUNNEL_KEY_SET) };
    maps::count_forward(ForwardKind::ServiceRemote, ctx.len());
    // SAFETY: a plain helper call.
    Ok(unsafe { bpf_redirect(config.overlay, 0) } as i32)
}

/// From another node, for a Service whose backend is here: the client's address is the packet's source.
#[inline(always)]
pub(crate) fn accept(ctx: &TcContext, config: &Config, work: &mut Work) -> Result<i32, DropReason> {
    if !work.ports_known {
        return Err(DropReason::FragmentUnknown);
    }
    if work.packet.is_icmp_error() {
        return match settle_error(ctx, work)? {
            Settled::Here => onward(ctx, config, work),
            _ => Err(DropReason::UnknownTunnelPeer),
        };
    }
    if follow(work) {
        if work.pair.value.kind != FLOW_KIND_DSR_LOCAL || work.pair.value.is_reverse() {
            return Err(DropReason::UnknownTunnelPeer);
        }
    } else {
        admit(config, work)?;
    }
    translate(ctx, work)?;
    onward(ctx, config, work)
}

#[inline(never)]
fn admit(config: &Config, work: &mut Work) -> Result<(), DropReason> {
    if work.packet.tcp_flags & TCP_RST != 0 {
        return Err(DropReason::NoLocalEndpoints);
    }
    match choose(&Kernel, config, &work.packet, SCOPE_LOCAL)? {
        Choice::Backend { slot, service, .. } => {
            let pair = &mut work.pair;
            pair.value = FlowValue {
                to: pair.key,
                service,
                kind: FLOW_KIND_DSR_LOCAL,
                ..FlowValue::default()
            };
            pair.value.to.destination = slot.address;
            pair.value.to.destination_port = slot.port;
            open(&Kernel, pair, &own_ports(config))?;
            maps::count_event(EventKind::PacketPicked);
            Ok(())
        }
        Choice::Nothing => Err(DropReason::UnknownTunnelPeer),
        // Not told from here: what is sent out of the overlay's device does not reach the client.
        Choice::Refuse | Choice::Unserved => Err(DropReason::NoLocalEndpoints),
    }
}

//! tc ingress of a pod's host-side veth: everything that a pod sends.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::layout::{PROTOCOL_TCP, PROTOCOL_UDP, PodSource};
use agent_ebpf::packet::Packet;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps::{self, PODS, SOURCES};
use crate::pod_service::translate_from_pod;
use crate::route;
use crate::tc::{End, rewrite, to_host, to_pod};
use crate::translate::undo;
use crate::work::{conclude, read, work};

const DNS_PORT: u16 = 53u16.to_be();

#[classifier]
pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
    conclude(&ctx, from_pod(&ctx))
}

#[inline(always)]
fn from_pod(ctx: &TcContext) -> Result<i32, DropReason> {
    let work = work()?;
    read(ctx, work)?;
    let packet = &work.packet;
    if packet.is_v6_control() {
        return Err(DropReason::Ipv6Control);
    }
    // SAFETY: the context is the kernel's.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: read before any change of the map by this program.
    let source = unsafe { SOURCES.get(interface) }.ok_or(DropReason::UnknownPod)?;
    check_source(source, packet)?;
    let config = maps::config()?;
    let mut translated = false;

    if work.ports_known {
        if packet.destination == config.cluster_dns && is_dns(packet) {
            let (listen, port) = (&config.dns_listen, config.dns_port);
            rewrite(ctx, packet, End::Destination, listen, port)?;
            return Ok(to_host(ctx, ForwardKind::Dns));
        }
        translated = translate_from_pod(ctx, config, work)?;
    } else if config.in_service_nets(&packet.destination) {
        return Err(DropReason::FragmentUnknown);
    }
    let packet = &work.packet;
    // SAFETY: copied at once.
    if let Some(pod) = unsafe { PODS.get(packet.destination) }.copied() {
        return to_pod(ctx, &pod, ForwardKind::Pod);
    }
    if config.in_service_nets(&packet.destination) {
        return Err(DropReason::NoSuchService);
    }
    let verdict = route::elsewhere(ctx, config, interface, work);
    if translated && matches!(verdict, Err(DropReason::TooBig | DropReason::HopLimit)) {
        // Its sender knows the packet as it was.
        undo(ctx, work)?;
    }
    verdict
}

/// A pod sends as itself only.
#[inline(always)]
fn check_source(source: &PodSource, packet: &Packet) -> Result<(), DropReason> {
    if source.mac != packet.source_mac {
        return Err(DropReason::SpoofedMac);
    }
    let own = if packet.v6 { &source.v6 } else { &source.v4 };
    if *own != packet.source || own.is_unspecified() {
        return Err(DropReason::SpoofedAddress);
    }
    Ok(())
}

#[inline(always)]
fn is_dns(packet: &Packet) -> bool {
    packet.destination_port == DNS_PORT && matches!(packet.protocol, PROTOCOL_UDP | PROTOCOL_TCP)
}

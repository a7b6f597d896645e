//! tc ingress of a pod's host-side veth: everything that a pod sends.
//!
//! Not here yet: per-packet balancing for traffic that passed no socket hook; it is refused under its own
//! reason where it would go.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::layout::{PROTOCOL_TCP, PROTOCOL_UDP, PodSource, SCOPE_INSIDE, ServiceKey};
use agent_ebpf::packet::{Fragment, Packet, parse};
use agent_ebpf::refusal::Refusal;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::fragment;
use crate::maps::{self, PODS, SERVICES, SOURCES};
use crate::refuse::refuse;
use crate::route;
use crate::tc::{End, Skb, drop, rewrite, to_host, to_pod};

const DNS_PORT: u16 = 53u16.to_be();

#[classifier]
pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
    match from_pod(&ctx) {
        Ok(verdict) => verdict,
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn from_pod(ctx: &TcContext) -> Result<i32, DropReason> {
    let mut packet = parse(&Skb(ctx))?;
    if packet.is_v6_control() {
        return Err(DropReason::Ipv6Control);
    }
    // SAFETY: the context is the kernel's.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: read before any change of the map by this program.
    let source = unsafe { SOURCES.get(interface) }.ok_or(DropReason::UnknownPod)?;
    check_source(source, &packet)?;
    let config = maps::config()?;
    if !matches!(packet.fragment, Fragment::Whole) && config.in_service_nets(&packet.destination) {
        fragment::ports(&mut packet)?;
    }

    if packet.destination == config.cluster_dns && is_dns(&packet) {
        rewrite(
            ctx,
            &packet,
            End::Destination,
            &config.dns_listen,
            config.dns_port,
        )?;
        return Ok(to_host(ctx, ForwardKind::Dns));
    }
    // SAFETY: copied at once.
    if let Some(pod) = unsafe { PODS.get(packet.destination) }.copied() {
        return to_pod(ctx, &pod, ForwardKind::Pod);
    }
    if config.in_service_nets(&packet.destination) {
        return refuse(ctx, &packet, Refusal::of(&packet), unbalanced(&packet));
    }
    route::elsewhere(ctx, &packet, config, interface)
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

/// Seam for balancing per packet: what was not turned into a backend at its socket.
#[inline(always)]
fn unbalanced(packet: &Packet) -> DropReason {
    let key = ServiceKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        scope: SCOPE_INSIDE,
    };
    // SAFETY: read before any change of the map by this program.
    match unsafe { SERVICES.get(key) } {
        Some(value) if value.count == 0 => DropReason::NoEndpoints,
        Some(_) => DropReason::ServiceNeedsSocket,
        None => DropReason::NoSuchService,
    }
}

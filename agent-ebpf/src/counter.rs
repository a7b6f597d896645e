//! What is counted: every drop under a named reason, every redirected packet under its kind, and events
//! that are no drop but that an operator must be able to see.

/// Declares an enum whose variants index a per-CPU array and have a name for `/metrics`.
macro_rules! counters {
    ($(#[$attr:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$attr])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counters! {
    /// Why a packet was dropped, or a connect or send refused.
    DropReason {
        /// Shorter than its headers say.
        Malformed = "malformed",
        /// Neither IPv4 nor IPv6, from a pod (pods need no ARP: their one neighbour is permanent).
        NotIp = "not_ip",
        /// A frame from a pod whose source is not the pod's MAC address.
        SpoofedMac = "spoofed_mac",
        /// A packet from a pod whose source is not the pod's address.
        SpoofedAddress = "spoofed_address",
        /// From an interface that no pod is registered for.
        UnknownPod = "unknown_pod",
        /// For an address in a pod range that no pod here has.
        NoSuchPod = "no_such_pod",
        /// For an address in a Service range that is not a Service's, or not on this port.
        NoSuchService = "no_such_service",
        /// Neighbour discovery and multicast listener reports from a pod, which needs neither.
        Ipv6Control = "ipv6_control",
        /// The Service has no usable endpoint.
        NoEndpoints = "no_endpoints",
        /// The node has no route to it.
        NoRoute = "no_route",
        /// Its way out is not the uplink.
        NotUplink = "not_uplink",
        /// There is no address on the uplink to masquerade with.
        NoMasqueradeAddress = "no_masquerade_address",
        /// A protocol that masquerading does not know.
        MasqueradeProtocol = "masquerade_protocol",
        /// Every port that was tried for a translated flow is in use towards this destination.
        FlowPorts = "flow_ports",
        /// Hop limit reached zero.
        HopLimit = "hop_limit",
        /// A helper that rewrites the packet failed.
        Rewrite = "rewrite",
        /// The data plane's configuration is not in its map (cannot happen after loading).
        NotConfigured = "not_configured",
        /// `externalTrafficPolicy: Local`, and no endpoint on this node.
        NoLocalEndpoints = "no_local_endpoints",
        /// Not in the Service's `loadBalancerSourceRanges`.
        SourceRange = "source_range",
        /// A later fragment of a packet whose first one was not seen.
        FragmentUnknown = "fragment_unknown",
        /// The table of translated flows is full.
        FlowTableFull = "flow_table_full",
        /// Through the overlay from somewhere that is no node, or as somebody that is not that node's.
        UnknownTunnelPeer = "unknown_tunnel_peer",
        /// Larger than the path's MTU and not to be fragmented: the sender is told.
        TooBig = "too_big",
        /// For a pod range of a node that is not known (any more).
        NoSuchNode = "no_such_node",
        /// An SCTP flow would need another port: its checksum cannot follow.
        SctpPort = "sctp_port",
        /// A service's slots changed twice while it was looked at.
        ServiceChanging = "service_changing",
    }
}

counters! {
    /// Where packets were sent.
    ForwardKind {
        /// To another pod on this node.
        Pod = "pod",
        /// To the node's own stack.
        Host = "host",
        /// To the node's DNS server.
        Dns = "dns",
        /// Out of the uplink, masqueraded.
        Uplink = "uplink",
        /// Replies to masqueraded flows.
        Return = "return",
        /// Into the overlay, to another node.
        Overlay = "overlay",
        /// Natively routed to another node's pod.
        Native = "native",
        /// From outside to a Service's backend on this node.
        ServiceLocal = "service_local",
        /// From outside to a Service's backend on another node.
        ServiceRemote = "service_remote",
        /// From a Service's backend back to the outside.
        ServiceReturn = "service_return",
        /// Turned around by the driver's XDP program.
        Xdp = "xdp",
    }
}

counters! {
    /// What happened that is no drop.
    EventKind {
        /// A connect or send was given a backend.
        ServicePicked = "service_picked",
        /// A socket talks to more Services than it can remember: an answer to the oldest shows its backend.
        UdpFlowForgotten = "udp_flow_forgotten",
        /// The socket's memory for options is used up: peer addresses show the backend.
        SocketStateRefused = "socket_state_refused",
        /// The affinity table is full: this client is not kept on its backend.
        AffinityTableFull = "affinity_table_full",
        /// A sender was told that it cannot get through (ICMP error or TCP reset).
        Refused = "refused",
        /// A packet was translated by a flow that nobody opened at a socket.
        PacketPicked = "packet_picked",
        /// A sender was not told: this second's share of answers is used up.
        RefusalLimited = "refusal_limited",
        /// The place where a socket's origin would be is another socket's: it got a storage of its own.
        OriginStored = "origin_stored",
    }
}

/// Packets and bytes of one [`ForwardKind`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

const _: () = {
    assert!(DropReason::COUNT <= crate::layout::DROP_REASONS);
    assert!(ForwardKind::COUNT <= crate::layout::FORWARD_KINDS);
    assert!(EventKind::COUNT <= crate::layout::EVENT_KINDS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_numbers_dense() {
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}

//! The overlay between nodes: VXLAN (RFC 7348) whose ends and identifier the programs set and check.
//!
//! Every overlay device has the same MAC address, so that no node has to ask for another's; the source is another
//! one, because Linux drops what comes in with the device's own (`vxlan_set_mac`, "packet loops").

use crate::address::Address;
use crate::layout::{Config, REMOTE_NODE, Remote};

/// Of every overlay device. Locally administered, unicast.
pub const MAC: [u8; 6] = [0x02, b'w', b'a', b'g', b'g', b'l'];
/// What packets in the overlay come from.
pub const PEER_MAC: [u8; 6] = [0x02, b'w', b'a', b'g', b'g', b'p'];
/// VXLAN network identifier of pods.
pub const VNI: u32 = 0x77;
/// In `cb[0]` of a packet whose tunnel key is set already.
pub const TUNNEL_KEY_SET: u32 = 0x7761_6767;

/// Bytes around an IP packet in the overlay: the inner Ethernet header, VXLAN, UDP, and the outer IP header.
#[must_use]
pub const fn overhead(v6_underlay: bool) -> u32 {
    14 + 8 + 8 + if v6_underlay { 40 } else { 20 }
}

/// Where a packet came from, by its outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub source: Address,
    pub destination: Address,
    pub vni: u32,
}

/// Whether a packet may come in through the overlay: sent to this node's end of it, by the node that its source is
/// of. `source` is what is known of its inner source. A pod can send UDP to a node's tunnel port by itself; but
/// neither as a node, nor, with the node's address by masquerading, to an address that is a tunnel's end.
#[inline(always)]
#[must_use]
pub fn admits(config: &Config, peer: &Peer, source: Option<&Remote>) -> bool {
    let own = if peer.destination.is_v4() {
        &config.node_v4
    } else {
        &config.node_v6
    };
    match source {
        Some(remote) => {
            peer.vni == config.vni
                && peer.destination == *own
                && remote.node == peer.source
                && !peer.source.is_unspecified()
        }
        None => false,
    }
}

/// Whether what bears this source is let in at the other end, which knows pods and the one address of each family that a
/// node is known by. What a node answers as another address of its own (a node port is at all of them) goes to another
/// node by the network, as it came.
#[inline(always)]
#[must_use]
pub fn tunnel_takes(config: &Config, source: &Address, to: &Remote) -> bool {
    to.flags & REMOTE_NODE == 0
        || config.in_pod_nets(source)
        || *source == config.node_v4
        || *source == config.node_v6
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Address = Address::from_v4([192, 0, 2, 1]);
    const B: Address = Address::from_v4([192, 0, 2, 2]);

    #[test]
    fn only_pods_and_the_address_that_it_is_known_by_go_through_the_tunnel_to_a_node() {
        let mut config = Config {
            node_v4: A,
            ..Config::default()
        };
        config.pod_nets[0] = crate::address::Net::new([10, 77, 0, 0].into(), 16);
        let node = Remote {
            node: B,
            flags: REMOTE_NODE,
            padding: 0,
        };
        let pods = Remote { flags: 0, ..node };
        let pod = Address::from_v4([10, 77, 0, 9]);
        let another = Address::from_v4([192, 0, 2, 9]);
        for (source, to_node) in [(pod, true), (A, true), (another, false)] {
            assert_eq!(tunnel_takes(&config, &source, &node), to_node);
            assert!(tunnel_takes(&config, &source, &pods));
        }
    }

    #[test]
    fn only_the_node_that_owns_the_source_is_let_in() {
        let config = Config {
            vni: VNI,
            node_v4: A,
            ..Config::default()
        };
        let peer = Peer {
            source: B,
            destination: A,
            vni: VNI,
        };
        let of = |node| Remote {
            node,
            ..Remote::default()
        };
        assert!(admits(&config, &peer, Some(&of(B))));
        assert!(!admits(&config, &peer, Some(&of(A))), "another node's");
        assert!(!admits(&config, &peer, None), "nobody's");
        for wrong in [
            Peer { vni: 1, ..peer },
            Peer {
                destination: B,
                ..peer
            },
            Peer { source: A, ..peer },
        ] {
            assert!(!admits(&config, &wrong, Some(&of(B))), "{wrong:?}");
        }
        let nowhere = Peer {
            source: Address::UNSPECIFIED,
            destination: Address::UNSPECIFIED,
            ..peer
        };
        let unknown = of(Address::UNSPECIFIED);
        assert!(!admits(&config, &nowhere, Some(&unknown)));
    }

    #[test]
    fn headers_are_counted_in_full() {
        assert_eq!((overhead(false), overhead(true)), (50, 70));
    }
}

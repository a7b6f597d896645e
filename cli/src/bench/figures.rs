//! What is measured, on what, and in which unit.

use serde::Serialize;

/// The nodes, each with one data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Node {
    /// The kernel's routing and nothing else.
    Plain,
    Waggle,
    Iptables,
    Nftables,
}

impl Node {
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Waggle, Self::Iptables, Self::Nftables];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Waggle => "waggle",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A column of the tables: a way from the client to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Column {
    /// To the pod's address, over plain routing.
    Direct,
    /// To the pod's address, on the node with this data plane.
    Pod,
    /// Through the Service: this data plane, and the two others.
    Waggle,
    Iptables,
    Nftables,
}

impl Column {
    pub(crate) const ALL: [Self; 5] = [
        Self::Direct,
        Self::Pod,
        Self::Waggle,
        Self::Iptables,
        Self::Nftables,
    ];
    /// Those that go through a Service, and so compete.
    pub(crate) const SERVICES: [Self; 3] = [Self::Waggle, Self::Iptables, Self::Nftables];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pod => "pod",
            Self::Waggle => "waggle",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }

    pub(crate) fn explained(self) -> &'static str {
        match self {
            Self::Direct => "to the pod's address, plain kernel routing: no rule, no program",
            Self::Pod => "to the pod's address on the node with Waggle's data plane",
            Self::Waggle => "through the Service, Waggle's data plane",
            Self::Iptables => "through the Service, the rules of kube-proxy's iptables mode",
            Self::Nftables => "through the Service, the maps of kube-proxy's nftables mode",
        }
    }

    pub(crate) fn node(self) -> Node {
        match self {
            Self::Direct => Node::Plain,
            Self::Pod | Self::Waggle => Node::Waggle,
            Self::Iptables => Node::Iptables,
            Self::Nftables => Node::Nftables,
        }
    }
}

/// One kind of turn, or of single measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Connect, one request, close, through the last Service of the rules.
    Connect,
    /// The same through the first.
    ConnectFirst,
    /// Requests on one connection.
    Exchange,
    /// One stream.
    Stream,
    /// Datagrams from an unconnected socket.
    Udp,
    /// Datagrams from a connected socket.
    UdpConnected,
    /// Connect, one request, close, from outside the cluster through a NodePort.
    NorthSouth,
    /// From one endpoint's change to its effect.
    Change,
    /// The whole table from nothing.
    Load,
    /// User space and kernel.
    Memory,
    /// The kernel's own count of the connect hook's time.
    Hook,
}

impl Work {
    pub(crate) const ALL: [Self; 11] = [
        Self::Connect,
        Self::ConnectFirst,
        Self::Exchange,
        Self::Stream,
        Self::Udp,
        Self::UdpConnected,
        Self::NorthSouth,
        Self::Change,
        Self::Load,
        Self::Memory,
        Self::Hook,
    ];

    /// How many turns everything has in a round. Where both ways to the pod are the same packets, what is left between
    /// them is how the machine drifts and where a connection's memory lies: many short turns, close to each other, average
    /// that out, few long ones do not.
    pub(crate) fn passes(self) -> u32 {
        match self {
            Self::Exchange | Self::Stream => 5,
            _ => 1,
        }
    }

    /// The length of a turn, as a part of what is asked for.
    pub(crate) fn part_of_turn(self) -> f64 {
        if self.passes() > 1 { 0.5 } else { 1.0 }
    }

    /// The ways that it is measured on; a change has no other end, a NodePort no pod of its own.
    pub(crate) fn columns(self) -> &'static [Column] {
        use Column::{Direct, Iptables, Nftables, Waggle};
        match self {
            Self::Connect | Self::Exchange | Self::Stream | Self::Udp | Self::UdpConnected => {
                &Column::ALL
            }
            Self::NorthSouth => &[Direct, Waggle, Iptables, Nftables],
            Self::ConnectFirst | Self::Change | Self::Load | Self::Memory => &Column::SERVICES,
            Self::Hook => &[Column::Pod, Waggle],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One line of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figure {
    /// In JSON.
    pub(crate) id: &'static str,
    pub(crate) work: Work,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

macro_rules! figures {
    ($($name:ident: $work:ident, $id:literal, $title:literal, $unit:literal, $better:ident;)*) => {
        $(pub(crate) const $name: Figure = Figure {
            id: $id, work: Work::$work, title: $title, unit: $unit, better: Better::$better,
        };)*
        pub(crate) const FIGURES: &[Figure] = &[$($name,)*];
    };
}

figures! {
    CONNECT_P50: Connect, "connectP50", "connect, first packet, p50", "us", Lower;
    CONNECT_P99: Connect, "connectP99", "connect, first packet, p99", "us", Lower;
    CONNECT_RATE: Connect, "connectRate", "connect-request-close", "/s", Higher;
    CONNECT_CPU: Connect, "connectCpu", "connect-request-close, CPU each", "us", Lower;
    FIRST_P50: ConnectFirst, "connectFirstP50", "first rule: connect, p50", "us", Lower;
    FIRST_P99: ConnectFirst, "connectFirstP99", "first rule: connect, p99", "us", Lower;
    FIRST_RATE: ConnectFirst, "connectFirstRate", "first rule: connect-request-close", "/s", Higher;
    FIRST_CPU: ConnectFirst, "connectFirstCpu", "first rule: CPU each", "us", Lower;
    EXCHANGE_RATE: Exchange, "exchangeRate", "request-response, one connection", "/s", Higher;
    EXCHANGE_P99: Exchange, "exchangeP99", "request-response, p99", "us", Lower;
    EXCHANGE_CPU: Exchange, "exchangeCpu", "request-response, CPU each", "us", Lower;
    STREAM_RATE: Stream, "streamRate", "throughput, one stream", "Gbit/s", Higher;
    STREAM_CPU: Stream, "streamCpu", "throughput, CPU of one MiB", "us", Lower;
    UDP_RATE: Udp, "udpRate", "UDP, unconnected, arrived", "/s", Higher;
    UDP_LOST: Udp, "udpLost", "UDP, unconnected, lost", "%", Lower;
    UDP_CPU: Udp, "udpCpu", "UDP, unconnected, CPU each", "us", Lower;
    UDP_CONNECTED_RATE: UdpConnected, "udpConnectedRate", "UDP, connected, arrived", "/s", Higher;
    UDP_CONNECTED_LOST: UdpConnected, "udpConnectedLost", "UDP, connected, lost", "%", Lower;
    UDP_CONNECTED_CPU: UdpConnected, "udpConnectedCpu", "UDP, connected, CPU each", "us", Lower;
    NORTH_SOUTH_P50: NorthSouth, "nodePortP50", "NodePort: connect, p50", "us", Lower;
    NORTH_SOUTH_P99: NorthSouth, "nodePortP99", "NodePort: connect, p99", "us", Lower;
    NORTH_SOUTH_RATE: NorthSouth, "nodePortRate", "NodePort: connect-request-close", "/s", Higher;
    NORTH_SOUTH_CPU: NorthSouth, "nodePortCpu", "NodePort: CPU each", "us", Lower;
    CHANGE_P50: Change, "changeP50", "one endpoint's change, p50", "ms", Lower;
    CHANGE_P99: Change, "changeP99", "one endpoint's change, p99", "ms", Lower;
    ENDED_P99: Change, "changeEndedP99", "..., old sockets ended too, p99", "ms", Lower;
    LOAD: Load, "load", "whole table from nothing", "ms", Lower;
    MEMORY_USER: Memory, "memoryUser", "memory, user space", "MiB", Lower;
    MEMORY_KERNEL: Memory, "memoryKernel", "memory, kernel", "MiB", Lower;
    HOOK: Hook, "hook", "connect hook, kernel's count", "ns", Lower;
}

/// The four figures of a connection's turn.
pub(crate) fn of_connections(work: Work) -> [Figure; 4] {
    match work {
        Work::ConnectFirst => [FIRST_P50, FIRST_P99, FIRST_RATE, FIRST_CPU],
        Work::NorthSouth => [
            NORTH_SOUTH_P50,
            NORTH_SOUTH_P99,
            NORTH_SOUTH_RATE,
            NORTH_SOUTH_CPU,
        ],
        _ => [CONNECT_P50, CONNECT_P99, CONNECT_RATE, CONNECT_CPU],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_work_has_a_figure_and_every_figure_its_own_name() {
        let names: HashSet<&str> = FIGURES.iter().map(|figure| figure.id).collect();
        assert_eq!(names.len(), FIGURES.len());
        for work in Work::ALL {
            assert!(FIGURES.iter().any(|figure| figure.work == work), "{work:?}");
        }
    }
}

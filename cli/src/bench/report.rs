//! Everything that a run found out, as JSON and as a page of HTML that needs nothing but itself.

mod html;
mod plot;

use serde::Serialize;

pub(crate) use self::html::page;
use super::machine::Machine;
use super::results::{Line, Verdict};
use super::services::Family;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) services: Vec<u32>,
    pub(crate) rounds: u32,
    pub(crate) turn_seconds: f64,
    pub(crate) family: Family,
    pub(crate) processors: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// RFC 3339.
    pub(crate) began: String,
    pub(crate) seconds: f64,
    /// Does the same again.
    pub(crate) command: String,
    pub(crate) settings: Settings,
    pub(crate) machine: Machine,
    pub(crate) lines: Vec<Line>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) notes: Vec<String>,
}

/// What the figures are, and what they are not.
pub(crate) fn notes(machine: &Machine) -> Vec<String> {
    let mut notes: Vec<String> = [
        "Medians of short turns that the data planes take one after the other in each round, who goes first alternating; ratios are taken turn by turn. Request-response and streams have five turns of half the length in each round. In brackets beside a ratio: where its median lies with a confidence of 95 %. JSON has every turn.",
        "direct and pod go to the pod's address; waggle, iptables and nftables through the Service's. Before a node is measured, connections through each Service were seen to reach all of its backends and no other, under the client's own address, and the pod's address to reach the pod alone.",
        "The Service under test is the last of the rules; \"first rule\" is the first. iptables looks at one rule after the other for a connection's first packet; kube-proxy's order is random, so that a Service's price there lies between the two.",
        "Waggle translates at connect: a connection to it has no per-packet cost, so that what is compared in request-response and throughput is the way of the packets through the node.",
        "CPU time is that of both ends and of ksoftirqd per operation, as the scheduler counts it.",
        "A load or change of iptables and nftables is the run time of the program that makes it, the text being there already; kube-proxy's own work and its wait between two syncs (a second by default) come on top. nftables is loaded in several transactions, which is faster than kube-proxy's one. A load or change of Waggle is from the batch of events in hand to the word that the kernel's maps are written, by which new connections go; node sync comes on top. A revision is reported as applied when UDP state and sockets of gone backends are ended as well.",
        "Memory of Waggle in user space is the resident process that holds the data plane and no other part of an agent; its kernel memory is what the kernel says of each map and program, tables at full size. Of iptables and nftables it is the growth of the whole machine's kernel memory by the load, which others may have a part in; kube-proxy's process is not there to be measured.",
        "The connect hook's time includes a part of the price of counting it (some tens of nanoseconds).",
        "Not measured: real network cards and their offloads, several queues, other nodes (all ends are on this one), more processors than this machine's, many clients at a time, mixed traffic, other kernels. Other work on the machine shows as spread between lowest and highest.",
    ]
    .map(str::to_owned)
    .to_vec();
    if machine.unoptimized {
        notes.insert(
            0,
            "THIS IS AN UNOPTIMIZED BUILD: everything that user space does is slower than it is."
                .to_owned(),
        );
    }
    notes
}

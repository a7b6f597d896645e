//! Keeps true how other nodes and their pods are reached, and by which addresses this node is: the overlay device,
//! `REMOTES`, `LOCALS`, routes and the uplink, after every change of nodes, links or addresses.
//!
//! Every pass reads all there is, plans, and does what differs. What is right already is not touched, so that the
//! first pass after a restart makes no gap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    CONFIG_LINKS, CONFIG_OVERLAY, Config, Link, MAX_LINKS, MAX_LOCALS, MAX_REMOTES, Remote,
};
use agent_ebpf::overlay::VNI;
use aya::maps::lpm_trie::Key;
use futures::StreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use tokio::sync::watch;

use super::attach::{Interface, allow_lookups};
use super::config::{DataPlaneConfig, NorthSouth, Routing};
use super::error::DataPlaneError;
use super::links::{Here, Links, WayOut};
use super::node::Netlink;
use super::nodes::{NodePlan, NodeProblem, Nodes};
use super::objects::Objects;
use super::pods::is_pod_link;
use super::routes::{Route, Way};
use super::wire::{Wire, remove_key};
use super::{Inner, RETRY, State, overlay, routes, run};
use crate::cluster::Batch;

#[derive(Debug)]
pub(crate) struct Reach {
    nodes: Nodes,
    goal: Goal,
}

/// What the last pass came to: to be put into maps.
#[derive(Debug, Clone, Default)]
struct Goal {
    here: Here,
    plan: Arc<NodePlan>,
    overlay: Option<Interface>,
}

/// What of it is shown and asked for.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    pub(crate) uplink: Option<Interface>,
    /// What is attached to, and in `LINKS`.
    ways_out: Vec<WayOut>,
    linked: bool,
    overlay: Option<Interface>,
    pub(crate) remotes: BTreeMap<IpNet, Remote>,
    pub(crate) locals: BTreeSet<IpAddr>,
    problems: BTreeSet<NodeProblem>,
}

impl Reached {
    /// Problems with nodes, by kind.
    pub(crate) fn problems(&self) -> impl Iterator<Item = (&'static str, i64)> + '_ {
        NodeProblem::KINDS.into_iter().map(|kind| {
            let count = self.problems.iter().filter(|at| at.kind() == kind).count();
            (kind, i64::try_from(count).unwrap_or(i64::MAX))
        })
    }
}

fn prefix(range: &IpNet) -> Key<Wire<Address>> {
    let bits = match range {
        IpNet::V4(range) => 96 + u32::from(range.prefix_len()),
        IpNet::V6(range) => u32::from(range.prefix_len()),
    };
    Key::new(bits, Wire(Address::from(range.network())))
}

fn range(key: &Key<Wire<Address>>) -> Option<IpNet> {
    let Wire(address) = key.data();
    let bits = if address.is_v4() {
        key.prefix_len().checked_sub(96)?
    } else {
        key.prefix_len()
    };
    IpNet::new(IpAddr::from(address), u8::try_from(bits).ok()?).ok()
}

impl Reach {
    /// Looks at the node before anything is touched.
    ///
    /// # Errors
    /// When the uplink is not there, or is no Ethernet interface.
    pub(crate) async fn look(
        config: &DataPlaneConfig,
        netlink: &Netlink,
    ) -> Result<Self, DataPlaneError> {
        let links = Links::read(netlink).await?;
        if let Some(uplink) = &config.uplink {
            links.ethernet(uplink)?;
        }
        let pods = config.pod_cidrs.clone();
        Ok(Self {
            nodes: Nodes::new(config.node_name.clone(), pods, MAX_REMOTES),
            goal: Goal {
                here: links.here(config, &Here::default()),
                ..Goal::default()
            },
        })
    }

    /// Takes over what an earlier run left in the maps and on the node.
    pub(crate) async fn adopt(
        &mut self,
        config: &DataPlaneConfig,
        netlink: &Netlink,
        objects: &Objects,
    ) -> Result<Reached, DataPlaneError> {
        let mut reached = Reached::default();
        for item in objects.remotes.iter() {
            let (key, Wire(remote)) = item.map_err(DataPlaneError::map("REMOTES"))?;
            reached
                .remotes
                .extend(range(&key).map(|range| (range, remote)));
        }
        let locals = objects.locals.keys().flatten();
        reached
            .locals
            .extend(locals.map(|key| IpAddr::from(Address::from_v6(key))));
        let entries = reached.remotes.iter();
        self.nodes
            .adopt(entries.map(|(range, remote)| (*range, *remote)));
        self.goal.plan = Arc::new(self.nodes.plan(&self.goal.here.vantage()));
        self.device(config, netlink).await?;
        Ok(reached)
    }

    /// The overlay device, from the first other node on.
    async fn device(
        &mut self,
        config: &DataPlaneConfig,
        netlink: &Netlink,
    ) -> Result<(), DataPlaneError> {
        let name = overlay::name(&config.pin_dir);
        // Packets that keep their client's address go from node to node in the tunnel, whatever pods' do.
        if config.routing == Routing::Native && config.north_south == NorthSouth::Snat {
            self.goal.overlay = None;
            return overlay::remove(netlink, &name).await;
        }
        let wanted = !self.goal.plan.remotes.is_empty() || overlay::present(netlink, &name).await?;
        self.goal.overlay = if wanted {
            let mtu = self.goal.here.overlay_mtu;
            Some(overlay::ensure(netlink, &name, config.vxlan_port, mtu).await?)
        } else {
            None
        };
        Ok(())
    }

    pub(crate) fn node_addresses(&self) -> Vec<IpAddr> {
        self.goal.here.node_addresses()
    }

    pub(crate) fn pod_mtu(&self) -> u32 {
        self.goal.here.pod_mtu
    }

    /// Takes the node's routes and the overlay device away.
    pub(crate) async fn clear(&self, config: &DataPlaneConfig, netlink: &Netlink) {
        if let Err(error) = routes::clear(netlink).await {
            tracing::warn!(%error, "routes to other nodes are left");
        }
        let name = overlay::name(&config.pin_dir);
        if let Err(error) = overlay::remove(netlink, &name).await {
            tracing::warn!(%error, name, "the overlay device is left");
        }
    }

    /// Makes maps and attachments what the last look and the plan say.
    pub(crate) fn put(
        &self,
        config: &DataPlaneConfig,
        state: &mut State,
    ) -> Result<(), DataPlaneError> {
        self.goal.put(config, state)
    }

    /// The node's own routes to pods elsewhere.
    pub(crate) async fn routes(
        &self,
        config: &DataPlaneConfig,
        netlink: &Netlink,
    ) -> Result<(), DataPlaneError> {
        let source = |range: &IpNet| match range {
            IpNet::V4(_) => self.goal.here.node_v4.map(IpAddr::V4),
            IpNet::V6(_) => self.goal.here.node_v6.map(IpAddr::V6),
        };
        let route = |range: &IpNet, way| {
            let source = source(range);
            (*range, Route { way, source })
        };
        let wanted = match (config.routing, &self.goal.overlay) {
            // Pods of this node have routes of their own, so that what is left of the cluster's ranges is elsewhere.
            (Routing::Overlay, Some(device)) => config
                .pod_cidrs
                .iter()
                .map(|range| route(&range.trunc(), Way::Device(device.index)))
                .collect(),
            (Routing::Overlay, None) => BTreeMap::new(),
            (Routing::Native, _) => self
                .goal
                .plan
                .gateways
                .iter()
                .map(|(range, gateway)| route(range, Way::Gateway(*gateway)))
                .collect(),
        };
        let keep = config.routing == Routing::Native && !self.nodes.is_synced();
        routes::reconcile(netlink, &wanted, keep).await
    }
}

impl Goal {
    fn fill(&self, config: &DataPlaneConfig, settings: &mut Config) {
        self.here.fill(settings);
        settings.vni = VNI;
        settings.overlay = self.overlay.as_ref().map_or(0, |device| device.index);
        settings.flags &= !(CONFIG_OVERLAY | CONFIG_LINKS);
        if self.here.ways_out.len() > 1 {
            settings.flags |= CONFIG_LINKS;
        }
        if config.routing == Routing::Overlay {
            settings.flags |= CONFIG_OVERLAY;
        }
    }

    fn put(&self, config: &DataPlaneConfig, state: &mut State) -> Result<(), DataPlaneError> {
        if state.ended {
            return Ok(());
        }
        let mut settings = state.settings;
        self.fill(config, &mut settings);
        if settings != state.settings || !state.configured {
            state
                .objects
                .config
                .set(0, Wire(settings), 0)
                .map_err(DataPlaneError::map("CONFIG"))?;
            state.settings = settings;
            state.configured = true;
        }
        if let Some(device) = &self.overlay
            && state.reached.overlay.as_ref() != Some(device)
        {
            state.attachments.overlay(&mut state.objects, device)?;
        }
        state.reached.overlay.clone_from(&self.overlay);
        self.put_links(state)?;
        if let Some(uplink) = &self.here.uplink
            && state.reached.uplink.as_ref() != Some(uplink)
        {
            state.attachments.xdp(&state.objects, uplink, config.xdp)?;
        }
        state.reached.uplink.clone_from(&self.here.uplink);
        self.put_locals(state)?;
        self.put_remotes(state)?;
        for problem in self.plan.problems.difference(&state.reached.problems) {
            tracing::error!(%problem, "a node is not reached as it says");
        }
        state.reached.problems.clone_from(&self.plan.problems);
        Ok(())
    }

    /// Programs are there before packets are sent that way, and go after that.
    fn put_links(&self, state: &mut State) -> Result<(), DataPlaneError> {
        let Here {
            ways_out, uplink, ..
        } = &self.here;
        // The first time also what an earlier run left is looked at.
        let same = state.reached.ways_out == *ways_out && state.reached.linked;
        if same {
            return Ok(());
        }
        let State {
            objects,
            reached,
            attachments,
            ..
        } = state;
        let gone: Vec<u32> = objects
            .links
            .keys()
            .flatten()
            .filter(|index| ways_out.iter().all(|way| way.interface.index != *index))
            .collect();
        for index in gone {
            remove_key(objects.links.remove(&index), "LINKS")?;
        }
        let interfaces = ways_out.iter().take(MAX_LINKS).map(|way| &way.interface);
        let attached = attachments.links(objects, interfaces, uplink.as_ref())?;
        for way in ways_out
            .iter()
            .filter(|way| attached.contains(&&way.interface))
        {
            let address = |ip: Option<IpAddr>| ip.map_or(Address::UNSPECIFIED, Address::from);
            let link = Link {
                v4: address(way.v4.map(IpAddr::V4)),
                v6: address(way.v6.map(IpAddr::V6)),
            };
            objects
                .links
                .insert(way.interface.index, Wire(link), 0)
                .map_err(DataPlaneError::map("LINKS"))?;
        }
        if ways_out.len() > 1 {
            allow_lookups();
        }
        reached.ways_out.clone_from(ways_out);
        reached.linked = true;
        Ok(())
    }

    fn put_locals(&self, state: &mut State) -> Result<(), DataPlaneError> {
        let wanted: BTreeSet<IpAddr> = self.here.locals.iter().take(MAX_LOCALS).copied().collect();
        if wanted.len() < self.here.locals.len() {
            tracing::error!(
                addresses = self.here.locals.len(),
                size = MAX_LOCALS,
                "more addresses than the table of local ones holds"
            );
        }
        let State {
            objects, reached, ..
        } = state;
        let key = |address: &IpAddr| Address::from(*address).bytes();
        // Removals first: the table has room for what it shall hold.
        for address in reached.locals.difference(&wanted) {
            remove_key(objects.locals.remove(&key(address)), "LOCALS")?;
        }
        for address in wanted.difference(&reached.locals) {
            objects
                .locals
                .insert(key(address), 0, 0)
                .map_err(DataPlaneError::map("LOCALS"))?;
        }
        if reached.locals != wanted {
            let own = wanted.iter().map(|address| Address::from(*address));
            state.tables.set_own(own.collect());
        }
        state.reached.locals = wanted;
        Ok(())
    }

    fn put_remotes(&self, state: &mut State) -> Result<(), DataPlaneError> {
        let State {
            objects, reached, ..
        } = state;
        let wanted = &self.plan.remotes;
        let gone: Vec<IpNet> = reached
            .remotes
            .keys()
            .filter(|range| !wanted.contains_key(range))
            .copied()
            .collect();
        for range in gone {
            remove_key(objects.remotes.remove(&prefix(&range)), "REMOTES")?;
            reached.remotes.remove(&range);
        }
        for (range, remote) in wanted {
            if reached.remotes.get(range) != Some(remote) {
                objects
                    .remotes
                    .insert(&prefix(range), Wire(*remote), 0)
                    .map_err(DataPlaneError::map("REMOTES"))?;
                reached.remotes.insert(*range, *remote);
            }
        }
        Ok(())
    }
}

/// One pass: nodes of `batch`, links and addresses as they are now.
async fn pass(inner: &Arc<Inner>, batch: Option<&Batch>) -> Result<(), DataPlaneError> {
    let mut reach = inner.reach.lock().await;
    if inner.state().ended {
        return Ok(());
    }
    let config = &inner.config;
    let netlink = Netlink::open()?;
    if let Some(batch) = batch {
        reach.nodes.apply(batch);
    }
    let here = Links::read(&netlink).await?.here(config, &reach.goal.here);
    if here.uplink != reach.goal.here.uplink {
        tracing::info!(from = ?reach.goal.here.uplink, to = ?here.uplink, "the uplink changed");
    }
    reach.goal.plan = Arc::new(reach.nodes.plan(&here.vantage()));
    reach.goal.here = here;
    reach.device(config, &netlink).await?;
    let goal = reach.goal.clone();
    let owner = Arc::clone(inner);
    run(inner, move |state| {
        goal.put(&owner.config, state)?;
        let (tables, objects, settings) =
            (&mut state.tables, &mut state.objects, &mut state.settings);
        // Who refuses packets for an address depends on whether it is the node's own. No backend goes by that.
        tables.retry(objects, settings);
        Ok(())
    })
    .await?;
    reach.routes(config, &netlink).await?;
    publish(inner, &reach.goal.here);
    Ok(())
}

fn publish(inner: &Inner, here: &Here) {
    let addresses = here.node_addresses();
    // A node without address keeps those that it was known by.
    inner
        .addresses
        .send_if_modified(|known| !addresses.is_empty() && replace(known, addresses));
    inner
        .pod_mtu
        .send_if_modified(|known| replace(known, here.pod_mtu));
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let differs = *place != value;
    *place = value;
    differs
}

/// Whether what a batch says of nodes is in force. Without a batch, tries again.
pub(crate) async fn apply(inner: &Arc<Inner>, batch: Option<&Batch>) -> bool {
    match pass(inner, batch).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "other nodes are not reached as planned"
            );
            false
        }
    }
}

/// Whether a batch is about nodes at all.
pub(crate) fn concerns(batch: &Batch) -> bool {
    use crate::cluster::Event;
    batch.full
        || batch
            .events
            .iter()
            .any(|event| matches!(event, Event::NodeSet(..) | Event::NodeRemoved(_)))
}

/// Not about a pod's interface, of which each start and end brings several messages: a pass reads all interfaces, those of
/// all other pods too.
fn is_about_node(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage::{DelLink, NewLink};
    let NetlinkPayload::InnerMessage(NewLink(link) | DelLink(link)) = &message.payload else {
        return true;
    };
    let is_pods = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(name) => is_pod_link(name),
        _ => false,
    };
    !link.attributes.iter().any(is_pods)
}

/// Follows the node's links and addresses until the data plane's last handle is gone.
pub(crate) async fn follow(inner: Weak<Inner>, mut alive: watch::Receiver<()>) {
    loop {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, mut messages) = match rtnetlink::new_multicast_connection(&groups)
        {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "links cannot be followed");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let driver = tokio::spawn(connection);
        // What changed before there was somebody to hear of it.
        let mut due = true;
        loop {
            if due {
                let Some(inner) = inner.upgrade() else {
                    driver.abort();
                    return;
                };
                due = !apply(&inner, None).await;
            }
            tokio::select! {
                message = messages.next() => {
                    let Some((message, _)) = message else {
                        break;
                    };
                    due |= is_about_node(&message);
                    // All that waits is one change.
                    while let Ok((message, _)) = messages.try_recv() {
                        due |= is_about_node(&message);
                    }
                }
                () = tokio::time::sleep(RETRY), if due => {}
                _ = alive.changed() => {
                    driver.abort();
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::super::pod_link_name;
    use super::*;

    #[test]
    fn the_interfaces_of_pods_are_passed_over() {
        let about = |message: RouteNetlinkMessage| is_about_node(&NetlinkMessage::from(message));
        let link = |name: &str| {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::Mtu(1500));
            link.attributes.push(LinkAttribute::IfName(name.to_owned()));
            link
        };
        let pod = pod_link_name([0xab, 0xcd, 0xef, 0x01, 0x23, 0x45]);
        assert_eq!(pod, "wgabcdef012345");
        assert!(!about(RouteNetlinkMessage::NewLink(link(&pod))));
        assert!(!about(RouteNetlinkMessage::DelLink(link(&pod))));
        for other in ["eth0", "wg0", "wgabcdef01234", "wgABCDEF012345"] {
            assert!(about(RouteNetlinkMessage::NewLink(link(other))), "{other}");
        }
        assert!(about(RouteNetlinkMessage::NewLink(LinkMessage::default())));
        let address = AddressMessage::default();
        assert!(about(RouteNetlinkMessage::NewAddress(address)));
    }
}

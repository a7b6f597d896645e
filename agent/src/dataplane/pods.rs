//! Pods in the tables: where they are reached, what they may send as, whose sockets are left alone.

use agent_ebpf::address::Address;
use agent_ebpf::layout::{Pod, PodSource};

use super::attach::{self, Interface};
use super::objects::Objects;
use super::wire::{Wire, remove_key};
use super::{DataPlaneError, PodInterface, State};

const LINK_PREFIX: &str = "wg";
const LINK_HASH: usize = 6;

/// The host side of a pod's pair is named by a hash.
pub(crate) fn pod_link_name(hash: [u8; LINK_HASH]) -> String {
    format!("{LINK_PREFIX}{}", hex::encode(hash))
}

/// Whether an interface has a name of a pod's.
pub(super) fn is_pod_link(name: &str) -> bool {
    name.strip_prefix(LINK_PREFIX).is_some_and(|hash| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        hash.len() == 2 * LINK_HASH && hash.bytes().all(is_digit)
    })
}

pub(super) fn add_pod(
    state: &mut State,
    interface: &PodInterface,
    cookie: u64,
) -> Result<(), DataPlaneError> {
    let index = interface.host_ifindex;
    let name = attach::interface_name(index)
        .ok_or_else(|| DataPlaneError::NoInterface(format!("#{index}")))?;
    let mut source = PodSource {
        mac: interface.pod_mac,
        ..PodSource::default()
    };
    let pod = Pod {
        ifindex: index,
        pod_mac: interface.pod_mac,
        host_mac: interface.host_mac,
    };
    for address in interface.addresses.iter().copied().map(Address::from) {
        if address.is_v4() {
            source.v4 = address;
        } else {
            source.v6 = address;
        }
    }
    // What the pod may send as comes before the program that asks for it; where it is reached, last.
    state
        .objects
        .sources
        .insert(index, Wire(source), 0)
        .map_err(DataPlaneError::map("SOURCES"))?;
    state
        .objects
        .namespaces
        .insert(cookie, Wire(source), 0)
        .map_err(DataPlaneError::map("NAMESPACES"))?;
    let interface_names = Interface { index, name };
    state
        .attachments
        .pod(&mut state.objects, &interface_names)?;
    for address in &interface.addresses {
        state
            .objects
            .pods
            .insert(Address::from(*address).bytes(), Wire(pod), 0)
            .map_err(DataPlaneError::map("PODS"))?;
    }
    state.pods = state.objects.pods.keys().flatten().count();
    Ok(())
}

pub(super) fn opt_out(state: &mut State, cookie: u64, yes: bool) -> Result<(), DataPlaneError> {
    if yes {
        let inserted = state.objects.opted_out.insert(cookie, 1, 0);
        inserted.map_err(DataPlaneError::map("OPTED_OUT"))?;
    } else {
        remove_key(state.objects.opted_out.remove(&cookie), "OPTED_OUT")?;
    }
    count_opted_out(state)
}

pub(super) fn count_opted_out(state: &mut State) -> Result<(), DataPlaneError> {
    let count = state.objects.opted_out.keys().flatten().count() as u32;
    if state.settings.opted_out != count && !state.ended {
        state.settings.opted_out = count;
        let settings = Wire(state.settings);
        let set = state.objects.config.set(0, settings, 0);
        set.map_err(DataPlaneError::map("CONFIG"))?;
    }
    Ok(())
}

/// Nobody reaches the pod any more; its own packets still pass its programs.
pub(super) fn unreach(
    state: &mut State,
    interface: &PodInterface,
    cookie: Option<u64>,
) -> Result<(), DataPlaneError> {
    if let Some(cookie) = cookie {
        remove_key(state.objects.namespaces.remove(&cookie), "NAMESPACES")?;
        opt_out(state, cookie, false)?;
    }
    for address in &interface.addresses {
        let key = Address::from(*address);
        // Given to another pod meanwhile: no longer ours to remove.
        let current = state.objects.pods.get(&key.bytes(), 0).ok();
        if current.is_some_and(|Wire(pod)| pod.ifindex == interface.host_ifindex) {
            remove_key(state.objects.pods.remove(&key.bytes()), "PODS")?;
            state.objects.flows.forget(key);
        }
    }
    state.pods = state.objects.pods.keys().flatten().count();
    Ok(())
}

/// Last: by it a later run finds the programs.
pub(super) fn forget_source(
    state: &mut State,
    interface: &PodInterface,
) -> Result<(), DataPlaneError> {
    let source = state.objects.sources.remove(&interface.host_ifindex);
    remove_key(source, "SOURCES")
}

/// Pods whose interface went while no agent was there.
pub(super) fn forget_vanished(objects: &mut Objects) -> Result<(), DataPlaneError> {
    let is_gone = |index: u32| attach::interface_name(index).is_none();
    let pods: Vec<[u8; 16]> = objects
        .pods
        .iter()
        .flatten()
        .filter(|(_, Wire(pod))| is_gone(pod.ifindex))
        .map(|(key, _)| key)
        .collect();
    for key in pods {
        remove_key(objects.pods.remove(&key), "PODS")?;
        objects.flows.forget(Address::from_v6(key));
    }
    let sources: Vec<u32> = objects
        .sources
        .keys()
        .flatten()
        .filter(|index| is_gone(*index))
        .collect();
    for index in sources {
        remove_key(objects.sources.remove(&index), "SOURCES")?;
    }
    let is_known = |pod: &PodSource| {
        let key = |address: Address| objects.pods.get(&address.bytes(), 0).is_ok();
        key(pod.v4) || key(pod.v6)
    };
    let namespaces: Vec<u64> = objects
        .namespaces
        .iter()
        .flatten()
        .filter(|(_, Wire(pod))| !is_known(pod))
        .map(|(cookie, _)| cookie)
        .collect();
    for cookie in namespaces {
        remove_key(objects.namespaces.remove(&cookie), "NAMESPACES")?;
        remove_key(objects.opted_out.remove(&cookie), "OPTED_OUT")?;
    }
    Ok(())
}

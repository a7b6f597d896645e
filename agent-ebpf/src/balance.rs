//! Which Service a packet is for and which of its backends gets a new flow. Pure, over [`Services`].

use crate::address::Address;
use crate::affinity::search_from;
use crate::counter::DropReason;
use crate::layout::{
    AffinityKey, AffinityValue, Config, MAGLEV_BLOCK, MAGLEV_SIZE, MaglevKey, SCOPE_LOCAL,
    SERVICE_FOREIGN, SERVICE_HOST_ONLY, SERVICE_LOCAL, SERVICE_SOURCE_RANGES, STICKY_SEARCH,
    ServiceKey, ServiceValue, Slot,
};
use crate::packet::Packet;
use crate::select::pick;

/// The tables of Services.
pub trait Services {
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue>;
    fn slot(&self, index: u32) -> Option<Slot>;
    /// Whether the address is the node's own.
    fn is_own(&self, address: &Address) -> bool;
    /// An entry of a block of a Maglev table.
    fn maglev(&self, block: &MaglevKey, entry: u32) -> Option<u16>;
    /// Whether the client is in one of the Service's source ranges.
    fn is_in_ranges(&self, service: u32, client: &Address) -> bool;
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    fn keep(&self, key: &AffinityKey, value: &AffinityValue);
    fn random(&self) -> u32;
    /// Seconds since boot.
    fn now(&self) -> u32;
}

/// What a packet that belongs to no flow is to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// None of any Service's.
    Nothing,
    /// The Service has no endpoint: the sender is to be told, by us.
    Refuse,
    /// The Service has no endpoint, on an address of the node: its stack tells the sender.
    Unserved,
    /// For this backend.
    Backend {
        slot: Slot,
        service: u32,
        flags: u32,
    },
}

/// # Errors
/// When the packet must go nowhere.
#[inline(always)]
pub fn choose<T: Services>(
    tables: &T,
    config: &Config,
    packet: &Packet,
    scope: u8,
) -> Result<Choice, DropReason> {
    let Some(value) = find(tables, config, packet, scope) else {
        return Ok(Choice::Nothing);
    };
    // For the node's own processes, at their sockets.
    if value.flags & SERVICE_HOST_ONLY != 0 {
        return Ok(Choice::Nothing);
    }
    if value.flags & SERVICE_SOURCE_RANGES != 0
        && !tables.is_in_ranges(value.service, &packet.source)
    {
        return Err(DropReason::SourceRange);
    }
    if value.count == 0 {
        return unserved(&value);
    }
    // Slots rest for much longer than a program runs before they are another set's: this does not happen to a program
    // that is not interrupted, as those at tc and XDP are not.
    let slot = backend(tables, packet, &value).ok_or(DropReason::ServiceChanging)?;
    Ok(Choice::Backend {
        slot,
        service: value.service,
        flags: value.flags,
    })
}

#[inline(always)]
const fn unserved(value: &ServiceValue) -> Result<Choice, DropReason> {
    if value.flags & SERVICE_LOCAL != 0 {
        Err(DropReason::NoLocalEndpoints)
    } else if value.flags & SERVICE_FOREIGN != 0 {
        Ok(Choice::Refuse)
    } else {
        Ok(Choice::Unserved)
    }
}

/// The exact address first, then what stands for every address of the node.
#[inline(always)]
fn find<T: Services>(
    tables: &T,
    config: &Config,
    packet: &Packet,
    scope: u8,
) -> Option<ServiceValue> {
    let mut key = ServiceKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        scope,
    };
    if let Some(value) = tables.service(&key) {
        return Some(value);
    }
    let port = u16::from_be(packet.destination_port);
    if port < config.node_port_minimum
        || port > config.node_port_maximum
        || (scope != SCOPE_LOCAL && !tables.is_own(&packet.destination))
    {
        return None;
    }
    key.address = if packet.v6 {
        Address::ANY_V6
    } else {
        Address::ANY_V4
    };
    tables.service(&key)
}

/// Nothing if the set changed under us.
#[inline(always)]
fn backend<T: Services>(tables: &T, packet: &Packet, value: &ServiceValue) -> Option<Slot> {
    let client = AffinityKey {
        client: packet.source,
        service: value.service,
        padding: 0,
    };
    let mut over = false;
    if value.affinity != 0
        && let Some(kept) = tables.affinity(&client)
    {
        if !kept.is_fresh(tables.now(), value.affinity) {
            over = true;
        } else if let Some((slot, index)) = kept_slot(tables, value, &kept) {
            keep(tables, &client, &slot, index);
            return Some(slot);
        }
    }
    // The client's place in a Maglev table is the same for ever: a client whose time is over would get its old backend.
    let index = if over {
        pick(tables.random(), value.count)
    } else {
        index(tables, packet, value)
    };
    let slot = tables.slot(value.base + index)?;
    if slot.set != value.set {
        return None;
    }
    if value.affinity != 0 {
        keep(tables, &client, &slot, index);
    }
    Some(slot)
}

#[inline(always)]
fn keep<T: Services>(tables: &T, client: &AffinityKey, slot: &Slot, index: u32) {
    let value = AffinityValue {
        backend: slot.address,
        port: slot.port,
        hint: index as u16,
        seen: tables.now(),
    };
    tables.keep(client, &value);
}

/// The slot of the backend that a client is kept on, if it still is one.
#[inline(always)]
fn kept_slot<T: Services>(
    tables: &T,
    value: &ServiceValue,
    kept: &AffinityValue,
) -> Option<(Slot, u32)> {
    // Most often nothing has changed.
    let hint = u32::from(kept.hint);
    if hint < value.count
        && let Some(slot) = tables.slot(value.base + hint)
        && is_kept(value, kept, &slot)
    {
        return Some((slot, hint));
    }
    let first = search_from(kept.hint, value.count);
    let mut step = 0;
    while step < STICKY_SEARCH && first + step < value.count {
        let index = first + step;
        if let Some(slot) = tables.slot(value.base + index)
            && is_kept(value, kept, &slot)
        {
            return Some((slot, index));
        }
        step += 1;
    }
    None
}

#[inline(always)]
fn is_kept(value: &ServiceValue, kept: &AffinityValue, slot: &Slot) -> bool {
    slot.set == value.set && slot.port == kept.port && slot.address == kept.backend
}

/// By the Service's Maglev table if it has one, else at random.
#[inline(always)]
fn index<T: Services>(tables: &T, packet: &Packet, value: &ServiceValue) -> u32 {
    if value.maglev != 0 {
        let entry = pick(client_hash(packet, value.affinity != 0), MAGLEV_SIZE);
        let block = MaglevKey {
            table: value.maglev,
            block: entry / MAGLEV_BLOCK as u32,
        };
        if let Some(slot) = tables.maglev(&block, entry % MAGLEV_BLOCK as u32)
            && u32::from(slot) < value.count
        {
            return u32::from(slot);
        }
    }
    pick(tables.random(), value.count)
}

/// Where a client's flow falls in a Maglev table: the same on every node, whatever the number that the node gave the
/// Service. With affinity all flows of a client fall together.
#[inline(always)]
#[must_use]
pub const fn client_hash(packet: &Packet, whole_client: bool) -> u32 {
    let mut hash = 0x811c_9dc5;
    let source = &packet.source.words;
    let destination = &packet.destination.words;
    let mut word = 0;
    while word < 4 {
        hash = mix(hash, source[word]);
        hash = mix(hash, destination[word]);
        word += 1;
    }
    let port = if whole_client { 0 } else { packet.source_port };
    hash = mix(hash, (port as u32) << 16 | packet.destination_port as u32);
    finish(mix(hash, packet.protocol as u32))
}

/// One round of MurmurHash3 (public domain) for 32-bit words.
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15);
    (hash ^ word.wrapping_mul(0x1b87_3593))
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

#[inline(always)]
const fn finish(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests;

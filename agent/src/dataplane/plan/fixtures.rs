//! Keys with one backend list that no Service decides: our own, and pods' hostPorts.

use std::collections::HashSet;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{SCOPE_INSIDE, SCOPE_OUTSIDE, SERVICE_HOST_PORT, ServiceKey};

use super::placer::GroupState;
use super::spec::number;
use super::{Backend, HostPort, usable};

/// Keys with one backend list that no Service decides.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) keys: Vec<ServiceKey>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) flags: u32,
    pub(crate) state: GroupState,
}

impl Fixture {
    pub(crate) fn new(keys: Vec<ServiceKey>, mut backends: Vec<Backend>, flags: u32) -> Self {
        backends.sort_unstable();
        backends.dedup();
        Self {
            keys,
            backends,
            flags,
            state: GroupState::default(),
        }
    }
}

/// What a pod's hostPorts ask for: every key once.
pub(crate) fn host_ports(ports: &[HostPort]) -> Vec<Fixture> {
    let mut taken = HashSet::new();
    let mut fixtures = Vec::new();
    for port in ports
        .iter()
        .filter(|port| port.port != 0 && port.container_port != 0)
    {
        for ip in port
            .addresses
            .iter()
            .filter(|ip| usable(**ip).is_ok())
            .map(|ip| ip.to_canonical())
        {
            let any = if ip.is_ipv4() {
                Address::ANY_V4
            } else {
                Address::ANY_V6
            };
            let (address, is_loopback) = match port.host_ip.map(|host| host.to_canonical()) {
                None => (any, false),
                Some(host) if host.is_ipv4() != ip.is_ipv4() => continue,
                Some(host) if host.is_unspecified() => (any, false),
                Some(host) => (Address::from(host), host.is_loopback()),
            };
            // Nothing comes from outside to a loopback address.
            let scopes = if is_loopback {
                &[SCOPE_INSIDE][..]
            } else {
                &[SCOPE_INSIDE, SCOPE_OUTSIDE]
            };
            let key = |scope: &u8| ServiceKey {
                address,
                port: port.port.to_be(),
                protocol: number(port.protocol),
                scope: *scope,
            };
            let keys: Vec<ServiceKey> = scopes
                .iter()
                .map(key)
                .filter(|key| taken.insert(*key))
                .collect();
            if !keys.is_empty() {
                let backend = Backend {
                    address: Address::from(ip),
                    port: port.container_port,
                };
                fixtures.push(Fixture::new(keys, vec![backend], SERVICE_HOST_PORT));
            }
        }
    }
    fixtures
}

/// Fixtures that stay keep what they have in the kernel. Also the keys that there were.
pub(crate) fn carry_over(
    before: Vec<Fixture>,
    mut wanted: Vec<Fixture>,
) -> (Vec<Fixture>, Vec<ServiceKey>) {
    for fixture in &mut wanted {
        if let Some(old) = before.iter().find(|old| old.keys == fixture.keys) {
            fixture.state = old.state;
        }
    }
    let keys = before
        .into_iter()
        .flat_map(|fixture| fixture.keys)
        .collect();
    (wanted, keys)
}

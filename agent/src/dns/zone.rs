//! The cluster's names, as one immutable value, after the Kubernetes DNS specification (version 1.1.0).
//!
//! A changed zone shares with the one before all that did not change. Nothing here knows of sockets,
//! forwarding or time. Deliberately absent: wildcards.

mod lookup;
pub(crate) mod service;
pub(crate) mod sharded;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;

pub(crate) use self::lookup::Answer;
use self::service::{Host, ServiceNames};
use self::sharded::Sharded;
use crate::cluster::ObjectName;

/// Clients ask again soon: endpoints come and go.
pub(crate) const TTL: u32 = 5;
/// Version of the specification, told by `dns-version.<domain>`.
const SCHEMA_VERSION: &str = "1.1.0";

/// All names of the cluster at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    domain: Name,
    /// The server's own address, for `ns.dns.<domain>`.
    server: IpAddr,
    revision: u64,
    services: Sharded<Arc<str>, Arc<ServiceNames>>,
    /// Namespaces that have a Service, with how many.
    namespaces: Arc<BTreeMap<Arc<str>, usize>>,
    /// What each address is called; sorted.
    reverse: Sharded<IpAddr, Arc<[Pointer]>>,
    pod_cidrs: Arc<BTreeSet<IpNet>>,
}

/// What an address is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pointer {
    service: Arc<ObjectName>,
    what: Pointed,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Pointed {
    /// The Service's own address.
    Service,
    /// An endpoint's, which may have a host name.
    Host(Option<Box<str>>),
}

/// `namespace/name`, by which a Service is found.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Zone {
    pub(crate) fn new(domain: Name, server: IpAddr) -> Self {
        Self {
            domain,
            server,
            revision: 0,
            services: Sharded::new(),
            namespaces: Arc::default(),
            reverse: Sharded::new(),
            pod_cidrs: Arc::default(),
        }
    }

    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(crate) fn set_pod_cidrs(&mut self, cidrs: BTreeSet<IpNet>) {
        if *self.pod_cidrs != cidrs {
            self.pod_cidrs = Arc::new(cidrs);
        }
    }

    /// Replaces all names of a Service; with `None` they are gone.
    pub(crate) fn set_service(&mut self, object: &ObjectName, names: Option<ServiceNames>) {
        let key = key(&object.namespace, &object.name);
        let before = self.services.get(key.as_str()).cloned();
        if before.as_deref() == names.as_ref() {
            return;
        }
        match (&before, &names) {
            (None, Some(_)) => self.count_namespace(&object.namespace, true),
            (Some(_), None) => self.count_namespace(&object.namespace, false),
            _ => {}
        }
        let old = before.as_deref().map(pointers).unwrap_or_default();
        let new = names.as_ref().map(pointers).unwrap_or_default();
        for (address, pointer) in old.difference(&new) {
            self.remove_pointer(*address, pointer);
        }
        for (address, pointer) in new.difference(&old) {
            self.add_pointer(*address, pointer.clone());
        }
        match names {
            Some(names) => self.services.insert(key.into(), Arc::new(names)),
            None => self.services.remove(key.as_str()),
        };
    }

    fn count_namespace(&mut self, namespace: &str, more: bool) {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        let count = namespaces.entry(namespace.into()).or_insert(0);
        if more {
            *count += 1;
        } else if *count > 1 {
            *count -= 1;
        } else {
            namespaces.remove(namespace);
        }
    }

    fn add_pointer(&mut self, address: IpAddr, pointer: Pointer) {
        let mut pointers: Vec<Pointer> = self.pointers(address).to_vec();
        pointers.push(pointer);
        pointers.sort_unstable();
        self.reverse.insert(address, pointers.into());
    }

    fn remove_pointer(&mut self, address: IpAddr, pointer: &Pointer) {
        let others = self.pointers(address).iter().filter(|p| *p != pointer);
        let pointers: Vec<Pointer> = others.cloned().collect();
        if pointers.is_empty() {
            self.reverse.remove(&address);
        } else {
            self.reverse.insert(address, pointers.into());
        }
    }

    fn pointers(&self, address: IpAddr) -> &[Pointer] {
        self.reverse.get(&address).map_or(&[], |pointers| pointers)
    }

    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (
            self.services.len(),
            self.reverse.len(),
            self.namespaces.len(),
        )
    }
}

/// Every address of a Service with what it is called.
fn pointers(names: &ServiceNames) -> BTreeSet<(IpAddr, Pointer)> {
    let pointer = |what| Pointer {
        service: names.object.clone(),
        what,
    };
    let own = names
        .cluster_ips
        .iter()
        .map(|ip| (*ip, pointer(Pointed::Service)));
    let host = |host: &Host| (host.address, pointer(Pointed::Host(host.label.clone())));
    own.chain(names.hosts.iter().map(host)).collect()
}

#[cfg(test)]
pub(crate) mod tests;

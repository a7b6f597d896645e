//! Answering a question from the zone.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::service::{PortTarget, ServiceNames, dashed, is_label, undashed};
use super::{Pointed, SCHEMA_VERSION, TTL, Zone, key};
use crate::cluster::ObjectName;

/// What the zone says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Without answers the name exists, but has no record of that type.
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// An alias: the question goes on at `target`.
    Alias { record: Box<Record>, target: Name },
    /// The name does not exist.
    NoName,
    /// Somebody else's name.
    Elsewhere,
}

/// What a name in the zone is.
enum Found<'a> {
    Apex,
    /// Exists, or something below it does.
    Nothing,
    Version,
    NameServer,
    Service(&'a ServiceNames),
    Addresses(Vec<IpAddr>),
    Port(&'a ServiceNames, Vec<PortTarget>),
}

impl Zone {
    /// The records of `name` (the case of which is kept in the answer).
    pub(crate) fn lookup(&self, name: &Name, kind: RecordType) -> Answer {
        if !self.domain.zone_of(name) {
            return self.reverse_lookup(name, kind);
        }
        let Some(found) = self.find(name) else {
            return Answer::NoName;
        };
        match found {
            Found::Apex => Answer::records(self.apex(name, kind)),
            Found::Nothing => Answer::records(Vec::new()),
            Found::Version => {
                let text = || RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                let answers = (kind == RecordType::TXT).then(|| record(name, text()));
                Answer::records(answers.into_iter().collect())
            }
            Found::NameServer => Answer::records(addresses(name, &[self.server], kind)),
            Found::Service(service) => match &service.external {
                Some(target) => Answer::Alias {
                    record: Box::new(record(name, RData::CNAME(CNAME(Name::clone(target))))),
                    target: Name::clone(target),
                },
                None => Answer::records(addresses(name, &service.addresses(), kind)),
            },
            Found::Addresses(ips) => Answer::records(addresses(name, &ips, kind)),
            Found::Port(service, targets) if kind == RecordType::SRV => {
                self.service_records(name, service, &targets)
            }
            Found::Port(..) => Answer::records(Vec::new()),
        }
    }

    fn find(&self, name: &Name) -> Option<Found<'_>> {
        let depth = usize::from(name.num_labels().checked_sub(self.domain.num_labels())?);
        if depth > 5 {
            return None;
        }
        let labels: Vec<String> = name
            .iter()
            .take(depth)
            .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
            .collect::<Option<_>>()?;
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => Some(Found::Apex),
            ["dns-version"] => Some(Found::Version),
            ["svc" | "pod" | "dns"] => Some(Found::Nothing),
            ["ns", "dns"] => Some(Found::NameServer),
            [namespace, "svc"] => self.namespaces.get(*namespace).map(|_| Found::Nothing),
            [namespace, "pod"] => is_label(namespace).then_some(Found::Nothing),
            [service, namespace, "svc"] => self.service(namespace, service).map(Found::Service),
            [label, namespace, "pod"] => self.pod(namespace, label),
            [label, service, namespace, "svc"] => {
                let service = self.service(namespace, service)?;
                if let Some(protocol) = label.strip_prefix('_') {
                    return service.has_protocol(protocol).then_some(Found::Nothing);
                }
                service.host(label).map(Found::Addresses)
            }
            [port, protocol, service, namespace, "svc"] => {
                let service = self.service(namespace, service)?;
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                Some(Found::Port(service, service.port(port, protocol)?))
            }
            _ => None,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&ServiceNames> {
        let service = self.services.get(key(namespace, name).as_str())?;
        service.exists().then_some(service)
    }

    /// `10-0-0-1.<namespace>.pod`: when the address is that of a pod, as far as is known here. Nodes are not told
    /// of namespaces that have no Service, so any will do, as with CoreDNS's `pods insecure`.
    fn pod(&self, namespace: &str, label: &str) -> Option<Found<'_>> {
        if !is_label(namespace) {
            return None;
        }
        let address = undashed(label)?;
        let endpoint = self.pointers(address).iter().any(|pointer| {
            matches!(pointer.what, Pointed::Host(_)) && pointer.service.namespace == namespace
        });
        (endpoint || self.pod_cidr(address).is_some()).then(|| Found::Addresses(vec![address]))
    }

    fn pod_cidr(&self, address: IpAddr) -> Option<IpNet> {
        // Ranges of nodes do not overlap: only the last one that begins at or before it can hold it.
        let before = self.pod_cidrs.range(..=IpNet::from(address)).next_back();
        before.copied().filter(|cidr| cidr.contains(&address))
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        match kind {
            RecordType::SOA => vec![self.authority(name)],
            RecordType::NS => match self.below(&["ns", "dns"]) {
                Some(server) => vec![record(name, RData::NS(NS(server)))],
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// The SOA record that goes with "no such name" and "no such record".
    pub(crate) fn soa(&self, question: &Name) -> Record {
        let owner = match question.parse_arpa_name() {
            Ok(net) if !self.domain.zone_of(question) => self
                .pod_cidr(net.addr())
                .and_then(reverse_zone)
                .unwrap_or_else(|| question.clone()),
            _ => self.domain.clone(),
        };
        self.authority(&owner)
    }

    fn authority(&self, owner: &Name) -> Record {
        let server = self
            .below(&["ns", "dns"])
            .unwrap_or_else(|| self.domain.clone());
        let mailbox = self
            .below(&["hostmaster"])
            .unwrap_or_else(|| self.domain.clone());
        // Serial numbers wrap by definition.
        let serial = u32::try_from(self.revision & u64::from(u32::MAX)).unwrap_or_default();
        let soa = SOA::new(server, mailbox, serial, 7200, 1800, 86400, TTL);
        record(owner, RData::SOA(soa))
    }

    fn below(&self, labels: &[&str]) -> Option<Name> {
        let relative = Name::from_labels(labels.iter().map(|l| l.as_bytes())).ok()?;
        relative.append_domain(&self.domain).ok()
    }

    fn service_name(&self, service: &ObjectName, host: Option<&str>) -> Option<Name> {
        let mut labels: Vec<&str> = host.into_iter().collect();
        labels.extend([service.name.as_str(), service.namespace.as_str(), "svc"]);
        self.below(&labels)
    }

    fn service_records(
        &self,
        name: &Name,
        service: &ServiceNames,
        targets: &[PortTarget],
    ) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        let weight = u16::try_from(100 / targets.len().max(1))
            .unwrap_or(1)
            .max(1);
        let hosts = service.hosts_by_label();
        let mut last = None;
        for target in targets {
            let host = target.host.as_deref();
            let Some(owner) = self.service_name(&service.object, host) else {
                continue;
            };
            // Sorted by host: the same one comes again only at once, with another port.
            if last != Some(host) {
                let ips = match host {
                    Some(host) => hosts.get(host).cloned().unwrap_or_default(),
                    None => service.addresses(),
                };
                additionals.extend(addresses(&owner, &ips, RecordType::A));
                additionals.extend(addresses(&owner, &ips, RecordType::AAAA));
                last = Some(host);
            }
            let srv = SRV::new(0, weight, target.port, owner);
            answers.push(record(name, RData::SRV(srv)));
        }
        Answer::Records {
            answers,
            additionals,
        }
    }

    fn reverse_lookup(&self, name: &Name, kind: RecordType) -> Answer {
        let Ok(net) = name.parse_arpa_name() else {
            return Answer::Elsewhere;
        };
        if net.prefix_len() != net.max_prefix_len() {
            return Answer::Elsewhere;
        }
        let pointers = self.pointers(net.addr());
        if !pointers.is_empty() {
            let pointers = pointers.iter().filter(|_| kind == RecordType::PTR);
            let answers = pointers.filter_map(|pointer| {
                let host = match &pointer.what {
                    Pointed::Service => None,
                    Pointed::Host(Some(label)) => Some(label.to_string()),
                    Pointed::Host(None) => Some(dashed(net.addr())),
                };
                let target = self.service_name(&pointer.service, host.as_deref())?;
                Some(record(name, RData::PTR(PTR(target))))
            });
            return Answer::records(answers.collect());
        }
        match self.pod_cidr(net.addr()) {
            Some(_) => Answer::NoName,
            None => Answer::Elsewhere,
        }
    }
}

impl Answer {
    fn records(answers: Vec<Record>) -> Self {
        Self::Records {
            answers,
            additionals: Vec::new(),
        }
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn addresses(name: &Name, ips: &[IpAddr], kind: RecordType) -> Vec<Record> {
    let data = |ip: &IpAddr| match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(*ip))),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
        _ => None,
    };
    ips.iter()
        .filter_map(data)
        .map(|data| record(name, data))
        .collect()
}

/// The reverse zone of a range, widened to where names can be cut (octets or nibbles).
fn reverse_zone(cidr: IpNet) -> Option<Name> {
    let step = if cidr.addr().is_ipv4() { 8 } else { 4 };
    let cut = cidr.prefix_len() / step;
    let full = Name::from(cidr.addr());
    let host_labels = cidr.max_prefix_len() / step - cut;
    Some(full.trim_to(usize::from(full.num_labels().checked_sub(host_labels)?)))
}

//! Answering a question from the zone.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::service::{PortTarget, ServiceNames, undashed};
use super::{Pointer, SCHEMA_VERSION, TTL, Zone, key};

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
    Port(&'a ServiceNames, &'a [PortTarget]),
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
                    record: Box::new(record(name, RData::CNAME(CNAME(target.clone())))),
                    target: target.clone(),
                },
                None => Answer::records(addresses(name, &service.addresses, kind)),
            },
            Found::Addresses(ips) => Answer::records(addresses(name, &ips, kind)),
            Found::Port(service, targets) if kind == RecordType::SRV => {
                self.service_records(name, service, targets)
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
            [namespace, "svc" | "pod"] => self.namespaces.get(*namespace).map(|_| Found::Nothing),
            [service, namespace, "svc"] => self.service(namespace, service).map(Found::Service),
            [label, namespace, "pod"] => self.pod(namespace, label),
            [label, service, namespace, "svc"] => {
                let service = self.service(namespace, service)?;
                if let Some(protocol) = label.strip_prefix('_') {
                    let any = service.ports.keys().any(|(_, p)| *p == protocol);
                    return any.then_some(Found::Nothing);
                }
                service.hosts.get(*label).cloned().map(Found::Addresses)
            }
            [port, protocol, service, namespace, "svc"] => {
                let service = self.service(namespace, service)?;
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                let mut ports = service.ports.iter();
                let (_, targets) = ports.find(|((n, p), _)| **n == *port && *p == protocol)?;
                Some(Found::Port(service, targets))
            }
            _ => None,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&ServiceNames> {
        let service = self.services.get(key(namespace, name).as_str())?;
        service.exists().then_some(service)
    }

    /// `10-0-0-1.<namespace>.pod`: when the address is that of a pod, as far as is known here.
    fn pod(&self, namespace: &str, label: &str) -> Option<Found<'_>> {
        self.namespaces.get(namespace)?;
        let address = undashed(label)?;
        let pointers = self.reverse.get(&address);
        let endpoint = pointers.is_some_and(|pointers| {
            let here = |p: &Pointer| p.host.is_some() && p.service.namespace == namespace;
            pointers.iter().any(here)
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

    fn service_name(&self, pointer: (&str, &str), host: Option<&str>) -> Option<Name> {
        let (namespace, name) = pointer;
        let mut labels: Vec<&str> = host.into_iter().collect();
        labels.extend([name, namespace, "svc"]);
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
        let object = (
            service.object.namespace.as_str(),
            service.object.name.as_str(),
        );
        for target in targets {
            let host = target.host.as_deref();
            let Some(owner) = self.service_name(object, host) else {
                continue;
            };
            let ips = match host {
                Some(host) => service.hosts.get(host).map_or(&[][..], Vec::as_slice),
                None => &service.addresses,
            };
            for kind in [RecordType::A, RecordType::AAAA] {
                for additional in addresses(&owner, ips, kind) {
                    if !additionals.contains(&additional) {
                        additionals.push(additional);
                    }
                }
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
        if let Some(pointers) = self.reverse.get(&net.addr()) {
            let pointers = pointers.iter().filter(|_| kind == RecordType::PTR);
            let answers = pointers.filter_map(|p| {
                let object = (p.service.namespace.as_str(), p.service.name.as_str());
                let target = self.service_name(object, p.host.as_deref())?;
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

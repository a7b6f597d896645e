//! The rules that kube-proxy makes in iptables mode, as input of `iptables-restore`.
//!
//! Chains, their order and the matches are those of kube-proxy 1.33 (`pkg/proxy/iptables`), with cluster-CIDR
//! detection of local traffic. Two things of it are left out, both in favour of iptables: the text is made before
//! the clock starts, and the wait between two syncs (a second by default) is not counted.

use std::fmt::Write as _;

use super::chain_name::hashed;
use super::services::{Change, Family, Protocol, Service, Table};

/// From this many endpoints on kube-proxy leaves the comments of single rules away.
const LARGE_CLUSTER_ENDPOINTS: u32 = 1000;

const STATIC_FILTER: &str = "\
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
";

const JUMPS_FILTER: &str = "\
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
";

const STATIC_NAT_CHAINS: &str = "\
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const STATIC_NAT_RULES: &str = "\
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

const JUMPS_NAT: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
";

const NODE_PORTS: &str = "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";

/// What empties both tables.
pub(crate) const EMPTY: &str = "*filter\nCOMMIT\n*nat\nCOMMIT\n";

/// The whole table from nothing (`iptables-restore`).
pub(crate) fn load(table: &Table) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in table.services() {
        portals(&mut rules, table, &service);
        service_chains(&mut chains, &mut rules, table, &service);
    }
    format!(
        "*filter\n{STATIC_FILTER}{JUMPS_FILTER}COMMIT\n\
         *nat\n{STATIC_NAT_CHAINS}{chains}{STATIC_NAT_RULES}{JUMPS_NAT}{rules}{NODE_PORTS}COMMIT\n"
    )
}

/// One change (`iptables-restore --noflush`): kube-proxy's partial sync leaves the chains of unchanged Services
/// out, but writes `KUBE-SERVICES`, a rule per Service port, anew each time.
pub(crate) fn change(table: &Table, change: &Change) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in table.services() {
        portals(&mut rules, table, &service);
    }
    service_chains(&mut chains, &mut rules, table, &change.after);
    format!(
        "*filter\n{STATIC_FILTER}COMMIT\n\
         *nat\n{STATIC_NAT_CHAINS}{chains}{STATIC_NAT_RULES}{rules}{NODE_PORTS}COMMIT\n"
    )
}

fn port_name(service: &Service, protocol: Protocol) -> String {
    format!("bench/{}:{}", service.name, protocol.name())
}

fn chain(kind: &str, of: &str) -> String {
    format!("KUBE-{kind}-{}", hashed(of, 16))
}

fn host(table: &Table) -> u8 {
    if table.family == Family::V4 { 32 } else { 128 }
}

/// The rule in `KUBE-SERVICES`, and in `KUBE-NODEPORTS` if it has one.
fn portals(rules: &mut String, table: &Table, service: &Service) {
    for protocol in service.protocols {
        let name = port_name(service, *protocol);
        let proto = protocol.name();
        let (address, host, port) = (service.address, host(table), super::services::PORT);
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/{host} -p {proto} -m comment --comment \"{name} cluster IP\" -m {proto} --dport {port} -j {}",
            chain("SVC", &name)
        );
        if let Some(node_port) = service.node_port.filter(|_| *protocol == Protocol::Tcp) {
            let _ = writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {proto} -m comment --comment \"{name}\" -m {proto} --dport {node_port} -j {}",
                chain("EXT", &name)
            );
        }
    }
}

fn service_chains(chains: &mut String, rules: &mut String, table: &Table, service: &Service) {
    let comments = table.count * service.backends.len() as u32 <= LARGE_CLUSTER_ENDPOINTS;
    let host = host(table);
    for protocol in service.protocols {
        let name = port_name(service, *protocol);
        let proto = protocol.name();
        let comment = |text: &str| {
            if comments {
                format!("-m comment --comment \"{text}\" ")
            } else {
                String::new()
            }
        };
        let named = comment(&name);
        let svc = chain("SVC", &name);
        let _ = writeln!(chains, ":{svc} - [0:0]");
        if service.node_port.is_some() && *protocol == Protocol::Tcp {
            let ext = chain("EXT", &name);
            let _ = writeln!(chains, ":{ext} - [0:0]");
            let masquerade = comment(&format!(
                "masquerade traffic for {name} external destinations"
            ));
            let _ = writeln!(rules, "-A {ext} {masquerade}-j KUBE-MARK-MASQ");
            let _ = writeln!(rules, "-A {ext} -j {svc}");
        }
        let _ = writeln!(
            rules,
            "-A {svc} {}! -s {} -d {}/{host} -p {proto} -m {proto} --dport {} -j KUBE-MARK-MASQ",
            comment(&format!("{name} cluster IP")),
            table.pod_range(),
            service.address,
            super::services::PORT
        );
        let left = service.backends.len();
        for (number, backend) in service.backends.iter().enumerate() {
            let sep = chain("SEP", &format!("{name}{proto}{backend}"));
            let _ = writeln!(chains, ":{sep} - [0:0]");
            let to = comment(&format!("{name} -> {backend}"));
            let _ = match left - number {
                1 => writeln!(rules, "-A {svc} {to}-j {sep}"),
                left => writeln!(
                    rules,
                    "-A {svc} {to}-m statistic --mode random --probability {:.10} -j {sep}",
                    1.0 / left as f64
                ),
            };
            let _ = writeln!(
                rules,
                "-A {sep} {named}-s {}/{host} -j KUBE-MARK-MASQ",
                backend.ip()
            );
            let _ = writeln!(
                rules,
                "-A {sep} {named}-p {proto} -m {proto} -j DNAT --to-destination {backend}"
            );
        }
    }
}

#[cfg(test)]
mod tests;

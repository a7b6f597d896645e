//! The table that kube-proxy makes in nftables mode, as input of `nft -f`.
//!
//! Sets, maps, chains and hooks are those of kube-proxy 1.33 (`pkg/proxy/nftables`). It writes everything in one
//! transaction; here a load is cut into several, because the kernel's time for one grows with the square of the
//! anonymous maps in it (kubernetes/kubernetes#139328): that is in favour of nftables.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::chain_name::hashed;
use super::services::{Change, Family, Protocol, Service, Table};

/// Services in one transaction of a load: fewer, and `nft` reads the growing table back more often than it pays.
const TRANSACTION: usize = 1500;

fn family(table: &Table) -> &'static str {
    if table.family == Family::V4 {
        "ip"
    } else {
        "ip6"
    }
}

pub(crate) fn delete(table: &Table) -> String {
    format!("delete table {} kube-proxy\n", family(table))
}

/// The whole table from nothing: transactions, in order.
pub(crate) fn load(table: &Table) -> Vec<String> {
    let services: Vec<Service> = table.services().collect();
    let mut transactions = vec![base(table)];
    for some in services.chunks(TRANSACTION) {
        let mut text = String::new();
        for service in some {
            for protocol in service.protocols {
                for backend in &service.backends {
                    endpoint_chain(&mut text, table, service, *protocol, backend);
                }
                service_chain(&mut text, table, service, *protocol, true);
                elements(&mut text, table, service, *protocol);
            }
            let _ = writeln!(
                text,
                "add element {} cluster-ips {{ {} }}",
                at(table),
                service.address
            );
        }
        transactions.push(text);
    }
    transactions
}

/// One change: the new endpoint's chain, the Service's chain anew, the old endpoint's chain emptied; kube-proxy
/// deletes emptied chains in a later sync, here the next one.
pub(crate) fn change(table: &Table, change: &Change, previous: Option<&Change>) -> String {
    let mut text = String::new();
    let protocol = Protocol::Tcp;
    endpoint_chain(
        &mut text,
        table,
        &change.after,
        protocol,
        &change.after.backends[0],
    );
    service_chain(&mut text, table, &change.after, protocol, false);
    let gone = |change: &Change| endpoint(&change.before, protocol, &change.before.backends[0]);
    let _ = writeln!(text, "flush chain {} {}", at(table), gone(change));
    if let Some(previous) = previous {
        let _ = writeln!(text, "delete chain {} {}", at(table), gone(previous));
    }
    text
}

fn at(table: &Table) -> String {
    format!("{} kube-proxy", family(table))
}

fn port_name(service: &Service, protocol: Protocol) -> String {
    format!(
        "bench/{}/{}/{}",
        service.name,
        protocol.name(),
        protocol.name()
    )
}

fn service_name(kind: &str, service: &Service, protocol: Protocol) -> String {
    let name = port_name(service, protocol);
    format!("{kind}-{}-{name}", hashed(&name, 8))
}

fn endpoint(service: &Service, protocol: Protocol, backend: &SocketAddr) -> String {
    let name = port_name(service, protocol);
    let to = format!(
        "{}/{}",
        backend.ip().to_string().replace(':', "."),
        backend.port()
    );
    format!(
        "endpoint-{}-{name}__{to}",
        hashed(&format!("{name}{backend}"), 8)
    )
}

fn endpoint_chain(
    text: &mut String,
    table: &Table,
    service: &Service,
    protocol: Protocol,
    backend: &SocketAddr,
) {
    let (at, ip) = (at(table), family(table));
    let chain = endpoint(service, protocol, backend);
    let _ = writeln!(text, "add chain {at} {chain}");
    let _ = writeln!(
        text,
        "add rule {at} {chain} {ip} saddr {} jump mark-for-masquerade",
        backend.ip()
    );
    let _ = writeln!(
        text,
        "add rule {at} {chain} meta l4proto {} dnat to {backend}",
        protocol.name()
    );
}

fn service_chain(
    text: &mut String,
    table: &Table,
    service: &Service,
    protocol: Protocol,
    is_new: bool,
) {
    let (at, ip) = (at(table), family(table));
    let chain = service_name("service", service, protocol);
    let verb = if is_new { "add" } else { "flush" };
    let _ = writeln!(text, "{verb} chain {at} {chain}");
    let _ = writeln!(
        text,
        "add rule {at} {chain} {ip} daddr {} {ip} saddr != {} jump mark-for-masquerade",
        service.address,
        table.pod_range()
    );
    let choices: Vec<String> = service
        .backends
        .iter()
        .enumerate()
        .map(|(number, backend)| {
            format!("{number} : goto {}", endpoint(service, protocol, backend))
        })
        .collect();
    let _ = writeln!(
        text,
        "add rule {at} {chain} numgen random mod {} vmap {{ {} }}",
        choices.len(),
        choices.join(" , ")
    );
}

fn elements(text: &mut String, table: &Table, service: &Service, protocol: Protocol) {
    let (at, proto) = (at(table), protocol.name());
    let chain = service_name("service", service, protocol);
    let _ = writeln!(
        text,
        "add element {at} service-ips {{ {} . {proto} . {} : goto {chain} }}",
        service.address,
        super::services::PORT
    );
    if let Some(node_port) = service.node_port.filter(|_| protocol == Protocol::Tcp) {
        let external = service_name("external", service, protocol);
        let _ = writeln!(text, "add chain {at} {external}");
        let _ = writeln!(text, "add rule {at} {external} jump mark-for-masquerade");
        let _ = writeln!(text, "add rule {at} {external} goto {chain}");
        let _ = writeln!(
            text,
            "add element {at} service-nodeports {{ {proto} . {node_port} : goto {external} }}"
        );
    }
}

fn base(table: &Table) -> String {
    let (ip, at) = (family(table), at(table));
    let address = if table.family == Family::V4 {
        "ipv4_addr"
    } else {
        "ipv6_addr"
    };
    let mut text = format!("add table {at} {{ comment \"rules for kube-proxy\" ; }}\n");
    for (kind, name, of) in [
        ("set", "cluster-ips", address.to_owned()),
        ("set", "nodeport-ips", address.to_owned()),
        (
            "map",
            "firewall-ips",
            format!("{address} . inet_proto . inet_service : verdict"),
        ),
        (
            "map",
            "no-endpoint-nodeports",
            "inet_proto . inet_service : verdict".to_owned(),
        ),
        (
            "map",
            "no-endpoint-services",
            format!("{address} . inet_proto . inet_service : verdict"),
        ),
        (
            "map",
            "service-ips",
            format!("{address} . inet_proto . inet_service : verdict"),
        ),
        (
            "map",
            "service-nodeports",
            "inet_proto . inet_service : verdict".to_owned(),
        ),
    ] {
        let _ = writeln!(text, "add {kind} {at} {name} {{ type {of} ; }}");
    }
    for (chain, hook) in [
        (
            "filter-prerouting-pre-dnat",
            "filter hook prerouting priority -110",
        ),
        ("filter-output-pre-dnat", "filter hook output priority -110"),
        ("filter-forward", "filter hook forward priority 0"),
        ("filter-input", "filter hook input priority 0"),
        ("filter-output", "filter hook output priority 0"),
        ("nat-output", "nat hook output priority -100"),
        ("nat-postrouting", "nat hook postrouting priority 100"),
        ("nat-prerouting", "nat hook prerouting priority -100"),
    ] {
        let _ = writeln!(text, "add chain {at} {chain} {{ type {hook} ; }}");
    }
    for chain in [
        "cluster-ips-check",
        "firewall-check",
        "mark-for-masquerade",
        "masquerading",
        "nodeport-endpoints-check",
        "reject-chain",
        "services",
        "service-endpoints-check",
    ] {
        let _ = writeln!(text, "add chain {at} {chain}");
    }
    let range = table.service_range();
    for (chain, rule) in [
        (
            "cluster-ips-check",
            format!("{ip} daddr @cluster-ips reject"),
        ),
        (
            "cluster-ips-check",
            format!("{ip} daddr {{ {range} }} drop"),
        ),
        (
            "filter-prerouting-pre-dnat",
            "ct state new jump firewall-check".to_owned(),
        ),
        (
            "filter-forward",
            "ct state new jump service-endpoints-check".to_owned(),
        ),
        (
            "filter-forward",
            "ct state new jump cluster-ips-check".to_owned(),
        ),
        (
            "filter-input",
            "ct state new jump nodeport-endpoints-check".to_owned(),
        ),
        (
            "filter-input",
            "ct state new jump service-endpoints-check".to_owned(),
        ),
        (
            "filter-output",
            "ct state new jump service-endpoints-check".to_owned(),
        ),
        (
            "filter-output-pre-dnat",
            "ct state new jump firewall-check".to_owned(),
        ),
        (
            "filter-output",
            "ct state new jump cluster-ips-check".to_owned(),
        ),
        (
            "firewall-check",
            format!("{ip} daddr . meta l4proto . th dport vmap @firewall-ips"),
        ),
        (
            "mark-for-masquerade",
            "meta mark set meta mark or 0x4000".to_owned(),
        ),
        (
            "masquerading",
            "meta mark and 0x4000 == 0 return".to_owned(),
        ),
        (
            "masquerading",
            "meta mark set meta mark xor 0x4000".to_owned(),
        ),
        ("masquerading", "masquerade fully-random".to_owned()),
        ("nat-output", "jump services".to_owned()),
        ("nat-postrouting", "jump masquerading".to_owned()),
        ("nat-prerouting", "jump services".to_owned()),
        (
            "nodeport-endpoints-check",
            format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"),
        ),
        ("reject-chain", "reject".to_owned()),
        (
            "services",
            format!("{ip} daddr . meta l4proto . th dport vmap @service-ips"),
        ),
        (
            "services",
            format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
        ),
        (
            "service-endpoints-check",
            format!("{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"),
        ),
    ] {
        let _ = writeln!(text, "add rule {at} {chain} {rule}");
    }
    let node = table.of(super::services::NODE);
    let _ = writeln!(text, "add element {at} nodeport-ips {{ {node} }}");
    text
}

#[cfg(test)]
mod tests;

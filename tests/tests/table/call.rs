//! A call from somewhere to somewhere, in each family, and what must come of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;
use waggle_tests::{Outcome, Spot};

use crate::world::{HOST_PORT, OUTSIDE_PORT, PEER, PORT, Verdict, World, of_family};

#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Pod(&'static str),
    /// A process on the node itself.
    Node(u8),
    /// The client in none of the nodes' networks.
    Outside,
    /// The router, on the nodes' own network.
    Router,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum To {
    /// ClusterIP and port.
    Service(&'static str, u16),
    /// The node port of that port of a Service, at a node's address.
    NodePort(u8, &'static str, u16),
    /// The same at 127.0.0.1 and ::1.
    Loopback(&'static str, u16),
    /// The address in the Service's status.
    LoadBalancer(&'static str, u16),
    /// One of the Service's externalIPs.
    External(&'static str, u16),
    /// A pod's server.
    Pod(&'static str),
    /// The server on a node.
    Node(u8),
    /// Another port of a node.
    At(u8, u16),
    /// Another port of the node that calls, at its loopback address.
    Here(u16),
    /// The server outside.
    Outside,
}

#[derive(Debug, Clone)]
pub(crate) enum Want {
    /// These answer, each of them sometimes, and nobody else.
    Each(&'static [&'static str]),
    /// The same answers always.
    Same,
    /// Refused at once.
    Refused,
    /// No answer, one way or another.
    Nobody,
}

/// Which address the server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Any,
    /// The caller's own.
    Kept,
    /// That of a node.
    Node(u8),
}

#[derive(Debug, Clone)]
pub(crate) struct See {
    from: From,
    to: To,
    udp: bool,
    /// In the lab's first family alone.
    first: bool,
    want: Want,
    client: Client,
    /// Of the caller's socket; any when 0.
    source_port: u16,
    once: bool,
    options: &'static [&'static str],
}

pub(crate) fn pod(name: &'static str) -> From {
    From::Pod(name)
}

/// Calls for one backend, and for some of which each must be seen: with three, one stays unseen in 2 × 10⁻⁷.
const CALLS: [usize; 2] = [3, 40];

impl From {
    pub(crate) fn tcp(self, to: To) -> See {
        See {
            from: self,
            to,
            udp: false,
            first: false,
            want: Want::Nobody,
            client: Client::Any,
            source_port: 0,
            once: false,
            options: &[],
        }
    }

    pub(crate) fn udp(self, to: To) -> See {
        See {
            udp: true,
            ..self.tcp(to)
        }
    }

    pub(crate) fn spot(self, world: &World) -> Spot {
        match self {
            Self::Pod(name) => world.pod(name).spot,
            Self::Node(number) => world.lab.on_node(&format!("node-{number}")),
            Self::Outside | Self::Router => world.lab.outside(),
        }
    }

    pub(crate) fn address(self, world: &World, v6: bool) -> Option<IpAddr> {
        match self {
            Self::Pod(name) => of_family(&world.pod(name).addresses, v6),
            Self::Node(number) => {
                of_family(&world.lab.node_addresses(&format!("node-{number}")), v6)
            }
            Self::Outside => of_family(&world.lab.client_addresses(), v6),
            Self::Router => None,
        }
    }
}

impl See {
    pub(crate) fn each(self, names: &'static [&'static str]) -> Self {
        Self {
            want: Want::Each(names),
            ..self
        }
    }

    pub(crate) fn same(self) -> Self {
        Self {
            want: Want::Same,
            ..self
        }
    }

    pub(crate) fn refused(self) -> Self {
        Self {
            want: Want::Refused,
            ..self
        }
    }

    pub(crate) fn nobody(self) -> Self {
        Self {
            want: Want::Nobody,
            ..self
        }
    }

    pub(crate) fn client(self, client: Client) -> Self {
        Self { client, ..self }
    }

    /// One call: a source port that is named is not free again at once.
    pub(crate) fn once(self) -> Self {
        Self { once: true, ..self }
    }

    /// In the lab's first family alone.
    pub(crate) fn first_family(self) -> Self {
        Self {
            first: true,
            ..self
        }
    }

    /// From this port of the caller's.
    pub(crate) fn source_port(self, source_port: u16) -> Self {
        Self {
            source_port,
            ..self
        }
    }

    /// Further arguments of the caller.
    pub(crate) fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    pub(crate) fn look(&self, world: &World) -> Verdict {
        let versions = world.mode.versions();
        let versions = if self.first { &versions[..1] } else { versions };
        for &v6 in versions {
            self.look_in(world, v6)
                .map_err(|why| format!("{}\n{why}", self.describe(v6)))?;
        }
        Ok(())
    }

    fn describe(&self, v6: bool) -> String {
        format!(
            "{:?} to {:?}, {} over {}, wants {:?} {:?}",
            self.from,
            self.to,
            if self.udp { "UDP" } else { "TCP" },
            if v6 { "IPv6" } else { "IPv4" },
            self.want,
            self.client
        )
    }

    fn look_in(&self, world: &World, v6: bool) -> Verdict {
        let target = self
            .to
            .address(world, v6)
            .ok_or("there is no such address in this family")?;
        let count = match &self.want {
            _ if self.once => 1,
            Want::Each(names) => CALLS[usize::from(names.len() > 1)],
            Want::Same => 10,
            Want::Refused | Want::Nobody => 1,
        };
        let source = SocketAddr::new(
            match self.from {
                From::Outside => self.from.address(world, v6).ok_or("no address outside")?,
                _ if v6 => Ipv6Addr::UNSPECIFIED.into(),
                _ => Ipv4Addr::UNSPECIFIED.into(),
            },
            self.source_port,
        );
        let source = source.to_string();
        let reports = calls(world, self.from, target, self.udp, count, &{
            let mut options = self.options.to_vec();
            match self.want {
                Want::Nobody => options.extend(["--timeout", "700"]),
                _ => options.push("--stop"),
            }
            if self.source_port != 0 {
                options.extend(["--from", source.as_str()]);
            }
            options
        })?;
        let results: BTreeSet<&str> = reports
            .iter()
            .filter_map(|report| report["result"].as_str())
            .collect();
        let names: BTreeSet<&str> = reports
            .iter()
            .filter_map(|report| report["name"].as_str())
            .collect();
        let sample = || {
            format!(
                "{target}: {results:?} {names:?}, such as {}",
                reports[reports.len() - 1]
            )
        };
        let good = match &self.want {
            Want::Each(wanted) => {
                results == BTreeSet::from(["ok"]) && names == wanted.iter().copied().collect()
            }
            Want::Same => results == BTreeSet::from(["ok"]) && names.len() == 1,
            Want::Refused => results == BTreeSet::from(["refused"]),
            Want::Nobody => !results.contains("ok"),
        };
        if !good {
            return Err(sample());
        }
        // Whoever is behind it, a socket is connected to what was asked for.
        let asked = target.to_string();
        let is_other = |report: &&Value| report["result"] == "ok" && report["peer"] != asked;
        if let Some(other) = reports.iter().find(is_other) {
            return Err(format!("the peer should be {asked}: {other}"));
        }
        let client = match self.client {
            Client::Any => return Ok(()),
            Client::Kept => self.from.address(world, v6),
            Client::Node(number) => From::Node(number).address(world, v6),
        }
        .ok_or("no address of the client in this family")?
        .to_string();
        match reports.iter().find(|report| report["client"] != client) {
            None => Ok(()),
            Some(other) => Err(format!("the client should be {client}: {other}")),
        }
    }
}

impl To {
    pub(crate) fn address(self, world: &World, v6: bool) -> Option<SocketAddr> {
        let loopback = if v6 {
            IpAddr::V6(Ipv6Addr::LOCALHOST)
        } else {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        };
        let node = |number: u8| world.lab.node_addresses(&format!("node-{number}"));
        let listed = |list: &Value| {
            let list = list.as_array().cloned().unwrap_or_default();
            let text = |it: &Value| it.as_str().or(it["ip"].as_str()).map(str::to_owned);
            let parsed = list.iter().filter_map(|it| text(it)?.parse().ok());
            of_family(&parsed.collect::<Vec<IpAddr>>(), v6)
        };
        let (address, port) = match self {
            Self::Service(name, port) => {
                (listed(&world.service(name)["spec"]["clusterIPs"])?, port)
            }
            Self::NodePort(number, name, port) => (
                of_family(&node(number), v6)?,
                node_port(&world.service(name), port)?,
            ),
            Self::Loopback(name, port) => (loopback, node_port(&world.service(name), port)?),
            Self::LoadBalancer(name, port) => (
                listed(&world.service(name)["status"]["loadBalancer"]["ingress"])?,
                port,
            ),
            Self::External(name, port) => {
                (listed(&world.service(name)["spec"]["externalIPs"])?, port)
            }
            Self::Pod(name) => (of_family(&world.pod(name).addresses, v6)?, PORT),
            Self::Node(number) => (of_family(&node(number), v6)?, HOST_PORT),
            Self::At(number, port) => (of_family(&node(number), v6)?, port),
            Self::Here(port) => (loopback, port),
            Self::Outside => (of_family(&world.lab.client_addresses(), v6)?, OUTSIDE_PORT),
        };
        Some(SocketAddr::new(address, port))
    }
}

pub(crate) fn node_port(service: &Value, port: u16) -> Option<u16> {
    let ports = service["spec"]["ports"].as_array()?;
    let port = ports.iter().find(|it| it["port"] == port)?;
    port["nodePort"].as_u64()?.try_into().ok()
}

/// Makes calls and returns what became of each.
pub(crate) fn calls(
    world: &World,
    from: From,
    target: SocketAddr,
    udp: bool,
    count: usize,
    options: &[&str],
) -> Result<Vec<Value>, String> {
    let mut command = from.spot(world).command(PEER);
    command.args(["call", "--count", &count.to_string()]);
    if udp {
        command.arg("--udp");
    }
    if let From::Outside = from
        && !options.contains(&"--from")
    {
        let source = from.address(world, target.is_ipv6());
        let source = source.ok_or("no address outside")?;
        command.args(["--from", &SocketAddr::new(source, 0).to_string()]);
    }
    let outcome = Outcome::of(command.args(options).arg(target.to_string()));
    if outcome.code != Some(0) {
        return Err(format!("the caller failed: {}", outcome.stderr));
    }
    let lines = outcome.stdout.lines();
    let reports: Vec<Value> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let all = reports.len() == count;
    if all || (!reports.is_empty() && options.contains(&"--stop")) {
        Ok(reports)
    } else {
        Err(format!("{} of {count} reports", reports.len()))
    }
}

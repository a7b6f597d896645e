//! The nodes with their data planes, and the two ends on each, for one number of Services.

use std::ffi::OsStr;

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use super::figures::{Column, Node, Work};
use super::part::client::{self, Answer};
use super::part::node::{self, IptablesKind, Places};
use super::part::{Handle, Place, server};
use super::processors::{Processors, Sharing};
use super::run_directory::RunDirectory;
use super::services::{FIRST_PORTS, Family, LAST_PORTS, Table};

/// Connections that are made through a Service before it is measured: that one of three backends gets none of
/// them has a probability below 1e-9.
const WITNESSES: u32 = 60;

/// One node, in place and with its table loaded.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) table: Table,
    // Ends before the node: fields are dropped in their order.
    client: Handle,
    outside: Handle,
    server: Handle,
    pub(crate) control: Handle,
    has_node_port: bool,
}

/// What the scene is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) directory: &'a RunDirectory,
    pub(crate) family: Family,
    pub(crate) iptables: IptablesKind,
    pub(crate) services: u32,
}

impl Stage {
    /// The node and its ends; the table is empty.
    pub(crate) fn start(node: Node, setting: Setting<'_>) -> anyhow::Result<Self> {
        let Setting {
            directory,
            family,
            iptables,
            services,
        } = setting;
        let own = directory.path().join(format!("{}-{services}", node.name()));
        std::fs::create_dir(&own).with_context(|| format!("create {}", own.display()))?;
        let iptables = match iptables {
            IptablesKind::Default => "default",
            IptablesKind::Nft => "nft",
            IptablesKind::Legacy => "legacy",
        };
        let (hooked, plain) = (directory.hooked(), directory.plain());
        let flag = OsStr::new;
        let mut control = Handle::start(
            &format!("node ({})", node.name()),
            &[
                flag("node"),
                flag("--node"),
                flag(node.name()),
                flag("--family"),
                flag(if family == Family::V4 { "v4" } else { "v6" }),
                flag("--directory"),
                own.as_os_str(),
                flag("--cgroup"),
                plain.as_os_str(),
                flag("--hooked"),
                hooked.as_os_str(),
                flag("--services"),
                flag(&services.to_string()),
                flag("--iptables"),
                flag(iptables),
            ],
        )?;
        let places: Places = control.ask(&node::Request::Places)?;
        let cgroup = match node {
            Node::Waggle => directory.hooked(),
            _ => directory.plain(),
        };
        let end = |what: &str, kind, netns: &std::path::Path, cgroup: &std::path::Path| {
            let place = Place {
                netns: netns.to_owned(),
                cgroup: cgroup.to_owned(),
            };
            Handle::start_end(&format!("{what} ({})", node.name()), kind, &place)
        };
        let client = end("client", "client", &places.client, &cgroup)?;
        let outside = end(
            "client outside",
            "client",
            &places.outside,
            &directory.plain(),
        )?;
        let mut server = end("server", "server", &places.server, &cgroup)?;
        let ports = FIRST_PORTS.into_iter().chain(LAST_PORTS).collect();
        let address = places.address;
        let () = server.ask(&server::Request::Listen { address, ports })?;
        Ok(Self {
            node,
            table: Table {
                family,
                count: services,
                server: address,
            },
            client,
            outside,
            server,
            control,
            has_node_port: true,
        })
    }

    /// Its NodePort was seen not to work.
    pub(crate) fn without_node_port(&mut self) {
        self.has_node_port = false;
    }

    /// Whether it is this node that a column's turns are on.
    pub(crate) fn measures(&self, column: Column, work: Work) -> bool {
        column.node() == self.node && (work != Work::NorthSouth || self.has_node_port)
    }

    /// Where a turn's traffic goes.
    fn target(&self, column: Column, work: Work) -> std::net::SocketAddr {
        match (column, work) {
            (Column::Direct | Column::Pod, _) => self.table.direct(),
            (_, Work::ConnectFirst) => self.table.first(),
            (_, Work::NorthSouth) => self.table.node_port(),
            _ => self.table.last(),
        }
    }

    fn client(&mut self, work: Work) -> &mut Handle {
        match work {
            Work::NorthSouth => &mut self.outside,
            _ => &mut self.client,
        }
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        work: Work,
        request: &client::Request,
    ) -> anyhow::Result<T> {
        self.client(work).ask(request)
    }

    /// One turn, with the processor time of both ends (and the kernel's for them) in `processor`.
    pub(crate) fn turn(
        &mut self,
        column: Column,
        work: Work,
        seconds: f64,
        processors: &Processors,
    ) -> anyhow::Result<client::Turn> {
        let aim = client::Aim {
            to: self.target(column, work),
            seconds,
        };
        let (request, sharing) = match work {
            Work::Exchange => (client::Request::Exchange(aim), Sharing::Together),
            Work::Stream => (client::Request::Stream(aim), Sharing::Apart),
            Work::Udp | Work::UdpConnected => {
                let connected = work == Work::UdpConnected;
                (
                    client::Request::Datagrams { aim, connected },
                    Sharing::Apart,
                )
            }
            _ => (client::Request::Connect(aim), Sharing::Together),
        };
        let (client, server) = (self.client(work).pid(), self.server.pid());
        processors.pin(client, server, sharing)?;
        let kernel = processors.kernel_time();
        let served: f64 = self.server.ask(&server::Request::ProcessorTime)?;
        let mut turn: client::Turn = self.ask(work, &request)?;
        let after: f64 = self.server.ask(&server::Request::ProcessorTime)?;
        turn.processor += after - served + processors.kernel_time() - kernel;
        Ok(turn)
    }

    /// Before the table is there: nobody answers at the Service's address.
    pub(crate) fn verify_empty(&mut self) -> anyhow::Result<()> {
        let to = self.table.last();
        let answers: bool = self.ask(Work::Connect, &client::Request::Answers { to })?;
        anyhow::ensure!(!answers, "{to} answers before there is a Service");
        Ok(())
    }

    /// That what is going to be measured is what it is called.
    pub(crate) fn verify(&mut self) -> anyhow::Result<()> {
        let pod = self.verify_pod()?;
        if self.node == Node::Plain {
            let to = self.table.last();
            let answers: bool = self.ask(Work::Connect, &client::Request::Answers { to })?;
            anyhow::ensure!(!answers, "{to} answers where there is no Service");
        } else {
            for (to, ports) in [
                (self.table.first(), FIRST_PORTS),
                (self.table.last(), LAST_PORTS),
            ] {
                for request in [
                    client::Request::Who {
                        to,
                        count: WITNESSES,
                    },
                    client::Request::WhoDatagram {
                        to,
                        count: WITNESSES,
                    },
                ] {
                    let answers: Vec<Answer> = self.ask(Work::Connect, &request)?;
                    through_service(&answers, to, &ports, pod)?;
                }
            }
        }
        let tracked: Option<node::Tracked> = self.control.ask(&node::Request::Tracked)?;
        match (self.node, tracked) {
            (Node::Plain | Node::Waggle, Some(found)) => anyhow::ensure!(
                found.connections == 0,
                "the kernel tracks connections on the node {}, which no rule asks for",
                self.node.name()
            ),
            (Node::Iptables | Node::Nftables, Some(found)) => anyhow::ensure!(
                found.translated > 0,
                "no connection is translated on the node {}",
                self.node.name()
            ),
            // The kernel does not show its table; the peers' names have to do.
            (_, None) => {}
        }
        Ok(())
    }

    /// The pod's address leads to the pod, and not through a Service; gives the client's own.
    fn verify_pod(&mut self) -> anyhow::Result<std::net::IpAddr> {
        let to = self.table.direct();
        let answers: Vec<Answer> =
            self.ask(Work::Connect, &client::Request::Who { to, count: 3 })?;
        let first = answers.first().context("no answer")?;
        for answer in &answers {
            anyhow::ensure!(
                answer.peer == to && answer.backend == to.port(),
                "asked for {to}, {} answered as {}",
                answer.backend,
                answer.peer
            );
        }
        Ok(first.seen_from.ip())
    }

    /// That the NodePort leads to the last Service's backends.
    pub(crate) fn verify_node_port(&mut self) -> anyhow::Result<()> {
        let (to, count) = match self.node {
            Node::Plain => (self.table.direct(), 3),
            _ => (self.table.node_port(), WITNESSES),
        };
        let answers: Vec<Answer> =
            self.ask(Work::NorthSouth, &client::Request::Who { to, count })?;
        anyhow::ensure!(
            answers
                .iter()
                .all(|answer| answer.peer == to && LAST_PORTS.contains(&answer.backend)),
            "{to} leads elsewhere"
        );
        Ok(())
    }
}

/// All of the Service's backends and no other answered, in the Service's name, to the client's own address.
fn through_service(
    answers: &[Answer],
    to: std::net::SocketAddr,
    ports: &[u16],
    client: std::net::IpAddr,
) -> anyhow::Result<()> {
    for answer in answers {
        anyhow::ensure!(
            answer.peer == to && ports.contains(&answer.backend),
            "asked for {to}, backend {} answered as {}",
            answer.backend,
            answer.peer
        );
        anyhow::ensure!(
            answer.seen_from.ip() == client,
            "the server sees {} instead of the client {client}",
            answer.seen_from
        );
    }
    for port in ports {
        anyhow::ensure!(
            answers.iter().any(|answer| answer.backend == *port),
            "backend {port} of {to} got none of {} connections",
            answers.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(backend: u16, seen_from: &str) -> Answer {
        Answer {
            backend,
            seen_from: seen_from.parse().unwrap(),
            peer: "10.96.1.9:80".parse().unwrap(),
        }
    }

    #[test]
    fn a_foreign_backend_a_missing_one_and_a_hidden_client_are_found() {
        let to = "10.96.1.9:80".parse().unwrap();
        let client = "10.244.0.1".parse().unwrap();
        let check = |answers: &[Answer]| through_service(answers, to, &[1, 2], client);
        let (one, two) = (answer(1, "10.244.0.1:5"), answer(2, "10.244.0.1:6"));
        check(&[one.clone(), two.clone()]).unwrap();
        assert!(check(&[one.clone(), one.clone()]).is_err());
        assert!(check(&[one.clone(), two.clone(), answer(3, "10.244.0.1:7")]).is_err());
        assert!(check(&[one, two, answer(2, "192.0.2.2:7")]).is_err());
    }
}

//! What a lab consists of and how it is: the closing screen of `up`, and `waggle lab status`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::place::{FABRIC, OUTSIDE, Place};
use super::plan::Host;
use super::record::{Member, Record};
use super::{Output, cgroups, up};
use crate::table::table;

/// How long the control plane may take to say how the nodes are.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize)]
struct Status {
    name: String,
    data_dir: PathBuf,
    run_dir: PathBuf,
    /// For clients on this machine.
    kubeconfig: PathBuf,
    server: String,
    /// For clients in the lab's namespaces.
    inner_kubeconfig: PathBuf,
    inner_server: String,
    families: super::Families,
    mtu: u16,
    network: Vec<String>,
    /// Whether the control plane answers.
    answers: bool,
    fabric: PathBuf,
    outside: OutsideRow,
    controllers: Vec<MemberRow>,
    nodes: Vec<MemberRow>,
}

#[derive(Debug, Serialize)]
struct OutsideRow {
    netns: PathBuf,
    cgroup: PathBuf,
    addresses: Vec<IpAddr>,
    /// Addresses that no node has a route to, but by the router.
    client: Vec<IpAddr>,
    load_balancers: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct MemberRow {
    name: String,
    addresses: Vec<IpAddr>,
    pod_cidrs: Vec<String>,
    zone: Option<&'static str>,
    netns: PathBuf,
    cgroup: PathBuf,
    data_dir: PathBuf,
    run_dir: PathBuf,
    log: PathBuf,
    pid: Option<i32>,
    /// As the control plane sees it; `None` for controllers, and when it cannot be asked.
    ready: Option<bool>,
}

pub(super) fn show(place: &Place, record: &Record, output: Output) -> anyhow::Result<()> {
    let seen = crate::runtime()?.block_on(async {
        tokio::time::timeout(PATIENCE, nodes(place))
            .await
            .ok()
            .and_then(Result::ok)
    });
    let status = Status::new(place, record, seen.as_deref())?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print!("{}", status.text(place)),
    }
    Ok(())
}

async fn nodes(place: &Place) -> anyhow::Result<Vec<Node>> {
    let client = crate::client::connect(&place.kubeconfig()).await?;
    Ok(Api::<Node>::all(client)
        .list(&ListParams::default())
        .await?
        .items)
}

impl Status {
    fn new(place: &Place, record: &Record, seen: Option<&[Node]>) -> anyhow::Result<Self> {
        let (mut controllers, mut nodes) = (Vec::new(), Vec::new());
        for member in &record.members {
            let row = member_row(place, record, member, seen)?;
            match member.host {
                Host::Node(_) => nodes.push(row),
                _ => controllers.push(row),
            }
        }
        let port = record.forward.as_ref().map_or(0, |forward| forward.port);
        Ok(Self {
            name: place.name.clone(),
            data_dir: place.data.clone(),
            run_dir: place.run.clone(),
            kubeconfig: place.kubeconfig(),
            server: format!("https://127.0.0.1:{port}"),
            inner_kubeconfig: place.inner_kubeconfig(),
            inner_server: up::server(record, Host::Controller(1))?,
            families: record.families,
            mtu: record.mtu,
            network: record.network.clone(),
            answers: seen.is_some(),
            fabric: place.netns(FABRIC),
            outside: OutsideRow {
                netns: place.netns(OUTSIDE),
                cgroup: cgroups::unified(&place.cgroup_of(OUTSIDE))?,
                addresses: record.families.fabric(Host::Outside),
                client: record.families.client(),
                load_balancers: record.families.load_balancers(),
            },
            controllers,
            nodes,
        })
    }

    fn text(&self, place: &Place) -> String {
        let mut out = format!(
            "\nLab {}: {} nodes, API at {}{}\n",
            self.name,
            self.nodes.len(),
            self.server,
            if self.answers {
                ""
            } else {
                " (does not answer)"
            }
        );
        let rows = self.controllers.iter().chain(&self.nodes);
        table(
            &mut out,
            &["MEMBER", "STATE", "ADDRESSES", "PODS", "ZONE", "PROCESS"],
            rows.map(|row| {
                vec![
                    row.name.clone(),
                    row.state().to_owned(),
                    join(&row.addresses),
                    row.pod_cidrs.join(" "),
                    row.zone.unwrap_or_default().to_owned(),
                    row.pid.map_or_else(String::new, |pid| pid.to_string()),
                ]
            }),
        );
        let outside: Vec<IpAddr> = self.outside.addresses.clone();
        let _ = writeln!(
            out,
            "\noutside: {} (client {}); it sends {} to the nodes",
            join(&outside),
            join(&self.outside.client),
            self.outside.load_balancers.join(" ")
        );
        let options = place.options();
        let _ = writeln!(out, "\nNext:");
        let _ = writeln!(out, "  export KUBECONFIG={}", self.kubeconfig.display());
        for (command, why) in [
            ("kubectl get nodes,pods -A -o wide".to_owned(), "what runs"),
            (
                format!("waggle lab{options} exec node-1 -- ip address"),
                "on a node",
            ),
            (
                format!("waggle lab{options} exec --pod NAME"),
                "a shell in a pod's network, with this machine's programs",
            ),
            (
                format!("waggle lab{options} exec outside -- curl http://ADDRESS:NODEPORT"),
                "from outside",
            ),
            (
                format!("waggle lab{options} kill node-2"),
                "kill -9 its agent; `start node-2` brings it back",
            ),
            (format!("waggle lab{options} logs node-1"), "what it logged"),
            (format!("waggle lab{options} down"), "end it; nothing stays"),
        ] {
            let _ = writeln!(out, "  {command:<60} # {why}");
        }
        out
    }
}

impl MemberRow {
    fn state(&self) -> &'static str {
        match (self.pid, self.ready) {
            (None, _) => "Killed",
            (Some(_), Some(true)) => "Ready",
            (Some(_), Some(false)) => "NotReady",
            (Some(_), None) => "Runs",
        }
    }
}

fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn member_row(
    place: &Place,
    record: &Record,
    member: &Member,
    seen: Option<&[Node]>,
) -> anyhow::Result<MemberRow> {
    let name = member.host.name();
    let object = seen
        .into_iter()
        .flatten()
        .find(|node| node.metadata.name.as_deref() == Some(&name));
    let is_node = matches!(member.host, Host::Node(_));
    Ok(MemberRow {
        addresses: record.families.fabric(member.host),
        pod_cidrs: object
            .and_then(|node| node.spec.as_ref()?.pod_cidrs.clone())
            .unwrap_or_default(),
        zone: is_node.then(|| member.host.zone()),
        netns: place.netns(&name),
        cgroup: cgroups::unified(&place.cgroup_of(&name))?,
        data_dir: place.data_of(&name),
        run_dir: place.run_of(&name),
        log: place.log(&name),
        pid: member
            .process
            .filter(|process| process.is_alive())
            .map(|process| process.pid),
        ready: if is_node && seen.is_some() {
            Some(object.is_some_and(is_ready))
        } else {
            None
        },
        name,
    })
}

fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

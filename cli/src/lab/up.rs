//! `waggle lab up`: the fabric, then the control plane, then the nodes.

use std::os::fd::OwnedFd;
use std::time::Duration;

use agent::images::ImageStore;
use anyhow::{Context as _, bail, ensure};

use super::place::{FABRIC, FORWARD, OUTSIDE, Place};
use super::plan::{self, Host};
use super::record::{self, Forward, Member, Record};
use super::spawn::{self, Surroundings};
use super::{UpArguments, cgroups, members, netns, status, sweep};
use crate::logging::LogSettings;
use crate::process::ProcessId;
use crate::progress::Progress;

/// How long the control plane may take to serve.
const SERVING: Duration = Duration::from_secs(60);
/// Their addresses are between the router's and those of nodes.
const MOST_CONTROLLERS: u8 = 5;
/// Where members of the control plane listen for each other.
const PEER_PORT: u16 = 6444;
/// Where the API server listens in its namespace.
pub(super) const API_PORT: u16 = 6443;

pub(super) fn run(place: &Place, arguments: &UpArguments, log: &LogSettings) -> anyhow::Result<()> {
    ensure!(
        (1..=MOST_CONTROLLERS).contains(&arguments.controllers),
        "--controllers {}: a lab has 1 to {MOST_CONTROLLERS}",
        arguments.controllers
    );
    let _lock = record::lock(place)?;
    if cgroups::is_populated(&place.cgroup)? && Record::read(place)?.is_some_and(is_up) {
        bail!(
            "this lab runs already: `waggle lab status{0}` shows it, `waggle lab down{0}` ends it",
            place.options()
        );
    }
    // What a lab that crashed, or the machine's restart, has left.
    sweep::everything(place)?;
    let record = new_record(place, arguments, log)?;
    record.write(place)?;
    let outcome = crate::runtime()?.block_on(async {
        tokio::select! {
            outcome = start(place, record) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    match outcome {
        Ok(record) => status::show(place, &record, arguments.output),
        Err(error) => {
            sweep::everything(place).context("after a failed start")?;
            Err(error.context(format!(
                "the lab did not come up; what its members logged is in {}",
                place.data.join("logs").display()
            )))
        }
    }
}

/// `up` came to its end: a lab that is being started has no forwarder yet.
fn is_up(record: Record) -> bool {
    record
        .forward
        .is_some_and(|forward| forward.process.is_alive())
}

fn new_record(place: &Place, arguments: &UpArguments, log: &LogSettings) -> anyhow::Result<Record> {
    if let Some(kept) = Record::read(place)? {
        ensure!(
            kept.families == arguments.families,
            "the data in {} is of a lab with other families: `waggle lab down{}` removes it",
            place.data.display(),
            place.options()
        );
    }
    let images = arguments.images.iter().map(|path| {
        path.canonicalize()
            .with_context(|| format!("--image {}", path.display()))
    });
    let hosts = (1..=arguments.controllers)
        .map(Host::Controller)
        .chain((1..=arguments.nodes).map(Host::Node));
    Ok(Record {
        families: arguments.families,
        mtu: arguments.mtu,
        network: arguments.network.arguments(),
        controller_arguments: arguments.controller_arguments.clone(),
        agent_arguments: arguments.agent_arguments.clone(),
        images: images.collect::<anyhow::Result<_>>()?,
        log: log.filter.clone(),
        members: hosts
            .map(|host| Member {
                host,
                process: None,
            })
            .collect(),
        forward: None,
    })
}

async fn start(place: &Place, mut record: Record) -> anyhow::Result<Record> {
    let mut progress = Progress::new(None)?;
    let hosts: Vec<Host> = record.members.iter().map(|member| member.host).collect();
    fabric(place, &record)?;
    for host in &hosts {
        connect(place, &record, *host)?;
    }
    load_balancers(place, &record)?;
    write_resolv_conf(place, &record)?;
    progress.done(
        "fabric",
        &format!("joins {} namespaces, {} bytes", hosts.len() + 1, record.mtu),
    );

    let nodes = record.nodes();
    if !record.images.is_empty() {
        futures::future::try_join_all(nodes.iter().map(|node| import(place, &record, *node)))
            .await?;
        let count = record.images.len();
        progress.done(
            "images",
            &format!("{count} on each of {} nodes", nodes.len()),
        );
    }
    for node in &nodes {
        issue(place, *node)?;
    }
    // Agents wait for the control plane; each loads its programs meanwhile.
    let stale = place.inner_kubeconfig();
    let _ = std::fs::remove_file(&stale);
    let controller = Host::Controller(1);
    let further = |host: &Host| matches!(host, Host::Controller(number) if *number > 1);
    for host in hosts.iter().filter(|host| !further(host)) {
        let process = start_member(place, &record, *host)?;
        record.set_process(*host, Some(process));
        record.write(place)?;
    }
    await_controller(place, &record, controller).await?;
    record.forward = Some(forward(place, &record, controller)?);
    record.write(place)?;
    progress.done(
        "control plane",
        &format!("serves {}", server(&record, controller)?),
    );
    for host in hosts.iter().filter(|host| further(host)) {
        join(place, &mut record, *host).await?;
    }
    let count = hosts.iter().filter(|host| further(host)).count();
    if count > 0 {
        progress.done("members", &format!("{} of the control plane", count + 1));
    }
    futures::future::try_join_all(
        nodes
            .iter()
            .map(|node| members::await_ready(place, &record, *node)),
    )
    .await?;
    progress.done("nodes", &format!("{} are Ready", nodes.len()));
    Ok(record)
}

fn fabric(place: &Place, record: &Record) -> anyhow::Result<()> {
    let fabric = place.netns(FABRIC);
    netns::create(&fabric)?;
    netns::ip(&fabric, &plan::bridge(record.mtu))?;
    connect(place, record, Host::Outside)?;
    let outside = place.netns(OUTSIDE);
    netns::set(&outside, &["ipv4/ip_forward"], "1")?;
    if record.families.v6() {
        netns::set(&outside, &["ipv6/conf/all/forwarding"], "1")?;
    }
    Ok(())
}

/// A namespace with a cable to the fabric.
pub(super) fn connect(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    let path = place.netns(&host.name());
    netns::create(&path)?;
    netns::ip(&place.netns(FABRIC), &plan::cable(host, record.mtu, &path))?;
    netns::ip(&path, &plan::addresses(host, record.families))?;
    if matches!(host, Host::Node(_)) && record.network.iter().any(|option| option == "--xdp=on") {
        super::xdp::accept_returned(&place.netns(FABRIC), &host.name())?;
    }
    Ok(())
}

pub(super) fn load_balancers(place: &Place, record: &Record) -> anyhow::Result<()> {
    let script = plan::load_balancer_routes(record.families, &record.nodes());
    netns::ip(&place.netns(OUTSIDE), &script)
}

fn write_resolv_conf(place: &Place, record: &Record) -> anyhow::Result<()> {
    let text = format!(
        "nameserver {}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        record.families.cluster_dns()
    );
    let path = place.resolv_conf();
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

pub(super) fn issue(place: &Place, node: Host) -> anyhow::Result<()> {
    let directory = place.identity(&node.name());
    if directory.join("node.key").exists() {
        return Ok(());
    }
    crate::controller_command::issue_node(
        &place.data_of(&Host::Controller(1).name()),
        &node.name(),
        &directory,
    )
}

fn agent_data(place: &Place, node: Host) -> std::path::PathBuf {
    place.data_of(&node.name()).join("agent")
}

pub(super) async fn import(place: &Place, record: &Record, node: Host) -> anyhow::Result<()> {
    let folder = agent_data(place, node).join("images");
    let store = ImageStore::open(&folder).await?;
    for image in &record.images {
        let imported = store.import(image, None).await;
        imported.with_context(|| format!("import {}", image.display()))?;
    }
    Ok(())
}

pub(super) fn api_address(
    record: &Record,
    controller: Host,
) -> anyhow::Result<std::net::SocketAddr> {
    let addresses = record.families.fabric(controller);
    let first = addresses.first().context("a controller has an address")?;
    Ok(std::net::SocketAddr::new(*first, API_PORT))
}

pub(super) fn server(record: &Record, controller: Host) -> anyhow::Result<String> {
    Ok(format!("https://{}", api_address(record, controller)?))
}

/// Starts a controller that is to be a member beside the first, and waits until it serves.
async fn join(place: &Place, record: &mut Record, host: Host) -> anyhow::Result<()> {
    let config = crate::client::administrator(Some(&place.kubeconfig())).await?;
    let hash = crate::token_command::ca_hash(&config)?;
    let hour = Duration::from_secs(3600);
    let token = crate::cluster_command::join_token(config, hour).await?;
    let first = server(record, Host::Controller(1))?;
    let further = [
        format!("--join={first}"),
        format!("--token={token}"),
        format!("--ca-hash={hash}"),
    ];
    let process = start_with(place, record, host, &further)?;
    record.set_process(host, Some(process));
    record.write(place)?;
    let kubeconfig = place.kubeconfig_of(&host.name());
    await_file(place, record, host, &kubeconfig).await
}

/// Starts a controller or an agent.
pub(super) fn start_member(
    place: &Place,
    record: &Record,
    host: Host,
) -> anyhow::Result<ProcessId> {
    start_with(place, record, host, &[])
}

fn start_with(
    place: &Place,
    record: &Record,
    host: Host,
    further: &[String],
) -> anyhow::Result<ProcessId> {
    let name = host.name();
    let cgroup = place.cgroup_of(&name);
    let mut arguments = vec![format!("--log={}", record.log)];
    let option = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
    match host {
        Host::Outside => bail!("nothing runs {OUTSIDE}"),
        Host::Controller(_) => {
            arguments.push("controller".to_owned());
            arguments.push(option("data-dir", &place.data_of(&name).display()));
            arguments.push(option("listen", &api_address(record, host)?));
            let peers = std::net::SocketAddr::new(api_address(record, host)?.ip(), PEER_PORT);
            arguments.push(option("peer-listen", &peers));
            arguments.extend(further.iter().cloned());
            arguments.extend(record.controller_arguments.iter().cloned());
        }
        Host::Node(_) => {
            let attach = cgroups::unified(&cgroup)?;
            arguments.push("agent".to_owned());
            for member in &record.members {
                if let Host::Controller(_) = member.host {
                    arguments.push(option("server", &server(record, member.host)?));
                }
            }
            arguments.push(option("node-name", &name));
            arguments.push(option("identity", &place.identity(&name).display()));
            arguments.push(option("data-dir", &agent_data(place, host).display()));
            arguments.push(option("run-dir", &place.run_of(&name).display()));
            arguments.push(option("cgroup-parent", &format!("{cgroup}/pods")));
            arguments.push(option("cgroup-attach", &attach.display()));
            arguments.push(option("uplink", &"eth0"));
            let label = format!("topology.kubernetes.io/zone={}", host.zone());
            arguments.push(option("node-label", &label));
            for address in record.families.fabric(Host::Outside).iter().take(1) {
                let resolver = std::net::SocketAddr::new(*address, 53);
                arguments.push(option("upstream-dns", &resolver));
            }
            arguments.extend(record.network.iter().cloned());
            arguments.extend(record.agent_arguments.iter().cloned());
        }
    }
    arguments.extend(record.families.cluster_arguments());
    let surroundings = Surroundings {
        netns: Some(&place.netns(&name)),
        // A leaf: with pure v2 a cgroup that has controllers for its children takes no processes.
        cgroup: &format!("{cgroup}/self"),
        hostname: Some(&name),
    };
    spawn::start(&surroundings, &arguments, &place.log(&name), None)
}

/// Waits until the control plane has written its kubeconfig, which it does when it serves.
async fn await_controller(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    await_file(place, record, host, &place.inner_kubeconfig()).await
}

pub(super) async fn await_file(
    place: &Place,
    record: &Record,
    host: Host,
    file: &std::path::Path,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + SERVING;
    while !file.exists() {
        members::check_alive(place, record, host)?;
        ensure!(
            tokio::time::Instant::now() < deadline,
            "the control plane does not serve after {SERVING:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn forward(place: &Place, record: &Record, controller: Host) -> anyhow::Result<Forward> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let port = listener.local_addr()?.port();
    let mut arguments = vec![
        "--log=warn".to_owned(),
        "lab".to_owned(),
        "forward".to_owned(),
        format!("--netns={}", place.netns(&controller.name()).display()),
    ];
    for member in &record.members {
        if let Host::Controller(_) = member.host {
            arguments.push(format!("--target={}", api_address(record, member.host)?));
        }
    }
    let surroundings = Surroundings {
        netns: None,
        cgroup: &place.cgroup_of(FORWARD),
        hostname: None,
    };
    let listener = OwnedFd::from(listener);
    let log = place.log(FORWARD);
    let process = spawn::start(&surroundings, &arguments, &log, Some(listener))?;
    write_kubeconfig(place, record, controller, port)?;
    Ok(Forward { port, process })
}

/// For clients on this machine, with what this controller trusts.
pub(super) fn write_kubeconfig(
    place: &Place,
    record: &Record,
    controller: Host,
    port: u16,
) -> anyhow::Result<()> {
    let inner = std::fs::read_to_string(place.kubeconfig_of(&controller.name()))?;
    let outer = inner.replace(
        &server(record, controller)?,
        &format!("https://127.0.0.1:{port}"),
    );
    crate::files::write_private(&place.kubeconfig(), outer.as_bytes())
}

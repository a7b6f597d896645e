//! `waggle agent`: the node.

use std::path::{Path, PathBuf};

use agent::{Agent, AgentConfig, Shutdown};
use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::join::{self, JoinArguments};
use crate::logging::{self, LogSettings};
use crate::settings::{ClusterSettings, NetworkSettings, NodeSettings};

#[derive(Debug, clap::Args)]
pub(crate) struct AgentArguments {
    /// The control plane, https://host:port; that of --join by default. Given several times where it has several
    /// members: any of them will do, and the next one is asked when one is lost.
    #[arg(long, required_unless_present = "join", value_delimiter = ',')]
    server: Vec<String>,
    #[command(flatten)]
    join: JoinArguments,
    /// Directory with ca.crt, node.crt and node.key, which --join fills (see also
    /// `waggle controller --issue-node`). The certificate is renewed in it before it ends.
    #[arg(long, default_value = "/etc/waggle/node")]
    identity: PathBuf,
    /// Everything durable: images, pods, logs.
    #[arg(long, default_value = "/var/lib/waggle/agent")]
    data_dir: PathBuf,
    /// Serve the node's metrics on this address (loopback).
    #[arg(long)]
    metrics_listen: Option<std::net::SocketAddr>,
    /// On a signal, end all pods and take the data plane down; by default both live on.
    #[arg(long)]
    remove_on_exit: bool,
    #[command(flatten)]
    cluster: ClusterSettings,
    #[command(flatten)]
    node: NodeSettings,
    #[command(flatten)]
    network: NetworkSettings,
}

pub(crate) fn run(arguments: &AgentArguments, log: &LogSettings) -> anyhow::Result<()> {
    logging::start(log, None)?;
    crate::allocator::give_back_soon();
    crate::runtime()?.block_on(serve(arguments))
}

fn read(directory: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let path = directory.join(name);
    std::fs::read(&path).with_context(|| format!("read {}", path.display()))
}

async fn serve(arguments: &AgentArguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let node_name = arguments.node.node_name()?;
    join::ensure_identity(&arguments.join, &arguments.identity, &node_name).await?;
    let mut servers = arguments.server.clone();
    servers.extend(arguments.join.join.clone());
    servers.dedup();
    anyhow::ensure!(!servers.is_empty(), "--server is missing");
    let agent = Agent::start(AgentConfig {
        node_name,
        data_dir: arguments.data_dir.clone(),
        run_dir: arguments.node.run_dir.clone(),
        server: servers.join(","),
        ca_pem: read(&arguments.identity, join::CA)?,
        certificate_pem: read(&arguments.identity, join::CERTIFICATE)?,
        key_pem: read(&arguments.identity, join::KEY)?,
        identity_dir: Some(arguments.identity.clone()),
        cgroup_parent: arguments.node.cgroup_parent.clone(),
        cgroup_attach: arguments.node.cgroup_attach.clone(),
        uplink: arguments.node.uplink.clone(),
        cluster_domain: arguments.cluster.cluster_domain.clone(),
        cluster_dns: arguments.cluster.cluster_dns()?,
        service_cidrs: arguments.cluster.service_cidrs.clone(),
        pod_cidrs: arguments.cluster.pod_cidrs.clone(),
        upstream_dns: arguments.node.upstream_dns.clone(),
        program: std::env::current_exe()?,
        node_labels: arguments.node.node_labels.iter().cloned().collect(),
        node_addresses: arguments.node.node_addresses.clone(),
        metrics_listen: arguments.metrics_listen,
        routing: arguments.network.routing.into(),
        north_south: arguments.network.north_south.into(),
        xdp: arguments.network.xdp.into(),
        vxlan_port: arguments.network.vxlan_port,
        pod_mtu: arguments.network.pod_mtu,
        insecure_registries: arguments.node.insecure_registries.clone(),
        pods: arguments.node.pods.options()?,
    })
    .await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let how = if arguments.remove_on_exit {
        Shutdown::RemoveEverything
    } else {
        Shutdown::LeavePods
    };
    let left = agent.shutdown(how).await;
    anyhow::ensure!(
        left.is_empty(),
        "pods that did not end in time: {}",
        left.join(", ")
    );
    Ok(())
}

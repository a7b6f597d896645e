//! `waggle controller`: one member of the control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use controlplane::{Controller, ControllerConfig, PeerSettings};
use tokio::signal::unix::{SignalKind, signal};

use crate::control_settings::{ControlSettings, MemberSettings, host_name};
use crate::join::{self, JoinArguments};
use crate::logging::{self, LogSettings};
use crate::settings::ClusterSettings;

#[derive(Debug, clap::Args)]
pub(crate) struct ControllerArguments {
    /// Everything durable: the store and certificates.
    #[arg(long, default_value = "/var/lib/waggle/controller")]
    data_dir: PathBuf,
    /// Address of the API server (REST and node sync).
    #[arg(long, default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// Further name or address for the serving certificate.
    #[arg(long = "tls-san")]
    extra_sans: Vec<String>,
    /// This member's name among the members of the control plane; the machine's name by default.
    #[arg(long)]
    name: Option<String>,
    /// Where to listen for the other members.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:6444")]
    peer_listen: SocketAddr,
    /// Where the other members reach this one, host:port; found out by default.
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: Option<String>,
    /// Where nodes, pods and clients reach the API; found out by default.
    #[arg(long, value_name = "ADDRESS")]
    advertise_address: Option<SocketAddr>,
    #[command(flatten)]
    join: JoinArguments,
    #[command(flatten)]
    cluster: ClusterSettings,
    #[command(flatten)]
    control: ControlSettings,
    /// Write a node's certificate, key and CA to this directory and exit, also while the member runs:
    /// NAME=DIRECTORY.
    #[arg(long, value_name = "NAME=DIRECTORY")]
    issue_node: Option<String>,
    /// Take the next step to a new CA with the files of a member that is stopped, and exit: add, then switch, then
    /// drop, each on all members, one after the other, which are started in between. Where there are several, copy
    /// pki/ca-next.crt and pki/ca-next.key from the first member to the others before they add.
    #[arg(long, value_name = "STEP", value_enum)]
    rotate_ca: Option<CaStep>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CaStep {
    /// Trust a second CA
    Add,
    /// Sign with the second CA
    Switch,
    /// Trust the second CA only
    Drop,
}

pub(crate) fn run(arguments: &ControllerArguments, log: &LogSettings) -> anyhow::Result<()> {
    if let Some(request) = &arguments.issue_node {
        let (name, directory) = request
            .split_once('=')
            .context("--issue-node takes NAME=DIRECTORY")?;
        return issue_node(&arguments.data_dir, name, Path::new(directory));
    }
    if let Some(step) = arguments.rotate_ca {
        let step = match step {
            CaStep::Add => controlplane::CaStep::Add,
            CaStep::Switch => controlplane::CaStep::Switch,
            CaStep::Drop => controlplane::CaStep::Drop,
        };
        return Ok(controlplane::rotate_ca(&arguments.data_dir, step)?);
    }
    logging::start(log, None)?;
    crate::runtime()?.block_on(serve(arguments))
}

async fn serve(arguments: &ControllerArguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // A start waits for the other members, for as long as it takes.
    let controller = tokio::select! {
        controller = start(arguments) => controller?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let server = controller.local_url();
    let kubeconfig = arguments.data_dir.join("admin.kubeconfig");
    crate::files::write_private(&kubeconfig, controller.admin_kubeconfig(&server).as_bytes())?;
    tracing::info!(server, kubeconfig = %kubeconfig.display(), "control plane serves");
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        error = controller.failed() => Some(error),
    };
    controller.shutdown().await;
    match failure {
        None => Ok(()),
        Some(error) => bail!("the control plane failed: {error}"),
    }
}

async fn start(arguments: &ControllerArguments) -> anyhow::Result<Controller> {
    let member = MemberSettings {
        name: match &arguments.name {
            Some(name) => name.clone(),
            None => host_name()?,
        },
        peers: Some(PeerSettings {
            listen: arguments.peer_listen,
            address: arguments.peer_address.clone(),
        }),
        advertise: arguments.advertise_address,
    };
    let config = arguments.control.config(
        &arguments.cluster,
        arguments.data_dir.clone(),
        arguments.listen,
        arguments.extra_sans.clone(),
        member,
    )?;
    if arguments.join.join.is_some() {
        join(arguments, &config).await?;
    }
    Ok(Controller::start(config).await?)
}

/// Becomes a member, unless this machine is one.
async fn join(arguments: &ControllerArguments, config: &ControllerConfig) -> anyhow::Result<()> {
    if controlplane::has_member(&config.data_dir)? {
        tracing::info!("this is a member already; the token is not used");
        return Ok(());
    }
    let request = controlplane::join_request(config);
    anyhow::ensure!(
        !request.peer_address.is_empty(),
        "--peer-address: give an address where the other members reach this one"
    );
    let admission = join::admission(&arguments.join, &request).await?;
    controlplane::accept_admission(&config.data_dir, &admission)?;
    tracing::info!(
        id = admission.id,
        name = request.name,
        "admitted to the cluster"
    );
    Ok(())
}

/// Writes what the node of this name introduces itself with to `directory`.
pub(crate) fn issue_node(data_dir: &Path, name: &str, directory: &Path) -> anyhow::Result<()> {
    let identity = controlplane::issue_node_identity(data_dir, name)?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("create {}", directory.display()))?;
    for (name, content) in [
        ("ca.crt", &identity.ca_pem),
        ("node.crt", &identity.certificate_pem),
        ("node.key", &identity.key_pem),
    ] {
        crate::files::write_private(&directory.join(name), content.as_bytes())?;
    }
    Ok(())
}

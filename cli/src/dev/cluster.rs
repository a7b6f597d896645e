//! The cluster of `waggle dev`: a controller and an agent in this process, started and stopped in order.

use std::path::Path;

use agent::{Agent, AgentConfig, Shutdown};
use anyhow::{Context as _, bail};
use controlplane::Controller;
use tokio::signal::unix::{SignalKind, signal};

use super::{StartArguments, demo, screen, state};
use crate::files;
use crate::logging::{self, LogSettings};
use crate::progress::Progress;

pub(super) fn run(arguments: &StartArguments, log: &LogSettings) -> anyhow::Result<()> {
    create_unlisted(&arguments.data_dir)?;
    if let Some(running) = state::read(&arguments.data_dir)? {
        bail!(
            "a cluster already runs on {} (process {}, {}): stop it with `waggle dev down{}`, or give \
             another --data-dir, --run-dir and --listen",
            arguments.data_dir.display(),
            running.process.pid,
            running.server,
            if arguments.data_dir == Path::new(super::DATA_DIR) {
                String::new()
            } else {
                format!(" --data-dir {}", arguments.data_dir.display())
            }
        );
    }
    // The terminal belongs to the progress and the screen; a detached cluster's standard error is its log.
    let file = arguments.data_dir.join("dev.log");
    logging::start(log, arguments.report_to.is_none().then_some(file.as_path()))?;
    let runtime = crate::runtime()?;
    let mut progress = Progress::new(arguments.report_to.as_deref())?;
    let outcome = runtime.block_on(run_until_stopped(arguments, &mut progress));
    if let Err(error) = &outcome {
        tracing::error!(error = format!("{error:#}"), "cluster ended");
        progress.failed(error);
    }
    // Blocking work that hangs must not keep a stopped cluster's process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

fn create_unlisted(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        // Users of pods that have users of their own (`hostUsers: false`) get through to their root file systems; what is
        // not for everybody is closed further down.
        .mode(0o711)
        .create(dir)
        .with_context(|| format!("create {}", dir.display()))
}

async fn run_until_stopped(
    arguments: &StartArguments,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut stopped = std::pin::pin!(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    let mut cluster = Cluster::default();
    let result = tokio::select! {
        result = cluster.start(arguments, progress) => result,
        () = &mut stopped => bail_stopped(),
    };
    let result = match result {
        Ok(()) => cluster.wait(stopped).await,
        Err(error) => Err(error),
    };
    let ending = cluster.stop(arguments).await;
    state::remove(&arguments.data_dir);
    result.and(ending)
}

fn bail_stopped() -> anyhow::Result<()> {
    bail!("interrupted while starting")
}

/// The parts that run; each is there from its start to its stop.
#[derive(Default)]
struct Cluster {
    controller: Option<Controller>,
    agent: Option<Agent>,
}

impl Cluster {
    async fn start(
        &mut self,
        arguments: &StartArguments,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let cluster_dns = arguments.cluster.cluster_dns()?;
        let controller = Controller::start(arguments.control.config(
            &arguments.cluster,
            arguments.data_dir.join("controller"),
            arguments.listen,
            Vec::new(),
            crate::control_settings::MemberSettings::alone()?,
        )?)
        .await
        .context("control plane")?;
        let server = controller.local_url();
        let kubeconfig = arguments.data_dir.join("kubeconfig");
        files::write_private(&kubeconfig, controller.admin_kubeconfig(&server).as_bytes())?;
        progress.done("control plane", &format!("serves {server}"));
        let node_name = arguments.node.node_name()?;
        let identity = controller.issue_node_identity(&node_name)?;
        self.controller = Some(controller);
        state::write(
            &arguments.data_dir,
            &state::Running::this_process(server.clone(), kubeconfig.clone())?,
        )?;

        let agent = Agent::start(AgentConfig {
            node_name: node_name.clone(),
            data_dir: arguments.data_dir.join("agent"),
            run_dir: arguments.node.run_dir.clone(),
            server: server.clone(),
            ca_pem: identity.ca_pem.into_bytes(),
            certificate_pem: identity.certificate_pem.into_bytes(),
            key_pem: identity.key_pem.into_bytes(),
            identity_dir: None,
            cgroup_parent: arguments.node.cgroup_parent.clone(),
            cgroup_attach: arguments.node.cgroup_attach.clone(),
            uplink: arguments.node.uplink.clone(),
            cluster_domain: arguments.cluster.cluster_domain.clone(),
            cluster_dns,
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
        .await
        .context("node agent")?;
        let attached = agent.status().attachments.len();
        self.agent = Some(agent);
        progress.done(
            "node agent",
            &format!("runs, {attached} eBPF programs attached"),
        );

        let client = crate::client::connect(&kubeconfig).await?;
        crate::client::wait_for_node(&client, &node_name).await?;
        progress.done("node", &format!("{node_name} is Ready"));
        let called = if arguments.demo {
            Some(
                demo::run(&client, arguments, progress)
                    .await
                    .context("demo")?,
            )
        } else {
            None
        };
        let status = self.agent.as_ref().expect("started above").status();
        let shown =
            screen::Screen::collect(&client, &server, &kubeconfig, arguments, called, &status)
                .await?;
        let text = match arguments.output {
            super::Output::Text => shown.text(),
            super::Output::Json => shown.json()?,
        };
        progress.screen(&text);
        Ok(())
    }

    /// Until a signal, or until a part fails by itself.
    async fn wait(&mut self, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
        let controller = self.controller.as_ref().expect("started");
        tokio::select! {
            () = stopped => Ok(()),
            error = controller.failed() => bail!("the control plane failed: {error}"),
        }
    }

    async fn stop(self, arguments: &StartArguments) -> anyhow::Result<()> {
        if arguments.report_to.is_none() {
            eprintln!("stopping: pods, data plane, control plane …");
        }
        let mut result = Ok(());
        if let Some(agent) = self.agent {
            let left = agent.shutdown(Shutdown::RemoveEverything).await;
            if !left.is_empty() {
                result = Err(anyhow::anyhow!(
                    "pods that did not end in time: {}",
                    left.join(", ")
                ));
            }
        }
        if let Some(controller) = self.controller {
            controller.shutdown().await;
        }
        if result.is_ok() && arguments.report_to.is_none() {
            eprintln!(
                "stopped; the data stays in {}",
                arguments.data_dir.display()
            );
        }
        result
    }
}

//! The ranges that this node's pods get addresses from: told by the control plane, kept for the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::network::{NetworkError, Networks};
use crate::node::Heartbeat;
use crate::pods::NodeMachine;

pub(super) struct Ranges {
    /// Durable: an agent that starts without a control plane reads it.
    file: PathBuf,
    run_dir: PathBuf,
}

impl Ranges {
    pub(super) fn new(data_dir: &Path, run_dir: &Path) -> Self {
        Self {
            file: data_dir.join("pod-cidrs.json"),
            run_dir: run_dir.to_owned(),
        }
    }

    pub(super) fn read(&self) -> Option<Vec<IpNet>> {
        let ranges: Vec<IpNet> = serde_json::from_slice(&std::fs::read(&self.file).ok()?).ok()?;
        (!ranges.is_empty()).then_some(ranges)
    }

    fn write(&self, ranges: &[IpNet]) -> std::io::Result<()> {
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(ranges)?)?;
        std::fs::rename(temporary, &self.file)
    }

    pub(super) async fn open(
        &self,
        machine: &NodeMachine,
        ranges: Vec<IpNet>,
    ) -> Result<(), NetworkError> {
        let networks = Networks::open(&self.run_dir, ranges, None).await?;
        // Set twice only if two callers raced, and there is one.
        let _ = machine.networks.set(networks);
        Ok(())
    }

    /// Opens the networks as soon as the control plane has given the node a range. A later change is kept
    /// for the next start: running pods have addresses of the old one.
    pub(super) async fn follow(
        self,
        machine: Arc<NodeMachine>,
        heartbeat: Arc<Heartbeat>,
        mut ranges: watch::Receiver<Vec<IpNet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let new = ranges.borrow_and_update().clone();
            if !new.is_empty() && self.read().as_ref() != Some(&new) {
                if let Err(error) = self.write(&new) {
                    tracing::error!(file = %self.file.display(), %error, "pod ranges not kept");
                }
                if machine.networks.get().is_some() {
                    tracing::warn!(
                        ?new,
                        "the node's pod ranges changed: in force at the next start"
                    );
                }
            }
            if !new.is_empty() && machine.networks.get().is_none() {
                match self.open(&machine, new).await {
                    Ok(()) => heartbeat.set_not_ready(None),
                    Err(error) => {
                        tracing::error!(%error, "pod networks cannot be opened");
                        heartbeat.set_not_ready(Some(format!("pod networks: {error}")));
                    }
                }
            }
            tokio::select! {
                changed = ranges.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }
}

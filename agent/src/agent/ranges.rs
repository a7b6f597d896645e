//! The ranges that this node's pods get addresses from: told by the control plane, kept for the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::network::{NetworkError, Networks, check_ranges};
use crate::node::Heartbeat;
use crate::pods::NodeMachine;

pub(super) struct Ranges {
    /// Durable: an agent that starts without a control plane reads it.
    file: PathBuf,
    run_dir: PathBuf,
    /// All pod ranges of the cluster.
    cluster: Vec<IpNet>,
    /// Bytes of pods' largest IP packet, as the data plane finds it.
    mtu: watch::Receiver<u32>,
}

impl Ranges {
    pub(super) fn new(
        data_dir: &Path,
        run_dir: &Path,
        cluster: Vec<IpNet>,
        mtu: watch::Receiver<u32>,
    ) -> Self {
        Self {
            file: data_dir.join("pod-cidrs.json"),
            run_dir: run_dir.to_owned(),
            cluster,
            mtu,
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
        let mtu = *self.mtu.borrow();
        let networks = Networks::open(&self.run_dir, ranges, Some(mtu)).await?;
        // Set twice only if two callers raced, and there is one.
        let _ = machine.networks.set(networks);
        Ok(())
    }

    /// Opens the networks as soon as the control plane has given the node a range, and follows later changes: pods
    /// that run keep their addresses, new ones get theirs from the new range.
    pub(super) async fn follow(
        mut self,
        machine: Arc<NodeMachine>,
        heartbeat: Arc<Heartbeat>,
        mut ranges: watch::Receiver<Vec<IpNet>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut told = Vec::new();
        loop {
            let new = ranges.borrow_and_update().clone();
            if !new.is_empty() && new != told {
                told.clone_from(&new);
                let why = self.change(&machine, new).await.err();
                if let Some(error) = &why {
                    tracing::error!(%error, "the node's pod ranges cannot be used");
                }
                heartbeat.set_not_ready(why.map(|error| format!("pod networks: {error}")));
            }
            if let Some(networks) = machine.networks.get() {
                networks.set_mtu(*self.mtu.borrow_and_update());
            }
            tokio::select! {
                changed = ranges.changed() => if changed.is_err() { return },
                changed = self.mtu.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn change(&self, machine: &NodeMachine, new: Vec<IpNet>) -> Result<(), NetworkError> {
        check_ranges(&new, &self.cluster)?;
        let known = self.read();
        if known.as_ref() != Some(&new)
            && let Err(error) = self.write(&new)
        {
            tracing::error!(file = %self.file.display(), %error, "pod ranges not kept");
        }
        let Some(networks) = machine.networks.get() else {
            return self.open(machine, new).await;
        };
        if known.as_ref() != Some(&new) {
            tracing::warn!(?known, ?new, "the node's pod ranges changed");
            networks.set_ranges(new);
        }
        Ok(())
    }
}

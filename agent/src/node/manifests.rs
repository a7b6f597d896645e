//! Static pods: the files of a folder, run whatever the control plane says, and shown there as mirror pods.
//!
//! The folder is looked at every few seconds; a file that cannot be read as a pod is named once and passed over, and
//! the pod that it was before goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::pods::{Machine, PodKey, Pods, manifest};

const EVERY: Duration = Duration::from_secs(2);
/// Rounds after which the control plane is told again, in case that it lost a mirror pod.
const REPEAT_EVERY: u32 = 5;

pub(crate) struct Manifests<M: Machine> {
    pub(crate) pods: Arc<Pods<M>>,
    pub(crate) node: String,
    /// None: static pods of an earlier agent end.
    pub(crate) folder: Option<PathBuf>,
}

/// A file as it was read last.
struct Known {
    changed: SystemTime,
    pod: Option<Pod>,
}

impl<M: Machine> Manifests<M> {
    /// Until `stop` says so.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut files: BTreeMap<PathBuf, Known> = BTreeMap::new();
        let mut ticks = tokio::time::interval(EVERY);
        let mut round = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.read(&mut files) {
                Ok(()) => self.apply(&files, round.is_multiple_of(REPEAT_EVERY)).await,
                // What runs goes on: a folder that is away is no order to end everything.
                Err(error) => {
                    tracing::warn!(folder = ?self.folder, %error, "manifests not read");
                }
            }
            round = round.wrapping_add(1);
        }
    }

    fn read(&self, files: &mut BTreeMap<PathBuf, Known>) -> std::io::Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let mut there = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let metadata = std::fs::metadata(entry.path());
            if let Ok(metadata) = metadata
                && metadata.is_file()
                && !hidden
            {
                there.push((entry.path(), metadata.modified()?));
            }
        }
        files.retain(|path, _| there.iter().any(|(known, _)| known == path));
        for (path, changed) in there {
            let known = files.get(&path);
            if known.is_some_and(|known| known.changed == changed) {
                continue;
            }
            let before = files.remove(&path).and_then(|known| known.pod);
            let pod = match self.parse(&path, changed) {
                Ok(pod) => Some(pod),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "not a static pod");
                    before
                }
            };
            files.insert(path, Known { changed, pod });
        }
        Ok(())
    }

    fn parse(&self, path: &Path, changed: SystemTime) -> Result<Pod, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let seen = Timestamp::try_from(changed).unwrap_or(Timestamp::UNIX_EPOCH);
        manifest::parse(&text, &self.node, seen).map_err(|error| error.to_string())
    }

    /// A pod of the same name ends before another begins. What the control plane shows and nobody runs is of an earlier
    /// life of the node.
    async fn apply(&self, files: &BTreeMap<PathBuf, Known>, repeat: bool) {
        let mut wanted: BTreeMap<String, &Pod> = BTreeMap::new();
        for pod in files.values().filter_map(|known| known.pod.as_ref()) {
            wanted.extend(pod.metadata.uid.clone().map(|uid| (uid, pod)));
        }
        let running = self.pods.static_pods();
        let shown = self.pods.shown_static_pods().into_iter();
        for orphan in shown
            .filter(|shown| !wanted.contains_key(&shown.uid) && !running.contains_key(&shown.uid))
        {
            self.pods.end_mirror(&orphan);
        }
        for uid in running.keys().filter(|uid| !wanted.contains_key(*uid)) {
            self.pods.end_static(uid).await;
        }
        for (uid, pod) in wanted {
            let Some(key) = PodKey::of(pod) else { continue };
            let named =
                |known: &&PodKey| known.namespace == key.namespace && known.name == key.name;
            match running.values().find(named) {
                None => self.pods.set(pod.clone()).await,
                Some(known) if known.uid == uid && repeat => self.pods.repeat(&uid).await,
                Some(_) => {}
            }
        }
    }
}

//! `waggle cluster snapshot`: the whole store as a file, and a new cluster out of it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use controlplane::SnapshotInfo;
use http_body_util::BodyExt as _;

#[derive(Debug, Clone, clap::Subcommand)]
pub(super) enum SnapshotAction {
    /// Write everything that the store holds to a file, and check it. The file is not encrypted, and has all Secrets in
    /// it: only its owner may read it, and it should go where they may.
    Save {
        file: PathBuf,
        /// Save what the member that is asked has in memory, without asking a majority: for when that is lost for good.
        /// Writes that the cluster has acknowledged of late may be missing.
        #[arg(long)]
        stale: bool,
    },
    /// Make a new cluster of one member with what is in the file: its data directory, for `waggle controller` to
    /// start on. The directory `pki` is not in the file: without a copy of it there, a new CA is made, which no
    /// node knows.
    Restore {
        file: PathBuf,
        /// The data directory, which must hold no store.
        #[arg(long, default_value = "/var/lib/waggle/controller")]
        data_dir: PathBuf,
    },
    /// Check a file and say what is in it.
    Status { file: PathBuf },
}

fn show(file: &Path, info: &SnapshotInfo) {
    let created = jiff::Timestamp::from_second(info.created).unwrap_or_default();
    println!(
        "{}: {} keys at revision {}, written {created} by waggle {} of cluster {}",
        file.display(),
        info.keys,
        info.revision,
        info.version,
        info.cluster
    );
}

pub(super) fn status(file: &Path) -> anyhow::Result<()> {
    show(file, &controlplane::inspect_snapshot(file)?);
    Ok(())
}

pub(super) fn restore(file: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let info = controlplane::restore_snapshot(file, data_dir)?;
    show(file, &info);
    println!(
        "start the new cluster with `waggle controller --data-dir {}`; add further members with `waggle cluster \
         add`",
        data_dir.display()
    );
    if !data_dir.join("pki/ca.key").exists() {
        println!(
            "there is no CA in {}: copy the old cluster's directory pki there first, unless its nodes are to \
             join anew",
            data_dir.display()
        );
    }
    Ok(())
}

/// A file that is written beside, checked, and then renamed: what has the name is whole.
pub(super) async fn save(config: kube::Config, file: &Path, stale: bool) -> anyhow::Result<()> {
    let asked = config.cluster_url.clone();
    let client = kube::Client::try_from(config)?;
    let path = match stale {
        true => "/waggle/v1/snapshot?stale=true",
        false => "/waggle/v1/snapshot",
    };
    let request = http::Request::get(path).body(kube::client::Body::empty())?;
    let response = client.send(request).await.context("ask for the snapshot")?;
    let code = response.status();
    let mut body = response.into_body();
    let beside = file.with_extension("part");
    let create = || {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        // All Secrets are in it.
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
    };
    let mut out = create().with_context(|| format!("create {}", beside.display()))?;
    let written = async {
        if !code.is_success() {
            let text = body.collect().await?.to_bytes();
            let status: Result<kube::core::Status, _> = serde_json::from_slice(&text);
            match status {
                Ok(status) => anyhow::bail!(status.message),
                Err(_) => anyhow::bail!("{code}: {}", String::from_utf8_lossy(&text)),
            }
        }
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                out.write_all(&data)?;
            }
        }
        out.sync_all()?;
        let info = controlplane::inspect_snapshot(&beside)?;
        ensure!(info.revision > 0, "the store is empty");
        std::fs::rename(&beside, file)?;
        Ok(info)
    };
    match written.await {
        Ok(info) => {
            show(file, &info);
            if stale {
                println!(
                    "this is what the member at {asked} had, and no majority was asked: what the cluster has acknowledged \
                     after revision {} is not in it",
                    info.revision
                );
            }
            Ok(())
        }
        Err(error) => {
            // It is of no use.
            let _ = std::fs::remove_file(&beside);
            Err(error.context(format!("write {}", file.display())))
        }
    }
}

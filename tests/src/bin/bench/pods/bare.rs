//! The same container with runc alone: what a pod is compared with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

/// A bundle, and the containers of it that run. They are deleted when this is dropped.
#[derive(Debug)]
pub(super) struct Bare {
    bundle: PathBuf,
    state: PathBuf,
    running: Vec<String>,
    next: u32,
}

impl Bare {
    /// Over the given root file system, with runc's own files in `state`. The containers have namespaces of their own, the network's too, as runc's
    /// default says; nothing connects them.
    pub(super) fn new(directory: &Path, state: &Path, root: &Path) -> anyhow::Result<Self> {
        let bundle = directory.join("bundle");
        std::fs::create_dir_all(&bundle)?;
        let status = Command::new("runc")
            .arg("spec")
            .current_dir(&bundle)
            .status();
        ensure!(status.context("start runc")?.success(), "runc spec failed");
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(super::COMMAND);
        config["root"]["path"] = root.to_string_lossy().into_owned().into();
        std::fs::write(&path, config.to_string())?;
        Ok(Self {
            bundle,
            state: state.to_owned(),
            running: Vec::new(),
            next: 0,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts so many at once; milliseconds until the last one runs.
    pub(super) fn start(&mut self, count: u32) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut children = Vec::new();
        for _ in 0..count {
            let name = format!("waggle-bench-{}-{}", std::process::id(), self.next);
            self.next += 1;
            let mut command = self.command();
            command
                .args(["run", "--detach", "--bundle"])
                .arg(&self.bundle);
            children.push(command.arg(&name).spawn().context("start runc")?);
            self.running.push(name);
        }
        for mut child in children {
            ensure!(child.wait()?.success(), "runc run failed");
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Ends all that run; milliseconds until the last one is gone.
    pub(super) fn delete(&mut self) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut children = Vec::new();
        for name in self.running.drain(..).collect::<Vec<_>>() {
            let mut command = self.command();
            children.push(command.args(["delete", "--force", &name]).spawn()?);
        }
        for mut child in children {
            ensure!(child.wait()?.success(), "runc delete failed");
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("containers of bare runc: {error:#}");
        }
    }
}

//! Names and directories of a lab.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// The namespace with the bridge that joins the members.
pub(super) const FABRIC: &str = "fabric";
/// The router and client outside the cluster.
pub(super) const OUTSIDE: &str = "outside";
/// The process that serves the API on loopback.
pub(super) const FORWARD: &str = "forward";

/// Where a lab is; everything follows from its name and its two directories.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    /// Durable.
    pub(super) data: PathBuf,
    /// Gone after a reboot.
    pub(super) run: PathBuf,
    /// Path of the lab's cgroup inside each hierarchy: two labs never share one.
    pub(super) cgroup: String,
}

impl Place {
    pub(super) fn new(name: &str, data_dir: &Path, run_dir: &Path) -> anyhow::Result<Self> {
        let sound = !name.is_empty()
            && name.len() <= 20
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        ensure!(
            sound,
            "--name {name:?}: lower-case letters, digits and `-`, at most 20"
        );
        let absolute = |path: &Path| {
            // Mount points are listed by their real paths.
            let parent = path.ancestors().find(|parent| parent.exists());
            let parent = parent.unwrap_or(Path::new("."));
            let real = parent
                .canonicalize()
                .with_context(|| format!("{}", path.display()))?;
            let rest = path.strip_prefix(parent).unwrap_or(path);
            anyhow::Ok(real.join(rest).join(name))
        };
        let run = absolute(run_dir)?;
        let mut hasher = DefaultHasher::new();
        run.hash(&mut hasher);
        Ok(Self {
            name: name.to_owned(),
            data: absolute(data_dir)?,
            cgroup: format!("/waggle-lab/{name}-{:08x}", hasher.finish() as u32),
            run,
        })
    }

    pub(super) fn netns(&self, member: &str) -> PathBuf {
        self.run.join("netns").join(member)
    }

    pub(super) fn data_of(&self, member: &str) -> PathBuf {
        self.data.join(member)
    }

    pub(super) fn run_of(&self, member: &str) -> PathBuf {
        self.run.join(member)
    }

    pub(super) fn identity(&self, node: &str) -> PathBuf {
        self.data_of(node).join("identity")
    }

    pub(super) fn log(&self, member: &str) -> PathBuf {
        self.data.join("logs").join(format!("{member}.log"))
    }

    pub(super) fn cgroup_of(&self, member: &str) -> String {
        format!("{}/{member}", self.cgroup)
    }

    /// For clients on this machine.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// For clients in the lab's namespaces: by the first controller.
    pub(super) fn inner_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("controller-1")
    }

    /// For clients in the lab's namespaces: by this controller, which writes it when it serves.
    pub(super) fn kubeconfig_of(&self, controller: &str) -> PathBuf {
        self.data_of(controller).join("admin.kubeconfig")
    }

    /// What names are resolved with in `waggle lab exec`.
    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.run.join("resolv.conf")
    }

    /// Options that a further command needs to mean this lab.
    pub(super) fn options(&self) -> String {
        let mut options = String::new();
        let parent = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
        let (data, run) = (parent(&self.data), parent(&self.run));
        if self.name != "default" {
            options.push_str(&format!(" --name {}", self.name));
        }
        if data != Path::new("/var/lib/waggle/lab") {
            options.push_str(&format!(" --data-dir {}", data.display()));
        }
        if run != Path::new("/run/waggle/lab") {
            options.push_str(&format!(" --run-dir {}", run.display()));
        }
        options
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn two_labs_never_share_a_cgroup() {
        let place = |name: &str, run: &str| {
            Place::new(name, Path::new("/tmp/waggle-data"), Path::new(run)).unwrap()
        };
        let one = place("a", "/tmp/waggle-one");
        assert_eq!(one.cgroup, place("a", "/tmp/waggle-one").cgroup);
        assert_ne!(one.cgroup, place("b", "/tmp/waggle-one").cgroup);
        assert_ne!(one.cgroup, place("a", "/tmp/waggle-two").cgroup);
        assert_eq!(
            one.netns("node-1"),
            Path::new("/tmp/waggle-one/a/netns/node-1")
        );
    }

    #[test]
    fn names_become_paths_and_are_checked() {
        for name in ["", "..", "a/b", "A", "a b", "twenty-one-characters"] {
            assert!(
                Place::new(name, Path::new("/tmp"), Path::new("/tmp")).is_err(),
                "{name:?}"
            );
        }
    }
}

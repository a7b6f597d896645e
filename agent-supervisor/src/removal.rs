//! Removing what runc has made for a container whose first process has ended, as `runc delete` does: its cgroups, and its
//! state. A run of runc takes 5 ms of processor time for that.
//!
//! Only what is known to be all of it is removed here (`destroy` in `libcontainer` of runc 1.1 and later): a state directory
//! with nothing in it but runc's `state.json`, which names no cgroups but those that were asked for, neither hooks for the
//! end nor a place in the file system for resource control, and cgroups that are empty. In all other cases runc is run,
//! which takes up where this stopped.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

const STATE: &str = "state.json";

#[derive(Debug, Deserialize)]
struct State {
    id: String,
    rootless: bool,
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: Option<String>,
    config: Configuration,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    #[serde(rename = "Hooks", default)]
    hooks: Option<BTreeMap<String, Option<Vec<IgnoredAny>>>>,
    #[serde(default)]
    intel_rdt: Option<IgnoredAny>,
}

impl State {
    /// Nothing but cgroups is to be removed with it, and none but these.
    fn is_plain(&self, id: &str, cgroups: &[PathBuf]) -> bool {
        let mut hooks = self.config.hooks.iter().flat_map(BTreeMap::values);
        self.id == id
            && !self.rootless
            && self
                .intel_rdt_path
                .as_deref()
                .unwrap_or_default()
                .is_empty()
            && self.config.intel_rdt.is_none()
            && hooks.all(|hooks| hooks.as_ref().is_none_or(Vec::is_empty))
            && self
                .cgroup_paths
                .values()
                .all(|path| cgroups.contains(path))
    }
}

/// Whether all of it is gone. `root` is runc's, `cgroups` are the container's.
pub(crate) fn remove(root: &Path, id: &str, cgroups: &[PathBuf]) -> bool {
    try_remove(&root.join(id), id, cgroups).unwrap_or(false)
}

fn try_remove(dir: &Path, id: &str, cgroups: &[PathBuf]) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if entry?.file_name() != STATE {
            return Ok(false);
        }
    }
    let path = dir.join(STATE);
    let state: State = serde_json::from_slice(&std::fs::read(&path)?)?;
    if !state.is_plain(id, cgroups) {
        return Ok(false);
    }
    for cgroup in state.cgroup_paths.values() {
        match std::fs::remove_dir(cgroup) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // Last: as long as it is there, runc removes what is left.
    std::fs::remove_file(&path)?;
    std::fs::remove_dir(dir)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    /// As runc 1.1.5 writes it, what is of interest here.
    fn state(cgroup: &Path) -> Value {
        json!({
            "id": "c", "init_process_pid": 7, "rootless": false, "intel_rdt_path": "",
            "cgroup_paths": {"": cgroup, "memory": cgroup},
            "config": {"rootfs": "/r", "Hooks": {"poststop": null, "prestart": []}},
        })
    }

    struct Made {
        dir: tempfile::TempDir,
        cgroup: PathBuf,
    }

    impl Made {
        fn new(change: impl FnOnce(&mut Value)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let cgroup = dir.path().join("cgroup");
            std::fs::create_dir_all(dir.path().join("root/c")).unwrap();
            std::fs::create_dir(&cgroup).unwrap();
            let mut state = state(&cgroup);
            change(&mut state);
            std::fs::write(dir.path().join("root/c/state.json"), state.to_string()).unwrap();
            Self { dir, cgroup }
        }

        fn remove(&self) -> bool {
            let root = self.dir.path().join("root");
            remove(&root, "c", std::slice::from_ref(&self.cgroup))
        }

        fn is_there(&self) -> (bool, bool) {
            let state = self.dir.path().join("root/c/state.json");
            (self.cgroup.exists(), state.exists())
        }
    }

    #[test]
    fn state_and_cgroups_are_removed() {
        let made = Made::new(|_| {});
        assert!(made.remove());
        assert_eq!(made.is_there(), (false, false));
        assert!(!made.dir.path().join("root/c").exists());
        assert!(!made.remove());
    }

    #[test]
    fn what_is_not_known_to_be_all_is_left_to_runc() {
        let changes: [fn(&mut Value); 7] = [
            |state| state["id"] = json!("d"),
            |state| state["rootless"] = json!(true),
            |state| state["intel_rdt_path"] = json!("/sys/fs/resctrl/c"),
            |state| state["config"]["intel_rdt"] = json!({"closID": "c"}),
            |state| state["config"]["Hooks"]["poststop"] = json!([{"path": "/bin/true"}]),
            |state| state["cgroup_paths"]["cpu"] = json!("/sys/fs/cgroup/cpu/other"),
            |state| *state = json!({"pid": 7}),
        ];
        for change in changes {
            let made = Made::new(change);
            assert!(!made.remove());
            assert_eq!(made.is_there(), (true, true));
        }
        let made = Made::new(|_| {});
        std::fs::write(made.dir.path().join("root/c/other"), "").unwrap();
        assert!(!made.remove());
        assert_eq!(made.is_there(), (true, true));
    }

    #[test]
    fn runc_takes_up_where_a_cgroup_is_not_empty() {
        let made = Made::new(|_| {});
        std::fs::create_dir(made.cgroup.join("inner")).unwrap();
        assert!(!made.remove());
        assert_eq!(made.is_there(), (true, true));
    }
}

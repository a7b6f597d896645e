//! Real containers: runc, the supervisor, a root file system with nothing but busybox.
#![allow(clippy::unwrap_used)]

mod confined;
mod faults;
mod life;
mod limits;
mod output;
mod sessions;
mod users;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory with a root file system; what a test made in it is removed with it.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
    pub(crate) uid: String,
    pub(crate) cgroup_parent: String,
}

/// Begins the names of the cgroups of all fixtures; the id of the test's process follows.
const CGROUPS: &str = "waggle-test-pod-";

/// Removes the cgroups of tests that were killed before they could.
fn sweep_the_dead() {
    let hierarchies = Hierarchies::detect().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for root in hierarchies.directories("/") {
        for entry in std::fs::read_dir(root).unwrap().flatten() {
            names.extend(entry.file_name().into_string());
        }
    }
    for name in names {
        let process = name
            .strip_prefix(CGROUPS)
            .and_then(|it| it.split('-').next());
        if process.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            cgroups::remove(&hierarchies, &format!("/{name}")).unwrap();
        }
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: std::sync::Once = std::sync::Once::new();
        SWEPT.call_once(sweep_the_dead);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "etc", "tmp"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "sleep", "cat", "echo", "tail", "id", "hostname", "seq", "dd", "ls", "stty",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        Self {
            dir,
            uid: format!("uid-{number}"),
            cgroup_parent: format!("{CGROUPS}{}-{number}", std::process::id()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For [`Sandbox::start`].
    pub(crate) fn program(&self) -> PathBuf {
        env!("WAGGLE_SUPERVISOR").into()
    }

    pub(crate) fn sandbox(&self) -> SandboxSpec {
        SandboxSpec {
            pod_uid: self.uid.clone(),
            run_dir: self.path("run"),
            netns: None,
            hostname: "bee".to_owned(),
            cgroup_parent: self.cgroup_parent.clone(),
            resources: Resources::default(),
            sharing: Sharing::default(),
            runtime: OciRuntime::default(),
            first_id: None,
        }
    }

    pub(crate) async fn start(&self) -> Sandbox {
        Sandbox::start(&self.sandbox(), &self.program())
            .await
            .unwrap()
    }

    pub(crate) fn container(&self, name: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: format!("{}_{name}_0", self.uid),
            rootfs: self.path("rootfs"),
            args: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec![("FLOWER".to_owned(), "clover".to_owned())],
            working_dir: String::new(),
            user: String::new(),
            run_as_group: None,
            supplemental_groups: Vec::new(),
            run_as_non_root: false,
            read_only_root: false,
            privileged: false,
            allow_privilege_escalation: true,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            mounts: Vec::new(),
            resources: Resources::default(),
            oom_score_adj: 0,
            log_path: self.path(&format!("{name}.log")),
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            terminal: false,
            stdin: false,
            stdin_once: false,
            annotations: BTreeMap::new(),
            huge_pages: BTreeMap::new(),
            confinement: Confinement::default(),
        }
    }

    /// The text of a container's current log file, without times.
    pub(crate) fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap();
        let records = text.lines().map(|line| line.split_once(' ').unwrap().1);
        records.map(|record| format!("{record}\n")).collect()
    }

    /// Nothing of the pod is left on the machine.
    pub(crate) async fn assert_clean(&self) {
        let uid = &self.uid;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "a mount is left: {mounts}");
        let pod = format!("/{}/pod{uid}", self.cgroup_parent);
        for path in Hierarchies::detect().unwrap().directories(&pod) {
            assert!(!path.exists(), "{} is left", path.display());
        }
        assert!(!self.path("run").exists(), "the run directory is left");
        assert!(remove_cgroup_parent(&self.cgroup_parent).await.unwrap());
    }
}

impl Drop for Fixture {
    /// A test that failed leaves things behind: they go by their identity.
    fn drop(&mut self) {
        let run_dir = self.path("run");
        let parent = self.cgroup_parent.clone();
        let sweeper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                sweep(&run_dir).await.unwrap();
                remove_cgroup_parent(&parent).await.unwrap();
            });
        });
        let _ = sweeper.join();
    }
}

impl Sandbox {
    pub(crate) async fn create_and_start(&self, spec: &ContainerSpec) {
        self.create(spec).await.unwrap();
        self.start_container(&spec.id).await.unwrap();
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&self, id: &str) -> ContainerState {
        let mut changes = self.changes();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                match self.states().await.unwrap().remove(id) {
                    Some(state @ ContainerState::Exited { .. }) => return state,
                    _ => changes.changed().await.unwrap(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap()
    }
}

pub(crate) fn exit(state: &ContainerState) -> (i32, Option<i32>, bool) {
    match state {
        ContainerState::Exited {
            code,
            signal,
            oom_killed,
            ..
        } => (*code, *signal, *oom_killed),
        other => panic!("not ended: {other:?}"),
    }
}

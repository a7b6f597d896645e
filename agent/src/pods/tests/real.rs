//! Real containers in namespaces of the test's own: images from the store, runc, veths, the data plane.

mod killed;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::image::ConfigBuilder;

use super::*;
use crate::dataplane::{DataPlane, DataPlaneConfig, NorthSouth, Routing, VXLAN_PORT, Xdp};
use crate::images::{ImageStore, build};
use crate::network::Networks;
use crate::pods::report::recorder::{container, is_ready, waits_for};
use crate::runtime::logs::{LogOptions, LogStream};
use crate::runtime::remove_cgroup_parent;

const IMAGE: &str = "localhost/busybox:v1";
const PATIENCE: Duration = Duration::from_secs(60);

/// A node for one test.
struct Node {
    dir: PathBuf,
    machine: Arc<NodeMachine>,
    recorder: Arc<Recorder>,
    objects: Arc<Objects>,
    settings: Settings,
    /// Before the first pod.
    links: BTreeSet<String>,
}

impl Node {
    async fn new(dir: &Path, cgroup: &Path) -> Self {
        let settings = settings(dir);
        let images = ImageStore::open(&settings.data_dir.join("images"))
            .await
            .unwrap();
        let root = dir.join("rootfs");
        build::busybox_rootfs(&root, Path::new("/bin/busybox")).unwrap();
        let config = ConfigBuilder::default()
            .cmd(vec!["/bin/sh".to_owned()])
            .env(vec!["PATH=/bin".to_owned(), "FROM=image".to_owned()])
            .build()
            .unwrap();
        build::from_directory(&images, &root, &config, IMAGE)
            .await
            .unwrap();
        let data_plane = DataPlane::load(DataPlaneConfig {
            node_name: "node1".to_owned(),
            pin_dir: settings.run_dir.join("bpf"),
            cgroup: cgroup.to_owned(),
            uplink: Some("up0".to_owned()),
            pod_cidrs: vec!["10.78.0.0/24".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            cluster_dns: settings.cluster_dns,
            dns_listen: "169.254.20.10:53".parse().unwrap(),
            routing: Routing::Overlay,
            north_south: NorthSouth::Snat,
            xdp: Xdp::Off,
            vxlan_port: VXLAN_PORT,
            node_addresses: Vec::new(),
            pod_mtu: None,
            settle_after: Duration::ZERO,
        })
        .await
        .unwrap();
        let machine = machine(images, data_plane, &settings).await;
        Self {
            dir: dir.to_owned(),
            machine: Arc::new(machine),
            recorder: Arc::default(),
            objects: Arc::default(),
            settings,
            links: links(),
        }
    }

    /// What the next agent begins with: it remembers nothing.
    async fn another_machine(&self) -> NodeMachine {
        let (images, data_plane) = (self.machine.images.clone(), self.machine.data_plane.clone());
        machine(images, data_plane, &self.settings).await
    }

    /// As an agent does when it starts.
    async fn open(&self) -> Pods<NodeMachine> {
        let context = context(
            Arc::clone(&self.machine),
            &self.recorder,
            &self.objects,
            self.settings.clone(),
        );
        Pods::open(context).await.unwrap()
    }

    async fn log(&self, pods: &Pods<NodeMachine>, container: &str, number: u32) -> String {
        let snapshot = pods.find("default", "p").unwrap();
        let (_ended, over) = watch::channel(false);
        let path = snapshot.dirs.log(container, number);
        let mut stream = LogStream::open(&path, LogOptions::default(), over)
            .await
            .unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    }

    /// No mount, namespace, cgroup, directory of any pod is left.
    async fn assert_clean(&self) {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        for below in ["data/pods", "run/pods", "run/netns"] {
            let dir = self.dir.join(below);
            assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
            let left = std::fs::read_dir(&dir).into_iter().flatten().count();
            assert_eq!(left, 0, "{below}");
        }
        assert_eq!(links(), self.links);
        assert!(
            remove_cgroup_parent(&self.settings.cgroup_parent)
                .await
                .unwrap()
        );
    }
}

async fn machine(images: ImageStore, data_plane: DataPlane, settings: &Settings) -> NodeMachine {
    let machine = NodeMachine::new(images, data_plane, env!("WAGGLE_SUPERVISOR").into());
    let range = vec!["10.78.0.0/24".parse().unwrap()];
    let networks = Networks::open(&settings.run_dir, range, Some(1500));
    machine.networks.set(networks.await.unwrap()).unwrap();
    machine
}

/// Names of the interfaces.
fn links() -> BTreeSet<String> {
    nix::net::if_::if_nameindex()
        .unwrap()
        .iter()
        .map(|link| link.name().to_string_lossy().into_owned())
        .collect()
}

/// Runs a test on a node of its own, in network and mount namespaces that go with the test's threads.
fn on_a_node<F: Future<Output = ()>>(
    patience: Duration,
    test: impl FnOnce(Arc<Node>) -> F + Send + 'static,
) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "waggle-pods-test-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|dir| dir.join("cgroup.controllers").exists());
    let cgroup = unified.unwrap().join(name);
    std::fs::create_dir(&cgroup).unwrap();
    let attach = cgroup.clone();
    let result = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        for line in [
            "link set lo up",
            "link add up0 type veth peer name up1",
            "address add 192.0.2.2/24 dev up0",
            "link set up1 up",
            "link set up0 up",
        ] {
            let status = std::process::Command::new("ip")
                .args(line.split(' '))
                .status();
            assert!(status.unwrap().success(), "{line}");
        }
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Also when the test fails: what its pods left goes by its place.
        let _sweep = Sweep(dir.path().join("run/pods"));
        runtime.block_on(async {
            let node = Arc::new(Node::new(dir.path(), &attach).await);
            let bounded = tokio::time::timeout(patience, test(Arc::clone(&node)));
            if bounded.await.is_err() {
                let last = node.recorder.statuses("uid-1").pop();
                panic!("too long: {:#?}\n{last:#?}", node.recorder.events());
            }
            node.machine.data_plane.clone().unload().await.unwrap();
        });
        drop(runtime);
        let _ = nix::mount::umount2(
            &dir.path().join("run/bpf"),
            nix::mount::MntFlags::MNT_DETACH,
        );
    })
    .join();
    let _ = std::fs::remove_dir(&cgroup);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Ends the supervisors that are left below a directory, in the namespaces of the thread that drops it.
struct Sweep(PathBuf);

impl Drop for Sweep {
    fn drop(&mut self) {
        let dir = self.0.clone();
        let sweeper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let _ = runtime.block_on(crate::runtime::sweep(&entry.path()));
            }
        });
        let _ = sweeper.join();
    }
}

fn server() -> Pod {
    let script = "echo $FROM $GREETING; hostname; mkdir -p /www; echo ok > /www/index.html; \
                  exec httpd -f -p 8080 -h /www";
    pod(
        "uid-1",
        serde_json::json!({
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "web", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", script],
                "env": [{"name": "GREETING", "value": "hello"}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }],
        }),
    )
}

#[test]
fn a_pod_runs_is_restarted_and_deleted_and_nothing_is_left() {
    on_a_node(PATIENCE, async |node| {
        let pods = node.open().await;
        let asked = server();
        pods.set(asked.clone()).await;
        let status = node.recorder.status_when("uid-1", "ready", is_ready).await;
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert!(status.pod_ip.unwrap().starts_with("10.78.0."));
        assert_eq!(node.log(&pods, "web", 0).await, "image hello\np\n");

        // Killed from outside, it comes back at once, with its log kept.
        let id = node.record("uid-1").attempt("web").unwrap().id.clone();
        let run_dir = node.settings.run_dir.join("pods/uid-1");
        let sandbox = node
            .machine
            .connect_sandbox(&run_dir)
            .await
            .unwrap()
            .unwrap();
        sandbox.kill(&id, 9).await.unwrap();
        let status = node
            .recorder
            .status_when("uid-1", "restarted", |status| {
                container(status, "web").restart_count == 1 && is_ready(status)
            })
            .await;
        let last = container(&status, "web").last_state.clone().unwrap();
        let last = last.terminated.unwrap();
        assert_eq!(
            (last.exit_code, last.reason.as_deref()),
            (137, Some("Error"))
        );
        assert_eq!(node.log(&pods, "web", 0).await, "image hello\np\n");

        pods.set(deleted(&asked, 2)).await;
        node.recorder.terminated_when("uid-1").await;
        let reasons: Vec<&str> = node.recorder.events().iter().map(|e| e.0).collect();
        for reason in ["Pulled", "Created", "Started", "Killing"] {
            assert!(reasons.contains(&reason), "{reasons:?}");
        }
        pods.end_all(Duration::ZERO, Duration::from_secs(5)).await;
        node.assert_clean().await;
    });
}

impl Node {
    fn record(&self, uid: &str) -> Record {
        record::load(&self.settings.data_dir.join("pods").join(uid))
            .unwrap()
            .1
    }
}

#[test]
fn the_next_agent_adopts_what_runs() {
    on_a_node(PATIENCE, async |node| {
        let pods = node.open().await;
        pods.set(server()).await;
        node.recorder.status_when("uid-1", "ready", is_ready).await;
        let before = node.record("uid-1");
        pods.leave_running().await;

        let pods = node.open().await;
        let status = node
            .recorder
            .status_when("uid-1", "ready again", is_ready)
            .await;
        assert_eq!(container(&status, "web").restart_count, 0);
        let after = node.record("uid-1");
        assert_eq!(before.attempt("web"), after.attempt("web"));
        // Readiness was never lost on the way.
        let lost = node
            .recorder
            .statuses("uid-1")
            .iter()
            .skip_while(|status| !is_ready(status))
            .any(|status| !is_ready(status));
        assert!(!lost);

        // Gone from the store: it ends without being asked about again.
        pods.retain(&BTreeSet::new()).await;
        let mut snapshots = pods.watch("uid-1").unwrap();
        while snapshots.changed().await.is_ok() {}
        pods.end_all(Duration::ZERO, Duration::from_secs(5)).await;
        node.assert_clean().await;
    });
}

#[test]
fn what_cannot_start_says_why() {
    on_a_node(PATIENCE, async |node| {
        let pods = node.open().await;
        let spec = serde_json::json!({
            "restartPolicy": "Always",
            "containers": [
                {"name": "nothing", "image": IMAGE, "imagePullPolicy": "Never",
                 "command": ["/no/such/program"]},
                {"name": "nowhere", "image": "localhost/missing:v1", "imagePullPolicy": "Never"},
                {"name": "unset", "image": IMAGE, "imagePullPolicy": "Never", "envFrom":
                    [{"configMapRef": {"name": "settings"}}]},
            ],
        });
        let name = |name: &str| crate::cluster::ObjectName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        node.objects.set_config_map(name("settings"), None);
        let asked = pod("uid-2", spec);
        pods.set(asked.clone()).await;
        let status = node
            .recorder
            .status_when("uid-2", "all in trouble", |status| {
                waits_for(status, "nothing", "CrashLoopBackOff")
                    && waits_for(status, "nowhere", "ErrImageNeverPull")
                    && waits_for(status, "unset", "CreateContainerConfigError")
            })
            .await;
        let nothing = container(&status, "nothing").last_state.clone().unwrap();
        let nothing = nothing.terminated.unwrap();
        assert_eq!(nothing.exit_code, 128);
        assert_eq!(nothing.reason.as_deref(), Some("StartError"));
        assert!(nothing.message.unwrap().contains("/no/such/program"));
        pods.set(deleted(&asked, 0)).await;
        node.recorder.terminated_when("uid-2").await;
        pods.end_all(Duration::ZERO, Duration::from_secs(10)).await;
        node.assert_clean().await;
    });
}

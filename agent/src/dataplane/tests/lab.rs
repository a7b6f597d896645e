//! One node for one test: network and mount namespaces of its own, an uplink to an outside namespace, a
//! cgroup for the socket hooks. All of it goes with the test's threads, but for the cgroup, which is
//! removed by name.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::*;
use crate::cluster::{
    Endpoint, EndpointPort, EndpointSlice, Event, ObjectName, Protocol, Service, ServicePort,
};
use crate::network::{Networks, PodNetwork};
use crate::tests::isolated;

pub(super) const POD_RANGE: &str = "10.77.0.0/24";
pub(super) const POD_RANGE_V6: &str = "fd00:77::/64";
pub(super) const SERVICE_RANGE_V6: &str = "fd00:96::/112";
pub(super) const NODE_V6: &str = "2001:db8::2";
pub(super) const OUTSIDE_V6: &str = "2001:db8::1";
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
pub(super) const CLUSTER_DNS: &str = "10.96.0.10";
pub(super) const DNS_LISTEN: &str = "169.254.20.10:53";
pub(super) const NODE: &str = "192.0.2.2";
pub(super) const OUTSIDE: &str = "192.0.2.1";

/// A cgroup whose members are threads, below the one that this process is in.
#[derive(Debug)]
pub(super) struct Cgroup(pub(super) PathBuf);

impl Cgroup {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2")
            .expect("a cgroup2 mount")[1]
            .to_owned();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap()
            .trim_start_matches('/')
            .to_owned();
        let name = format!(
            "waggle-test-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(&root).join(own).join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.type"), "threaded").unwrap();
        Self(path)
    }

    /// Moves the calling thread in.
    fn enter(path: &Path) {
        let thread = nix::unistd::gettid().to_string();
        fs::write(path.join("cgroup.threads"), thread).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for child in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if child.path().is_dir() {
                let _ = fs::remove_dir(child.path());
            }
        }
        // Members leave as their threads end, which the kernel may take a moment for.
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

pub(super) struct Lab {
    pub(super) directory: PathBuf,
    pub(super) cgroup: PathBuf,
    pub(super) networks: Networks,
    /// The namespace behind the uplink.
    pub(super) outside: PathBuf,
    host: PathBuf,
}

/// Runs a test on a node of its own.
pub(super) fn lab<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    let cgroup = Cgroup::new();
    let path = cgroup.0.clone();
    isolated(move |directory| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let lab = Lab::new(directory, path).await;
            test(lab).await;
        });
    });
    drop(cgroup);
}

/// Runs a program that sets things up, in the calling thread's namespaces.
pub(super) fn run_program(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = std::process::Command::new(words[0])
        .args(&words[1..])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until an interface sends: the kernel begins to some time after its other end is up, and drops until then.
pub(super) fn carries(interface: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let output = std::process::Command::new("ip")
            .args(["-o", "link", "show", interface])
            .output()
            .unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("state UP") {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{interface} is not up"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Lab {
    async fn new(directory: &Path, cgroup: PathBuf) -> Self {
        let run_dir = directory.join("run");
        let networks = Networks::open(
            &run_dir,
            vec![POD_RANGE.parse().unwrap(), POD_RANGE_V6.parse().unwrap()],
            Some(1500),
        )
        .await
        .unwrap();
        let outside = directory.join("outside");
        let host = directory.join("host");
        fs::File::create(&host).unwrap();
        fs::File::create(&outside).unwrap();
        let bind = |path: &Path| {
            mount(
                Some("/proc/thread-self/ns/net"),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        };
        bind(&host);
        let other = outside.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            mount(
                Some("/proc/thread-self/ns/net"),
                &other,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        run_program("ip link set lo up");
        let lab = Self {
            directory: directory.to_owned(),
            cgroup,
            networks,
            outside,
            host,
        };
        // The uplink is made from outside, so that its peer is named by this namespace's process id.
        let thread = nix::unistd::gettid();
        lab.outside(move || {
            run_program("ip link set lo up");
            run_program(&format!(
                "ip link add out0 type veth peer name up0 netns /proc/{thread}/ns/net"
            ));
            run_program(&format!("ip addr add {OUTSIDE}/24 dev out0"));
            run_program(&format!("ip addr add {OUTSIDE_V6}/64 dev out0 nodad"));
            run_program("ip addr add 203.0.113.9/32 dev lo");
            run_program("ip link set out0 up");
        });
        run_program(&format!("ip addr add {NODE}/24 dev up0"));
        run_program(&format!("ip addr add {NODE_V6}/64 dev up0 nodad"));
        run_program("ip link set up0 up");
        carries("up0");
        lab.outside(|| carries("out0"));
        run_program(&format!("ip route add default via {OUTSIDE}"));
        lab
    }

    pub(super) fn config(&self) -> DataPlaneConfig {
        DataPlaneConfig {
            node_name: "node1".to_owned(),
            pin_dir: self.directory.join("bpf"),
            cgroup: self.cgroup.clone(),
            uplink: Some("up0".to_owned()),
            pod_cidrs: vec![POD_RANGE.parse().unwrap(), POD_RANGE_V6.parse().unwrap()],
            service_cidrs: vec![
                SERVICE_RANGE.parse().unwrap(),
                SERVICE_RANGE_V6.parse().unwrap(),
            ],
            cluster_dns: CLUSTER_DNS.parse().unwrap(),
            dns_listen: DNS_LISTEN.parse().unwrap(),
            routing: Routing::Overlay,
            north_south: NorthSouth::Snat,
            xdp: Xdp::Off,
            vxlan_port: VXLAN_PORT,
            node_addresses: Vec::new(),
            pod_mtu: None,
            settle_after: Duration::MAX,
        }
    }

    pub(super) async fn load(&self) -> DataPlane {
        DataPlane::load(self.config())
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(super) async fn pod(&self, plane: &DataPlane, uid: &str) -> PodNetwork {
        let network = self
            .networks
            .attach(uid)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        plane
            .add_pod(&network.interface)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        network
    }

    fn inside<T: Send + 'static>(
        &self,
        netns: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Background<T> {
        inside(netns, &self.cgroup, work)
    }

    /// In a pod, on a thread of its own.
    pub(super) fn start_in<T: Send + 'static>(
        &self,
        pod: &PodNetwork,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Background<T> {
        self.inside(&pod.netns, work)
    }

    pub(super) fn in_pod<T: Send + 'static>(
        &self,
        pod: &PodNetwork,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start_in(pod, work).wait()
    }

    /// In a pod, as a process that no socket hook sees: its packets carry the Services' own addresses.
    pub(super) fn past_hooks<T: Send + 'static>(
        &self,
        pod: &PodNetwork,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        unhooked(&pod.netns, work).wait()
    }

    /// On the node itself, as a process of the node's.
    pub(super) fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.inside(&self.host, work).wait()
    }

    pub(super) fn outside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start_outside(work).wait()
    }

    pub(super) fn start_outside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Background<T> {
        self.inside(&self.outside, work)
    }
}

/// On a thread of its own, in a network namespace and a cgroup.
pub(super) fn inside<T: Send + 'static>(
    netns: &Path,
    cgroup: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Background<T> {
    let (netns, cgroup) = (netns.to_owned(), cgroup.to_owned());
    Background(std::thread::spawn(move || {
        Cgroup::enter(&cgroup);
        setns(fs::File::open(&netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    }))
}

/// Work in a namespace, of a process that no socket hook sees.
pub(super) fn unhooked<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Background<T> {
    let netns = netns.to_owned();
    Background(std::thread::spawn(move || {
        setns(fs::File::open(&netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    }))
}

/// Work on another thread.
pub(super) struct Background<T>(std::thread::JoinHandle<T>);

impl<T> Background<T> {
    pub(super) fn wait(self) -> T {
        match self.0.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(super) fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// A Service with one port, TCP and UDP, and its backends.
pub(super) fn service(
    at: &str,
    address: &str,
    port: u16,
    backends: &[(IpAddr, u16)],
) -> Vec<Event> {
    let protocols = [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")];
    let set = Event::ServiceSet(
        name(at),
        Service {
            cluster_ips: vec![address.parse().unwrap()],
            ports: protocols
                .map(|(protocol, name)| ServicePort {
                    name: name.to_owned(),
                    protocol,
                    port,
                    node_port: None,
                })
                .to_vec(),
            ..Service::default()
        },
    );
    let mut events = vec![set];
    for (number, (address, port)) in backends.iter().enumerate() {
        events.push(Event::SliceSet(
            name(&format!("{at}-{number}")),
            EndpointSlice {
                service: at.to_owned(),
                ports: protocols
                    .map(|(protocol, name)| EndpointPort {
                        name: name.to_owned(),
                        protocol,
                        port: *port,
                    })
                    .to_vec(),
                endpoints: vec![Endpoint {
                    addresses: vec![*address],
                    ready: true,
                    serving: true,
                    ..Endpoint::default()
                }],
            },
        ));
    }
    events
}

/// Applies batches and waits until they are in force.
pub(super) struct Feed {
    batches: tokio::sync::mpsc::Sender<Arc<Batch>>,
    applied: tokio::sync::watch::Receiver<u64>,
    revision: u64,
}

impl Feed {
    pub(super) fn new(plane: &DataPlane) -> Self {
        let (batches, receiver) = tokio::sync::mpsc::channel(4);
        let (sender, applied) = tokio::sync::watch::channel(0);
        plane.follow(receiver, sender);
        Self {
            batches,
            applied,
            revision: 0,
        }
    }

    pub(super) async fn apply(&mut self, full: bool, events: Vec<Event>) {
        self.revision += 1;
        let batch = Batch {
            revision: self.revision,
            full,
            events,
        };
        self.batches.send(Arc::new(batch)).await.unwrap();
        let revision = self.revision;
        self.applied
            .wait_for(|applied| *applied >= revision)
            .await
            .unwrap();
    }
}

pub(super) fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

//! Several nodes for one test, in one process: each a thread with a network namespace, a runtime and a cgroup of its
//! own, joined by a bridge in a namespace that stands for the network between them.

use std::fs;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::*;
use super::lab::{
    Background, CLUSTER_DNS, Cgroup, DNS_LISTEN, Feed, SERVICE_RANGE, SERVICE_RANGE_V6, carries,
    chain, inside, run_program,
};
use crate::cluster::{Event, Node};
use crate::network::{Networks, PodNetwork};
use crate::tests::isolated;

/// Ranges of all pods; node `n` has the third byte, or the fourth group, `n`.
pub(super) const PODS: [&str; 2] = ["10.77.0.0/16", "fd00:77::/48"];
/// What is outside of the cluster, in the fabric's namespace.
pub(super) const FAR: &str = "203.0.113.9";

/// What the nodes' uplinks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underlay {
    V4,
    V6,
    Both,
}

#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) nodes: u8,
    pub(super) routing: Routing,
    pub(super) north_south: NorthSouth,
    pub(super) xdp: Xdp,
    pub(super) underlay: Underlay,
    pub(super) pod_mtu: Option<u32>,
    /// Of the uplinks and everything between them.
    pub(super) mtu: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            nodes: 2,
            routing: Routing::Overlay,
            north_south: NorthSouth::Snat,
            xdp: Xdp::Off,
            underlay: Underlay::Both,
            pod_mtu: None,
            mtu: 1500,
        }
    }
}

/// One node.
pub(super) struct Member {
    pub(super) number: u8,
    pub(super) config: DataPlaneConfig,
    pub(super) networks: Networks,
    pub(super) netns: PathBuf,
    cgroup: Cgroup,
    runtime: tokio::runtime::Handle,
    plane: Option<DataPlane>,
    feed: Option<Feed>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub(super) struct Cluster {
    pub(super) members: Vec<Member>,
    pub(super) setting: Setting,
    pub(super) fabric: PathBuf,
    outside: Cgroup,
}

fn bind_namespace(path: &Path) {
    fs::File::create(path).unwrap();
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}

fn ranges(number: u8) -> Vec<ipnet::IpNet> {
    vec![
        format!("10.77.{number}.0/24").parse().unwrap(),
        format!("fd00:77:0:{number}::/64").parse().unwrap(),
    ]
}

pub(super) fn address_v4(number: u8) -> IpAddr {
    format!("192.0.2.{number}").parse().unwrap()
}

pub(super) fn address_v6(number: u8) -> IpAddr {
    format!("2001:db8::{number}").parse().unwrap()
}

impl Setting {
    /// Addresses of a node.
    pub(super) fn addresses(&self, number: u8) -> Vec<IpAddr> {
        match self.underlay {
            Underlay::V4 => vec![address_v4(number)],
            Underlay::V6 => vec![address_v6(number)],
            Underlay::Both => vec![address_v4(number), address_v6(number)],
        }
    }

    fn config(&self, directory: &Path, number: u8, cgroup: &Path) -> DataPlaneConfig {
        DataPlaneConfig {
            node_name: format!("node{number}"),
            pin_dir: directory.join(format!("bpf{number}")),
            cgroup: cgroup.to_owned(),
            uplink: Some("up0".to_owned()),
            pod_cidrs: PODS.map(|range| range.parse().unwrap()).to_vec(),
            service_cidrs: vec![
                SERVICE_RANGE.parse().unwrap(),
                SERVICE_RANGE_V6.parse().unwrap(),
            ],
            cluster_dns: CLUSTER_DNS.parse().unwrap(),
            dns_listen: DNS_LISTEN.parse().unwrap(),
            routing: self.routing,
            north_south: self.north_south,
            xdp: self.xdp,
            vxlan_port: VXLAN_PORT,
            node_addresses: Vec::new(),
            pod_mtu: self.pod_mtu,
            settle_after: Duration::MAX,
        }
    }
}

/// Runs a test on several nodes that know of each other.
pub(super) fn cluster(setting: Setting, test: impl FnOnce(&mut Cluster) + Send + 'static) {
    isolated(move |directory| {
        let mut cluster = Cluster::new(setting, directory);
        cluster.tell_all();
        // The namespaces go whether the test succeeds or not.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&mut cluster)));
        if result.is_err() {
            cluster.tell_counters();
        }
        drop(cluster);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Cluster {
    fn new(setting: Setting, directory: &Path) -> Self {
        let fabric = directory.join("fabric");
        bind_namespace(&fabric);
        run_program("ip link set lo up");
        run_program("ip link add br0 type bridge mcast_snooping 0");
        run_program("ip addr add 192.0.2.254/24 dev br0");
        run_program("ip addr add 2001:db8::fe/64 dev br0 nodad");
        run_program(&format!("ip addr add {FAR}/32 dev lo"));
        run_program("ip link set br0 up");
        let mut cluster = Self {
            members: Vec::new(),
            outside: Cgroup::new(),
            fabric,
            setting,
        };
        for number in 1..=cluster.setting.nodes {
            let member = Member::new(&cluster, directory, number);
            cluster.members.push(member);
        }
        cluster
    }

    pub(super) fn node(&self, number: u8) -> &Member {
        &self.members[usize::from(number) - 1]
    }

    pub(super) fn node_mut(&mut self, number: u8) -> &mut Member {
        &mut self.members[usize::from(number) - 1]
    }

    /// What is said of a node.
    pub(super) fn event(&self, number: u8) -> Event {
        Event::NodeSet(
            format!("node{number}"),
            Node {
                internal_ips: self.setting.addresses(number),
                pod_cidrs: ranges(number),
                zone: None,
            },
        )
    }

    /// Every node learns of all.
    pub(super) fn tell_all(&mut self) {
        let events: Vec<Event> = (1..=self.setting.nodes).map(|at| self.event(at)).collect();
        for member in &mut self.members {
            member.tell(true, events.clone());
        }
    }

    /// In the network between the nodes.
    pub(super) fn in_fabric<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        inside(&self.fabric, &self.outside.0, work).wait()
    }

    /// For whoever reads that a test failed.
    fn tell_counters(&self) {
        for member in &self.members {
            let Some(plane) = &member.plane else { continue };
            let drops = plane.drops().into_iter().filter(|(_, count)| *count > 0);
            let forwards = plane
                .forwards()
                .into_iter()
                .filter(|(_, count, _)| *count > 0);
            eprintln!(
                "node{}: dropped {:?}, forwarded {:?}",
                member.number,
                drops.collect::<Vec<_>>(),
                forwards.collect::<Vec<_>>()
            );
        }
    }

    /// Drops of all nodes but what IPv6 says of itself on a link.
    pub(super) fn assert_no_drops(&self) {
        for member in &self.members {
            super::pods::assert_no_drops(member.plane());
        }
    }

    pub(super) fn unload(&mut self) {
        for member in &mut self.members {
            member.unload();
        }
    }
}

impl Member {
    fn new(cluster: &Cluster, directory: &Path, number: u8) -> Self {
        let cgroup = Cgroup::new();
        let netns = directory.join(format!("node{number}"));
        let (sender, receiver) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let path = netns.clone();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            bind_namespace(&path);
            run_program("ip link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            sender.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(stopped);
        });
        let runtime = receiver.recv().unwrap();
        let config = cluster.setting.config(directory, number, &cgroup.0);
        let run_dir = directory.join(format!("run{number}"));
        let (sender, receiver) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            sender.send(
                Networks::open(&run_dir, ranges(number), None)
                    .await
                    .unwrap(),
            )
        });
        let mut member = Self {
            number,
            config,
            networks: receiver.recv().unwrap(),
            netns,
            cgroup,
            runtime,
            plane: None,
            feed: None,
            stop: Some(stop),
            thread: Some(thread),
        };
        member.connect(cluster);
        member.load();
        member
    }

    /// Makes the uplink. It has the same MAC address every time, as a card has that is plugged in again.
    pub(super) fn connect(&self, cluster: &Cluster) {
        let (number, mtu) = (self.number, cluster.setting.mtu);
        let netns = self.netns.display().to_string();
        let addresses = cluster.setting.addresses(number);
        cluster.in_fabric(move || {
            run_program(&format!(
                "ip link add port{number} mtu {mtu} type veth peer name up0 mtu {mtu} \
                 address 0a:00:00:00:00:{number:02x} netns {netns}"
            ));
            run_program(&format!("ip link set port{number} master br0 up"));
        });
        self.on_host(move || {
            for address in addresses {
                match address {
                    IpAddr::V4(_) => run_program(&format!("ip addr add {address}/24 dev up0")),
                    IpAddr::V6(_) => {
                        run_program(&format!("ip addr add {address}/64 dev up0 nodad"));
                    }
                }
            }
            // Link-local addresses at once: neighbours are asked for from them.
            std::fs::write("/proc/sys/net/ipv6/conf/up0/accept_dad", "0").unwrap();
            run_program("ip link set up0 up");
            carries("up0");
            if nix::net::if_::if_nametoindex("up0").is_ok() {
                let _ = std::process::Command::new("ip")
                    .args(["route", "add", "default", "via", "192.0.2.254"])
                    .output();
                let _ = std::process::Command::new("ip")
                    .args(["-6", "route", "add", "default", "via", "2001:db8::fe"])
                    .output();
            }
        });
        cluster.in_fabric(move || carries(&format!("port{number}")));
    }

    /// Runs something asynchronous on the node.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.recv().expect("the work on the node panicked")
    }

    /// Starts the data plane, as after a restart of the agent if there was one before.
    pub(super) fn load(&mut self) {
        let config = self.config.clone();
        let plane = self.run(async move {
            DataPlane::load(config)
                .await
                .unwrap_or_else(|error| panic!("{}", chain(&error)))
        });
        let followed = plane.clone();
        self.feed = Some(self.run(async move { Feed::new(&followed) }));
        self.networks.set_mtu(*plane.pod_mtu().borrow());
        self.plane = Some(plane);
    }

    /// Ends the agent, not what it has done.
    pub(super) fn leave(&mut self) {
        self.feed = None;
        self.plane = None;
    }

    pub(super) fn plane(&self) -> &DataPlane {
        self.plane.as_ref().expect("loaded")
    }

    pub(super) fn tell(&mut self, full: bool, events: Vec<Event>) {
        let mut feed = self.feed.take().expect("loaded");
        let feed = self.run(async move {
            feed.apply(full, events).await;
            feed
        });
        self.feed = Some(feed);
    }

    pub(super) fn ranges(&self) -> Vec<ipnet::IpNet> {
        ranges(self.number)
    }

    pub(super) fn unload(&mut self) {
        self.feed = None;
        if let Some(plane) = self.plane.take() {
            self.run(async move { plane.unload().await.unwrap() });
        }
    }

    pub(super) fn pod(&self, uid: &str) -> PodNetwork {
        let (networks, plane, uid) = (self.networks.clone(), self.plane().clone(), uid.to_owned());
        self.run(async move {
            let network = networks
                .attach(&uid)
                .await
                .unwrap_or_else(|error| panic!("{}", chain(&error)));
            plane.add_pod(&network.interface).await.unwrap();
            network
        })
    }

    pub(super) fn start_in<T: Send + 'static>(
        &self,
        netns: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Background<T> {
        inside(netns, &self.cgroup.0, work)
    }

    pub(super) fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start_in(&self.netns, work).wait()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

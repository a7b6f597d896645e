//! This data plane, as the agent drives it: whole batches of neutral events.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::cluster::{
    Batch, Endpoint, EndpointPort, EndpointSlice, Event, ObjectName, Protocol as EventProtocol,
    Service as EventService, ServicePort,
};
use agent::dataplane::{
    DataPlane, DataPlaneConfig, InForce, NorthSouth, Routing, RunTimeStatistics, VXLAN_PORT, Xdp,
};
use anyhow::Context as _;

use crate::bench::part::topology::{Topology, UPLINK};
use crate::bench::services::{
    Change, Family, NODE, POD_RANGES, PORT, Protocol, SERVICE_RANGES, Service, Table,
};

pub(super) struct Waggle {
    plane: DataPlane,
    batches: tokio::sync::mpsc::Sender<Arc<Batch>>,
    in_force: tokio::sync::watch::Receiver<InForce>,
    applied: tokio::sync::watch::Receiver<u64>,
    revision: u64,
    statistics: Option<RunTimeStatistics>,
}

impl Waggle {
    pub(super) async fn start(
        directory: &Path,
        cgroup: &Path,
        topology: &Topology,
    ) -> anyhow::Result<Self> {
        let plane = DataPlane::load(DataPlaneConfig {
            node_name: "bench".to_owned(),
            pin_dir: directory.join("bpf"),
            cgroup: cgroup.to_owned(),
            uplink: Some(UPLINK.to_owned()),
            pod_cidrs: POD_RANGES
                .map(|range| range.parse().expect("a constant"))
                .to_vec(),
            service_cidrs: SERVICE_RANGES
                .map(|range| range.parse().expect("a constant"))
                .to_vec(),
            cluster_dns: "10.96.0.10".parse().expect("a constant"),
            dns_listen: "169.254.20.10:53".parse().expect("a constant"),
            // One node: nothing is in a tunnel, and there is no other way to a backend.
            routing: Routing::Native,
            north_south: NorthSouth::Snat,
            xdp: Xdp::Off,
            vxlan_port: VXLAN_PORT,
            pod_mtu: None,
            settle_after: Duration::ZERO,
            node_addresses: NODE
                .map(|address| address.parse().expect("a constant"))
                .to_vec(),
        })
        .await?;
        for pod in [&topology.client, &topology.server] {
            plane.add_pod(&pod.interface).await?;
        }
        let (batches, receiver) = tokio::sync::mpsc::channel(4);
        let (sender, applied) = tokio::sync::watch::channel(0);
        plane.follow(receiver, sender);
        Ok(Self {
            in_force: plane.in_force(),
            plane,
            batches,
            applied,
            revision: 0,
            statistics: None,
        })
    }

    /// From the batch in hand until new connections go by it, and until what talked to gone backends is ended too.
    async fn apply(&mut self, full: bool, events: Vec<Event>) -> anyhow::Result<[Duration; 2]> {
        self.revision += 1;
        let batch = Arc::new(Batch {
            revision: self.revision,
            full,
            events,
        });
        let begun = Instant::now();
        self.batches
            .send(batch)
            .await
            .context("the data plane follows no more")?;
        let revision = self.revision;
        let in_force = reached(&mut self.in_force, |told| told.revision >= revision).await?;
        reached(&mut self.applied, |told| *told >= revision).await?;
        Ok([in_force.at.duration_since(begun), begun.elapsed()])
    }

    pub(super) async fn load(&mut self, table: &Table) -> anyhow::Result<Duration> {
        let events = table
            .services()
            .flat_map(|service| events(&service))
            .collect();
        self.apply(true, events).await.map(|[in_force, _]| in_force)
    }

    pub(super) async fn clear(&mut self) -> anyhow::Result<()> {
        self.apply(true, Vec::new()).await.map(|_| ())
    }

    pub(super) async fn change(&mut self, change: &Change) -> anyhow::Result<[Duration; 2]> {
        let slices = slices(&change.after);
        self.apply(false, slices).await
    }

    pub(super) fn count_run_time(&mut self, on: bool) -> anyhow::Result<()> {
        self.statistics = if on {
            Some(RunTimeStatistics::on()?)
        } else {
            None
        };
        Ok(())
    }

    /// Runs and nanoseconds.
    pub(super) fn connect_hook(&self, family: Family) -> (u64, u64) {
        let name = match family {
            Family::V4 => "connect4",
            Family::V6 => "connect6",
        };
        self.plane
            .program_runs()
            .into_iter()
            .find(|program| program.name == name)
            .map_or((0, 0), |program| (program.runs, program.nanoseconds))
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        Ok(self.plane.unload().await?)
    }
}

async fn reached<T: Copy>(
    told: &mut tokio::sync::watch::Receiver<T>,
    is_it: impl FnMut(&T) -> bool,
) -> anyhow::Result<T> {
    let told = tokio::time::timeout(Duration::from_secs(60), told.wait_for(is_it))
        .await
        .context("the table is not in force within a minute")?
        .context("the data plane follows no more")?;
    Ok(*told)
}

fn object(name: String) -> ObjectName {
    ObjectName {
        namespace: "bench".to_owned(),
        name,
    }
}

fn protocol(of: Protocol) -> EventProtocol {
    match of {
        Protocol::Tcp => EventProtocol::Tcp,
        Protocol::Udp => EventProtocol::Udp,
    }
}

/// A Service and its slices, as the control plane would say it.
fn events(service: &Service) -> Vec<Event> {
    let ports = service.protocols.iter().map(|of| ServicePort {
        name: of.name().to_owned(),
        protocol: protocol(*of),
        port: PORT,
        node_port: service.node_port.filter(|_| *of == Protocol::Tcp),
    });
    let set = Event::ServiceSet(
        object(service.name.clone()),
        EventService {
            service_type: if service.node_port.is_some() {
                agent::cluster::ServiceType::NodePort
            } else {
                agent::cluster::ServiceType::ClusterIp
            },
            cluster_ips: vec![service.address],
            ports: ports.collect(),
            ..EventService::default()
        },
    );
    let mut events = vec![set];
    events.extend(slices(service));
    events
}

/// One slice for all endpoints of one port number.
fn slices(service: &Service) -> Vec<Event> {
    let mut ports: Vec<u16> = service.backends.iter().map(|at| at.port()).collect();
    ports.dedup();
    ports
        .into_iter()
        .map(|port| {
            let endpoints = service.backends.iter().filter(|at| at.port() == port);
            Event::SliceSet(
                object(format!("{}-{port}", service.name)),
                EndpointSlice {
                    service: service.name.clone(),
                    ports: service
                        .protocols
                        .iter()
                        .map(|of| EndpointPort {
                            name: of.name().to_owned(),
                            protocol: protocol(*of),
                            port,
                        })
                        .collect(),
                    endpoints: endpoints
                        .map(|at| Endpoint {
                            addresses: vec![at.ip()],
                            ready: true,
                            serving: true,
                            ..Endpoint::default()
                        })
                        .collect(),
                },
            )
        })
        .collect()
}

//! What every cluster has from its first start: the system namespaces, the Service `kubernetes` with its
//! endpoints, the Service `kube-dns`, the default roles, the system's PriorityClasses and the StorageClass `local`. Written again, unchanged, at each start, and soon after somebody
//! has deleted one of the Services (`kubectl delete all --all` does).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ApiError, Registry, WriteOptions};

mod flow;
mod roles;
use crate::kinds::{self, Kind};
use crate::store::{Freshness, Heard};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const MANAGER: &str = "waggle";
/// Namespaces and names.
const SERVICES: &[(&str, &str)] = &[("default", "kubernetes"), ("kube-system", "kube-dns")];
/// ConfigMap in `kube-system`.
const EXTENSIONS: &str = "extension-apiserver-authentication";
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Registry {
    /// `endpoints` is where pods and nodes reach this API server, at most one of each family.
    pub(crate) async fn bootstrap(
        &self,
        cluster_dns: IpAddr,
        endpoints: &[SocketAddr],
    ) -> Result<(), ApiError> {
        for name in NAMESPACES {
            let namespace = json!({"metadata": {"name": name}});
            self.ensure("", "namespaces", "", namespace).await?;
        }
        let ranges = &self.inner.ranges.cidrs;
        let addresses: Vec<IpAddr> = ranges.iter().filter_map(first_address).collect();
        if addresses.is_empty() {
            return Err(ApiError::internal("no Service range is configured"));
        }
        self.ensure("", "services", "default", kubernetes(&addresses))
            .await?;
        self.ensure("", "services", "kube-system", kube_dns(cluster_dns))
            .await?;
        let endpoints = self.present_endpoints(endpoints);
        if !endpoints.is_empty() {
            self.publish_endpoints(&endpoints).await?;
        }
        self.bootstrap_flow().await?;
        for class in kinds::priority_class::built_in() {
            self.ensure("scheduling.k8s.io", "priorityclasses", "", class)
                .await?;
        }
        self.ensure("storage.k8s.io", "storageclasses", "", local_class())
            .await?;
        self.bootstrap_groups().await?;
        self.bootstrap_roles().await
    }

    /// The group versions that this server answers, and the ranges of its Services.
    async fn bootstrap_groups(&self) -> Result<(), ApiError> {
        let mut places: Vec<(&str, &str)> = kinds::all()
            .iter()
            .map(|kind| (kind.group, kind.version))
            .collect();
        places.sort_unstable();
        places.dedup();
        let local = places.into_iter().map(|(group, version)| {
            let object = kinds::api_service::local(group, version);
            self.ensure("apiregistration.k8s.io", "apiservices", "", object)
        });
        // Together: they share the disk's flushes.
        for made in futures::future::join_all(local).await {
            made?;
        }
        let cidrs: Vec<String> = self
            .inner
            .ranges
            .cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        let ranges = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
        self.ensure("networking.k8s.io", "servicecidrs", "", ranges)
            .await
    }

    /// What servers that extend the API read of this one: how to tell its requests, and who else may ask them.
    pub(crate) async fn bootstrap_extensions(&self, data: Value) -> Result<(), ApiError> {
        let object = json!({"metadata": {"name": EXTENSIONS}, "data": data});
        self.ensure("", "configmaps", "kube-system", object).await?;
        let place = super::update::Place {
            kind: kind("", "configmaps")?,
            namespace: "kube-system",
            name: EXTENSIONS,
            subresource: "",
        };
        // The CA may be another one than last time.
        self.modify(place, &options(), super::update::Ownership::Track, |live| {
            let mut wanted = live.clone();
            wanted["data"] = data.clone();
            Ok(wanted)
        })
        .await
        .map(drop)
    }

    /// Where the members that are there serve the API. `own`: this one's.
    fn present_endpoints(&self, own: &[SocketAddr]) -> Vec<SocketAddr> {
        let store = self.store();
        let heard = store.heard();
        let others = store.members().into_iter().filter(|member| {
            let there = heard.get(&member.id).is_some_and(Heard::is_present);
            member.id != store.id() && there
        });
        let mut all: Vec<SocketAddr> = others
            .filter_map(|member| member.api_address.parse().ok())
            .chain(own.iter().copied())
            .filter(|endpoint: &SocketAddr| !endpoint.ip().is_loopback())
            .collect();
        // The family that this member has first stays first.
        let second = |endpoint: &SocketAddr| {
            own.first()
                .is_some_and(|first| first.is_ipv4() != endpoint.is_ipv4())
        };
        all.sort_by_key(|endpoint| (second(endpoint), *endpoint));
        all.dedup();
        all
    }

    /// Looks after the system's Services, and after where the API is served, until `stop`.
    pub(crate) async fn keep_bootstrapped(
        self,
        cluster_dns: IpAddr,
        endpoints: Vec<SocketAddr>,
        stop: CancellationToken,
    ) {
        let leads = self.store().leadership();
        let mut published = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !*leads.borrow() {
                // Whoever leads next begins anew.
                published.clear();
                continue;
            }
            let present = self.present_endpoints(&endpoints);
            let again = match self.has_services().await {
                Ok(true) if present == published || present.is_empty() => continue,
                Ok(true) => self.publish_endpoints(&present).await,
                Ok(false) => self.bootstrap(cluster_dns, &endpoints).await,
                Err(error) => Err(error),
            };
            if again.is_ok() {
                published = present;
            }
            if let Err(error) = again {
                tracing::debug!(%error, "the system's Services were not looked after");
            }
        }
    }

    async fn has_services(&self) -> Result<bool, ApiError> {
        let kind = kind("", "services")?;
        for (namespace, name) in SERVICES {
            match self.get(kind, namespace, name, Freshness::Local).await {
                Err(error) if error.is_not_found() => return Ok(false),
                found => found.map(drop)?,
            }
        }
        Ok(true)
    }

    async fn publish_endpoints(&self, endpoints: &[SocketAddr]) -> Result<(), ApiError> {
        let port = |endpoint: &SocketAddr| json!([{"name": "https", "port": endpoint.port(), "protocol": "TCP"}]);
        let Some(first) = endpoints.first() else {
            return Ok(());
        };
        // One slice for each family; those who listen on another port than the first of their family are left to
        // who knows them.
        for v4 in [first.is_ipv4(), !first.is_ipv4()] {
            let mut family: Vec<SocketAddr> = endpoints.to_vec();
            family.retain(|one| one.is_ipv4() == v4);
            let Some(leading) = family.first().copied() else {
                continue;
            };
            family.retain(|one| one.port() == leading.port());
            let (kind, name) = match (v4, v4 == first.is_ipv4()) {
                (true, true) => ("IPv4", "kubernetes"),
                (false, true) => ("IPv6", "kubernetes"),
                (true, false) => ("IPv4", "kubernetes-ipv4"),
                (false, false) => ("IPv6", "kubernetes-ipv6"),
            };
            let ready: Vec<Value> = family
                .iter()
                .map(|one| json!({"addresses": [one.ip()], "conditions": {"ready": true}}))
                .collect();
            let labels = json!({"kubernetes.io/service-name": "kubernetes"});
            let slice = json!({
                "metadata": {"name": name, "labels": labels},
                "addressType": kind,
                "endpoints": ready,
                "ports": port(&leading),
            });
            self.replace_with("discovery.k8s.io", "endpointslices", slice)
                .await?;
        }
        // The older object has one family, that of the first.
        let addresses: Vec<Value> = endpoints
            .iter()
            .filter(|one| one.is_ipv4() == first.is_ipv4() && one.port() == first.port())
            .map(|one| json!({"ip": one.ip()}))
            .collect();
        let endpoints = json!({
            "metadata": {
                "name": "kubernetes",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{"addresses": addresses, "ports": port(first)}],
        });
        self.replace_with("", "endpoints", endpoints).await
    }

    async fn ensure(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        object: Value,
    ) -> Result<(), ApiError> {
        match self
            .create(kind(group, plural)?, namespace, object, &options())
            .await
        {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// The API server may have another address than last time.
    async fn replace_with(&self, group: &str, plural: &str, object: Value) -> Result<(), ApiError> {
        let kind = kind(group, plural)?;
        match self
            .create(kind, "default", object.clone(), &options())
            .await
        {
            Err(error) if error.is_already_exists() => {}
            other => return other.map(drop),
        }
        let place = super::update::Place {
            kind,
            namespace: "default",
            name: object["metadata"]["name"].as_str().unwrap_or_default(),
            subresource: "",
        };
        let fields = ["addressType", "endpoints", "ports", "subsets"];
        self.modify(place, &options(), super::update::Ownership::Track, |live| {
            let mut wanted = live.clone();
            for field in fields.iter().filter(|field| object.get(**field).is_some()) {
                wanted[*field] = object[*field].clone();
            }
            Ok(wanted)
        })
        .await
        .map(drop)
    }
}

/// The address that the Service `kubernetes` gets.
pub(crate) fn first_address(range: &IpNet) -> Option<IpAddr> {
    super::service_alloc::nth(range, 1)
}

fn options() -> WriteOptions {
    WriteOptions {
        dry_run: false,
        manager: MANAGER.to_owned(),
        ..WriteOptions::default()
    }
}

fn kind(group: &str, plural: &str) -> Result<&'static Kind<'static>, ApiError> {
    kinds::by_plural(group, "v1", plural)
        .ok_or_else(|| ApiError::internal(format!("{plural} are not served")))
}

fn kubernetes(addresses: &[IpAddr]) -> Value {
    let policy = match addresses.len() {
        1 => "SingleStack",
        _ => "PreferDualStack",
    };
    json!({
        "metadata": {
            "name": "kubernetes",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilyPolicy": policy,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

/// Directories of nodes as volumes, for claims that name no class.
fn local_class() -> Value {
    json!({
        "metadata": {
            "name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "waggle.dev/local",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

fn kube_dns(address: IpAddr) -> Value {
    json!({
        "metadata": {
            "name": "kube-dns",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}

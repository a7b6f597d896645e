//! Which endpoint of a Service is called. An endpoint is called itself, not the ClusterIP: this member need not be
//! on the cluster's network for ClusterIPs.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::{Connection, Dialer};
use crate::kinds::access::{at, flag, integer, list, text};
use crate::kinds::{Kind, by_plural};
use crate::registry::list::ListOptions;
use crate::registry::selector::Selector;
use crate::registry::{ApiError, Registry, object};
use crate::store::Freshness;

/// Where a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The name that an ExternalName Service stands for.
    Outside { host: String, port: u16 },
    /// A ready endpoint and the node that it is on, "" where nobody has said it.
    Inside { node: String, address: SocketAddr },
}

impl Destination {
    pub(crate) async fn connect(&self, dialer: &Dialer) -> Result<Connection, String> {
        match self {
            Self::Outside { host, port } => dialer.outside(host, *port).await,
            Self::Inside { node, address } => dialer.inside(node, *address).await,
        }
    }
}

/// Why a Service cannot be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoEndpoint {
    #[error("service/{name} in {namespace:?} is not present")]
    Service { namespace: String, name: String },
    #[error("no service port {port} found for service {name:?}")]
    Port { name: String, port: i64 },
    #[error("no endpoints available for service {name:?}")]
    Endpoints { name: String },
    #[error("{0}")]
    Unread(String),
}

impl From<ApiError> for NoEndpoint {
    fn from(error: ApiError) -> Self {
        Self::Unread(error.to_string())
    }
}

fn kind(group: &str, plural: &str) -> Result<&'static Kind<'static>, NoEndpoint> {
    by_plural(group, "v1", plural)
        .ok_or_else(|| NoEndpoint::Unread(format!("{plural} are not served")))
}

/// One of the ready endpoints behind a port of a Service, at random.
///
/// # Errors
/// Says what is missing: the Service, the port, endpoints.
pub(crate) async fn of_service(
    registry: &Registry,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<Destination, NoEndpoint> {
    let services = kind("", "services")?;
    let found = registry
        .get(services, namespace, name, Freshness::Local)
        .await;
    let service = match found {
        Err(error) if error.is_not_found() => {
            return Err(NoEndpoint::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        found => object::decode(&*found?),
    };
    let no_port = || NoEndpoint::Port {
        name: name.to_owned(),
        port,
    };
    let number = u16::try_from(port).map_err(|_| no_port())?;
    if text(&service, &["spec", "type"]) == "ExternalName" {
        return Ok(Destination::Outside {
            host: text(&service, &["spec", "externalName"]).to_owned(),
            port: number,
        });
    }
    let ports = list(&service, &["spec", "ports"]);
    let wanted = ports
        .iter()
        .find(|known| integer(known, &["port"]) == Some(port))
        .ok_or_else(no_port)?;
    let all = endpoints(registry, namespace, name, text(wanted, &["name"])).await?;
    if all.is_empty() {
        return Err(NoEndpoint::Endpoints {
            name: name.to_owned(),
        });
    }
    let (node, address) = all[rand::random_range(0..all.len())].clone();
    Ok(Destination::Inside { node, address })
}

async fn endpoints(
    registry: &Registry,
    namespace: &str,
    service: &str,
    port_name: &str,
) -> Result<Vec<(String, SocketAddr)>, NoEndpoint> {
    let slices = kind("discovery.k8s.io", "endpointslices")?;
    let labels = format!("kubernetes.io/service-name={service}");
    let options = ListOptions {
        selector: Selector::parse(slices, &labels, "")?,
        resource_version: Some(0),
        ..ListOptions::default()
    };
    let page = registry.list(slices, namespace, &options).await?;
    let slices = page.items.iter().map(|kv| object::decode(kv));
    Ok(slices.flat_map(|slice| ready(&slice, port_name)).collect())
}

/// The ready endpoints of a slice behind the port of that name, with their nodes. Pure.
fn ready(slice: &Value, port_name: &str) -> Vec<(String, SocketAddr)> {
    let ports = list(slice, &["ports"]);
    let port = ports.iter().find(|port| text(port, &["name"]) == port_name);
    let Some(port) = port
        .and_then(|port| integer(port, &["port"]))
        .and_then(|port| u16::try_from(port).ok())
    else {
        return Vec::new();
    };
    list(slice, &["endpoints"])
        .iter()
        .filter(|endpoint| {
            at(endpoint, &["conditions", "ready"]).is_none()
                || flag(endpoint, &["conditions", "ready"])
        })
        .filter_map(|endpoint| {
            let address: IpAddr = list(endpoint, &["addresses"])
                .first()?
                .as_str()?
                .parse()
                .ok()?;
            let node = text(endpoint, &["nodeName"]).to_owned();
            Some((node, SocketAddr::new(address, port)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_endpoints_behind_the_named_port() {
        let slice = json!({
            "ports": [{"name": "web", "port": 8443}, {"name": "", "port": 80}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"]},
            ],
        });
        let found = ready(&slice, "web");
        let shown: Vec<String> = found.iter().map(|(n, a)| format!("{n} {a}")).collect();
        assert_eq!(shown, ["n1 10.0.0.1:8443", " 10.0.0.3:8443"]);
        assert!(ready(&slice, "other").is_empty());
    }
}

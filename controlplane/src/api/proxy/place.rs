//! Which server a proxied request is for.

use std::net::{IpAddr, SocketAddr};

use rand::seq::SliceRandom as _;
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::api::Api;
use crate::api::request::Target;
use crate::dialer::is_reachable;
use crate::kinds::{self, Kind};
use crate::registry::{ApiError, object};
use crate::store::Freshness;

/// Where a kubelet listens; the agent, which listens nowhere, answers for it.
const KUBELET_PORT: &str = "10250";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Address {
        ip: IpAddr,
        port: u16,
        tls: bool,
    },
    /// What the node's agent serves.
    Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The node that makes the connection.
    pub(super) node: String,
    pub(super) server: Server,
}

impl Place {
    pub(super) fn tls_name(&self) -> Option<ServerName<'static>> {
        match self.server {
            Server::Address { ip, tls: true, .. } => Some(ServerName::IpAddress(ip.into())),
            _ => None,
        }
    }

    pub(super) fn host(&self) -> String {
        match self.server {
            Server::Address { ip, port, .. } => SocketAddr::new(ip, port).to_string(),
            Server::Node => self.node.clone(),
        }
    }
}

/// `[scheme:]name[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn split(id: &str) -> Option<Named<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let tls = scheme == "https";
    (!name.is_empty()).then_some(Named { tls, name, port })
}

/// Nothing of the node itself is to be reached by an address that somebody wrote into an object.
fn proxyable(ip: &str) -> Result<IpAddr, ApiError> {
    let refused = || ApiError::bad_request("address not allowed");
    let ip: IpAddr = ip.parse().map_err(|_| refused())?;
    if is_reachable(ip) {
        Ok(ip)
    } else {
        Err(refused())
    }
}

fn number(port: &str) -> Result<u16, ApiError> {
    let port = port.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| unavailable("the port is not a number between 1 and 65535".to_owned()))
}

fn unavailable(message: String) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", message)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or("")
}

impl Api {
    pub(super) async fn place(&self, target: &Target) -> Result<Place, ApiError> {
        let singular = target.resource.trim_end_matches('s');
        let named = split(&target.name).ok_or_else(|| {
            ApiError::bad_request(format!("invalid {singular} request \"{}\"", target.name))
        })?;
        match target.resource.as_str() {
            "nodes" => self.node(named).await,
            "services" => self.service(target, named).await,
            _ => self.pod(target, named).await,
        }
    }

    async fn find(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let kind: &Kind =
            kinds::by_plural("", "v1", plural).ok_or_else(ApiError::no_such_resource)?;
        let found = self
            .registry
            .get(kind, namespace, name, Freshness::Linearizable);
        Ok(object::decode(&*found.await?))
    }

    async fn node(&self, named: Named<'_>) -> Result<Place, ApiError> {
        let node = self.find("nodes", "", named.name).await?;
        let server = match named.port {
            "" | KUBELET_PORT => Server::Node,
            port => {
                let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
                let internal = addresses
                    .into_iter()
                    .flatten()
                    .find(|address| address["type"] == "InternalIP");
                let ip = internal.map_or("", |address| text(address, "/address"));
                Server::Address {
                    ip: proxyable(ip)?,
                    port: number(port)?,
                    tls: named.tls,
                }
            }
        };
        Ok(Place {
            node: named.name.to_owned(),
            server,
        })
    }

    async fn pod(&self, target: &Target, named: Named<'_>) -> Result<Place, ApiError> {
        let pod = self.find("pods", &target.namespace, named.name).await?;
        let port = if named.port.is_empty() {
            first_port(&pod).unwrap_or(if named.tls { 443 } else { 80 })
        } else {
            number(named.port)?
        };
        Ok(Place {
            node: text(&pod, "/spec/nodeName").to_owned(),
            server: Server::Address {
                ip: proxyable(text(&pod, "/status/podIP"))?,
                port,
                tls: named.tls,
            },
        })
    }

    async fn service(&self, target: &Target, named: Named<'_>) -> Result<Place, ApiError> {
        let namespace = &target.namespace;
        let nothing =
            |name: &str| unavailable(format!("no endpoints available for service \"{name}\""));
        let service = self.find("services", namespace, named.name).await?;
        let port = port_name(&service, named)?;
        let endpoints = match self.find("endpoints", namespace, named.name).await {
            Ok(endpoints) => endpoints,
            Err(error) if error.is_not_found() => return Err(nothing(named.name)),
            Err(error) => return Err(error),
        };
        if endpoints["subsets"].as_array().is_none_or(Vec::is_empty) {
            return Err(nothing(named.name));
        }
        let mut candidates = backends(&endpoints, &port);
        if candidates.is_empty() {
            return Err(nothing(&target.name));
        }
        candidates.shuffle(&mut rand::rng());
        for chosen in candidates {
            // An address that somebody wrote there is used only if it is that pod's.
            let Ok(pod) = self.find("pods", namespace, &chosen.pod).await else {
                continue;
            };
            let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
            let own = ips.into_iter().flatten().any(|ip| ip["ip"] == chosen.ip);
            let (true, Ok(ip)) = (own, proxyable(&chosen.ip)) else {
                continue;
            };
            return Ok(Place {
                node: text(&pod, "/spec/nodeName").to_owned(),
                server: Server::Address {
                    ip,
                    port: chosen.port,
                    tls: named.tls,
                },
            });
        }
        Err(nothing(&target.name))
    }
}

/// The first port of the first container that has one.
fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    let port = containers
        .iter()
        .find_map(|container| container.pointer("/ports/0/containerPort"))?;
    u16::try_from(port.as_u64()?).ok()
}

/// The name that a port has in the Service: a number says it, too.
fn port_name(service: &Value, named: Named<'_>) -> Result<String, ApiError> {
    let Ok(number) = named.port.parse::<u64>() else {
        return Ok(named.port.to_owned());
    };
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let found = ports
        .into_iter()
        .flatten()
        .find(|port| port["port"] == number);
    let found = found.ok_or_else(|| {
        unavailable(format!(
            "no service port {number} found for service \"{}\"",
            named.name
        ))
    })?;
    Ok(text(found, "/name").to_owned())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    pod: String,
    ip: String,
    port: u16,
}

/// Pods that are ready behind the port of that name.
fn backends(endpoints: &Value, port: &str) -> Vec<Backend> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let mut backends = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        let ports = list(&subset["ports"]);
        let number = ports
            .iter()
            .find(|known| text(known, "/name") == port)
            .and_then(|known| u16::try_from(known["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for address in list(&subset["addresses"]) {
            if text(&address, "/targetRef/kind") == "Pod" {
                backends.push(Backend {
                    pod: text(&address, "/targetRef/name").to_owned(),
                    ip: text(&address, "/ip").to_owned(),
                    port: number,
                });
            }
        }
    }
    backends
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn names_with_schemes_and_ports() {
        let named = |tls, name, port| Some(Named { tls, name, port });
        assert_eq!(split("a"), named(false, "a", ""));
        assert_eq!(split("a:80"), named(false, "a", "80"));
        assert_eq!(split("https:a:web"), named(true, "a", "web"));
        assert_eq!(split("https:a:"), named(true, "a", ""));
        for wrong in ["", ":80", "ftp:a:80", "http:a:80:90"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_of_the_node_itself_are_not_reached() {
        for ip in [
            "127.0.0.1",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
            "",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(proxyable(ip).unwrap_err().code(), 400, "{ip}");
        }
        assert!(proxyable("10.244.0.5").is_ok() && proxyable("fd00::5").is_ok());
    }

    #[test]
    fn a_number_names_a_port_of_the_service() {
        let service = json!({"spec": {"ports": [
            {"name": "web", "port": 80}, {"name": "admin", "port": 81}]}});
        let name = |id| port_name(&service, split(id).unwrap());
        assert_eq!(name("s:81").unwrap(), "admin");
        assert_eq!(name("s:web").unwrap(), "web");
        assert_eq!(name("s").unwrap(), "");
        let wrong = name("s:82").unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "no service port 82 found for service \"s\""
        );
        let endpoints = json!({"subsets": [{
            "addresses": [
                {"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "p"}},
                {"ip": "10.0.0.2"}],
            "ports": [{"name": "web", "port": 8080}]}]});
        let found = backends(&endpoints, "web");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pod.as_str(), found[0].port), ("p", 8080));
        assert!(backends(&endpoints, "admin").is_empty());
    }
}

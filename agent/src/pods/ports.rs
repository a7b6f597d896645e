//! What a pod's specification asks of the network (pure): ports of the node, and to be left alone by the socket hooks.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use super::machine::{NetworkWishes, WantedPort};
use crate::cluster::Protocol;

/// A pod with this annotation set to [`DISABLED`] keeps its sockets as its programs made them: service meshes,
/// virtual machines and sandboxes expect to see a Service's address in packets. Its connections are balanced packet
/// by packet, at its veth. Read when the pod's network is set up.
const ANNOTATION: &str = "waggle.dev/socket-balancing";
const DISABLED: &str = "disabled";

pub(super) fn wishes(pod: &Pod) -> NetworkWishes {
    let annotation = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ANNOTATION));
    NetworkWishes {
        opted_out: annotation.is_some_and(|value| value == DISABLED),
        host_ports: host_ports(pod),
        first_id: None,
    }
}

/// Whether two of the node's ports are the same one: for one protocol, on an address that both have.
pub(super) fn conflict<'a>(
    wanted: &[WantedPort],
    mut taken: impl Iterator<Item = &'a WantedPort>,
) -> bool {
    let every = |port: &WantedPort| port.host_ip.is_none_or(|ip| ip.is_unspecified());
    taken.any(|taken| {
        wanted.iter().any(|wanted| {
            (wanted.port, wanted.protocol) == (taken.port, taken.protocol)
                && (every(wanted) || every(taken) || wanted.host_ip == taken.host_ip)
        })
    })
}

/// Of containers that run beside each other; those that only initialize the pod have ended when somebody could ask.
pub(super) fn host_ports(pod: &Pod) -> Vec<WantedPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(wanted)
        .collect()
}

fn wanted(port: &ContainerPort) -> Option<WantedPort> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    let host_ip = match port.host_ip.as_deref() {
        None | Some("") => None,
        // Nonsense leads nowhere rather than to every address.
        Some(ip) => Some(ip.parse::<IpAddr>().ok()?),
    };
    Some(WantedPort {
        host_ip,
        port: number(port.host_port?)?,
        protocol: match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        },
        container_port: number(port.container_port)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(text: &str) -> Pod {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn host_ports_of_containers_and_sidecars() {
        let pod = pod(r#"{"spec": {
            "initContainers": [
                {"name": "once", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "beside", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 20}]}
            ],
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80},
                {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": ""},
                {"containerPort": 53, "hostPort": 54, "protocol": "QUIC"},
                {"containerPort": 53, "hostPort": 55, "hostIP": "here"},
                {"containerPort": 70000, "hostPort": 56}
            ]}]
        }}"#);
        let found: Vec<_> = host_ports(&pod)
            .into_iter()
            .map(|port| (port.host_ip, port.port, port.protocol, port.container_port))
            .collect();
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(
            found,
            [
                (None, 20, Protocol::Tcp, 2),
                (Some(loopback), 8080, Protocol::Tcp, 80),
                (None, 53, Protocol::Udp, 53),
            ]
        );
    }

    #[test]
    fn one_port_is_for_one_pod_on_each_address() {
        let port = |ip: &str, port, protocol| WantedPort {
            host_ip: ip.parse().ok(),
            port,
            protocol,
            container_port: 1,
        };
        let taken = [
            port("10.0.0.1", 80, Protocol::Tcp),
            port("0.0.0.0", 53, Protocol::Udp),
        ];
        for (wanted, expected) in [
            (port("", 80, Protocol::Tcp), true),
            (port("10.0.0.1", 80, Protocol::Tcp), true),
            (port("10.0.0.2", 80, Protocol::Tcp), false),
            (port("", 80, Protocol::Udp), false),
            (port("", 81, Protocol::Tcp), false),
            (port("10.0.0.2", 53, Protocol::Udp), true),
        ] {
            let wanted = [wanted];
            assert_eq!(conflict(&wanted, taken.iter()), expected, "{wanted:?}");
        }
    }

    #[test]
    fn only_the_annotation_opts_out() {
        let annotated = |value: &str| {
            let text =
                format!(r#"{{"metadata": {{"annotations": {{"{ANNOTATION}": "{value}"}}}}}}"#);
            wishes(&pod(&text)).opted_out
        };
        assert!(annotated("disabled"));
        assert!(!annotated("enabled"));
        assert!(!wishes(&pod("{}")).opted_out);
    }
}

//! The closing screen of `waggle dev`: what runs, what was seen, what to type next.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::StartArguments;
use super::demo::{Called, NAMESPACE};
use crate::table::table;

#[derive(Debug, Serialize)]
pub(super) struct Screen {
    server: String,
    kubeconfig: PathBuf,
    data_dir: PathBuf,
    detached: bool,
    nodes: Vec<NodeRow>,
    pods: Vec<PodRow>,
    services: Vec<ServiceRow>,
    called: Option<Called>,
    attachments: Vec<agent::dataplane::Attachment>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    name: String,
    address: String,
    version: String,
}

#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    address: String,
    phase: String,
}

#[derive(Debug, Serialize)]
struct ServiceRow {
    name: String,
    address: String,
    ports: String,
}

impl Screen {
    pub(super) async fn collect(
        client: &Client,
        server: &str,
        kubeconfig: &Path,
        arguments: &StartArguments,
        called: Option<Called>,
        status: &agent::AgentStatus,
    ) -> anyhow::Result<Self> {
        let all = ListParams::default();
        let nodes = Api::<Node>::all(client.clone()).list(&all).await?;
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE)
            .list(&all)
            .await?;
        let services = Api::<Service>::all(client.clone()).list(&all).await?;
        Ok(Self {
            server: server.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            data_dir: arguments.data_dir.clone(),
            detached: arguments.report_to.is_some(),
            nodes: nodes.items.iter().map(node_row).collect(),
            pods: pods.items.iter().map(pod_row).collect(),
            services: services.items.iter().map(service_row).collect(),
            called,
            attachments: status.attachments.clone(),
        })
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!("\nWaggle runs: one node, API at {}\n", self.server);
        table(
            &mut out,
            &["NODE", "ADDRESS", "VERSION"],
            self.nodes
                .iter()
                .map(|row| vec![row.name.clone(), row.address.clone(), row.version.clone()]),
        );
        table(
            &mut out,
            &["POD", "ADDRESS", "PHASE"],
            self.pods
                .iter()
                .map(|row| vec![row.name.clone(), row.address.clone(), row.phase.clone()]),
        );
        table(
            &mut out,
            &["SERVICE", "CLUSTER-IP", "PORTS"],
            self.services
                .iter()
                .map(|row| vec![row.name.clone(), row.address.clone(), row.ports.clone()]),
        );
        if let Some(called) = &self.called {
            self.calls(&mut out, called);
        }
        table(
            &mut out,
            &["EBPF PROGRAM", "ATTACHED AT"],
            self.attachments
                .iter()
                .map(|row| vec![row.program.clone(), row.hook.clone()]),
        );
        self.next(&mut out);
        out
    }

    fn calls(&self, out: &mut String, called: &Called) {
        let _ = writeln!(
            out,
            "\nThe pod `client` called http://{}/ {} times; answers per backend:",
            called.name, called.calls
        );
        for (pod, count) in &called.answers {
            let _ = writeln!(
                out,
                "  {pod:<24} {count:>3}  {}",
                "#".repeat(*count as usize)
            );
        }
        if called.failed > 0 {
            let _ = writeln!(out, "  {:<24} {:>3}", "(failed)", called.failed);
        }
    }

    fn next(&self, out: &mut String) {
        let _ = writeln!(out, "\nNext, in another terminal:");
        let _ = writeln!(out, "  export KUBECONFIG={}", self.kubeconfig.display());
        for (command, why) in [
            ("kubectl get pods -o wide", "where they run"),
            (
                "kubectl scale deployment echo --replicas 5",
                "more backends: the Service follows",
            ),
            (
                "kubectl rollout restart deployment echo",
                "new pods, one after the other",
            ),
            ("kubectl logs client", "what the client saw"),
            ("kubectl get events", "what happened"),
        ] {
            let _ = writeln!(out, "  {command:<46} # {why}");
        }
        let data = self.data_dir.display();
        let stop = if self.detached {
            format!("waggle dev down --data-dir {data}")
        } else {
            "Ctrl-C".to_owned()
        };
        let _ = writeln!(
            out,
            "\nStop: {stop}. That leaves nothing but the data in {data}, from which the next start goes on."
        );
    }
}

fn node_row(node: &Node) -> NodeRow {
    let status = node.status.as_ref();
    NodeRow {
        name: node.metadata.name.clone().unwrap_or_default(),
        address: status
            .and_then(|status| status.addresses.as_ref())
            .and_then(|addresses| {
                addresses
                    .iter()
                    .find(|address| address.type_ == "InternalIP")
            })
            .map(|address| address.address.clone())
            .unwrap_or_default(),
        version: status
            .and_then(|status| status.node_info.as_ref())
            .map(|info| info.kubelet_version.clone())
            .unwrap_or_default(),
    }
}

fn pod_row(pod: &Pod) -> PodRow {
    let status = pod.status.as_ref();
    PodRow {
        name: pod.metadata.name.clone().unwrap_or_default(),
        address: status
            .and_then(|status| status.pod_ip.clone())
            .unwrap_or_default(),
        phase: status
            .and_then(|status| status.phase.clone())
            .unwrap_or_default(),
    }
}

fn service_row(service: &Service) -> ServiceRow {
    let spec = service.spec.as_ref();
    let ports = spec
        .and_then(|spec| spec.ports.as_ref())
        .map_or_else(String::new, |ports| {
            let ports: Vec<String> = ports
                .iter()
                .map(|port| {
                    format!(
                        "{}/{}",
                        port.port,
                        port.protocol.as_deref().unwrap_or("TCP")
                    )
                })
                .collect();
            ports.join(",")
        });
    ServiceRow {
        name: format!(
            "{}/{}",
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default()
        ),
        address: spec
            .and_then(|spec| spec.cluster_ip.clone())
            .unwrap_or_default(),
        ports,
    }
}

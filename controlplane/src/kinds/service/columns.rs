//! What `kubectl get services` shows.

use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::access::{integer, list, text};
use crate::kinds::table;

pub(super) const COLUMNS: &[Column] = &[
    table::NAME,
    table::column("Type", "string", "How the service is reached."),
    table::column("Cluster-IP", "string", "Address inside the cluster."),
    table::column("External-IP", "string", "Addresses for the outside."),
    table::column("Port(s)", "string", "Ports, with their node ports."),
    table::AGE,
    table::wide("Selector", "string", "Which pods are behind it."),
];

pub(super) fn row(object: &Value, now: i64) -> Vec<Value> {
    vec![
        table::name(object),
        text(object, &["spec", "type"]).into(),
        table::or_none(cluster_ip(object)),
        external(object).into(),
        ports(object),
        table::age(object, now),
        table::labels(object, &["spec", "selector"]),
    ]
}

fn cluster_ip(object: &Value) -> &str {
    match text(object, &["spec", "clusterIP"]) {
        "" => list(object, &["spec", "clusterIPs"])
            .first()
            .and_then(Value::as_str)
            .unwrap_or(""),
        "None" => "None",
        ip => ip,
    }
}

fn external(object: &Value) -> String {
    let ips: Vec<&str> = list(object, &["spec", "externalIPs"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(object, &["spec", "type"]) {
        "ClusterIP" | "NodePort" if ips.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => ips.join(","),
        "LoadBalancer" => {
            let mut all: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
                .iter()
                .map(|ingress| match text(ingress, &["ip"]) {
                    "" => text(ingress, &["hostname"]),
                    ip => ip,
                })
                .filter(|name| !name.is_empty())
                .collect();
            all.sort_unstable();
            all.dedup();
            all.extend(ips);
            if all.is_empty() {
                "<pending>".into()
            } else {
                all.join(",")
            }
        }
        "ExternalName" => text(object, &["spec", "externalName"]).to_owned(),
        _ => "<unknown>".into(),
    }
}

fn ports(object: &Value) -> Value {
    let shown: Vec<String> = list(object, &["spec", "ports"])
        .iter()
        .map(|port| {
            let number = integer(port, &["port"]).unwrap_or(0);
            let protocol = text(port, &["protocol"]);
            match integer(port, &["nodePort"]) {
                Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    table::or_none(&shown.join(","))
}

//! `/metrics/resource` and `/metrics/cadvisor`, in the text format of Prometheus and by the names that kubelets give.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{ContainerUse, Measured, PodUse};
use crate::network::Counters;
use crate::runtime::usage::Detail;

/// Families one after the other, each with its samples.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the format knows no other numbers"
)]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(nanos: u64) -> f64 {
    float(nanos) / 1e9
}

fn unix(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_duration().as_secs_f64())
}

type OfContainer = fn(&ContainerUse) -> f64;
type OfPod = fn(&PodUse) -> f64;

pub(in crate::agent) fn resource(measured: &Measured) -> String {
    let mut text = Text(String::new());
    let node = &measured.node;
    let containers: [(&str, &str, &str, OfContainer); 3] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            |it| seconds(it.used.cpu_nanos),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            |it| float(it.used.working_set_bytes),
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
            |it| unix(it.since),
        ),
    ];
    for (name, kind, help, value) in containers {
        text.family(name, kind, help);
        for pod in &measured.pods {
            for container in &pod.containers {
                let labels = [
                    ("container", container.name.as_str()),
                    ("namespace", &pod.namespace),
                    ("pod", &pod.name),
                ];
                text.sample(name, &labels, value(container));
            }
        }
    }
    let name = "node_cpu_usage_seconds_total";
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    text.family(name, "counter", help);
    text.sample(name, &[], seconds(node.used.cpu_nanos));
    let name = "node_memory_working_set_bytes";
    text.family(name, "gauge", "Current working set of the node in bytes");
    text.sample(name, &[], float(node.used.working_set_bytes));
    let pods: [(&str, &str, &str, OfPod); 2] = [
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            |it| seconds(it.used.cpu_nanos),
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
            |it| float(it.used.working_set_bytes),
        ),
    ];
    for (name, kind, help, value) in pods {
        text.family(name, kind, help);
        for pod in &measured.pods {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", &pod.name)];
            text.sample(name, &labels, value(pod));
        }
    }
    let name = "resource_scrape_error";
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    text.family(name, "gauge", help);
    text.sample(name, &[], 0.0);
    text.0
}

type OfDetail = fn(&Detail) -> f64;
type OfCounters = fn(&Counters) -> f64;

pub(in crate::agent) fn cadvisor(measured: &Measured) -> String {
    let mut text = Text(String::new());
    let details: [(&str, &str, &str, OfDetail); 7] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            |it| seconds(it.cpu_nanos),
        ),
        (
            "container_memory_cache",
            "gauge",
            "Number of bytes of page cache memory.",
            |it| float(it.cache_bytes),
        ),
        (
            "container_memory_rss",
            "gauge",
            "Size of RSS in bytes.",
            |it| float(it.rss_bytes),
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |it| float(it.memory_bytes),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
            |it| float(it.working_set_bytes),
        ),
        (
            "container_processes",
            "gauge",
            "Number of processes running inside the container.",
            |it| float(it.pids),
        ),
        (
            "container_spec_memory_limit_bytes",
            "gauge",
            "Memory limit for the container.",
            |it| float(it.memory_limit_bytes.unwrap_or(0)),
        ),
    ];
    for (name, kind, help, value) in details {
        text.family(name, kind, help);
        for pod in &measured.pods {
            // The pod as a whole is a container without a name.
            text.sample(name, &labels(pod, None), value(&pod.used));
            for container in &pod.containers {
                text.sample(name, &labels(pod, Some(container)), value(&container.used));
            }
        }
    }
    let name = "container_start_time_seconds";
    let help = "Start time of the container since unix epoch in seconds.";
    text.family(name, "gauge", help);
    for pod in &measured.pods {
        for container in &pod.containers {
            text.sample(name, &labels(pod, Some(container)), unix(container.since));
        }
    }
    let name = "container_fs_usage_bytes";
    let help = "Number of bytes that are consumed by the container on this filesystem.";
    text.family(name, "gauge", help);
    for pod in &measured.pods {
        for container in &pod.containers {
            let used = float(container.written.bytes);
            text.sample(name, &labels(pod, Some(container)), used);
        }
    }
    network(&mut text, measured);
    let node = &measured.node;
    let name = "machine_cpu_cores";
    text.family(name, "gauge", "Number of logical CPU cores.");
    text.sample(name, &[], float(node.cpus));
    let name = "machine_memory_bytes";
    text.family(name, "gauge", "Amount of memory installed on the machine.");
    text.sample(name, &[], float(node.memory_total_bytes));
    text.0
}

fn network(text: &mut Text, measured: &Measured) {
    let families: [(&str, &str, OfCounters); 8] = [
        ("receive_bytes", "bytes received", |it| {
            float(it.received_bytes)
        }),
        ("receive_packets", "packets received", |it| {
            float(it.received_packets)
        }),
        (
            "receive_packets_dropped",
            "packets dropped while receiving",
            |it| float(it.received_drops),
        ),
        (
            "receive_errors",
            "errors encountered while receiving",
            |it| float(it.receive_errors),
        ),
        ("transmit_bytes", "bytes transmitted", |it| {
            float(it.sent_bytes)
        }),
        ("transmit_packets", "packets transmitted", |it| {
            float(it.sent_packets)
        }),
        (
            "transmit_packets_dropped",
            "packets dropped while transmitting",
            |it| float(it.sent_drops),
        ),
        (
            "transmit_errors",
            "errors encountered while transmitting",
            |it| float(it.send_errors),
        ),
    ];
    for (what, help, value) in families {
        let name = format!("container_network_{what}_total");
        text.family(&name, "counter", &format!("Cumulative count of {help}"));
        for pod in &measured.pods {
            let Some(counters) = &pod.network else {
                continue;
            };
            let labels = [
                ("interface", "eth0"),
                ("namespace", pod.namespace.as_str()),
                ("pod", &pod.name),
            ];
            text.sample(&name, &labels, value(counters));
        }
    }
}

fn labels<'a>(
    pod: &'a PodUse,
    container: Option<&'a ContainerUse>,
) -> [(&'static str, &'a str); 5] {
    let [name, image, id] = match container {
        Some(it) => [it.name.as_str(), &it.image, &it.id],
        None => ["", "", pod.uid.as_str()],
    };
    [
        ("container", name),
        ("id", id),
        ("image", image),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ]
}

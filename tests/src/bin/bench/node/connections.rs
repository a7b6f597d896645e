//! Connect, request, close: through a ClusterIP and straight to the pod, in turn.
//!
//! Server and client are the two ends of `waggle bench` in the network namespace and cgroup of two pods; one
//! connection at a time, 64 bytes each way, so that what differs between the two sides is the Service alone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waggle_tests::{Cluster, IMAGE, unified_cgroup, waggle};

use super::table::{Row, row};
use crate::statistics::median;

const PORT: u16 = 8080;
/// How long one side has its turn, seconds.
const TURN: f64 = 0.25;

/// A server in one pod, a client in another.
#[derive(Debug)]
pub(crate) struct Ends {
    // The client ends first.
    client: End,
    _server: End,
    pub(crate) service: String,
    pub(crate) direct: String,
}

/// A process of `waggle bench` that answers requests line by line; ends with its standard input.
#[derive(Debug)]
struct End {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl End {
    /// In the network namespace and the v2 cgroup of a pod's process.
    fn start(kind: &str, pid: &str) -> Self {
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let path = cgroups
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .expect("a v2 cgroup");
        let mut process = Command::new(waggle())
            .args(["bench-part", kind, "--netns"])
            .arg(format!("/proc/{pid}/ns/net"))
            .arg("--cgroup")
            .arg(unified_cgroup().join(path.trim_start_matches('/')))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an end of the connections");
        Self {
            requests: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().expect("its output")),
            process,
        }
    }

    fn ask(&mut self, request: &Value) -> Result<Value, String> {
        let requests = self.requests.as_mut().expect("it is not told to end");
        writeln!(requests, "{request}").expect("the end lives");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        match answer.get("Ok") {
            Some(value) => Ok(value.clone()),
            None => Err(answer.to_string()),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.process.wait();
    }
}

impl Ends {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        for name in ["server", "caller"] {
            cluster.apply(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{end: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: {IMAGE}, command: [sleep, '10000']}}]\n"
            ));
        }
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: server}}\nspec: {{selector: {{end: server}}, ports: [{{port: 80, targetPort: {PORT}}}]}}\n"
        ));
        for name in ["server", "caller"] {
            cluster.wait_for(&["pod", name], "{.status.phase}", "Running");
        }
        let field = |kind: &str, name: &str, path: &str| {
            cluster
                .kubectl(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")])
                .ok()
        };
        let mut server = End::start("server", &cluster.container_pid("server"));
        server
            .ask(&json!({"listen": {"address": "0.0.0.0", "ports": [PORT]}}))
            .expect("the server listens");
        let mut ends = Self {
            client: End::start("client", &cluster.container_pid("caller")),
            _server: server,
            service: format!("{}:80", field("service", "server", ".spec.clusterIP")),
            direct: format!("{}:{PORT}", field("pod", "server", ".status.podIP")),
        };
        // Both ways must answer before anything is measured: the Service's endpoints arrive by themselves.
        waggle_tests::wait_until("the Service to answer", Duration::from_secs(20), || {
            let all = [&ends.service, &ends.direct].map(|to| json!({"answers": {"to": to}}));
            all.iter()
                .all(|request| ends.client.ask(request) == Ok(Value::Bool(true)))
                .then_some(())
        });
        ends
    }

    /// Connections per second.
    pub(crate) fn turn(&mut self, to: &str, seconds: f64) -> f64 {
        let turn = self
            .client
            .ask(&json!({"connect": {"to": to, "seconds": seconds}}))
            .expect("no connection fails");
        let number = |name: &str| turn[name].as_f64().expect("a number");
        number("done") / number("seconds")
    }
}

pub(crate) fn measure(ends: &mut Ends, seconds: usize) -> Vec<Row> {
    let (mut direct, mut service) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds as u64) {
        // Who goes first alternates.
        for first in [true, false] {
            for to_service in [first, !first] {
                let to = if to_service {
                    &ends.service
                } else {
                    &ends.direct
                };
                let rate = ends.turn(&to.clone(), TURN);
                let rates = if to_service {
                    &mut service
                } else {
                    &mut direct
                };
                rates.push(rate);
            }
        }
    }
    let ratios: Vec<f64> = service
        .iter()
        .zip(&direct)
        .map(|(service, direct)| service / direct)
        .collect();
    vec![
        row(
            "connect-request-close to the pod's address",
            median(&direct),
            "/s",
        ),
        row(
            "connect-request-close through the ClusterIP",
            median(&service),
            "/s",
        ),
        row("ratio of the two, turn by turn", median(&ratios), "").at_least(0.97),
    ]
}

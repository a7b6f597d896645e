//! Connect, request, close: through a ClusterIP and straight to the pod, in turn.
//!
//! Server and client are this program in the network namespace and cgroup of two pods; one connection at a
//! time, 64 bytes each way, so that what differs between the two sides is the Service alone.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use waggle_tests::{Cluster, IMAGE, Outcome, unified_cgroup};

use crate::statistics::median;
use crate::table::{Row, row};

const PORT: u16 = 8080;
/// How long one side has its turn.
const TURN: Duration = Duration::from_millis(250);

/// A server in one pod and what is needed to call it from another.
#[derive(Debug)]
pub(crate) struct Ends {
    server: Child,
    client_pid: String,
    pub(crate) service: String,
    pub(crate) direct: String,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
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
        let server_pid = cluster.container_pid("server");
        let client_pid = cluster.container_pid("caller");
        let server = inside(&server_pid)
            .args(["serve", &format!("0.0.0.0:{PORT}")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server");
        let ends = Self {
            server,
            client_pid,
            service: format!("{}:80", field("service", "server", ".spec.clusterIP")),
            direct: format!("{}:{PORT}", field("pod", "server", ".status.podIP")),
        };
        // Both ways must answer before anything is measured: the Service's endpoints arrive by themselves.
        waggle_tests::wait_until("the Service to answer", Duration::from_secs(20), || {
            let outcome = Outcome::of(ends.caller().args(["100", &ends.service, &ends.direct]));
            (outcome.code == Some(0)).then_some(())
        });
        ends
    }

    /// The client's command: takes the total milliseconds and the addresses that have turns.
    pub(crate) fn caller(&self) -> Command {
        let mut command = inside(&self.client_pid);
        command.arg("call");
        command
    }
}

/// This program in the network namespace and the v2 cgroup of a pod's process.
fn inside(pid: &str) -> Command {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .expect("a v2 cgroup")
        .to_owned();
    let procs = unified_cgroup()
        .join(path.trim_start_matches('/'))
        .join("cgroup.procs");
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "echo $$ > {} && exec nsenter --net=/proc/{pid}/ns/net {} \"$@\"",
        procs.display(),
        this.display()
    ));
    command.arg("sh");
    command
}

pub(crate) fn serve(address: &str) -> ExitCode {
    let listener = TcpListener::bind(address).expect("listen");
    let mut buffer = [0; 64];
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else {
            continue;
        };
        if connection.read_exact(&mut buffer).is_ok() {
            let _ = connection.write_all(&buffer);
        }
    }
    ExitCode::SUCCESS
}

/// `MILLISECONDS ADDRESS…`: gives each address turns until the time is over; prints, a line per turn, the
/// number of the address and its operations per second.
pub(crate) fn call(arguments: &[&str]) -> ExitCode {
    let [total, addresses @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let total = Duration::from_millis(total.parse().expect("milliseconds"));
    let addresses: Vec<std::net::SocketAddr> = addresses
        .iter()
        .map(|address| address.parse().expect("an address"))
        .collect();
    let started = Instant::now();
    let mut first = 0;
    while started.elapsed() < total {
        for turn in 0..addresses.len() {
            let which = (first + turn) % addresses.len();
            let begun = Instant::now();
            let mut operations = 0_u32;
            while begun.elapsed() < TURN.min(total) {
                if once(addresses[which]).is_err() {
                    return ExitCode::FAILURE;
                }
                operations += 1;
            }
            println!(
                "{which} {}",
                f64::from(operations) / begun.elapsed().as_secs_f64()
            );
        }
        // Who goes first alternates, too.
        first += 1;
    }
    ExitCode::SUCCESS
}

fn once(address: std::net::SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    let mut buffer = [7; 64];
    connection.write_all(&buffer)?;
    connection.read_exact(&mut buffer)
}

pub(crate) fn measure(ends: &Ends, seconds: usize) -> Vec<Row> {
    let milliseconds = (seconds * 1000).to_string();
    let output = Outcome::of(
        ends.caller()
            .args([&milliseconds, &ends.direct, &ends.service]),
    )
    .ok();
    let (mut direct, mut service) = (Vec::new(), Vec::new());
    for line in output.lines() {
        let (which, rate) = line.split_once(' ').expect("two fields");
        let rate: f64 = rate.parse().expect("a rate");
        if which == "0" {
            direct.push(rate)
        } else {
            service.push(rate)
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

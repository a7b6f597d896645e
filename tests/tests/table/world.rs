//! What every row of the tables finds: a lab of three nodes with servers and clients on each, and the rows' own
//! objects. All rows are gone through, and those that failed are named at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde_json::Value;
use waggle_tests::{Lab, PEER_IMAGE, PodFacts, program_archive};

use crate::call::See;
use crate::{
    addresses_table, change_table, endpoints_table, names_table, network_table, services_more,
    services_table,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routing {
    Overlay,
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NorthSouth {
    Snat,
    Dsr,
}

/// How packets move in a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) routing: Routing,
    pub(crate) north_south: NorthSouth,
    pub(crate) xdp: bool,
    /// As `waggle lab up` has it.
    pub(crate) families: &'static str,
    pub(crate) mtu: u16,
}

impl Mode {
    /// IP versions: whether it is version 6.
    pub(crate) fn versions(self) -> &'static [bool] {
        match self.families {
            "v4" => &[false],
            "v6" => &[true],
            _ => &[false, true],
        }
    }

    fn arguments(self) -> [&'static str; 3] {
        [
            match self.routing {
                Routing::Overlay => "--routing=overlay",
                Routing::Native => "--routing=native",
            },
            match self.north_south {
                NorthSouth::Snat => "--north-south=snat",
                NorthSouth::Dsr => "--north-south=dsr",
            },
            if self.xdp { "--xdp=on" } else { "--xdp=off" },
        ]
    }
}

/// Why a row failed.
pub(crate) type Verdict = Result<(), String>;

/// One behaviour.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What it needs besides the servers and clients that are there.
    pub(crate) manifest: String,
    /// After all manifests are in force, before anything is looked at.
    pub(crate) prepare: Option<fn(&World)>,
    /// Calls, and what must come of each.
    pub(crate) sees: Vec<See>,
    /// What calls alone do not say.
    pub(crate) code: Option<fn(&World) -> Verdict>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            manifest: String::new(),
            prepare: None,
            sees: Vec::new(),
            code: None,
        }
    }

    pub(crate) fn with(mut self, manifest: impl Into<String>) -> Self {
        self.manifest = manifest.into();
        self
    }

    pub(crate) fn prepare(mut self, prepare: fn(&World)) -> Self {
        self.prepare = Some(prepare);
        self
    }

    pub(crate) fn see(mut self, see: See) -> Self {
        self.sees.push(see);
        self
    }

    pub(crate) fn code(mut self, code: fn(&World) -> Verdict) -> Self {
        self.code = Some(code);
        self
    }
}

/// Port of the servers in pods, TCP and UDP.
pub(crate) const PORT: u16 = 8080;
/// A second one, TCP.
pub(crate) const SECOND: u16 = 8081;
/// Port of the servers on nodes, TCP and UDP.
pub(crate) const HOST_PORT: u16 = 9080;
/// Port of the server outside, TCP and UDP.
pub(crate) const OUTSIDE_PORT: u16 = 9000;

pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_waggle-peer");

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) mode: Mode,
    pods: std::cell::RefCell<BTreeMap<String, PodFacts>>,
    services: std::cell::RefCell<Value>,
}

/// A pod that serves under its own name.
pub(crate) fn server(name: &str, node: u8, labels: &str, options: &str) -> String {
    pod(name, node, labels, "", options)
}

/// `spec` goes into the pod's own, `options` into its container's.
pub(crate) fn pod(name: &str, node: u8, labels: &str, spec: &str, options: &str) -> String {
    let ports = if spec.contains("hostNetwork") {
        format!("\"--tcp\", \"{HOST_PORT}\", \"--udp\", \"{HOST_PORT}\"")
    } else {
        format!("\"--tcp\", \"{PORT}\", \"--tcp\", \"{SECOND}\", \"--udp\", \"{PORT}\"")
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{own: {name}, {labels}}}}}
spec:
  nodeName: node-{node}
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
  - name: peer
    image: {PEER_IMAGE}
    command: [/bin/waggle-peer]
    args: [serve, {ports}, \"{name}\"]{options}
"
    )
}

fn base() -> String {
    let mut manifest = String::new();
    for node in 1..=3 {
        manifest += &server(&format!("echo-{node}"), node, "app: echo", "");
        manifest += &server(&format!("client-{node}"), node, "app: client", "");
        manifest += &pod(
            &format!("host-{node}"),
            node,
            "app: host",
            "hostNetwork: true",
            "",
        );
    }
    manifest
}

/// Goes through all rows in a lab of that mode.
pub(crate) fn go_through(mode: Mode) {
    let rows: Vec<Row> = chosen(services_table::rows())
        .chain(chosen(addresses_table::rows()))
        .chain(chosen(endpoints_table::rows()))
        .chain(chosen(names_table::rows()))
        .chain(chosen(services_more::rows()))
        .chain(chosen(network_table::rows()))
        // What changes the cluster comes last.
        .chain(chosen(change_table::rows()))
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let image = program_archive(scratch.path(), PEER.as_ref());
    let image = image.to_string_lossy().into_owned();
    let families = format!("--families={}", mode.families);
    let mtu = format!("--mtu={}", mode.mtu);
    let mut arguments = vec!["--nodes=3", &families, &mtu, "--image", &image];
    arguments.extend(mode.arguments());
    let world = World {
        lab: Lab::up(&arguments),
        mode,
        pods: Default::default(),
        services: Default::default(),
    };
    let mut outside = world.serve_outside();
    // Rows that need the same object say so each.
    let mut manifest = base();
    for part in rows.iter().flat_map(|row| row.manifest.split("---\n")) {
        if !manifest.contains(part) {
            manifest += "---\n";
            manifest += part;
        }
    }
    world.lab.apply(&manifest);
    world.settle();
    for prepare in rows.iter().filter_map(|row| row.prepare) {
        prepare(&world);
    }
    world.settle();
    let mut failures = String::new();
    for row in &rows {
        let started = Instant::now();
        let verdict = world.judge(row);
        let took = started.elapsed().as_millis();
        match verdict {
            Ok(()) => eprintln!("  ok      {} ({took} ms)", row.name),
            Err(why) => {
                let why = why.replace('\n', "\n          ");
                eprintln!("  FAILED  {} ({took} ms)\n          {why}", row.name);
                let _ = writeln!(failures, "{}:\n          {why}", row.name);
            }
        }
    }
    outside.kill().unwrap();
    outside.wait().unwrap();
    assert!(failures.is_empty(), "{mode:?}:\n{failures}");
}

fn chosen(rows: Vec<Row>) -> impl Iterator<Item = Row> {
    let filter = std::env::var("WAGGLE_LAB_ROWS").unwrap_or_default();
    rows.into_iter()
        .filter(move |row| row.name.contains(&filter))
}

impl World {
    fn judge(&self, row: &Row) -> Verdict {
        let all = || {
            for see in &row.sees {
                see.look(self)?;
            }
            row.code.map_or(Ok(()), |code| code(self))
        };
        // A panic is a failure of this row alone.
        catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Err(text.unwrap_or_else(|| "it panicked".to_owned()))
        })
    }

    /// Waits until everything applied so far is in force, and reads it.
    pub(crate) fn settle(&self) {
        self.lab.settle();
        *self.pods.borrow_mut() = self.lab.pods();
        *self.services.borrow_mut() = self.lab.json(&["services"]);
    }

    #[track_caller]
    pub(crate) fn pod(&self, name: &str) -> PodFacts {
        self.pods
            .borrow()
            .get(name)
            .unwrap_or_else(|| panic!("no pod {name}"))
            .clone()
    }

    #[track_caller]
    pub(crate) fn service(&self, name: &str) -> Value {
        let services = self.services.borrow();
        let mut items = services["items"].as_array().into_iter().flatten();
        items
            .find(|service| service["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("no Service {name}"))
            .clone()
    }

    fn serve_outside(&self) -> std::process::Child {
        let port = OUTSIDE_PORT.to_string();
        let mut command = self.lab.outside().command(PEER);
        command.arg("serve");
        for address in self.lab.client_addresses() {
            let address = std::net::SocketAddr::new(address, OUTSIDE_PORT).to_string();
            command.args(["--tcp", &address, "--udp", &address]);
        }
        let mut child = command
            .arg("outside")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(child.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        assert_eq!(line, "serving\n", "port {port} outside");
        child
    }

    /// Gives a Service of type LoadBalancer its addresses, as a controller for them would.
    pub(crate) fn give_addresses(&self, service: &str, addresses: &[&str]) {
        self.give_addresses_in(service, addresses, "VIP");
    }

    /// `mode`: VIP if nodes are to take the address for theirs, Proxy if it is a load balancer of its own.
    pub(crate) fn give_addresses_in(&self, service: &str, addresses: &[&str], mode: &str) {
        let ingress: Vec<Value> = addresses
            .iter()
            .map(|address| serde_json::json!({"ip": address, "ipMode": mode}))
            .collect();
        let patch = serde_json::json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.lab
            .kubectl(&[
                "patch",
                "service",
                service,
                "--subresource=status",
                "--type=merge",
                "-p",
                &patch.to_string(),
            ])
            .ok();
    }
}

/// The one of a family.
pub(crate) fn of_family(addresses: &[IpAddr], v6: bool) -> Option<IpAddr> {
    addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv6() == v6)
}

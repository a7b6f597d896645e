//! What kube-proxy does, a row for each behaviour: how it is set up, and what must be seen. What takes more than
//! calls to be seen is in `services_more`, what changes a running cluster in `change_table`.

use waggle_tests::Outcome;

use crate::call::{Client, From, To, calls, node_port, pod};
use crate::going::Going;
use crate::world::{NorthSouth, Row, Verdict, World, of_family};

/// A Service of both families over TCP and UDP port 80; `spec` goes into its own.
pub(crate) fn service(name: &str, selector: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ipFamilyPolicy: PreferDualStack
  {selector}
  {spec}
  ports:
  - {{name: tcp, port: 80, targetPort: 8080}}
  - {{name: udp, port: 80, targetPort: 8080, protocol: UDP}}
"
    )
}

pub(crate) const ECHO: &str = "selector: {app: echo}";
pub(crate) const ALL: &[&str] = &["echo-1", "echo-2", "echo-3"];
const NODES: [u8; 3] = [1, 2, 3];
/// A container that never is.
pub(crate) const NEVER_READY: &str =
    "\n    readinessProbe: {tcpSocket: {port: 1}, periodSeconds: 1}";
const CLIENTS: [&str; 3] = ["client-1", "client-2", "client-3"];

/// Both protocols.
pub(crate) fn both(
    from: From,
    to: To,
    finish: impl Fn(crate::call::See) -> crate::call::See,
) -> [crate::call::See; 2] {
    [finish(from.tcp(to)), finish(from.udp(to))]
}

impl Row {
    pub(crate) fn both(
        mut self,
        from: From,
        to: To,
        finish: impl Fn(crate::call::See) -> crate::call::See,
    ) -> Self {
        self.sees.extend(both(from, to, finish));
        self
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = cluster_ips();
    rows.extend(past_the_sockets());
    rows.extend(node_ports());
    rows.extend(policies());
    rows.extend(endpoints());
    rows
}

/// Of both families, if it has both.
fn addresses(world: &World, to: To) -> Vec<std::net::SocketAddr> {
    let families = [false, true].into_iter();
    families.filter_map(|v6| to.address(world, v6)).collect()
}

/// Tried as often as it takes for chance alone not to look like affinity: once in twenty thousand runs.
fn affinity_ends(world: &World) -> Verdict {
    for target in addresses(world, To::Service("forgetful", 80)) {
        let ask = || -> Result<String, String> {
            let reports = calls(world, pod("client-1"), target, false, 1, &[])?;
            let name = reports.first().and_then(|report| report["name"].as_str());
            Ok(name.ok_or("no answer")?.to_owned())
        };
        let first = ask()?;
        if ask()? != first {
            return Err(format!("{target}: another endpoint at once"));
        }
        let mut others = (0..9).map(|_| {
            // Nothing tells that it is over but that it is.
            std::thread::sleep(std::time::Duration::from_millis(2100));
            ask()
        });
        if others.all(|name| name.as_ref() == Ok(&first)) {
            return Err(format!("{target}: always {first}"));
        }
    }
    Ok(())
}

fn endpoints_of_shrinking(world: &World, names: &[&str]) {
    for v6 in [false, true] {
        let addresses = names
            .iter()
            .filter_map(|name| of_family(&world.pod(name).addresses, v6));
        let endpoints: Vec<serde_json::Value> = addresses
            .map(|address| serde_json::json!({"addresses": [address]}))
            .collect();
        if endpoints.is_empty() {
            continue;
        }
        let family = if v6 { "IPv6" } else { "IPv4" };
        let slice = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("shrinking-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "shrinking"},
            },
            "addressType": family,
            "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        world.lab.apply(&slice.to_string());
    }
}

fn two_endpoints(world: &World) {
    endpoints_of_shrinking(world, &["echo-1", "echo-2"]);
}

fn connection_ends(world: &World) -> Verdict {
    let mut held = Vec::new();
    for target in addresses(world, To::Service("shrinking", 80)) {
        let arguments = ["hold", "--connections", "16", &target.to_string()];
        let mut going = Going::start(world, pod("client-1"), &arguments);
        going.line()?;
        held.push(going);
    }
    endpoints_of_shrinking(world, &["echo-2"]);
    world.settle();
    // Longer than it takes to ask on each connection.
    let left = pod("client-1").tcp(To::Service("shrinking", 80));
    left.each(&["echo-2"]).look(world)?;
    for going in held {
        let report: serde_json::Value =
            serde_json::from_str(&going.end()?).map_err(|error| error.to_string())?;
        let broken = report["broken"].as_object().ok_or("no report")?;
        let is_right = |what: &String| what.starts_with("echo-1 ");
        let nothing_else = report["failed"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        if broken.is_empty() || !broken.keys().all(is_right) || !nothing_else {
            return Err(report.to_string());
        }
    }
    endpoints_of_shrinking(world, &["echo-1", "echo-2"]);
    Ok(())
}

fn cluster_ips() -> Vec<Row> {
    let mut everywhere =
        Row::new("ClusterIP: pods of every node reach every endpoint, TCP and UDP on one port")
            .with(service("web", ECHO, ""));
    let mut nodes = Row::new("ClusterIP: every node itself reaches every endpoint");
    for (client, node) in CLIENTS.into_iter().zip(NODES) {
        everywhere = everywhere.both(pod(client), To::Service("web", 80), |see| {
            see.each(ALL).client(Client::Kept)
        });
        nodes = nodes.both(From::Node(node), To::Service("web", 80), |see| {
            see.each(ALL)
        });
    }
    nodes.manifest = service("web", ECHO, "");
    vec![
        everywhere,
        nodes,
        Row::new("ClusterIP: several ports, each to its own target")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: ports}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {own: echo-2}
  ports:
  - {name: first, port: 80, targetPort: 8080}
  - {name: second, port: 81, targetPort: 8081}
  - {name: nothing, port: 82, targetPort: 8099}
",
            )
            .see(
                pod("client-1")
                    .tcp(To::Service("ports", 80))
                    .each(&["echo-2"]),
            )
            .see(
                pod("client-1")
                    .tcp(To::Service("ports", 81))
                    .each(&["echo-2"]),
            )
            .see(pod("client-1").tcp(To::Service("ports", 82)).refused())
            .see(pod("client-1").tcp(To::Service("ports", 83)).nobody()),
        Row::new("ClusterIP: one address family alone")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: single}
spec:
  ipFamilyPolicy: SingleStack
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080}]
",
            )
            .see(
                pod("client-1")
                    .tcp(To::Service("single", 80))
                    .each(ALL)
                    .first_family(),
            ),
        Row::new("A pod reaches itself through its Service")
            .with(service("self", "selector: {own: echo-1}", ""))
            .both(pod("echo-1"), To::Service("self", 80), |see| {
                see.each(&["echo-1"])
            }),
        Row::new("Pods with hostNetwork are clients and endpoints like others")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: hosts}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: host}
  ports:
  - {name: tcp, port: 80, targetPort: 9080}
  - {name: udp, port: 80, targetPort: 9080, protocol: UDP}
",
            )
            .both(pod("client-1"), To::Service("hosts", 80), |see| {
                see.each(&["host-1", "host-2", "host-3"])
            })
            .both(pod("host-2"), To::Service("hosts", 80), |see| {
                see.each(&["host-1", "host-2", "host-3"])
            })
            .both(pod("host-3"), To::Service("web", 80), |see| see.each(ALL)),
        Row::new("sessionAffinity ClientIP: a client stays with its endpoint")
            .with(service(
                "sticky",
                ECHO,
                "sessionAffinity: ClientIP\n  type: NodePort",
            ))
            .both(pod("client-1"), To::Service("sticky", 80), |see| see.same())
            .both(From::Node(2), To::Service("sticky", 80), |see| see.same())
            .see(From::Outside.tcp(To::NodePort(1, "sticky", 80)).same())
            .see(From::Outside.udp(To::NodePort(3, "sticky", 80)).same()),
        Row::new("sessionAffinity ClientIP: it ends when its timeout is over")
            .with(service(
                "forgetful",
                ECHO,
                "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}",
            ))
            .code(affinity_ends),
        Row::new("TCP: a connection ends when its endpoint is removed, though the pod lives")
            .with(service("shrinking", "", ""))
            .prepare(two_endpoints)
            .code(connection_ends),
        Row::new("One endpoint behind two Services, from one source port")
            .with(service(
                "twin-a",
                "selector: {own: echo-2}",
                "type: NodePort",
            ))
            .with_more(service(
                "twin-b",
                "selector: {own: echo-2}",
                "type: NodePort",
            ))
            .see(
                pod("client-1")
                    .udp(To::Service("twin-a", 80))
                    .each(&["echo-2"])
                    .source_port(5001),
            )
            .see(
                pod("client-1")
                    .udp(To::Service("twin-b", 80))
                    .each(&["echo-2"])
                    .source_port(5001),
            )
            .see(
                From::Outside
                    .udp(To::NodePort(1, "twin-a", 80))
                    .each(&["echo-2"])
                    .source_port(5002),
            )
            .see(
                From::Outside
                    .udp(To::NodePort(1, "twin-b", 80))
                    .each(&["echo-2"])
                    .source_port(5002),
            )
            .see(
                From::Outside
                    .tcp(To::NodePort(1, "twin-a", 80))
                    .each(&["echo-2"])
                    .once()
                    .source_port(5004),
            )
            .see(
                From::Outside
                    .tcp(To::NodePort(1, "twin-b", 80))
                    .each(&["echo-2"])
                    .once()
                    .source_port(5004),
            ),
    ]
}

impl Row {
    pub(crate) fn with_more(mut self, manifest: String) -> Self {
        self.manifest += &manifest;
        self
    }
}

/// In a pod with this annotation nothing passes a socket hook.
pub(crate) fn opted() -> String {
    crate::world::server("opted", 1, "app: opted", "").replace(
        "labels:",
        "annotations: {waggle.dev/socket-balancing: disabled}, labels:",
    )
}

fn past_the_sockets() -> Vec<Row> {
    vec![
        Row::new("Past the socket hooks: connections are balanced packet by packet")
            .with(service("web", ECHO, ""))
            .with_more(service("np", ECHO, "type: NodePort"))
            .with_more(opted())
            .both(pod("opted"), To::Service("web", 80), |see| {
                see.each(ALL).client(Client::Kept)
            })
            .both(pod("opted"), To::NodePort(2, "np", 80), |see| see.each(ALL)),
        Row::new("Past the socket hooks: a pod reaches itself through its Service")
            .with(service("self-opted", "selector: {own: opted}", ""))
            .with_more(opted())
            .both(pod("opted"), To::Service("self-opted", 80), |see| {
                see.each(&["opted"])
            }),
        Row::new("Past the socket hooks: no endpoint is refused at once")
            .with(service(
                "empty",
                "selector: {app: nobody}",
                "type: NodePort",
            ))
            .with_more(opted())
            .both(pod("opted"), To::Service("empty", 80), |see| see.refused()),
        Row::new("Past the socket hooks: one endpoint behind two Services, from one source port")
            .with(service(
                "twin-a",
                "selector: {own: echo-2}",
                "type: NodePort",
            ))
            .with_more(service(
                "twin-b",
                "selector: {own: echo-2}",
                "type: NodePort",
            ))
            .with_more(opted())
            .see(
                pod("opted")
                    .tcp(To::Service("twin-a", 80))
                    .each(&["echo-2"])
                    .once()
                    .source_port(5003),
            )
            .see(
                pod("opted")
                    .tcp(To::Service("twin-b", 80))
                    .each(&["echo-2"])
                    .once()
                    .source_port(5003),
            ),
    ]
}

fn node_ports() -> Vec<Row> {
    let np = || service("np", ECHO, "type: NodePort");
    let mut outside = Row::new("NodePort: from outside, at every node").with(np());
    let mut pods = Row::new("NodePort: from a pod, at every node").with(np());
    let mut nodes = Row::new("NodePort: from a node, at itself and at the others").with(np());
    let mut loopback = Row::new("NodePort: at the node's own loopback address").with(np());
    for node in NODES {
        outside = outside
            .both(From::Outside, To::NodePort(node, "np", 80), |see| {
                see.each(ALL)
            })
            .see(From::Router.tcp(To::NodePort(node, "np", 80)).each(ALL));
        pods = pods.both(pod("client-2"), To::NodePort(node, "np", 80), |see| {
            see.each(ALL)
        });
        nodes = nodes.both(From::Node(2), To::NodePort(node, "np", 80), |see| {
            see.each(ALL)
        });
        loopback = loopback.both(From::Node(node), To::Loopback("np", 80), |see| {
            see.each(ALL)
        });
    }
    vec![
        outside,
        pods,
        nodes,
        loopback,
        Row::new("NodePort: at every address of the node, also at one that comes later")
            .with(np())
            .code(later_address),
        Row::new("NodePort: a pod's loopback address is not the node's")
            .with(np())
            .see(pod("client-1").tcp(To::Loopback("np", 80)).refused()),
        Row::new("NodePort: from outside the client's address is replaced, or kept with DSR")
            .with(service(
                "np-far",
                "selector: {own: echo-2}",
                "type: NodePort",
            ))
            .code(|world| {
                let client = match world.mode.north_south {
                    NorthSouth::Snat => Client::Node(1),
                    NorthSouth::Dsr => Client::Kept,
                };
                for see in both(From::Outside, To::NodePort(1, "np-far", 80), |see| {
                    see.each(&["echo-2"]).client(client)
                }) {
                    see.look(world)?;
                }
                for see in both(From::Outside, To::NodePort(2, "np-far", 80), |see| {
                    see.each(&["echo-2"]).client(Client::Kept)
                }) {
                    see.look(world)?;
                }
                Ok(())
            }),
    ]
}

/// The node is still known by the address that it had.
fn later_address(world: &World) -> Verdict {
    let known = world.lab.node_addresses("node-2");
    let mut outcome = Ok(());
    for &v6 in world.mode.versions() {
        let (address, bits) = if v6 {
            ("fd00:144::220", "64")
        } else {
            ("192.168.144.220", "24")
        };
        let ip = |verb: &str| {
            let script = format!("ip address {verb} {address}/{bits} dev eth0");
            let nodad = if v6 && verb == "add" { " nodad" } else { "" };
            let mut command = world.lab.on_node("node-2").command("sh");
            Outcome::of(command.args(["-ec", &(script + nodad)])).ok();
        };
        let port = node_port(&world.service("np"), 80).ok_or("no node port")?;
        let target = std::net::SocketAddr::new(address.parse().unwrap(), port);
        ip("add");
        for from in [
            From::Router,
            pod("client-1"),
            pod("client-2"),
            From::Node(2),
            From::Node(3),
        ] {
            let answers = || {
                let reports = calls(world, from, target, false, 1, &["--timeout", "500"])?;
                let is_good = reports[0]["result"] == "ok";
                is_good.then_some(()).ok_or(reports[0].to_string())
            };
            outcome = outcome.and_then(|()| {
                let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
                loop {
                    match answers() {
                        Err(why) if std::time::Instant::now() > deadline => {
                            break Err(format!("{from:?} to {target}: {why}"));
                        }
                        Err(_) => {}
                        Ok(()) => break Ok(()),
                    }
                }
            });
        }
        let reported = world.lab.json(&["node", "node-2"])["status"]["addresses"].to_string();
        if reported.contains(address) || known.iter().any(|it| !reported.contains(&it.to_string()))
        {
            outcome = outcome.and(Err(format!("node-2 is known by {reported}")));
        }
        ip("del");
    }
    outcome
}

fn policies() -> Vec<Row> {
    let far = "selector: {own: echo-2}";
    vec![
        Row::new("internalTrafficPolicy Local: the own node's endpoints alone")
            .with(service("near", ECHO, "internalTrafficPolicy: Local"))
            .both(pod("client-1"), To::Service("near", 80), |see| {
                see.each(&["echo-1"])
            })
            .both(pod("client-3"), To::Service("near", 80), |see| {
                see.each(&["echo-3"])
            })
            .both(From::Node(2), To::Service("near", 80), |see| {
                see.each(&["echo-2"])
            }),
        Row::new("internalTrafficPolicy Local: no answer where there is no endpoint")
            .with(service("near-far", far, "internalTrafficPolicy: Local"))
            .see(
                pod("client-2")
                    .tcp(To::Service("near-far", 80))
                    .each(&["echo-2"]),
            )
            .both(pod("client-1"), To::Service("near-far", 80), |see| {
                see.nobody()
            }),
        Row::new(
            "externalTrafficPolicy Local: the client's address is kept, other nodes do not answer",
        )
        .with(service(
            "local",
            far,
            "type: LoadBalancer\n  externalTrafficPolicy: Local",
        ))
        .prepare(|world| world.give_addresses("local", &["198.51.100.40", "2001:db8:51::40"]))
        .both(From::Outside, To::NodePort(2, "local", 80), |see| {
            see.each(&["echo-2"]).client(Client::Kept)
        })
        .both(From::Outside, To::NodePort(1, "local", 80), |see| {
            see.nobody()
        }),
        Row::new("externalTrafficPolicy Local: from within the cluster every node answers")
            .with(service(
                "local",
                far,
                "type: LoadBalancer\n  externalTrafficPolicy: Local",
            ))
            .both(pod("client-1"), To::NodePort(1, "local", 80), |see| {
                see.each(&["echo-2"])
            })
            .both(pod("client-1"), To::LoadBalancer("local", 80), |see| {
                see.each(&["echo-2"])
            })
            .both(From::Node(3), To::NodePort(3, "local", 80), |see| {
                see.each(&["echo-2"])
            }),
    ]
}

fn endpoints() -> Vec<Row> {
    vec![
        Row::new("No endpoint: refused at once, from pods, nodes and outside")
            .with(service(
                "empty",
                "selector: {app: nobody}",
                "type: NodePort",
            ))
            .both(pod("client-1"), To::Service("empty", 80), |see| {
                see.refused()
            })
            .both(From::Node(1), To::Service("empty", 80), |see| see.refused())
            .both(pod("client-1"), To::NodePort(2, "empty", 80), |see| {
                see.refused()
            })
            .both(From::Outside, To::NodePort(2, "empty", 80), |see| {
                see.refused()
            }),
        Row::new("No endpoint, no such port: a UDP socket is connected, what it sends is refused")
            .with(service(
                "empty",
                "selector: {app: nobody}",
                "type: NodePort",
            ))
            .code(udp_connects),
    ]
}

/// `getaddrinfo` connects a UDP socket to each address that it found, to know which one can be reached.
fn udp_connects(world: &World) -> Verdict {
    for from in [pod("client-1"), From::Node(2)] {
        for target in addresses(world, To::Service("empty", 80)) {
            for port in [9, 53, 80] {
                let target = std::net::SocketAddr::new(target.ip(), port);
                for (options, expected) in [(&["--silent"][..], "ok"), (&[], "refused")] {
                    let reports = calls(world, from, target, true, 1, options)?;
                    if reports[0]["result"] != expected {
                        return Err(format!("{from:?} {target} {options:?}: {}", reports[0]));
                    }
                }
            }
        }
    }
    Ok(())
}

//! What happens while the cluster changes: endpoints, Services, agents, controllers and nodes come and go under
//! traffic.

use serde_json::Value;

use crate::call::{Client, From, To, pod};
use crate::going::Going;
use crate::names_table::resolve;
use crate::services_table::{ALL, ECHO, service};
use crate::world::{Row, Verdict, World, of_family, server};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("UDP: a socket goes on with another endpoint when its own is gone")
            .with(service("moving", "selector: {move: 'yes'}", ""))
            .with_more(server("moving-1", 2, "move: 'yes'", ""))
            .code(udp_moves),
        Row::new("A change of a Service's ports and selector is in force at once")
            .with(service("changed", "selector: {own: echo-1}", ""))
            .code(service_changes),
        Row::new("A Service that is deleted answers no more")
            .with(service("deleted", ECHO, "type: NodePort"))
            .code(service_goes),
        Row::new("A rolling update loses no request")
            .with(ROLLING)
            .with_more(crate::services_table::opted())
            .with_more(service(
                "rolling",
                "selector: {app: rolling}",
                "type: LoadBalancer",
            ))
            .prepare(|world| {
                world.give_addresses("rolling", &["198.51.100.80", "2001:db8:51::80"]);
            })
            .code(rolling_update),
        Row::new("kill -9 of agents: no connection breaks, none is refused")
            .with(service("np", ECHO, "type: NodePort"))
            .code(agents_die),
        Row::new("No control plane: traffic goes on, also through an agent's restart")
            .with(service("np", ECHO, "type: NodePort"))
            .code(controller_dies),
        Row::new("A node that reboots without control plane works from its disk")
            .with(service("kept", "selector: {own: echo-1}", "type: NodePort"))
            .with_more(service("np", ECHO, "type: NodePort"))
            .code(node_reboots),
        Row::new("A node that is added takes part, one that is removed is forgotten")
            .with(service("np", ECHO, "type: NodePort"))
            .code(nodes_come_and_go),
        Row::new("A node's change of address is followed")
            .with(service("web", ECHO, ""))
            .code(address_changes),
    ]
}

const ROLLING: &str = "---
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolling}
spec:
  replicas: 3
  selector: {matchLabels: {app: rolling}}
  template:
    metadata: {labels: {app: rolling}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: peer
        image: waggle.test/peer:1
        command: [/bin/waggle-peer, serve, --tcp, '8080', --udp, '8080', rolling]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
";

fn address(world: &World, to: To, v6: bool) -> Result<String, String> {
    let address = to.address(world, v6).ok_or("no address")?;
    Ok(address.to_string())
}

fn udp_moves(world: &World) -> Verdict {
    let mut flows = Vec::new();
    for &v6 in world.mode.versions() {
        let target = address(world, To::Service("moving", 80), v6)?;
        let mut flow = Going::start(world, pod("client-1"), &["flow", &target]);
        first(&mut flow, "moving-1")?;
        flows.push(flow);
    }
    world.lab.apply(&server("moving-2", 3, "move: 'yes'", ""));
    world.lab.settle();
    world.lab.kubectl(&["delete", "pod", "moving-1"]).ok();
    for mut flow in flows {
        // Between the two it may say "refused" or "timeout": then nobody was there.
        loop {
            if flow.line()? == "moving-2" {
                break;
            }
        }
    }
    Ok(())
}

fn first(going: &mut Going, expected: &str) -> Verdict {
    let line = going.line()?;
    if line == expected {
        Ok(())
    } else {
        Err(format!("{line:?}, not {expected:?}"))
    }
}

fn service_changes(world: &World) -> Verdict {
    let see = pod("client-1").tcp(To::Service("changed", 80));
    see.clone().each(&["echo-1"]).look(world)?;
    world
        .lab
        .apply(&service("changed", "selector: {own: echo-3}", ""));
    world.settle();
    see.each(&["echo-3"]).look(world)?;
    // Not by apply: its patch tells ports apart by their number alone, and two have this one.
    let change = |index: u8| {
        format!("{{\"op\": \"replace\", \"path\": \"/spec/ports/{index}/port\", \"value\": 90}}")
    };
    let patch = format!("[{}, {}]", change(0), change(1));
    let arguments = ["patch", "service", "changed", "--type=json", "-p", &patch];
    world.lab.kubectl(&arguments).ok();
    world.settle();
    pod("client-1")
        .tcp(To::Service("changed", 90))
        .each(&["echo-3"])
        .look(world)?;
    pod("client-1")
        .tcp(To::Service("changed", 80))
        .nobody()
        .look(world)
}

fn service_goes(world: &World) -> Verdict {
    let see = pod("client-1").tcp(To::Service("deleted", 80));
    let outside = From::Outside.tcp(To::NodePort(1, "deleted", 80));
    see.clone().each(ALL).look(world)?;
    outside.clone().each(ALL).look(world)?;
    // The addresses are those of the Service as it was read before.
    world.lab.kubectl(&["delete", "service", "deleted"]).ok();
    world.lab.wait("the Service to be gone", || {
        let gone = see.clone().nobody().look(world);
        gone.and_then(|()| outside.clone().nobody().look(world))
    });
    world.settle();
    Ok(())
}

/// Traffic to a Service from a pod and to a node's port from outside, in every family.
fn traffic(world: &World, name: &'static str, connections: &str) -> Result<Vec<Going>, String> {
    let ways = [
        (pod("client-1"), To::Service(name, 80)),
        (From::Router, To::NodePort(2, name, 80)),
    ];
    traffic_on(world, &ways, connections)
}

fn traffic_on(world: &World, ways: &[(From, To)], connections: &str) -> Result<Vec<Going>, String> {
    let mut all = Vec::new();
    for &v6 in world.mode.versions() {
        for &(from, to) in ways {
            let target = address(world, to, v6)?;
            let arguments = ["hold", "--connections", connections, &target];
            let mut going = Going::start(world, from, &arguments);
            first(&mut going, "holding")?;
            all.push(going);
        }
    }
    Ok(all)
}

/// Ends the traffic; `held` says whether connections that stay must have lived.
fn unharmed(traffic: Vec<Going>, held: bool) -> Verdict {
    for going in traffic {
        let report: Value = serde_json::from_str(&going.end()?).map_err(|it| it.to_string())?;
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        let good = empty(&report["failed"])
            && report["opened"].as_u64() > Some(0)
            && (!held || empty(&report["broken"]));
        if !good {
            return Err(report.to_string());
        }
    }
    Ok(())
}

fn rolling_update(world: &World) -> Verdict {
    let lab = &world.lab;
    // Connections to pods that end, end; new ones never fail, whoever makes them and wherever they go.
    let traffic = traffic_on(
        world,
        &[
            (pod("client-1"), To::Service("rolling", 80)),
            (pod("client-2"), To::Service("rolling", 80)),
            (From::Node(3), To::Service("rolling", 80)),
            (pod("client-3"), To::NodePort(1, "rolling", 80)),
            (pod("client-2"), To::LoadBalancer("rolling", 80)),
            (pod("opted"), To::Service("rolling", 80)),
            (From::Router, To::NodePort(1, "rolling", 80)),
            (From::Router, To::NodePort(2, "rolling", 80)),
            (From::Router, To::LoadBalancer("rolling", 80)),
        ],
        "0",
    )?;
    for _ in 0..2 {
        // What makes a restart another than the one before is the second that it was asked for in.
        lab.wait("kubectl to ask for a restart", || {
            let asked = lab.kubectl(&["rollout", "restart", "deployment", "rolling"]);
            if asked.stderr.contains("within the past second") {
                return Err(asked.stderr);
            }
            asked.ok();
            Ok(())
        });
        lab.kubectl(&[
            "rollout",
            "status",
            "deployment",
            "rolling",
            "--timeout=50s",
        ])
        .ok();
    }
    unharmed(traffic, false)
}

fn agents_die(world: &World) -> Verdict {
    let traffic = traffic(world, "np", "50")?;
    for node in ["node-1", "node-2", "node-3"] {
        world.lab.waggle(&["kill", node]).ok();
    }
    // Without agents, too.
    pod("client-2")
        .tcp(To::Service("np", 80))
        .each(ALL)
        .look(world)?;
    for node in ["node-1", "node-2", "node-3"] {
        world.lab.waggle(&["start", node]).ok();
    }
    unharmed(traffic, true)
}

fn controller_dies(world: &World) -> Verdict {
    let traffic = traffic(world, "np", "10")?;
    world.lab.waggle(&["kill", "controller-1"]).ok();
    let outcome = without_controller(world);
    world.lab.waggle(&["start", "controller-1"]).ok();
    outcome.and_then(|()| unharmed(traffic, true))
}

fn without_controller(world: &World) -> Verdict {
    let see = || -> Verdict {
        pod("client-3")
            .tcp(To::Service("np", 80))
            .each(ALL)
            .look(world)?;
        From::Outside
            .udp(To::NodePort(3, "np", 80))
            .each(ALL)
            .look(world)
    };
    see()?;
    world.lab.waggle(&["kill", "node-3"]).ok();
    see()?;
    world.lab.waggle(&["start", "node-3"]).ok();
    see()?;
    // Names too: what the agent knew is on its disk.
    for name in ["np", "kubernetes"] {
        let found = resolve(
            world,
            pod("client-3"),
            &format!("{name}.default.svc.cluster.local"),
        );
        if found.is_empty() {
            return Err(format!("{name} has no address without control plane"));
        }
    }
    Ok(())
}

/// Its programs, maps, links, processes and namespaces are gone, and nobody tells it what there is.
fn node_reboots(world: &World) -> Verdict {
    world.lab.waggle(&["kill", "controller-1"]).ok();
    let rebooted = world.lab.waggle(&["reboot", "node-3"]);
    let outcome = if rebooted.code == Some(0) {
        works_from_its_disk(world)
    } else {
        Err(rebooted.stderr)
    };
    world.lab.waggle(&["start", "controller-1"]).ok();
    outcome?;
    // Its pods have other addresses, which the control plane is told of.
    world.lab.wait("the node to take part again", || {
        pod("client-3")
            .tcp(To::Service("np", 80))
            .each(ALL)
            .look(world)
    });
    world.settle();
    Ok(())
}

fn works_from_its_disk(world: &World) -> Verdict {
    for see in [
        From::Node(3).tcp(To::Service("kept", 80)),
        From::Node(3).udp(To::Service("kept", 80)),
        From::Outside.tcp(To::NodePort(3, "kept", 80)),
        From::Outside.udp(To::NodePort(3, "kept", 80)),
        From::Node(3).tcp(To::Pod("echo-1")),
    ] {
        see.each(&["echo-1"]).look(world)?;
    }
    let name = "kept.default.svc.cluster.local";
    let known = |from: From| match resolve(world, from, name) {
        found if found.len() == world.mode.versions().len() => Ok(()),
        found => Err(format!("{from:?}: {name} has {found:?}")),
    };
    known(From::Node(3))?;
    // Its pods come back too.
    world.lab.wait("a pod of the node to be there again", || {
        let see = pod("client-3").tcp(To::Service("kept", 80));
        see.each(&["echo-1"]).look(world)?;
        known(pod("client-3"))
    });
    Ok(())
}

fn nodes_come_and_go(world: &World) -> Verdict {
    let lab = &world.lab;
    lab.waggle(&["add-node"]).ok();
    let outcome = with_fourth_node(world);
    let removed = lab.waggle(&["remove-node", "node-4"]);
    removed.ok();
    outcome?;
    // Its pod goes with it, and its endpoint with the pod.
    lab.kubectl(&["delete", "pod", "echo-4", "--force", "--grace-period=0"]);
    world.settle();
    pod("client-1")
        .tcp(To::Service("np", 80))
        .each(ALL)
        .look(world)
}

fn with_fourth_node(world: &World) -> Verdict {
    const FOUR: &[&str] = &["echo-1", "echo-2", "echo-3", "echo-4"];
    // `lab` reads its status once: the new node is asked for by a lab that has read it again.
    let pods = server("echo-4", 4, "app: echo", "") + &server("client-4", 4, "app: client", "");
    let lab = &world.lab;
    lab.apply(&pods);
    lab.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/echo-4",
        "pod/client-4",
        "--timeout=50s",
    ])
    .ok();
    lab.settle();
    for &v6 in world.mode.versions() {
        let target = address(world, To::Service("np", 80), v6)?;
        for from in [
            vec!["exec", "--pod", "client-4", "--"],
            vec!["exec", "node-4", "--"],
            vec!["exec", "--pod", "client-1", "--"],
        ] {
            lab.wait("the new endpoint in every table", || {
                let mut arguments = from.clone();
                arguments.extend([crate::world::PEER, "call", "--count", "60", &target]);
                let answers = lab.waggle(&arguments).ok();
                let reports: Vec<Value> = answers
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .collect();
                let all = FOUR
                    .iter()
                    .all(|name| reports.iter().any(|report| report["name"] == *name));
                let failed = reports.iter().find(|report| report["result"] != "ok");
                match failed {
                    None if all => Ok(()),
                    _ => Err(format!("{from:?} {target}: {failed:?}")),
                }
            });
        }
    }
    lab.kubectl(&[
        "delete",
        "pod",
        "client-4",
        "echo-4",
        "--force",
        "--grace-period=0",
    ])
    .ok();
    Ok(())
}

/// node-3 takes other addresses, in every family.
fn address_changes(world: &World) -> Verdict {
    let spot = world.lab.on_node("node-3");
    let old = world.lab.node_addresses("node-3");
    let mut script = String::new();
    let mut wanted = Vec::new();
    for &v6 in world.mode.versions() {
        let old = of_family(&old, v6).unwrap();
        let (length, new, gateway, all) = if v6 {
            (64, "fd00:144::99", "fd00:144::1", "::/0")
        } else {
            (24, "192.168.144.99", "192.168.144.1", "default")
        };
        let flags = if v6 { "nodad" } else { "" };
        script += &format!(
            "ip address del {old}/{length} dev eth0; ip address add {new}/{length} dev eth0 {flags}
             ip route replace {all} via {gateway}\n"
        );
        wanted.push(new);
    }
    let mut command = spot.command("sh");
    waggle_tests::Outcome::of(command.args(["-ec", &script])).ok();
    world.lab.wait("the new addresses in the Node", || {
        let node = world.lab.json(&["node", "node-3"]);
        let addresses = node["status"]["addresses"].to_string();
        let known = wanted.iter().all(|new| addresses.contains(new));
        known.then_some(()).ok_or(addresses)
    });
    world.lab.wait("the others to reach its pods", || {
        pod("client-1")
            .tcp(To::Pod("echo-3"))
            .each(&["echo-3"])
            .client(Client::Kept)
            .look(world)?;
        pod("client-3")
            .tcp(To::Pod("echo-1"))
            .each(&["echo-1"])
            .client(Client::Kept)
            .look(world)
    });
    pod("client-3")
        .tcp(To::Service("web", 80))
        .each(ALL)
        .look(world)
}

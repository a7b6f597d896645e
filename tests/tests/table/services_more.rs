//! Behaviours of Services that take more than calls to be seen: names, health checks, hand-made EndpointSlices,
//! the API's own Service.

use std::collections::BTreeSet;

use waggle_tests::Outcome;

use crate::call::{From, To, calls, pod};
use crate::services_table::{ALL, ECHO, service};
use crate::world::{Row, Verdict, World};

/// The tenth address of the first Service range.
fn cluster_dns(world: &World) -> &'static str {
    if world.mode.families == "v6" {
        "fd00:10:96::a"
    } else {
        "10.96.0.10"
    }
}

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("Names: a Service has those of its addresses, on every node")
            .with(service("web", ECHO, ""))
            .code(|world| {
                let addresses = strings(&world.service("web")["spec"]["clusterIPs"]);
                for client in ["client-1", "client-2", "client-3"] {
                    let found = resolve(world, client, "web.default.svc.cluster.local");
                    equal(client, &found, &addresses)?;
                }
                Ok(())
            }),
        Row::new("Headless: its name has the addresses of its endpoints")
            .with(service("headless", ECHO, "clusterIP: None"))
            .code(|world| {
                let mut addresses = BTreeSet::new();
                for name in ALL {
                    let pod = world.pod(name);
                    addresses.extend(pod.addresses.iter().map(ToString::to_string));
                }
                let found = resolve(world, "client-1", "headless.default.svc.cluster.local");
                equal("client-1", &found, &addresses)
            }),
        Row::new("ExternalName: its name is another name")
            .with(
                "---\napiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\n\
                 spec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n",
            )
            .with_more(service("web", ECHO, ""))
            .code(|world| {
                let name = "elsewhere.default.svc.cluster.local";
                let answer = dig(world, "client-2", &["+short", "CNAME", name]);
                equal(
                    "CNAME",
                    &lines(&answer),
                    &BTreeSet::from(["web.default.svc.cluster.local.".to_owned()]),
                )
            }),
        Row::new("Counters: what every node sent where, its tables and its names")
            .with(service("np", ECHO, "type: NodePort"))
            .see(From::Outside.tcp(To::NodePort(1, "np", 80)).each(ALL))
            .code(counters),
        Row::new("The API is reached through its own Service, from pods and nodes").code(|world| {
            let address = world.service("kubernetes")["spec"]["clusterIP"].clone();
            let address = address.as_str().ok_or("no ClusterIP")?;
            for from in [pod("client-1"), pod("client-3"), From::Node(2)] {
                let mut command = from.spot(world).command("curl");
                command.args(["-sk", "-m", "5", &format!("https://{address}/version")]);
                let answer = Outcome::of(&mut command);
                if !answer.stdout.contains("gitVersion") {
                    return Err(format!("{from:?}: {answer:?}"));
                }
            }
            Ok(())
        }),
        Row::new("healthCheckNodePort: says which nodes have endpoints")
            .with(service(
                "local",
                "selector: {own: echo-2}",
                "type: LoadBalancer\n  externalTrafficPolicy: Local",
            ))
            .code(|world| {
                let port = world.service("local")["spec"]["healthCheckNodePort"].as_u64();
                let port = port.ok_or("the Service has no healthCheckNodePort")?;
                for (node, expected) in [(1, "503"), (2, "200"), (3, "503")] {
                    for address in world.lab.node_addresses(&format!("node-{node}")) {
                        let at = std::net::SocketAddr::new(address, u16::try_from(port).unwrap());
                        let mut command = From::Router.spot(world).command("curl");
                        command.args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]);
                        let answer = Outcome::of(command.arg(format!("http://{at}/healthz")));
                        if answer.stdout != expected {
                            return Err(format!("{at} says {}, not {expected}", answer.stdout));
                        }
                    }
                }
                Ok(())
            }),
        Row::new(
            "A Service without selector: hand-made EndpointSlices, to pods and to the outside",
        )
        .with(service("manual", "", ""))
        .prepare(hand_made)
        .see(
            pod("client-1")
                .tcp(To::Service("manual", 80))
                .each(&["echo-3", "outside"])
                .v4(),
        )
        .see(
            From::Node(2)
                .tcp(To::Service("manual", 80))
                .each(&["echo-3", "outside"])
                .v4(),
        ),
        Row::new("A hand-made EndpointSlice with nonsense harms nobody")
            .with(service("nonsense", "", ""))
            .prepare(nonsense)
            .see(pod("client-1").tcp(To::Service("web", 80)).each(ALL))
            .see(pod("client-1").tcp(To::Service("nonsense", 80)).nobody())
            .with_more(service("web", ECHO, "")),
        Row::new("Terminating endpoints serve while nothing else is left, and only then")
            .with(service("last", "selector: {own: leaving}", ""))
            .with_more(service("not-last", "selector: {leave: 'yes'}", ""))
            .with_more(leaving("leaving"))
            .with_more(crate::world::server("staying", 1, "leave: 'yes'", ""))
            .code(terminating),
        Row::new("Endpoints are chosen evenly")
            .with(service("web", ECHO, ""))
            .code(|world| {
                let target = To::Service("web", 80).address(world, false);
                let target = target.ok_or("no ClusterIP")?;
                let reports = calls(world, pod("client-1"), target, false, 600, &[])?;
                for name in ALL {
                    let count = reports.iter().filter(|it| it["name"] == *name).count();
                    // 200 are expected, with a standard deviation of 11.5: seven of them on either side.
                    if !(120..=280).contains(&count) {
                        return Err(format!("{name} answered {count} of 600"));
                    }
                }
                Ok(())
            }),
    ]
}

/// A pod that goes on serving when it is told to end.
fn leaving(name: &str) -> String {
    crate::world::server(name, 2, "leave: 'yes'", "")
        .replace(
            "terminationGracePeriodSeconds: 1",
            "terminationGracePeriodSeconds: 60",
        )
        .replace("args: [serve,", "args: [serve, \"--linger\", \"60\",")
}

fn terminating(world: &World) -> Verdict {
    let lab = &world.lab;
    pod("client-1")
        .tcp(To::Service("not-last", 80))
        .each(&["leaving", "staying"])
        .look(world)?;
    lab.kubectl(&["delete", "pod", "leaving", "--wait=false"])
        .ok();
    lab.wait("the endpoint to be terminating", || {
        let label = "kubernetes.io/service-name=last";
        let slices = lab.json(&["endpointslices", "-l", label]);
        let conditions = &slices["items"][0]["endpoints"][0]["conditions"];
        if conditions["terminating"] == true && conditions["serving"] == true {
            Ok(())
        } else {
            Err(conditions.to_string())
        }
    });
    lab.settle();
    let outcome = both_see(world);
    lab.kubectl(&["delete", "pod", "leaving", "--force", "--grace-period=0"]);
    outcome
}

fn both_see(world: &World) -> Verdict {
    pod("client-1")
        .tcp(To::Service("last", 80))
        .each(&["leaving"])
        .look(world)?;
    pod("client-1")
        .tcp(To::Service("not-last", 80))
        .each(&["staying"])
        .look(world)
}

fn slice(service: &str, name: &str, addresses: &[String], port: u16) -> String {
    let family = if addresses.iter().any(|it| it.contains(':')) {
        "IPv6"
    } else {
        "IPv4"
    };
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports: [{{name: tcp, port: {port}}}]
endpoints: [{{addresses: {addresses:?}}}]
"
    )
}

fn hand_made(world: &World) {
    let first = |addresses: &[std::net::IpAddr]| {
        let v6 = world.mode.versions()[0];
        let address = crate::world::of_family(addresses, v6).expect("an address of the lab's");
        vec![address.to_string()]
    };
    let pod = first(&world.pod("echo-3").addresses);
    let outside = first(&world.lab.client_addresses());
    let inside = slice("manual", "manual-pod", &pod, crate::world::PORT);
    let beyond = slice(
        "manual",
        "manual-outside",
        &outside,
        crate::world::OUTSIDE_PORT,
    );
    world.lab.apply(&(inside + &beyond));
}

/// What the API lets through and no data plane can use.
fn nonsense(world: &World) {
    let nobody = if world.mode.versions()[0] {
        "fd00:10:244:ff::fe"
    } else {
        "10.244.255.254"
    };
    let addresses = [nobody.to_owned()];
    world
        .lab
        .apply(&slice("nonsense", "nonsense-1", &addresses, 1));
    world
        .lab
        .apply(&slice("no-such-service", "nonsense-2", &addresses, 80));
}

fn dig(world: &World, client: &'static str, arguments: &[&str]) -> String {
    let mut command = pod(client).spot(world).command("dig");
    let server = format!("@{}", cluster_dns(world));
    command.args([&server, "+tries=1", "+time=3"]);
    Outcome::of(command.args(arguments)).ok()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn counters(world: &World) -> Verdict {
    let mut wanted = vec![
        "waggle_dns_queries_total",
        "waggle_dataplane_map_size{map=\"services\"}",
        "waggle_dataplane_map_entries{map=\"services\"}",
    ];
    // Who turns a packet around in the driver says so.
    if world.mode.xdp {
        wanted.push("waggle_dataplane_forwarded_packets_total{to=\"xdp\"}");
    }
    let name = "web.default.svc.cluster.local";
    dig(world, "client-1", &["+short", "SOA", name]);
    let text = world.lab.metrics("node-1");
    for metric in wanted {
        let mut values = text.lines().filter(|line| line.starts_with(metric));
        let is_positive = |line: &str| {
            let value = line
                .rsplit(' ')
                .next()
                .and_then(|value| value.parse::<f64>().ok());
            value > Some(0.0)
        };
        if !values.any(is_positive) {
            return Err(format!("{metric} says nothing in\n{text}"));
        }
    }
    Ok(())
}

/// All addresses of a name.
pub(crate) fn resolve(world: &World, client: &'static str, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["A", "AAAA"] {
        found.extend(lines(&dig(world, client, &["+short", kind, name])));
    }
    found
}

fn strings(list: &serde_json::Value) -> BTreeSet<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| Some(it.as_str()?.to_owned()))
        .collect()
}

fn equal(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}"))
    }
}

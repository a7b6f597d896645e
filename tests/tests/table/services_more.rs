//! Behaviours of Services that take more than calls to be seen: health checks, counters, the API's own Service.

use waggle_tests::Outcome;

use crate::call::{From, To, calls, pod};
use crate::names_table::dig;
use crate::services_table::{ALL, ECHO, service};
use crate::world::{Row, Verdict, World};

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row::new("Counters: what every node sent where, its tables and its names")
            .with(service("np", ECHO, "type: NodePort"))
            .see(From::Outside.tcp(To::NodePort(1, "np", 80)).each(ALL))
            .code(counters),
        Row::new("The API is reached through its own Service, from pods and nodes").code(|world| {
            let address = world.service("kubernetes")["spec"]["clusterIP"].clone();
            let address = address.as_str().and_then(|address| address.parse().ok());
            let address = std::net::SocketAddr::new(address.ok_or("no ClusterIP")?, 443);
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
        Row::new("Endpoints are chosen evenly")
            .with(service("web", ECHO, ""))
            .code(|world| {
                for &v6 in world.mode.versions() {
                    let target = To::Service("web", 80).address(world, v6);
                    let target = target.ok_or("no ClusterIP")?;
                    let reports = calls(world, pod("client-1"), target, false, 600, &[])?;
                    for name in ALL {
                        let count = reports.iter().filter(|it| it["name"] == *name).count();
                        // 200 are expected, with a standard deviation of 11.5: seven of them on either side.
                        if !(120..=280).contains(&count) {
                            return Err(format!("{name} answered {count} of 600 at {target}"));
                        }
                    }
                }
                Ok(())
            }),
    ]
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
    dig(world, pod("client-1"), &["+short", "SOA", name]);
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

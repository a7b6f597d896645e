//! What a CNI plug-in does: pods, nodes and the outside reach each other by address.

use std::net::SocketAddr;

use waggle_tests::Outcome;

use crate::call::{Client, From, To, calls, pod};
use crate::world::{Mode, PEER, PORT, Routing, Row, Verdict, World, of_family};

const CLIENTS: [&str; 3] = ["client-1", "client-2", "client-3"];
const SERVERS: [(&str, &[&str]); 3] = [
    ("echo-1", &["echo-1"]),
    ("echo-2", &["echo-2"]),
    ("echo-3", &["echo-3"]),
];
const HOSTS: [&[&str]; 3] = [&["host-1"], &["host-2"], &["host-3"]];

/// Bytes of the overlay's headers: outer IP, UDP, VXLAN (RFC 7348) and inner Ethernet.
const OVERHEAD: u32 = 8 + 8 + 14;

/// What pods' links carry.
fn pod_mtu(mode: Mode) -> u32 {
    let outer = if mode.families == "v6" { 40 } else { 20 };
    match mode.routing {
        Routing::Overlay => u32::from(mode.mtu) - OVERHEAD - outer,
        Routing::Native => mode.mtu.into(),
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let mut pods = Row::new("Every pod reaches every pod, its address kept");
    let mut to_nodes = Row::new("Every pod reaches every node, its address kept");
    let mut from_nodes = Row::new("Every node reaches every pod, with its own address");
    let mut nodes = Row::new("Every node reaches every node");
    for (at, client) in CLIENTS.into_iter().enumerate() {
        let node = From::Node(at as u8 + 1);
        for (server, names) in SERVERS {
            for see in [
                pod(client).tcp(To::Pod(server)),
                pod(client).udp(To::Pod(server)),
            ] {
                pods = pods.see(see.each(names).client(Client::Kept));
            }
            for see in [node.tcp(To::Pod(server)), node.udp(To::Pod(server))] {
                from_nodes = from_nodes.see(see.each(names));
            }
        }
        for (number, names) in (1..).zip(HOSTS) {
            for see in [
                pod(client).tcp(To::Node(number)),
                pod(client).udp(To::Node(number)),
            ] {
                to_nodes = to_nodes.see(see.each(names).client(Client::Kept));
            }
            nodes = nodes.see(node.tcp(To::Node(number)).each(names));
        }
    }
    let mut rows = vec![pods, to_nodes, from_nodes, nodes];
    rows.extend(outside());
    rows.extend(sizes());
    rows
}

fn outside() -> Vec<Row> {
    vec![
        Row::new("Pods reach the outside with the address of their node")
            .see(
                pod("client-1")
                    .tcp(To::Outside)
                    .each(&["outside"])
                    .client(Client::Node(1)),
            )
            .see(
                pod("client-2")
                    .udp(To::Outside)
                    .each(&["outside"])
                    .client(Client::Node(2)),
            ),
        Row::new("Pods ping the outside").code(|world| {
            for address in world.lab.client_addresses() {
                for client in CLIENTS {
                    let program = if address.is_ipv6() { "ping6" } else { "ping" };
                    let mut command = pod(client).spot(world).command("busybox");
                    command.args([program, "-c", "1", "-W", "3", &address.to_string()]);
                    let outcome = Outcome::of(&mut command);
                    if outcome.code != Some(0) {
                        return Err(format!("{client} {address}: {}", outcome.stdout));
                    }
                }
            }
            Ok(())
        }),
        Row::new("Pods and nodes ping each other").code(|world| {
            let pairs = [
                (pod("client-1"), world.pod("echo-2").addresses),
                (pod("client-1"), world.lab.node_addresses("node-3")),
                (From::Node(1), world.pod("echo-3").addresses),
                (pod("client-2"), world.lab.node_addresses("node-2")),
            ];
            for (from, addresses) in pairs {
                for address in addresses {
                    let program = if address.is_ipv6() { "ping6" } else { "ping" };
                    let mut command = from.spot(world).command("busybox");
                    command.args([program, "-c", "1", "-W", "3", &address.to_string()]);
                    let outcome = Outcome::of(&mut command);
                    if outcome.code != Some(0) {
                        return Err(format!("{from:?} {address}: {}", outcome.stdout));
                    }
                }
            }
            Ok(())
        }),
        Row::new("An ICMP error from outside gets to the pod that it is about").code(|world| {
            for address in world.lab.client_addresses() {
                // Nobody listens there: port unreachable.
                let closed = SocketAddr::new(address, 9);
                let reports = calls(world, pod("client-1"), closed, true, 1, &[])?;
                if reports[0]["result"] != "refused" {
                    return Err(format!("{closed}: {}", reports[0]));
                }
            }
            Ok(())
        }),
        Row::new("traceroute shows a pod's node as the first hop").code(first_hop),
        Row::new("A pod cannot send with an address that is not its own").code(spoofing),
    ]
}

fn first_hop(world: &World) -> Verdict {
    for target in world.lab.client_addresses() {
        for (client, node) in [("client-1", "node-1"), ("client-3", "node-3")] {
            let program = if target.is_ipv6() {
                "traceroute6"
            } else {
                "traceroute"
            };
            let mut command = pod(client).spot(world).command("busybox");
            command.args([program, "-n", "-q", "1", "-w", "5", "-m", "1"]);
            let outcome = Outcome::of(command.arg(target.to_string()));
            let node = of_family(&world.lab.node_addresses(node), target.is_ipv6());
            let node = node.ok_or("no address of the node")?.to_string();
            if !outcome.stdout.split_whitespace().any(|word| word == node) {
                return Err(format!("{client} to {target}, by {node}: {outcome:?}"));
            }
        }
    }
    Ok(())
}

fn spoofing(world: &World) -> Verdict {
    let before = drops(world, "node-1");
    for &v6 in world.mode.versions() {
        let own = of_family(&world.pod("client-1").addresses, v6).ok_or("no address")?;
        let server = of_family(&world.pod("echo-1").addresses, v6).ok_or("no server")?;
        let target = SocketAddr::new(server, PORT).to_string();
        let forge = |source: &str| {
            let mut command = pod("client-1").spot(world).command(PEER);
            Outcome::of(command.args(["forge", source, &target])).ok();
        };
        let stranger = if v6 {
            "fd00:10:244:77::66"
        } else {
            "10.244.77.66"
        };
        forge(&SocketAddr::new(stranger.parse().unwrap(), 4000).to_string());
        // The same with its own address arrives: what is missing then was dropped.
        forge(&SocketAddr::new(own, 4000).to_string());
        let seen = |address: &str| {
            let text = format!("seen {address}");
            let target = target.parse().unwrap();
            let reports = calls(world, pod("client-1"), target, false, 1, &["--text", &text]);
            reports.map(|it| it[0]["answer"].to_string().contains("true"))
        };
        world.lab.wait("the pod's own packet", || {
            seen(&own.to_string())?
                .then_some(())
                .ok_or("not seen".to_owned())
        });
        if seen(stranger)? {
            return Err(format!("a packet from {stranger} arrived"));
        }
    }
    let after = drops(world, "node-1");
    if after >= before + world.mode.versions().len() as u64 {
        Ok(())
    } else {
        Err(format!("{before} drops before, {after} after"))
    }
}

/// All packets that the node's data plane has dropped.
fn drops(world: &World, node: &str) -> u64 {
    let metrics = world.lab.metrics(node);
    metrics
        .lines()
        .filter(|line| line.starts_with("waggle_agent_drops_total"))
        .filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok())
        .sum()
}

fn sizes() -> Vec<Row> {
    vec![
        Row::new("Pods have the MTU that fits the fabric")
            .code(|world| mtu(world, pod_mtu(world.mode))),
        Row::new("Requests larger than a packet pass, over TCP and as fragments over UDP")
            .see(
                pod("client-1")
                    .tcp(To::Pod("echo-2"))
                    .each(&["echo-2"])
                    .options(&["--size", "60000"]),
            )
            .see(
                pod("client-1")
                    .udp(To::Pod("echo-2"))
                    .each(&["echo-2"])
                    .options(&["--size", "20000"]),
            )
            .see(
                pod("client-1")
                    .udp(To::Pod("echo-1"))
                    .each(&["echo-1"])
                    .options(&["--size", "20000"]),
            )
            .see(
                pod("client-3")
                    .udp(To::Outside)
                    .each(&["outside"])
                    .options(&["--size", "20000"]),
            )
            .see(
                pod("client-3")
                    .udp(To::Service("web", 80))
                    .each(crate::services_table::ALL)
                    .options(&["--size", "20000"]),
            )
            .see(
                From::Outside
                    .udp(To::NodePort(1, "np", 80))
                    .each(crate::services_table::ALL)
                    .options(&["--size", "20000"]),
            )
            .with(crate::services_table::service(
                "web",
                crate::services_table::ECHO,
                "",
            ))
            .with_more(crate::services_table::service(
                "np",
                crate::services_table::ECHO,
                "type: NodePort",
            )),
        Row::new("A path with a smaller MTU is discovered").code(path_mtu),
    ]
}

fn mtu(world: &World, expected: u32) -> Verdict {
    for client in CLIENTS {
        let mut command = pod(client).spot(world).command("ip");
        let links = Outcome::of(command.args(["-o", "link", "show", "eth0"])).ok();
        if !links.contains(&format!(" mtu {expected} ")) {
            return Err(format!("{client}: {links}"));
        }
    }
    Ok(())
}

/// The router sends what is for its client on with 1300 bytes at most, and says so.
fn path_mtu(world: &World) -> Verdict {
    let far = world.lab.scratch().join("far");
    let outside = world.lab.outside();
    let shell = |script: &str| {
        let mut command = outside.command("sh");
        Outcome::of(command.args(["-ec", script]))
    };
    std::fs::write(&far, "").unwrap();
    let far = far.display();
    shell(&format!(
        "unshare --net={far} true
         ip link add narrow mtu 1300 type veth peer name eth0 mtu 1300 netns {far}
         ip address add 203.0.114.1/24 dev narrow; ip address add 2001:db8:114::1/64 dev narrow nodad
         ip link set narrow up
         nsenter --net={far} sh -ec '
           ip link set lo up; ip link set eth0 up
           ip address add 203.0.114.2/24 dev eth0; ip address add 2001:db8:114::2/64 dev eth0 nodad
           ip route add default via 203.0.114.1; ip route add ::/0 via 2001:db8:114::1'"
    ))
    .ok();
    let server = std::process::Command::new("nsenter")
        .args([
            &format!("--net={far}"),
            PEER,
            "serve",
            "--tcp",
            "9000",
            "--udp",
            "9000",
            "far",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut server = server.unwrap();
    let mut line = String::new();
    let stdout = server.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let outcome = narrow_calls(world);
    server.kill().unwrap();
    server.wait().unwrap();
    shell("ip link delete narrow").ok();
    Outcome::of(std::process::Command::new("umount").arg(far.to_string())).ok();
    outcome
}

fn narrow_calls(world: &World) -> Verdict {
    for &v6 in world.mode.versions() {
        let target = if v6 {
            "[2001:db8:114::2]:9000"
        } else {
            "203.0.114.2:9000"
        };
        let target: SocketAddr = target.parse().unwrap();
        for from in [pod("client-1"), pod("client-3")] {
            // TCP sets "don't fragment" and learns from the router's answer.
            let reports = calls(world, from, target, false, 1, &["--size", "60000"])?;
            if reports[0]["length"] != 60000 {
                return Err(format!("{from:?} {target}: {}", reports[0]));
            }
            // The path's MTU is known by now: a datagram that may not be cut does not leave.
            let options = ["--size", "1350", "--whole"];
            let reports = calls(world, from, target, true, 1, &options)?;
            if reports[0]["result"] != "too big" {
                return Err(format!("{from:?} {target}: {}", reports[0]));
            }
        }
    }
    Ok(())
}

//! Names of Services, of their endpoints and of pods, as pods ask for them.

use std::collections::BTreeSet;

use waggle_tests::Outcome;

use crate::call::{From, pod};
use crate::endpoints_table::slice;
use crate::services_table::{ALL, ECHO, service};
use crate::world::{Row, Verdict, World, of_family, server};

const CLIENTS: [&str; 3] = ["client-1", "client-2", "client-3"];
const ZONE: &str = "default.svc.cluster.local";

/// The tenth address of the first Service range.
fn cluster_dns(world: &World) -> &'static str {
    if world.mode.families == "v6" {
        "fd00:10:96::a"
    } else {
        "10.96.0.10"
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = services();
    rows.extend(headless());
    rows
}

fn services() -> Vec<Row> {
    vec![
        Row::new("Names: a Service has those of its addresses, on every node")
            .with(service("web", ECHO, ""))
            .code(|world| {
                let addresses = strings(&world.service("web")["spec"]["clusterIPs"]);
                for from in CLIENTS.map(pod).into_iter().chain([From::Node(2)]) {
                    let found = resolve(world, from, &format!("web.{ZONE}"));
                    equal(&format!("{from:?}"), &found, &addresses)?;
                }
                Ok(())
            }),
        Row::new("Names: over TCP as over UDP")
            .with(service("web", ECHO, ""))
            .code(|world| {
                let addresses = strings(&world.service("web")["spec"]["clusterIPs"]);
                let name = format!("web.{ZONE}");
                let mut found = BTreeSet::new();
                for kind in ["A", "AAAA"] {
                    let arguments = ["+tcp", "+short", kind, &name];
                    found.extend(lines(&dig(world, pod("client-2"), &arguments)));
                }
                equal("over TCP", &found, &addresses)
            }),
        Row::new("Names: an address of a Service leads back to its name")
            .with(service("web", ECHO, ""))
            .code(|world| {
                for address in strings(&world.service("web")["spec"]["clusterIPs"]) {
                    let found = dig(world, pod("client-1"), &["+short", "-x", &address]);
                    let expected = BTreeSet::from([format!("web.{ZONE}.")]);
                    equal(&address, &lines(&found), &expected)?;
                }
                Ok(())
            }),
        Row::new("Names: a Service's named ports have one SRV record each")
            .with(service("web", ECHO, ""))
            .code(|world| {
                for protocol in ["tcp", "udp"] {
                    let name = format!("_{protocol}._{protocol}.web.{ZONE}");
                    let found = targets(world, &name);
                    let expected = BTreeSet::from([(80, format!("web.{ZONE}."))]);
                    equal(&name, &found, &expected)?;
                }
                Ok(())
            }),
        Row::new("ExternalName: its name is another name")
            .with(
                "---\napiVersion: v1\nkind: Service\nmetadata: {name: elsewhere}\n\
                 spec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n",
            )
            .with_more(service("web", ECHO, ""))
            .code(|world| {
                let name = format!("elsewhere.{ZONE}");
                let answer = dig(world, pod("client-2"), &["+short", "CNAME", &name]);
                let expected = BTreeSet::from([format!("web.{ZONE}.")]);
                equal("CNAME", &lines(&answer), &expected)
            }),
    ]
}

fn headless() -> Vec<Row> {
    vec![
        Row::new("Headless: its name has the addresses of its endpoints")
            .with(service("headless", ECHO, "clusterIP: None"))
            .code(|world| {
                let addresses = ALL.iter().flat_map(|name| of_pod(world, name)).collect();
                let found = resolve(world, pod("client-1"), &format!("headless.{ZONE}"));
                equal("client-1", &found, &addresses)
            }),
        Row::new("Headless: its named ports have an SRV record for each endpoint, whose name has its address")
            .with(service("headless", ECHO, "clusterIP: None"))
            .code(|world| {
                let found = targets(world, &format!("_tcp._tcp.headless.{ZONE}"));
                if found.iter().any(|(port, _)| *port != 8080) {
                    return Err(format!("other ports than the endpoints': {found:?}"));
                }
                let names = found.iter().map(|(_, name)| name);
                let found = names.flat_map(|name| resolve(world, pod("client-1"), name));
                let found: BTreeSet<String> = found.collect();
                let addresses = ALL.iter().flat_map(|name| of_pod(world, name)).collect();
                equal("its targets", &found, &addresses)
            }),
        Row::new("Headless: a pod with hostname and subdomain has a name of its own")
            .with(service("domain", "selector: {own: named}", "clusterIP: None"))
            .with_more(crate::world::pod(
                "named",
                3,
                "app: named",
                "hostname: alpha\n  subdomain: domain",
                "",
            ))
            .code(|world| {
                let found = resolve(world, pod("client-1"), &format!("alpha.domain.{ZONE}"));
                equal("alpha", &found, &of_pod(world, "named"))
            }),
        Row::new("Headless: endpoints that are not ready have names only with publishNotReadyAddresses")
            .with(service("waiting", "selector: {own: unready}", "clusterIP: None"))
            .with_more(service(
                "shown",
                "selector: {own: unready}",
                "clusterIP: None\n  publishNotReadyAddresses: true",
            ))
            .with_more(server("unready", 2, "ready: never", crate::services_table::NEVER_READY))
            .code(|world| {
                let found = resolve(world, pod("client-1"), &format!("waiting.{ZONE}"));
                equal("waiting", &found, &BTreeSet::new())?;
                let found = resolve(world, pod("client-1"), &format!("shown.{ZONE}"));
                equal("shown", &found, &of_pod(world, "unready"))
            }),
        Row::new("Headless without selector: its name has the addresses of hand-made EndpointSlices")
            .with(service("by-hand", "", "clusterIP: None"))
            .prepare(|world| {
                for &v6 in world.mode.versions() {
                    let address = of_family(&world.pod("echo-3").addresses, v6);
                    let name = format!("by-hand-{v6}");
                    let address = vec![address.expect("an address").to_string()];
                    world.lab.apply(&slice("by-hand", &name, &address, 8080));
                }
            })
            .code(|world| {
                let found = resolve(world, pod("client-2"), &format!("by-hand.{ZONE}"));
                equal("by-hand", &found, &of_pod(world, "echo-3"))
            }),
    ]
}

pub(crate) fn dig(world: &World, from: From, arguments: &[&str]) -> String {
    let mut command = from.spot(world).command("dig");
    let server = format!("@{}", cluster_dns(world));
    command.args([&server, "+tries=1", "+time=3"]);
    Outcome::of(command.args(arguments)).ok()
}

/// All addresses of a name.
pub(crate) fn resolve(world: &World, from: From, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["A", "AAAA"] {
        found.extend(lines(&dig(world, from, &["+short", kind, name])));
    }
    found
}

/// Ports and names that SRV records of a name lead to.
fn targets(world: &World, name: &str) -> BTreeSet<(u16, String)> {
    let answer = dig(world, pod("client-1"), &["+short", "SRV", name]);
    let records = answer.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(2);
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    });
    records.collect()
}

fn of_pod(world: &World, name: &str) -> BTreeSet<String> {
    let addresses = world.pod(name).addresses;
    addresses.iter().map(ToString::to_string).collect()
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn strings(list: &serde_json::Value) -> BTreeSet<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| Some(it.as_str()?.to_owned()))
        .collect()
}

fn equal<T: Ord + std::fmt::Debug>(
    what: &str,
    found: &BTreeSet<T>,
    expected: &BTreeSet<T>,
) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}"))
    }
}

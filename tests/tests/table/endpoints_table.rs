//! Which endpoints a Service's traffic gets: hand-made ones, those near its client, those that terminate or are not
//! ready.

use crate::call::{From, To, pod};
use crate::services_table::{ALL, ECHO, both, service};
use crate::world::{OUTSIDE_PORT, PORT, Row, Verdict, World, of_family, server};

/// In a pod whose sockets are left alone, too.
const FROM_EVERYWHERE: [From; 4] = [
    From::Pod("client-1"),
    From::Pod("opted"),
    From::Node(2),
    From::Outside,
];

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = hand_made_ones();
    rows.extend(near());
    rows.extend(by_state());
    rows
}

fn hand_made_ones() -> Vec<Row> {
    let mut manual = Row::new(
        "A Service without selector: hand-made EndpointSlices, to pods and to the outside",
    )
    .with(service("manual", "", "type: NodePort"))
    .with_more(crate::services_table::opted())
    .prepare(hand_made);
    for from in FROM_EVERYWHERE {
        // From outside the cluster IP leads nowhere.
        let to = match from {
            From::Outside => To::NodePort(1, "manual", 80),
            _ => To::Service("manual", 80),
        };
        manual
            .sees
            .extend(both(from, to, |see| see.each(&["echo-3", "outside"])));
    }
    vec![
        manual,
        Row::new("A Service without selector: hand-made Endpoints are mirrored")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: mirrored}
spec:
  ports: [{name: tcp, port: 80, targetPort: 8080}]
",
            )
            .prepare(|world| {
                let v6 = world.mode.versions()[0];
                let address = of_family(&world.pod("echo-2").addresses, v6);
                let address = address.expect("an address of the lab's");
                world.lab.apply(&format!(
                    "---
apiVersion: v1
kind: Endpoints
metadata: {{name: mirrored}}
subsets: [{{addresses: [{{ip: '{address}'}}], ports: [{{name: tcp, port: {PORT}}}]}}]
"
                ));
            })
            .see(
                pod("client-1")
                    .tcp(To::Service("mirrored", 80))
                    .each(&["echo-2"])
                    .first_family(),
            ),
        Row::new("A hand-made EndpointSlice with nonsense harms nobody")
            .with(service("nonsense", "", ""))
            .prepare(nonsense)
            .see(pod("client-1").tcp(To::Service("web", 80)).each(ALL))
            .see(pod("client-1").tcp(To::Service("nonsense", 80)).nobody())
            .with_more(service("web", ECHO, "")),
    ]
}

fn near() -> Vec<Row> {
    let far = "selector: {own: echo-2}";
    let mut rows = vec![
        Row::new("trafficDistribution PreferSameZone: endpoints of the client's zone")
            .with(service(
                "zoned",
                ECHO,
                "trafficDistribution: PreferSameZone",
            ))
            .both(pod("client-1"), To::Service("zoned", 80), |see| {
                see.each(&["echo-1", "echo-3"])
            })
            .both(pod("client-2"), To::Service("zoned", 80), |see| {
                see.each(&["echo-2"])
            }),
        Row::new("trafficDistribution PreferClose: the same as PreferSameZone")
            .with(service("close", ECHO, "trafficDistribution: PreferClose"))
            .see(
                pod("client-2")
                    .tcp(To::Service("close", 80))
                    .each(&["echo-2"]),
            )
            .see(
                pod("client-3")
                    .tcp(To::Service("close", 80))
                    .each(&["echo-1", "echo-3"]),
            ),
        Row::new("trafficDistribution PreferSameNode: the endpoint of the client's node")
            .with(service(
                "same-node",
                ECHO,
                "trafficDistribution: PreferSameNode",
            ))
            .both(pod("client-1"), To::Service("same-node", 80), |see| {
                see.each(&["echo-1"])
            })
            .both(pod("client-3"), To::Service("same-node", 80), |see| {
                see.each(&["echo-3"])
            }),
    ];
    let mut any = Row::new("trafficDistribution: any endpoint where there is none near");
    for (name, distribution) in [
        ("zoned-far", "PreferSameZone"),
        ("close-far", "PreferClose"),
        ("same-node-far", "PreferSameNode"),
    ] {
        let spec = format!("trafficDistribution: {distribution}");
        any = any.with_more(service(name, far, &spec)).both(
            pod("client-1"),
            To::Service(name, 80),
            |see| see.each(&["echo-2"]),
        );
    }
    rows.push(any);
    rows
}

fn by_state() -> Vec<Row> {
    let unready = server(
        "unready",
        2,
        "ready: never",
        crate::services_table::NEVER_READY,
    );
    vec![
        Row::new("targetPort by name: each endpoint's own port of that name")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: by-name}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: by-name}
  ports: [{port: 80, targetPort: web}]
",
            )
            .with_more(server(
                "by-name-1",
                1,
                "app: by-name",
                "\n    ports: [{name: web, containerPort: 8080}]",
            ))
            .with_more(server(
                "by-name-2",
                2,
                "app: by-name",
                "\n    ports: [{name: web, containerPort: 8081}]",
            ))
            .see(
                pod("client-3")
                    .tcp(To::Service("by-name", 80))
                    .each(&["by-name-1", "by-name-2"]),
            ),
        Row::new("An endpoint that is not ready gets nothing")
            .with(service("not-ready", "selector: {own: unready}", ""))
            .with_more(unready.clone())
            .both(pod("client-1"), To::Service("not-ready", 80), |see| {
                see.refused()
            }),
        Row::new("publishNotReadyAddresses: it does all the same")
            .with(service(
                "published",
                "selector: {own: unready}",
                "publishNotReadyAddresses: true",
            ))
            .with_more(unready)
            .both(pod("client-1"), To::Service("published", 80), |see| {
                see.each(&["unready"])
            }),
        Row::new("Terminating endpoints serve while nothing else is left, and only then")
            .with(service("last", "selector: {own: leaving}", ""))
            .with_more(service(
                "last-here",
                "selector: {own: leaving}",
                "type: NodePort\n  externalTrafficPolicy: Local",
            ))
            .with_more(service("not-last", "selector: {leave: 'yes'}", ""))
            .with_more(leaving("leaving"))
            .with_more(server("staying", 1, "leave: 'yes'", ""))
            .code(terminating),
    ]
}

/// A pod that goes on serving when it is told to end.
fn leaving(name: &str) -> String {
    server(name, 2, "leave: 'yes'", "")
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
    for see in [
        pod("client-1").tcp(To::Service("last", 80)),
        // No other node has one either.
        From::Outside.tcp(To::NodePort(2, "last-here", 80)),
    ] {
        see.each(&["leaving"]).look(world)?;
    }
    pod("client-1")
        .tcp(To::Service("not-last", 80))
        .each(&["staying"])
        .look(world)
}

/// A hand-made slice with one port, `tcp`, and the same by UDP.
pub(crate) fn slice(service: &str, name: &str, addresses: &[String], port: u16) -> String {
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
ports: [{{name: tcp, port: {port}}}, {{name: udp, port: {port}, protocol: UDP}}]
endpoints: [{{addresses: {addresses:?}}}]
"
    )
}

fn hand_made(world: &World) {
    for &v6 in world.mode.versions() {
        for (to, addresses, port) in [
            ("pod", world.pod("echo-3").addresses, PORT),
            ("outside", world.lab.client_addresses(), OUTSIDE_PORT),
        ] {
            let address = of_family(&addresses, v6).expect("an address of the lab's");
            let name = format!("manual-{to}-{v6}");
            // Without nodeName: with DSR the pod's node must know by its address that it is to answer.
            world
                .lab
                .apply(&slice("manual", &name, &[address.to_string()], port));
        }
    }
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

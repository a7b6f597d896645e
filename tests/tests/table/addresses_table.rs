//! Addresses that lead to a Service or a pod besides ClusterIPs and node ports: LoadBalancer addresses, externalIPs,
//! hostPorts.

use crate::call::{Client, From, To, pod};
use crate::services_table::{ALL, ECHO, opted, service};
use crate::world::Row;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = external_addresses();
    rows.extend(host_ports());
    rows
}

fn ranges() -> String {
    service(
        "ranges",
        ECHO,
        "type: LoadBalancer\n  loadBalancerSourceRanges: [203.0.113.0/24, '2001:db8:113::/64']",
    )
}

fn external_addresses() -> Vec<Row> {
    let everywhere = |row: Row, to: To| {
        row.both(From::Outside, to, |see| see.each(ALL))
            .both(pod("client-1"), to, |see| see.each(ALL))
            .both(From::Node(3), to, |see| see.each(ALL))
    };
    vec![
        everywhere(
            Row::new("LoadBalancer: its address works from outside, from pods and from nodes")
                .with(service("lb", ECHO, "type: LoadBalancer"))
                .prepare(|world| world.give_addresses("lb", &["198.51.100.10", "2001:db8:51::10"])),
            To::LoadBalancer("lb", 80),
        ),
        everywhere(
            Row::new("externalIPs: they work from outside, from pods and from nodes").with(
                service(
                    "ext",
                    ECHO,
                    "externalIPs: [198.51.100.20, '2001:db8:51::20']",
                ),
            ),
            To::External("ext", 80),
        ),
        Row::new("loadBalancerSourceRanges: others than those named get no answer")
            .with(ranges())
            .prepare(|world| {
                world.give_addresses("ranges", &["198.51.100.30", "2001:db8:51::30"]);
            })
            .both(From::Outside, To::LoadBalancer("ranges", 80), |see| {
                see.each(ALL)
            })
            .both(From::Router, To::LoadBalancer("ranges", 80), |see| {
                see.nobody()
            }),
        Row::new("LoadBalancer: a port that the Service does not have is refused")
            .with(service("lb", ECHO, "type: LoadBalancer"))
            .see(From::Outside.tcp(To::LoadBalancer("lb", 81)).nobody()),
        Row::new("loadBalancerSourceRanges: they hold for pods too, and for no node port")
            .with(ranges())
            .both(pod("client-1"), To::LoadBalancer("ranges", 80), |see| {
                see.nobody()
            })
            .both(From::Router, To::NodePort(1, "ranges", 80), |see| {
                see.each(ALL)
            }),
        Row::new("LoadBalancer ipMode Proxy: pods go out to the load balancer itself")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: proxied}
spec:
  ipFamilyPolicy: PreferDualStack
  type: LoadBalancer
  selector: {app: echo}
  ports:
  - {name: tcp, port: 9000, targetPort: 8080}
  - {name: udp, port: 9000, targetPort: 8080, protocol: UDP}
",
            )
            .prepare(|world| {
                // Somebody serves there, at the very port.
                let addresses = world.lab.client_addresses();
                let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                world.give_addresses_in("proxied", &texts, "Proxy");
            })
            .both(pod("client-1"), To::LoadBalancer("proxied", 9000), |see| {
                see.each(&["outside"]).client(Client::Node(1))
            })
            .both(From::Node(2), To::LoadBalancer("proxied", 9000), |see| {
                see.each(&["outside"])
            })
            .both(From::Outside, To::NodePort(1, "proxied", 9000), |see| {
                see.each(ALL)
            }),
        Row::new("allocateLoadBalancerNodePorts false: the address works without node ports")
            .with(service(
                "portless",
                ECHO,
                "type: LoadBalancer\n  allocateLoadBalancerNodePorts: false",
            ))
            .prepare(|world| {
                world.give_addresses("portless", &["198.51.100.50", "2001:db8:51::50"]);
            })
            .both(From::Outside, To::LoadBalancer("portless", 80), |see| {
                see.each(ALL)
            })
            .code(|world| match world.service("portless") {
                service if service["spec"]["ports"].to_string().contains("nodePort") => {
                    Err(service["spec"].to_string())
                }
                _ => Ok(()),
            }),
        Row::new("sessionAffinity ClientIP: at a LoadBalancer address, and past the socket hooks")
            .with(service(
                "sticky-lb",
                ECHO,
                "sessionAffinity: ClientIP\n  type: LoadBalancer",
            ))
            .with_more(opted())
            .prepare(|world| {
                world.give_addresses("sticky-lb", &["198.51.100.60", "2001:db8:51::60"]);
            })
            .both(pod("client-1"), To::LoadBalancer("sticky-lb", 80), |see| {
                see.same()
            })
            .both(pod("opted"), To::Service("sticky-lb", 80), |see| see.same())
            .both(pod("opted"), To::LoadBalancer("sticky-lb", 80), |see| {
                see.same()
            }),
        Row::new("externalIPs: an address of a node is one")
            .with(
                "---
apiVersion: v1
kind: Service
metadata: {name: ext-own}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  externalIPs: [192.168.144.12, 'fd00:144::12']
  ports:
  - {name: tcp, port: 7777, targetPort: 8080}
  - {name: udp, port: 7777, targetPort: 8080, protocol: UDP}
",
            )
            .both(From::Outside, To::At(2, 7777), |see| see.each(ALL))
            .both(pod("client-1"), To::At(2, 7777), |see| see.each(ALL))
            .both(From::Node(2), To::At(2, 7777), |see| see.each(ALL))
            .see(From::Outside.tcp(To::At(1, 7777)).refused()),
        Row::new("externalIPs without endpoint: refused at once, from outside and from pods")
            .with(service(
                "ext-empty",
                "selector: {app: nobody}",
                "externalIPs: [198.51.100.70, '2001:db8:51::70']",
            ))
            .both(From::Outside, To::External("ext-empty", 80), |see| {
                see.refused()
            })
            .both(pod("client-1"), To::External("ext-empty", 80), |see| {
                see.refused()
            }),
    ]
}

fn host_ports() -> Vec<Row> {
    vec![
        Row::new("hostPort: from outside, from pods and from its node")
            .with(crate::world::pod(
                "ported",
                2,
                "app: ported",
                "",
                "\n    ports:\n    - {containerPort: 8080, hostPort: 7080}\n    - {containerPort: 8080, hostPort: 7080, protocol: UDP}",
            ))
            .both(From::Outside, To::At(2, 7080), |see| {
                see.each(&["ported"]).client(Client::Kept)
            })
            .both(pod("client-1"), To::At(2, 7080), |see| see.each(&["ported"]))
            .both(pod("client-2"), To::At(2, 7080), |see| see.each(&["ported"]))
            .both(From::Node(2), To::At(2, 7080), |see| see.each(&["ported"]))
            .both(From::Node(3), To::At(2, 7080), |see| see.each(&["ported"]))
            .both(From::Node(2), To::Here(7080), |see| see.each(&["ported"]))
            .see(From::Outside.tcp(To::At(1, 7080)).refused()),
        Row::new("hostPort with hostIP: at that address alone, loopback for the node itself")
            .with(crate::world::pod(
                "ported-at",
                2,
                "app: ported",
                "",
                "
    ports:
    - {containerPort: 8080, hostPort: 7081, hostIP: 192.168.144.12}
    - {containerPort: 8080, hostPort: 7081, hostIP: 'fd00:144::12'}
    - {containerPort: 8080, hostPort: 7082, hostIP: 127.0.0.1}
    - {containerPort: 8080, hostPort: 7082, hostIP: '::1'}",
            ))
            .see(
                From::Outside
                    .tcp(To::At(2, 7081))
                    .each(&["ported-at"])
                    .client(Client::Kept),
            )
            .see(pod("client-1").tcp(To::At(2, 7081)).each(&["ported-at"]))
            .see(From::Node(2).tcp(To::At(2, 7081)).each(&["ported-at"]))
            .see(From::Node(2).tcp(To::Here(7081)).refused())
            .see(From::Node(2).tcp(To::Here(7082)).each(&["ported-at"]))
            .see(From::Outside.tcp(To::At(2, 7082)).refused())
            .see(pod("client-2").tcp(To::Here(7082)).refused()),
    ]
}

//! A node with several links: pods get out, and Services are served, by each.

use std::net::{SocketAddr, TcpListener};

use super::between::{bulk, eventually, path_mtu, take};
use super::lab::{
    Feed, Lab, NODE, NODE_V6, OUTSIDE, carries, lab, run_program, service, socket, unhooked,
};
use super::pods::{count, query, reflect, udp};
use super::services::{ask, serve_once};
use super::*;
use crate::cluster::Event;

const SECOND: &str = "198.51.100.2";
const BEHIND: &str = "198.51.100.1";
const SECOND_V6: &str = "2001:db8:1::2";
const BEHIND_V6: &str = "2001:db8:1::1";

fn second_link(lab: &Lab) {
    let thread = nix::unistd::gettid();
    lab.outside(move || {
        run_program(&format!(
            "ip link add out1 type veth peer name up1 netns /proc/{thread}/ns/net"
        ));
        run_program(&format!("ip addr add {BEHIND}/24 dev out1"));
        run_program(&format!("ip addr add {BEHIND_V6}/64 dev out1 nodad"));
        run_program("ip link set out1 up");
    });
    run_program(&format!("ip addr add {SECOND}/24 dev up1"));
    run_program(&format!("ip addr add {SECOND_V6}/64 dev up1 nodad"));
    run_program("ip link set up1 up");
    carries("up1");
    lab.outside(|| carries("out1"));
}

fn hooks(plane: &DataPlane) -> Vec<String> {
    let uplinks = plane.attachments().into_iter();
    uplinks
        .filter(|at| at.program.starts_with("uplink"))
        .map(|at| at.hook)
        .collect()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn pods_get_out_by_every_link_and_are_served_by_each() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let pod = lab.pod(&plane, "pod").await;
        assert_eq!(hooks(&plane), ["tcx ingress up0", "tcx egress up0"]);
        second_link(&lab);
        until("the second link is taken up", || hooks(&plane).len() == 4).await;
        until("its addresses are the node's", || {
            let locals = plane.inner.state().reached.locals.clone();
            locals.contains(&SECOND.parse().unwrap())
                && locals.contains(&SECOND_V6.parse().unwrap())
        })
        .await;

        // Out: with the address of the link that the route names.
        for (behind, bears) in [(BEHIND, SECOND), (BEHIND_V6, SECOND_V6), (OUTSIDE, NODE)] {
            let at = socket(behind.parse().unwrap(), 7000);
            let far = lab.outside(move || udp(&at.to_string()));
            let served = std::thread::spawn(move || reflect(&far).ip());
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let (_, from) = lab.in_pod(&pod, move || query(&udp(any), at));
            assert_eq!(from, at);
            assert_eq!(served.join().unwrap().to_string(), bears);
        }

        // In: a NodePort on the link's address, with the client's kept.
        let mut events = service("web", "10.96.0.80", 80, &[(pod.addresses[0], 8080)]);
        let Event::ServiceSet(_, web) = &mut events[0] else {
            panic!("a Service first");
        };
        for port in &mut web.ports {
            port.node_port = Some(30_080);
        }
        Feed::new(&plane).apply(true, events).await;
        let listener = lab.in_pod(&pod, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "pod"));
        let to: SocketAddr = format!("{SECOND}:30080").parse().unwrap();
        // Not by the socket hooks of this node.
        let asked = unhooked(&lab.outside, move || ask(to).unwrap());
        assert_eq!(asked.wait().1, "pod");
        served.join().unwrap();

        // The route goes with the link.
        run_program("ip link del up1");
        until("the link's end is noticed", || hooks(&plane).len() == 2).await;
        assert_eq!(
            plane.inner.state().objects.links.keys().flatten().count(),
            1
        );
        assert_eq!(count(&plane, "not_uplink"), 0);
        plane.unload().await.unwrap();
    });
}

/// What comes by one link and is sent on by another that carries less: its sender is told.
#[test]
fn a_smaller_link_behind_a_node_port_is_learned_by_the_client() {
    lab(|lab| async move {
        second_link(&lab);
        run_program("ip link set up1 mtu 1300");
        lab.outside(|| {
            run_program("ip link set out1 mtu 1300");
            // Both ends of the flow are here: it comes back by the other link.
            for interface in ["all", "out1"] {
                let file = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
                std::fs::write(file, "0").unwrap();
            }
        });
        let plane = lab.load().await;
        assert_eq!(hooks(&plane).len(), 4);
        let mut events = Vec::new();
        for (name, cluster_ip, backend, port) in [
            ("four", "10.96.0.90", BEHIND, 30_090),
            ("six", "fd00:96::90", BEHIND_V6, 30_091),
        ] {
            let backends = [(backend.parse().unwrap(), 8080)];
            let mut news = service(name, cluster_ip, 80, &backends);
            let Event::ServiceSet(_, of_it) = &mut news[0] else {
                panic!("a Service first");
            };
            for it in &mut of_it.ports {
                it.node_port = Some(port);
            }
            events.extend(news);
        }
        Feed::new(&plane).apply(true, events).await;
        for (backend, node, port) in [(BEHIND, NODE, 30_090), (BEHIND_V6, NODE_V6, 30_091)] {
            let backend = socket(backend.parse().unwrap(), 8080);
            let listener = lab.outside(move || TcpListener::bind(backend).unwrap());
            let served = std::thread::spawn(move || take(&listener));
            let node: IpAddr = node.parse().unwrap();
            unhooked(&lab.outside, move || bulk(socket(node, port))).wait();
            served.join().unwrap();
            let learned = unhooked(&lab.outside, move || path_mtu(node)).wait();
            assert_eq!(learned, 1300, "{node}");
        }
        assert!(count(&plane, "too_big") > 0);
        plane.unload().await.unwrap();
    });
}

#[test]
fn what_a_restart_finds_of_links_that_went_is_taken_away() {
    lab(|lab| async move {
        second_link(&lab);
        let plane = lab.load().await;
        assert_eq!(hooks(&plane).len(), 4);
        drop(plane);
        run_program("ip addr flush dev up1");
        let plane = lab.load().await;
        eventually("one link is left", || {
            hooks(&plane) == ["tcx ingress up0", "tcx egress up0"]
        });
        assert_eq!(
            plane.inner.state().objects.links.keys().flatten().count(),
            1
        );
        plane.unload().await.unwrap();
    });
}

//! The path's MTU is learned through a Service too, where packets are translated one by one.

use std::net::{IpAddr, TcpListener};

use super::between::{bulk, path_mtu, take};
use super::cluster::{Setting, cluster};
use super::lab::{Feed, OUTSIDE_V6, lab, run_program, service, socket, unhooked};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A pod's packets to a Service with its backend behind a route that carries less than the pod's link.
#[test]
fn of_a_route_behind_a_service() {
    lab(|lab| async move {
        run_program("ip route add 203.0.113.9/32 via 192.0.2.1 mtu lock 1300");
        run_program(&format!(
            "ip -6 route add {OUTSIDE_V6}/128 dev up0 mtu lock 1300"
        ));
        let plane = lab.load().await;
        let pod = lab.pod(&plane, "pod").await;
        let mut feed = Feed::new(&plane);
        let mut events = service("four", "10.96.0.90", 80, &[(ip("203.0.113.9"), 8080)]);
        events.extend(service("six", "fd00:96::90", 80, &[(ip(OUTSIDE_V6), 8080)]));
        feed.apply(true, events).await;
        for (at, backend) in [("10.96.0.90", "203.0.113.9"), ("fd00:96::90", OUTSIDE_V6)] {
            let (at, backend) = (ip(at), ip(backend));
            let listener = lab.outside(move || TcpListener::bind(socket(backend, 8080)).unwrap());
            let served = std::thread::spawn(move || take(&listener));
            lab.past_hooks(&pod, move || bulk(socket(at, 80)));
            served.join().unwrap();
            assert_eq!(lab.past_hooks(&pod, move || path_mtu(at)), 1300);
        }
        plane.unload().await.unwrap();
    });
}

/// Into the overlay, which carries less than the pod was made for.
#[test]
fn of_the_overlay_behind_a_service() {
    let setting = Setting {
        pod_mtu: Some(1500),
        ..Setting::default()
    };
    cluster(setting, |cluster| {
        let (one, two) = (cluster.node(1).pod("pod"), cluster.node(2).pod("pod"));
        let mut events = service("four", "10.96.0.90", 80, &[(two.addresses[0], 8080)]);
        events.extend(service(
            "six",
            "fd00:96::90",
            80,
            &[(two.addresses[1], 8080)],
        ));
        cluster.node_mut(1).tell(false, events);
        for (at, any) in [("10.96.0.90", "0.0.0.0:8080"), ("fd00:96::90", "[::]:8080")] {
            let at = ip(at);
            let listener = cluster
                .node(2)
                .start_in(&two.netns, move || TcpListener::bind(any).unwrap())
                .wait();
            let served = std::thread::spawn(move || take(&listener));
            unhooked(&one.netns, move || bulk(socket(at, 80))).wait();
            served.join().unwrap();
            assert_eq!(unhooked(&one.netns, move || path_mtu(at)).wait(), 1450);
        }
        cluster.unload();
    });
}

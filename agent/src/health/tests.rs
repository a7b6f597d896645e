//! Tests of `health`: what is counted, and what a load balancer is told over the wire.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};

use super::*;
use crate::cluster::{Batch, Endpoint, EndpointSlice, Event, Node, ObjectName, Service};

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    }
}

fn service(port: Option<u16>, local: bool) -> Event {
    Event::ServiceSet(
        name("web"),
        Service {
            health_check_node_port: port,
            external_traffic_local: local,
            ..Service::default()
        },
    )
}

/// Endpoints by node and whether they are ready.
fn slice(of: &str, endpoints: &[(&str, bool)]) -> Event {
    let endpoint = |(index, (node, ready)): (usize, &(&str, bool))| Endpoint {
        addresses: vec![[10, 0, 0, index as u8].into()],
        node: Some((*node).to_owned()),
        ready: *ready,
        ..Endpoint::default()
    };
    Event::SliceSet(
        name(of),
        EndpointSlice {
            service: "web".to_owned(),
            ports: Vec::new(),
            endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
        },
    )
}

fn counted(events: Vec<Event>) -> BTreeMap<u16, usize> {
    let mut counts = Counts::new("here".to_owned());
    for event in events {
        let events = vec![event];
        counts.apply(&Batch {
            revision: 1,
            full: false,
            events,
        });
    }
    let checks = counts.checks().into_iter();
    checks
        .map(|(port, check)| (port, check.endpoints))
        .collect()
}

#[test]
fn ready_endpoints_of_this_node_are_counted_once() {
    let one = slice(
        "web-1",
        &[
            ("here", true),
            ("there", true),
            ("here", false),
            ("here", true),
        ],
    );
    let again = slice("web-2", &[("here", true)]);
    let all = vec![one.clone(), service(Some(30_100), true), again];
    assert_eq!(counted(all), [(30_100, 2)].into());
    let gone = vec![
        service(Some(30_100), true),
        one,
        Event::SliceRemoved(name("web-1")),
    ];
    assert_eq!(counted(gone), [(30_100, 0)].into());
}

#[test]
fn endpoints_that_name_no_node_are_counted_where_their_addresses_are() {
    let Event::SliceSet(of, mut nameless) = slice("web-1", &[("", true), ("", true), ("", false)])
    else {
        unreachable!("a slice is one");
    };
    for endpoint in &mut nameless.endpoints {
        endpoint.node = None;
    }
    let slice = Event::SliceSet(of, nameless);
    let node = |range: &str| Node {
        pod_cidrs: vec![range.parse().unwrap()],
        ..Node::default()
    };
    let set = |name: &str, range| Event::NodeSet(name.to_owned(), node(range));
    let asked = || vec![slice.clone(), service(Some(30_100), true)];
    assert_eq!(counted(asked()), [(30_100, 0)].into());
    let there = [asked(), vec![set("there", "10.0.0.0/24")]].concat();
    assert_eq!(counted(there), [(30_100, 0)].into());
    let here = [asked(), vec![set("here", "10.0.0.0/24")]].concat();
    assert_eq!(counted(here.clone()), [(30_100, 2)].into());
    let moved = [here, vec![set("here", "10.0.0.0/32")]].concat();
    assert_eq!(counted(moved), [(30_100, 1)].into());
}

#[test]
fn only_services_with_a_local_policy_and_a_port_are_asked_about() {
    assert!(counted(vec![service(None, true)]).is_empty());
    assert!(counted(vec![service(Some(30_100), false)]).is_empty());
    let changed = vec![service(Some(30_100), true), service(Some(30_101), true)];
    assert_eq!(counted(changed), [(30_101, 0)].into());
    let removed = vec![
        service(Some(30_100), true),
        Event::ServiceRemoved(name("web")),
    ];
    assert!(counted(removed).is_empty());
}

/// Status line, headers in lower case, and body.
fn get(port: u16) -> (String, String, serde_json::Value) {
    let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let body = serde_json::from_str(body).unwrap();
    (status.to_owned(), headers.to_lowercase(), body)
}

/// Asks until the answer has this status; the server follows events by itself.
async fn told(port: u16, status: &str) -> (String, serde_json::Value) {
    loop {
        let (found, headers, body) = tokio::task::spawn_blocking(move || get(port))
            .await
            .unwrap();
        if found.contains(status) {
            return (headers, body);
        }
        tokio::task::yield_now().await;
    }
}

/// In a network namespace of the test's own, where every port is free.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_load_balancer_is_told_as_by_kube_proxy() {
    const PORT: u16 = 30_100;
    alone(|| async {
        let (batches, receiver) = tokio::sync::mpsc::channel(4);
        let (_applied, in_force) = watch::channel(9);
        let task = tokio::spawn(follow("here".to_owned(), receiver, in_force));
        let send = async |events| {
            let batch = Batch {
                revision: 1,
                full: false,
                events,
            };
            batches.send(Arc::new(batch)).await.unwrap();
        };
        send(vec![
            service(Some(PORT), true),
            slice("web-1", &[("here", true)]),
        ])
        .await;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
        let (headers, body) = told(PORT, "200 OK").await;
        assert!(
            headers.contains("x-load-balancing-endpoint-weight: 1"),
            "{headers}"
        );
        assert!(headers.contains("content-type: application/json"));
        let service = serde_json::json!({"namespace": "shop", "name": "web"});
        let expected = serde_json::json!({
            "service": service, "localEndpoints": 1, "serviceProxyHealthy": true
        });
        assert_eq!(body, expected);
        assert!(
            tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, PORT))
                .await
                .is_ok()
        );
        send(vec![slice("web-1", &[("here", false)])]).await;
        let (headers, body) = told(PORT, "503 Service Unavailable").await;
        assert_eq!(body["localEndpoints"], 0);
        assert!(
            headers.contains("x-load-balancing-endpoint-weight: 0"),
            "{headers}"
        );
        // The Service goes, and its port with it.
        send(vec![Event::ServiceRemoved(name("web"))]).await;
        while listen(PORT).is_err() {
            tokio::task::yield_now().await;
        }
        drop(batches);
        task.await.unwrap();
    });
}

#[test]
fn a_port_that_is_taken_is_had_as_soon_as_it_is_free() {
    const PORT: u16 = 30_101;
    alone(|| async {
        let taken = listen(PORT).unwrap();
        let (batches, receiver) = tokio::sync::mpsc::channel(4);
        let (_applied, in_force) = watch::channel(9);
        let _task = tokio::spawn(follow("here".to_owned(), receiver, in_force));
        let batch = |events| {
            Arc::new(Batch {
                revision: 1,
                full: false,
                events,
            })
        };
        batches
            .send(batch(vec![service(Some(PORT), true)]))
            .await
            .unwrap();
        // Taken from the channel: the port was tried, or is about to be.
        while batches.capacity() < 4 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(taken);
        batches.send(batch(Vec::new())).await.unwrap();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(told(PORT, "503").await.1["localEndpoints"], 0);
    });
}

#[tokio::test]
async fn a_data_plane_that_does_not_catch_up_is_not_healthy() {
    let check = Check {
        service: name("web"),
        endpoints: 3,
    };
    let status = |is_behind| {
        let check = check.clone();
        response(&Answer { check, is_behind }).status()
    };
    assert_eq!(status(false), StatusCode::OK);
    assert_eq!(status(true), StatusCode::SERVICE_UNAVAILABLE);
}

//! Connections that go over a node, which is played here.

#![allow(clippy::unwrap_used)]

use proto::node::v1::stream_frame::Frame;
use proto::node::v1::{StreamAccepted, StreamError, StreamFrame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::nodestream::data;

const POD: &str = "10.244.1.7:8443";

fn frame(frame: Frame) -> StreamFrame {
    StreamFrame { frame: Some(frame) }
}

/// A node that says yes to one connection and answers `hello` on it; gives the address that it was asked for.
async fn agent(streams: NodeStreams, node: &str) -> tokio::task::JoinHandle<SocketAddr> {
    let mut requests = streams.register(node);
    let node = node.to_owned();
    tokio::spawn(async move {
        let request = requests.recv().await.unwrap();
        let Some(Kind::Dial(dial)) = request.kind else {
            panic!("asked for something else")
        };
        let ip: [u8; 4] = dial.ip[..].try_into().unwrap();
        let side = streams.accept(&node, &request.id).unwrap();
        let accepted = Frame::Accepted(StreamAccepted::default());
        side.to_node.send(frame(accepted)).await.unwrap();
        let hello = data(1, bytes::Bytes::from_static(b"hello"));
        side.to_node.send(hello).await.unwrap();
        let mut from = side.from_node;
        // Until the other side is gone.
        while from.recv().await.is_some() {}
        SocketAddr::new(ip.into(), u16::try_from(dial.port).unwrap())
    })
}

#[tokio::test]
async fn a_node_makes_the_connection() {
    let streams = NodeStreams::default();
    let asked = agent(streams.clone(), "n1").await;
    // The endpoint's own node has its stream with another member.
    let dialer = Dialer::new(streams);
    let mut connection = dialer.inside("n2", POD.parse().unwrap()).await.unwrap();
    let mut said = [0; 5];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    connection.write_all(b"bye").await.unwrap();
    drop(connection);
    assert_eq!(asked.await.unwrap().to_string(), POD);
}

#[tokio::test]
async fn what_the_node_says_of_the_endpoint_is_told() {
    let streams = NodeStreams::default();
    let mut requests = streams.register("n1");
    let node = streams.clone();
    tokio::spawn(async move {
        let request = requests.recv().await.unwrap();
        let side = node.accept("n1", &request.id).unwrap();
        let error = Frame::Error(StreamError {
            code: 503,
            reason: "ServiceUnavailable".to_owned(),
            message: "connection refused".to_owned(),
        });
        side.to_node.send(frame(error)).await.unwrap();
    });
    let refused = Dialer::new(streams)
        .inside("n1", POD.parse().unwrap())
        .await;
    assert_eq!(refused.unwrap_err(), "connection refused");
}

#[tokio::test]
async fn nothing_of_the_node_itself_is_reached() {
    let dialer = Dialer::default();
    for address in ["127.0.0.1:22", "169.254.169.254:80", "[::1]:22"] {
        let refused = dialer.inside("n1", address.parse().unwrap()).await;
        let message = refused.unwrap_err();
        assert!(message.ends_with("address not allowed"), "{message}");
    }
}

#[test]
fn the_endpoints_own_node_is_asked_first() {
    let connected = ["a", "c", "b"].map(str::to_owned).to_vec();
    assert_eq!(by_preference("c", connected.clone()), ["c", "a", "b"]);
    assert_eq!(by_preference("", connected), ["a", "b", "c"]);
}

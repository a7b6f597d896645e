//! Tests of `api::remote`: a client on one end of a pipe, a node's frames on the other.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use proto::node::v1::StreamFrame;

use super::*;
use crate::spdy::tests::{Client, said};

const ALL: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// What the node hears and says.
struct Node {
    heard: mpsc::Receiver<StreamFrame>,
    say: mpsc::Sender<StreamFrame>,
}

fn node() -> (Node, NodeStream) {
    let (to_node, heard) = mpsc::channel(4);
    let (say, from_node) = mpsc::channel(4);
    (Node { heard, say }, NodeStream { from_node, to_node })
}

fn failed() -> Bytes {
    let status = json!({"status": "Failure", "message": "command terminated with exit code 3"});
    status.to_string().into()
}

async fn websocket(name: &str, streams: Streams) -> (WebSocketStream<DuplexStream>, Node) {
    let (near, far) = tokio::io::duplex(4 << 10);
    let (node, stream) = node();
    let protocol = websocket::PROTOCOLS
        .iter()
        .find(|(known, _)| *known == name)
        .unwrap()
        .1;
    tokio::spawn(async move {
        let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        websocket::carry(server, protocol, stream, streams).await;
    });
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    (client, node)
}

#[tokio::test]
async fn version_5_ends_inputs() {
    let (mut client, mut node) = websocket("v5.channel.k8s.io", ALL).await;
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(vec![1])
    );
    for message in [&b"\0typed"[..], b"\x04{\"Width\":1}", b"\xff\0", b"\0late"] {
        client
            .send(Message::binary(message.to_vec()))
            .await
            .unwrap();
    }
    // No terminal, no sizes; nothing after the end.
    assert_eq!(
        node.heard.recv().await.unwrap(),
        data(STDIN, "typed".into())
    );
    assert_eq!(node.heard.recv().await.unwrap(), close(STDIN));
    node.say.send(data(STDERR, "oh".into())).await.unwrap();
    node.say.send(data(ERROR, failed())).await.unwrap();
    drop(node.say);
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(&b"\x02oh"[..])
    );
    let status = client.next().await.unwrap().unwrap().into_data();
    assert_eq!((status[0], &status[1..]), (3, &failed()[..]));
    assert!(matches!(
        client.next().await.unwrap().unwrap(),
        Message::Close(_)
    ));
    assert!(node.heard.recv().await.is_none());
}

#[tokio::test]
async fn the_first_version_tells_errors_as_text() {
    let (mut client, node) = websocket("base64.channel.k8s.io", ALL).await;
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("1"));
    node.say.send(data(STDOUT, "hi".into())).await.unwrap();
    node.say.send(data(ERROR, failed())).await.unwrap();
    drop(node.say);
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::text("1aGk=")
    );
    let last = client.next().await.unwrap().unwrap().into_text().unwrap();
    assert_eq!(&last[..1], "3");
}

#[tokio::test]
async fn a_node_that_goes_away_is_a_failure() {
    let (mut client, node) = websocket("v4.channel.k8s.io", ALL).await;
    client.next().await.unwrap().unwrap();
    drop(node);
    let status = client.next().await.unwrap().unwrap().into_data();
    let status: serde_json::Value = serde_json::from_slice(&status[1..]).unwrap();
    assert_eq!(status["reason"], "InternalError");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_waited_for() {
    let (client, node) = websocket("v5.channel.k8s.io", ALL).await;
    let mut taken = 0;
    let piece = Bytes::from(vec![0; 32 << 10]);
    loop {
        let send = node.say.send(data(STDOUT, piece.clone()));
        match tokio::time::timeout(Duration::from_millis(200), send).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        taken += 1;
        assert!(taken < 16, "{taken} pieces of 32 KiB were taken");
    }
    drop(client);
    // Then it is gone, and so is what waited.
    tokio::time::timeout(Duration::from_secs(5), node.say.closed())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_goes_is_noticed() {
    let (client, mut node) = websocket("v5.channel.k8s.io", ALL).await;
    drop(client);
    assert!(node.heard.recv().await.is_none());
}

#[tokio::test]
async fn spdy_has_a_stream_for_each() {
    for (version, text) in [
        ("v4.channel.k8s.io", failed()),
        (
            "v2.channel.k8s.io",
            "command terminated with exit code 3".into(),
        ),
    ] {
        let (mut near, far) = tokio::io::duplex(4 << 10);
        let (mut node, stream) = node();
        let protocol = spdy::PROTOCOLS
            .iter()
            .find(|(known, _)| *known == version)
            .unwrap()
            .1;
        tokio::spawn(spdy::carry(far, protocol, stream, ALL));
        let mut client = Client::default();
        for (id, kind) in [
            (1, "error"),
            (3, "stdin"),
            (5, "stdout"),
            (7, "stderr"),
            (9, "stdout"),
        ] {
            client.open(id, &[("streamtype", kind)], false);
        }
        client.data(3, b"typed", true);
        near.write_all(&client.take()).await.unwrap();
        assert_eq!(
            node.heard.recv().await.unwrap(),
            data(STDIN, "typed".into())
        );
        assert_eq!(node.heard.recv().await.unwrap(), close(STDIN));
        node.say.send(data(STDOUT, "out".into())).await.unwrap();
        node.say.send(data(STDERR, "err".into())).await.unwrap();
        node.say.send(data(ERROR, failed())).await.unwrap();
        drop(node.say);
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.unwrap();
        let said = said(&all);
        assert_eq!(said[&1], (text.to_vec(), true));
        assert_eq!(said[&5], (b"out".to_vec(), true));
        assert_eq!(said[&7], (b"err".to_vec(), true));
        // One too many is refused.
        assert!(!said.contains_key(&9));
    }
}

#[test]
fn options_of_clients() {
    let read = options(
        "command=sh&command=-c&command=a%20b&stdin=true&stdout=1&tty=true&stderr=true&container=c",
    );
    let read = read.unwrap();
    assert_eq!(read.command, ["sh", "-c", "a b"]);
    assert!(
        read.streams.tty && !read.streams.stderr,
        "a terminal has one output"
    );
    assert_eq!(read.container, "c");
    let nothing = options("command=x&stdout=false").unwrap_err();
    assert_eq!(
        nothing.to_string(),
        "you must specify at least 1 of stdin, stdout, stderr"
    );
    let many: String = (0..300).map(|n| format!("command={n}&")).collect();
    assert_eq!(
        options(&format!("{many}stdout=true"))
            .unwrap()
            .command
            .len(),
        300
    );
}

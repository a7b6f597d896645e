//! Tests of `api::logs`.

#![allow(clippy::unwrap_used)]

use http_body_util::BodyExt;
use proto::node::v1::StreamData;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;

fn data(text: &'static str) -> StreamFrame {
    StreamFrame {
        frame: Some(Frame::Data(StreamData {
            channel: STDOUT,
            data: Bytes::from_static(text.as_bytes()),
        })),
    }
}

fn stream() -> (mpsc::Sender<StreamFrame>, NodeStream) {
    let (sender, from_node) = mpsc::channel(8);
    let (to_node, _) = mpsc::channel(8);
    (sender, NodeStream { from_node, to_node })
}

#[tokio::test]
async fn a_log_is_passed_on() {
    let (node, stream) = stream();
    for text in ["a\n", "b\n"] {
        node.send(data(text)).await.unwrap();
    }
    drop(node);
    let response = begin(stream, false, CancellationToken::new())
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&body[..], b"a\nb\n");
}

#[tokio::test]
async fn an_error_before_any_data_is_a_status() {
    let (node, stream) = stream();
    let error = StreamError {
        code: 400,
        reason: "BadRequest".into(),
        message: "container \"c\" in pod \"p\" is waiting to start: ContainerCreating".into(),
    };
    node.send(StreamFrame {
        frame: Some(Frame::Error(error)),
    })
    .await
    .unwrap();
    let error = begin(stream, true, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.reason()), (400, "BadRequest"));
}

#[tokio::test]
async fn a_followed_log_ends_when_the_member_stops() {
    let (_node, stream) = stream();
    let stopping = CancellationToken::new();
    let response = begin(stream, true, stopping.clone()).await.unwrap();
    stopping.cancel();
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[test]
fn the_container_must_be_clear() {
    let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    assert_eq!(container(&one, "").unwrap(), "a");
    assert_eq!(
        container(&one, "x").unwrap_err().to_string(),
        "container x is not valid for pod p"
    );
    let two = json!({"metadata": {"name": "p"}, "spec": {
        "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
    assert_eq!(
        container(&two, "").unwrap_err().to_string(),
        "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
    );
    assert_eq!(container(&two, "i").unwrap(), "i");
}

#[test]
fn options_are_checked() {
    let bad = |text: &str| log_request("p", &Query::parse(text)).unwrap_err();
    assert_eq!(
        bad("tailLines=-1").to_string(),
        "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
    );
    assert_eq!(
        bad("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z").code(),
        422
    );
    assert_eq!(bad("sinceTime=yesterday").code(), 400);
    assert_eq!(bad("stream=Both").code(), 422);
    assert_eq!(bad("stream=Stderr&tailLines=1").code(), 422);
    let good = log_request(
        "p",
        &Query::parse("follow=true&tailLines=5&timestamps=true"),
    )
    .unwrap();
    assert!(good.follow && good.timestamps && good.tail_lines == Some(5));
}

//! Tests of `nodestream`.

#![allow(clippy::unwrap_used)]

use proto::node::v1::StreamData;
use proto::node::v1::stream_frame::Frame;

use super::*;

fn data(text: &str) -> StreamFrame {
    StreamFrame {
        frame: Some(Frame::Data(StreamData {
            channel: 1,
            data: text.as_bytes().to_vec().into(),
        })),
    }
}

#[tokio::test]
async fn frames_flow_both_ways_once_the_agent_dials_back() {
    let streams = NodeStreams::default();
    let mut requests = streams.register("n1");
    let agent = streams.clone();
    let agent = tokio::spawn(async move {
        let request = requests.recv().await.unwrap();
        let mut stream = agent.accept("n1", &request.id).unwrap();
        stream.to_node.send(data("out")).await.unwrap();
        let heard = stream.from_node.recv().await.unwrap();
        assert!(
            agent.accept("n1", &request.id).is_none(),
            "an id opens once"
        );
        (heard, requests)
    });
    let mut stream = streams.open("n1", StreamRequest::default()).await.unwrap();
    stream.to_node.send(data("in")).await.unwrap();
    assert_eq!(stream.from_node.recv().await.unwrap(), data("out"));
    assert_eq!(agent.await.unwrap().0, data("in"));
    assert!(
        stream.from_node.recv().await.is_none(),
        "the agent's end is gone"
    );
}

#[tokio::test]
async fn a_node_that_is_not_connected_is_an_error_at_once() {
    let streams = NodeStreams::default();
    let error = streams
        .open("n1", StreamRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), 503);
    drop(streams.register("n1"));
    let error = streams
        .open("n1", StreamRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), 503);
}

#[tokio::test]
async fn no_answer_is_a_timeout_and_leaves_nothing() {
    let streams = NodeStreams::default();
    let mut requests = streams.register("n1");
    let error = streams
        .open_within("n1", StreamRequest::default(), Duration::from_millis(5))
        .await
        .unwrap_err();
    assert_eq!(error.code(), 504);
    let late = requests.recv().await.unwrap();
    assert!(streams.accept("n1", &late.id).is_none());
    assert!(streams.lock().waiting.is_empty());
}

#[tokio::test]
async fn a_node_that_goes_while_it_is_asked_is_an_error() {
    let streams = NodeStreams::default();
    let mut requests = streams.register("n1");
    let opener = streams.clone();
    let open = tokio::spawn(async move { opener.open("n1", StreamRequest::default()).await });
    requests.recv().await.unwrap();
    drop(requests);
    assert_eq!(open.await.unwrap().unwrap_err().code(), 503);
}

#[tokio::test]
async fn another_node_cannot_take_the_stream() {
    let streams = NodeStreams::default();
    let mut requests = streams.register("n1");
    let opener = streams.clone();
    let open = tokio::spawn(async move { opener.open("n1", StreamRequest::default()).await });
    let request = requests.recv().await.unwrap();
    assert!(streams.accept("n2", &request.id).is_none());
    assert!(streams.accept("n1", "made up").is_none());
    let _agent = streams.accept("n1", &request.id).unwrap();
    open.await.unwrap().unwrap();
}

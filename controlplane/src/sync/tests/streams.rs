//! Who is let in, what ends a stream, and byte streams.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_node_of_the_certificate_is_let_in() {
    let server = Server::new().await;
    let try_as = async |user: Option<User>, name: &str| {
        let mut client = server.client(user).await;
        let stream = tokio_stream::iter([hello(name)]).chain(futures::stream::pending());
        match client.sync(stream).await {
            Ok(response) => response.into_inner().message().await.unwrap_err().code(),
            Err(status) => status.code(),
        }
    };
    assert_eq!(try_as(None, "n1").await, Code::Unauthenticated);
    assert_eq!(
        try_as(Some(User::anonymous()), "n1").await,
        Code::PermissionDenied
    );
    let no_group = User {
        name: "system:node:n1".into(),
        groups: vec![],
        ..User::default()
    };
    assert_eq!(try_as(Some(no_group), "n1").await, Code::PermissionDenied);
    assert_eq!(try_as(Some(user("n2")), "n1").await, Code::PermissionDenied);
    assert!(
        server
            .cluster
            .client
            .get::<Node>("", "n1")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_first_messages_end_the_stream_with_a_reason() {
    let server = Server::new().await;
    for message in [
        Up::LeaseRenewal(LeaseRenewal::default()),
        Up::Hello(Hello {
            node_name: "n1".into(),
            node_json: "nonsense".into(),
            agent_version: String::new(),
            data_plane: None,
        }),
    ] {
        let mut client = server.client(Some(user("n1"))).await;
        let first = NodeMessage {
            message: Some(message),
        };
        let stream = tokio_stream::iter([first]).chain(futures::stream::pending());
        let mut down = client.sync(stream).await.unwrap().into_inner();
        assert_eq!(
            down.message().await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_applied_is_known_until_it_leaves() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    let full = agent.until(|batch| batch.last).await;
    let revision = full.last().unwrap().revision;
    assert!(revision > 0);
    assert_eq!(server.applied.revisions()["n1"], 0);
    assert_eq!(server.applied.least(), 0);
    agent.send(Up::Applied(AppliedRevision { revision })).await;
    server.applied(|applied| applied.least() == revision).await;
    assert_eq!(server.applied.revisions()["n1"], revision);
    drop(agent);
    // Nobody waits for a node that is gone.
    server.applied(|applied| applied.least() == u64::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_takes_over_from_the_first() {
    let server = Server::new().await;
    let mut first = server.agent("n1").await;
    first.until(|batch| batch.last).await;
    let mut second = server.agent("n1").await;
    second.until(|batch| batch.last).await;
    let ended = async {
        loop {
            match first.down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no reason given"),
                Err(status) => return status.code(),
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
    assert_eq!(code, Code::Aborted);
    assert_eq!(
        server.applied.revisions().len(),
        1,
        "the second stream still counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_up_must_begin_again() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    agent.until(|batch| batch.last).await;
    agent
        .send(Up::LeaseRenewal(LeaseRenewal {
            duration_seconds: 40,
        }))
        .await;
    let mut node = server
        .cluster
        .client
        .get::<Node>("", "n1")
        .await
        .unwrap()
        .unwrap();
    let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0].status = "Unknown".into();
    let silenced = async {
        // The renewal above must have been taken in while the node was ready.
        loop {
            let code = {
                let renewal = Up::LeaseRenewal(LeaseRenewal {
                    duration_seconds: 40,
                });
                // Fails when the stream has just been ended, which is then read below.
                let _ = agent
                    .up
                    .send(NodeMessage {
                        message: Some(renewal),
                    })
                    .await;
                let next = tokio::time::timeout(Duration::from_millis(20), agent.down.message());
                match next.await {
                    Ok(Err(status)) => Some(status.code()),
                    _ => None,
                }
            };
            if let Some(code) = code {
                return code;
            }
            let status = node.status.clone();
            let live = server
                .cluster
                .client
                .get::<Node>("", "n1")
                .await
                .unwrap()
                .unwrap();
            if live.status != status {
                let changed = Node { status, ..live };
                server.cluster.client.update_status(&changed).await.unwrap();
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(20), silenced)
        .await
        .unwrap();
    assert_eq!(code, Code::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_stream_is_asked_for_and_carried() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    agent.until(|batch| batch.last).await;
    let streams = server.streams.clone();
    let asked = tokio::spawn(async move {
        let request = StreamRequest {
            pod: "p".into(),
            ..StreamRequest::default()
        };
        let mut stream = streams.open("n1", request).await.unwrap();
        stream.from_node.recv().await.unwrap()
    });
    let id = loop {
        if let Down::StreamRequest(request) = agent.message().await {
            assert_eq!(request.pod, "p");
            break request.id;
        }
    };
    let frame = |frame: Frame| StreamFrame { frame: Some(frame) };
    let data = frame(Frame::Data(StreamData {
        channel: 1,
        data: "line".into(),
    }));
    // Another node that guesses the id gets nothing.
    let mut thief = server.client(Some(user("n2"))).await;
    let open = frame(Frame::Open(StreamOpen { id: id.clone() }));
    let stolen = thief
        .stream(tokio_stream::iter([open.clone()]).chain(futures::stream::pending()))
        .await;
    let stolen = stolen.unwrap().into_inner().message().await;
    assert_eq!(stolen.unwrap_err().code(), Code::NotFound);
    let mut client = server.client(Some(user("n1"))).await;
    let frames = tokio_stream::iter([open, data.clone()]).chain(futures::stream::pending());
    let _call = client.stream(frames).await.unwrap();
    assert_eq!(asked.await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_addresses_ranges_and_zone_reach_the_others_as_they_change() {
    let server = Server::new().await;
    let mut one = server.agent("n1").await;
    one.until(|batch| batch.last).await;
    let mut other = server.agent("n2").await;
    other.until(|batch| batch.last).await;
    let client = &server.cluster.client;
    let ranges = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}},
        "spec": {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24", "fd00:7::/64"]}});
    client
        .merge_patch::<Node>("", "n1", "", &ranges)
        .await
        .unwrap();
    for address in [[192, 0, 2, 1], [192, 0, 2, 9]] {
        let [a, b, c, d] = address;
        let status = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": format!("{a}.{b}.{c}.{d}")},
            {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "Hostname", "address": "n1"}]}});
        client
            .merge_patch::<Node>("", "n1", "status", &status)
            .await
            .unwrap();
        other
            .until(|batch| {
                batch.nodes.iter().any(|change| {
                    let Some(node) = change.node.as_ref().filter(|_| change.name == "n1") else {
                        return false;
                    };
                    node.zone == "z"
                        && node.pod_cidrs == ["10.244.7.0/24", "fd00:7::/64"]
                        && node.internal_ips.len() == 2
                        && node.internal_ips[0] == address[..]
                })
            })
            .await;
    }
    let options = crate::registry::DeleteOptions::default();
    client.delete::<Node>("", "n1", options).await.unwrap();
    other
        .until(|batch| {
            let mut changes = batch.nodes.iter();
            changes.any(|change| change.name == "n1" && change.node.is_none())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_of_itself_and_was_sent_is_known() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    let full = agent.until(|batch| batch.last).await;
    let revision = full.last().unwrap().revision;
    agent.send(Up::Applied(AppliedRevision { revision })).await;
    server.applied(|applied| applied.least() == revision).await;
    let known = server.applied.connected()["n1"].clone();
    assert!(known.sent >= revision);
    assert_eq!(known.introduction.agent_version, "test");
    assert_eq!(known.introduction.data_plane.north_south, "dsr");
}

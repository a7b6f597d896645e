//! The same doors where gRPC is spoken: the nodes' service on the API's port, and the port of the members.

use std::net::SocketAddr;
use std::time::Duration;

use proto::node::v1 as wire;
use proto::node::v1::node_message::Message as Up;
use proto::node::v1::node_sync_client::NodeSyncClient;
use proto::raft::v1 as raft;
use proto::raft::v1::peers_client::PeersClient;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

use super::*;
use crate::auth::{MemberTls, Pki, Sans};

/// For anything that is to happen here.
const SOON: Duration = Duration::from_secs(20);
/// No certificate is good for so long.
const LONG_AGO: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 3_000);

/// A certificate and its key, PEM.
type Pair = (String, String);

async fn connect(
    address: SocketAddr,
    server: &str,
    ca: &str,
    pair: Option<&Pair>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(server);
    if let Some((certificate, key)) = pair {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

/// Somebody who has the CA's key signs what he likes with it.
fn authority(ca: Option<&Member>) -> (Pki, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for file in ["ca.crt", "ca.key"] {
        if let Some(member) = ca {
            let own = member.dir.path().join("pki").join(file);
            std::fs::copy(own, dir.path().join(file)).unwrap();
        }
    }
    let mut sans = Sans::default();
    sans.add("nowhere");
    let pki = Pki::open(dir.path(), &sans, jiff::Timestamp::now()).unwrap();
    (pki, dir)
}

fn hello(name: &str, node: String) -> wire::NodeMessage {
    let hello = wire::Hello {
        node_name: name.to_owned(),
        node_json: node.into(),
        ..wire::Hello::default()
    };
    wire::NodeMessage {
        message: Some(Up::Hello(hello)),
    }
}

/// What becomes of a node's stream that begins so and then says nothing; `None` where there is no connection.
async fn sync(
    member: &Member,
    pair: Option<&Pair>,
    bearer: Option<&str>,
    first: Option<wire::NodeMessage>,
) -> Option<Code> {
    let ca = member.controller.ca_pem();
    let channel = connect(member.controller.address(), "localhost", ca, pair);
    let mut client = NodeSyncClient::new(channel.await.ok()?);
    let stream = tokio_stream::iter(first).chain(futures::stream::pending());
    let mut request = Request::new(stream);
    request
        .metadata_mut()
        .insert("x-remote-user", "system:node:n1".parse().unwrap());
    if let Some(token) = bearer {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let ended = async {
        match client.sync(request).await {
            Ok(answer) => match answer.into_inner().message().await {
                Ok(_) => Code::Ok,
                Err(status) => status.code(),
            },
            Err(status) => status.code(),
        }
    };
    let ended = tokio::time::timeout(SOON, ended).await;
    Some(ended.expect("an answer or an end"))
}

/// TLS 1.3's client is content before the server has looked at its certificate: what it learns is that the connection ends.
fn is_shut_out(outcome: Option<Code>) -> bool {
    matches!(
        outcome,
        None | Some(Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_stream_is_opened_by_its_own_certificate_alone() {
    let member = member().await;
    let (pki, _dir) = authority(Some(&member));
    let (other, _other_dir) = authority(None);
    let node = |name: &str| {
        let issued = member.controller.issue_node_identity(name).unwrap();
        (issued.certificate_pem, issued.key_pem)
    };
    let own = || Some(hello("n1", json!({"metadata": {"name": "n1"}}).to_string()));
    let (n1, n2) = (node("n1"), node("n2"));
    assert_eq!(sync(&member, Some(&n1), None, own()).await, Some(Code::Ok));

    // Nobody, whatever the headers say.
    let none = sync(&member, None, None, own()).await;
    assert_eq!(none, Some(Code::Unauthenticated));
    // An account's token is for the API; one whose account is gone is for nothing.
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = json!({"metadata": {"name": "robot"}});
    member.post(accounts, &robot).await.ok();
    let path = format!("{accounts}/robot/token");
    let issued = member.post(&path, &json!({"spec": {}})).await.ok();
    let token = issued["status"]["token"].as_str().unwrap();
    for deleted in [false, true] {
        if deleted {
            let path = format!("{accounts}/robot");
            member.delete(&path, &Value::Null).await.ok();
        }
        let robot = sync(&member, None, Some(token), own()).await;
        assert_eq!(robot, Some(Code::Unauthenticated), "deleted: {deleted}");
    }
    // Certificates of the cluster that are not this node's.
    let (admin, key) = pki.admin();
    let admin = (admin.to_owned(), key.to_owned());
    let impostor = pki.issue_client("system:node:n1", Some("people"));
    for pair in [&n2, &admin, &impostor] {
        let refused = sync(&member, Some(pair), None, own()).await;
        assert_eq!(refused, Some(Code::PermissionDenied));
    }
    // Certificates that TLS does not take.
    let then = jiff::Timestamp::now() - LONG_AGO;
    let expired = pki.issue_client_at("system:node:n1", Some("system:nodes"), then);
    let foreign = other.issue_client("system:node:n1", Some("system:nodes"));
    for pair in [&expired, &foreign] {
        let refused = sync(&member, Some(pair), None, own()).await;
        assert!(is_shut_out(refused), "{refused:?}");
    }
    // What is too large, and what does not come.
    let large = hello("n1", "x".repeat(5 << 20));
    let refused = sync(&member, Some(&n1), None, Some(large)).await;
    assert_eq!(refused, Some(Code::OutOfRange));
    let silent = sync(&member, Some(&n1), None, None).await;
    assert_eq!(silent, Some(Code::DeadlineExceeded));
    let names = member.get("/api/v1/nodes").await.ok();
    assert_eq!(names["items"].as_array().unwrap().len(), 1, "{names}");
    member.controller.shutdown().await;
}

/// A member with a port for others, and that port.
async fn reachable() -> (Member, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.peers = Some(crate::PeerSettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        address: None,
    });
    let controller = Controller::start(config).await.unwrap();
    let member = Member::of(controller, dir).await;
    let status = member.get("/waggle/v1/status").await.ok();
    let address = status["members"][0]["address"].as_str().unwrap();
    let address = address.parse().unwrap();
    (member, address)
}

/// The certificate of a member of that cluster, as it was made then.
fn member_pair(dir: &std::path::Path, then: jiff::Timestamp) -> Pair {
    MemberTls::open(dir, 7, then).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    (read("member.crt"), read("member.key"))
}

/// What comes of a question that is for a member of another cluster.
async fn ask(ca: &str, address: SocketAddr, pair: Option<&Pair>, padding: usize) -> Option<Code> {
    let channel = connect(address, "member.waggle", ca, pair).await.ok()?;
    let mut client = PeersClient::new(channel).max_encoding_message_size(usize::MAX);
    let question = raft::PeerRequest {
        header: Some(raft::Header {
            protocol: 1,
            cluster: "x".repeat(padding),
            from: 7,
            to: 1,
        }),
        request: None,
    };
    let answer = tokio::time::timeout(SOON, client.call(question)).await;
    match answer.expect("an answer or an end") {
        Ok(_) => Some(Code::Ok),
        Err(status) => Some(status.code()),
    }
}

/// It was let in, and answered.
const ANSWERED: Option<Code> = Some(Code::FailedPrecondition);

#[tokio::test(flavor = "multi_thread")]
async fn the_members_port_is_for_members_alone() {
    let (member, address) = reachable().await;
    let ca = member.controller.ca_pem();
    let (pki, dir) = authority(Some(&member));
    let now = jiff::Timestamp::now();
    let good = member_pair(dir.path(), now);
    assert_eq!(ask(ca, address, Some(&good), 1).await, ANSWERED);

    let (_pki, old_dir) = authority(Some(&member));
    let expired = member_pair(old_dir.path(), now - LONG_AGO);
    let (_other, other_dir) = authority(None);
    let foreign = member_pair(other_dir.path(), now);
    let node = member.controller.issue_node_identity("n1").unwrap();
    let node = (node.certificate_pem, node.key_pem);
    let (admin, key) = pki.admin();
    let admin = (admin.to_owned(), key.to_owned());
    // All that a member's certificate says but its name.
    let impostor = pki.issue_client("waggle:member:1", Some("waggle:members"));
    for (who, pair) in [
        ("nobody", None),
        ("expired", Some(&expired)),
        ("another CA's", Some(&foreign)),
        ("a node", Some(&node)),
        ("the administrator", Some(&admin)),
        ("an impostor", Some(&impostor)),
    ] {
        let outcome = ask(ca, address, pair, 1).await;
        assert!(is_shut_out(outcome), "{who}: {outcome:?}");
    }
    // What is no TLS, and what is nothing.
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(SOON, plain.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "it is closed");
    // More than a message may have.
    let large = ask(ca, address, Some(&good), 17 << 20).await;
    assert_eq!(large, Some(Code::OutOfRange));
    assert_eq!(ask(ca, address, Some(&good), 1).await, ANSWERED);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_connect_and_say_nothing_keep_no_member_out() {
    let (member, address) = reachable().await;
    let ca = member.controller.ca_pem();
    let (_pki, dir) = authority(Some(&member));
    let good = member_pair(dir.path(), jiff::Timestamp::now());
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let begun = std::time::Instant::now();
    assert_eq!(ask(ca, address, Some(&good), 1).await, ANSWERED);
    // Each of them may be silent for 5 s.
    assert!(begun.elapsed() < Duration::from_secs(5));
    // They do not last.
    let mut bytes = Vec::new();
    for mut stream in silent {
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
        assert!(ended.is_ok(), "it is closed");
    }
    member.controller.shutdown().await;
}

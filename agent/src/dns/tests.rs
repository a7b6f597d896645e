//! Real queries over UDP and TCP on loopback, with a made-up upstream resolver.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};

use super::zone::tests::{cluster_ip, example, object};
use super::*;
use crate::cluster::{Batch, Endpoint, EndpointSlice, Event, ObjectName, Service};

const ANSWER: Duration = Duration::from_secs(8);

struct Fixture {
    server: DnsServer,
    batches: mpsc::Sender<Arc<Batch>>,
    applied: watch::Receiver<u64>,
}

impl Fixture {
    async fn new(upstreams: &[SocketAddr]) -> Self {
        let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::on(sockets, upstreams).await
    }

    async fn on(sockets: DnsSockets, upstreams: &[SocketAddr]) -> Self {
        let (batches, receiver) = mpsc::channel(8);
        let (sender, applied) = watch::channel(0);
        let config = DnsConfig {
            listen: sockets.address().unwrap(),
            cluster_domain: "cluster.local".into(),
            upstreams: upstreams.to_vec(),
        };
        let server = DnsServer::start_on(sockets, config, receiver, sender)
            .await
            .unwrap();
        let mut fixture = Self {
            server,
            batches,
            applied,
        };
        fixture.apply(example()).await;
        fixture
    }

    async fn apply(&mut self, batch: Batch) {
        let revision = batch.revision;
        self.batches.send(Arc::new(batch)).await.unwrap();
        self.applied
            .wait_for(|applied| *applied >= revision)
            .await
            .unwrap();
    }

    async fn udp(&self, query: &Message) -> Message {
        udp(self.server.address(), query).await
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.udp(&question(name, kind)).await
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // from_str would lower the case.
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn edns(mut message: Message, size: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size).set_version(version);
    message.edns = Some(edns);
    message
}

async fn raw_udp(server: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = vec![0; 65536];
    let received = tokio::time::timeout(ANSWER, socket.recv(&mut buffer))
        .await
        .ok()?;
    buffer.truncate(received.ok()?);
    Some(buffer)
}

async fn udp(server: SocketAddr, query: &Message) -> Message {
    let reply = raw_udp(server, &query.to_vec().unwrap())
        .await
        .expect("an answer");
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    reply
}

async fn tcp(server: SocketAddr, queries: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    for query in queries {
        let bytes = query.to_vec().unwrap();
        stream
            .write_u16(u16::try_from(bytes.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
    let mut replies = Vec::new();
    for _ in queries {
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        replies.push(Message::from_vec(&reply).unwrap());
    }
    replies
}

fn data(records: &[Record]) -> Vec<String> {
    let mut data: Vec<String> = records.iter().map(|r| r.data.to_string()).collect();
    data.sort();
    data
}

#[tokio::test]
async fn names_are_answered_over_udp_and_tcp() {
    let f = Fixture::new(&[]).await;
    let reply = f.ask("WeB.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply.answers), ["10.96.0.10"]);
    assert_eq!(
        reply.queries[0].name().to_string(),
        "WeB.default.svc.cluster.local."
    );
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert!(reply.metadata.recursion_desired && !reply.metadata.truncation);
    assert!(reply.edns.is_none(), "EDNS only for those who speak it");

    let reply = f
        .ask("nobody.default.svc.cluster.local.", RecordType::A)
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert!(reply.metadata.authoritative);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    let reply = f
        .ask("plain.default.svc.cluster.local.", RecordType::AAAA)
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);

    let queries = [
        question("db.default.svc.cluster.local.", RecordType::A),
        question("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV),
    ];
    let replies = tcp(f.server.address(), &queries).await;
    assert_eq!(
        data(&replies[0].answers),
        ["10.0.0.1", "10.0.0.2", "10.0.0.4"]
    );
    assert_eq!(
        (replies[1].answers.len(), replies[1].additionals.len()),
        (3, 4)
    );
}

#[tokio::test]
async fn dig_is_content() {
    let f = Fixture::new(&[]).await;
    let port = f.server.address().port().to_string();
    for (arguments, expected) in [
        (
            ["web.default.svc.cluster.local", "A"].as_slice(),
            "10.96.0.10",
        ),
        (&["web.default.svc.cluster.local", "AAAA"], "fd00:96::10"),
        (
            &["+tcp", "web.default.svc.cluster.local", "A"],
            "10.96.0.10",
        ),
        (&["-x", "10.96.0.10"], "web.default.svc.cluster.local."),
        (&["dns-version.cluster.local", "TXT"], "\"1.1.0\""),
        (
            &["_http._tcp.web.default.svc.cluster.local", "SRV"],
            "0 100 80 web.default.svc.cluster.local.",
        ),
    ] {
        let output = tokio::process::Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+short", "+time=5", "+tries=1"])
            .args(arguments)
            .output()
            .await
            .expect("dig is installed (xtask installs it)");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.trim(), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn long_answers_are_truncated_and_whole_over_tcp() {
    let mut f = Fixture::new(&[]).await;
    let endpoint = |n: u8| Endpoint {
        addresses: vec![Ipv4Addr::new(10, 1, 0, n).into()],
        ready: true,
        ..Endpoint::default()
    };
    let slice = EndpointSlice {
        service: "many".into(),
        ports: Vec::new(),
        endpoints: (0..120).map(endpoint).collect(),
    };
    let service = Service {
        headless: true,
        ..Service::default()
    };
    f.apply(Batch {
        revision: 8,
        full: false,
        events: vec![
            Event::ServiceSet(object("default", "many"), service),
            Event::SliceSet(object("default", "many-1"), slice),
        ],
    })
    .await;
    let query = question("many.default.svc.cluster.local.", RecordType::A);
    let raw = raw_udp(f.server.address(), &query.to_vec().unwrap())
        .await
        .unwrap();
    assert!(raw.len() <= 512, "{}", raw.len());
    let reply = Message::from_vec(&raw).unwrap();
    assert!(reply.metadata.truncation);
    assert!(reply.answers.len() > 10);

    let large = edns(query.clone(), 4096, 0);
    let raw = raw_udp(f.server.address(), &large.to_vec().unwrap())
        .await
        .unwrap();
    assert!((600..=1232).contains(&raw.len()), "{}", raw.len());
    let reply = Message::from_vec(&raw).unwrap();
    assert!(reply.metadata.truncation);
    assert_eq!(reply.edns.unwrap().max_payload(), 1232);

    let replies = tcp(f.server.address(), &[query]).await;
    assert_eq!(replies[0].answers.len(), 120);
    assert!(!replies[0].metadata.truncation);
}

#[tokio::test]
async fn answers_follow_the_cluster() {
    let mut f = Fixture::new(&[]).await;
    f.apply(Batch {
        revision: 9,
        full: false,
        events: vec![Event::ServiceSet(
            object("default", "web"),
            cluster_ip(&["10.96.7.7"], &[]),
        )],
    })
    .await;
    let reply = f.ask("web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply.answers), ["10.96.7.7"]);
    // Everything there is: the rest is gone.
    f.apply(Batch {
        revision: 10,
        full: true,
        events: vec![Event::ServiceSet(
            object("new", "only"),
            cluster_ip(&["10.96.8.8"], &[]),
        )],
    })
    .await;
    for (name, code) in [
        ("web.default.svc.cluster.local.", ResponseCode::NXDomain),
        ("default.svc.cluster.local.", ResponseCode::NXDomain),
        ("only.new.svc.cluster.local.", ResponseCode::NoError),
    ] {
        let reply = f.ask(name, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, code, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_plain_question_is_refused() {
    let f = Fixture::new(&[]).await;
    let name = "web.default.svc.cluster.local.";
    let any = question(name, RecordType::ANY);
    let transfer = question("cluster.local.", RecordType::AXFR);
    let mut chaos = question(name, RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut notify = question(name, RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let mut none = question(name, RecordType::A);
    none.queries.clear();
    let mut two = question(name, RecordType::A);
    two.add_query(Query::query(
        Name::from_str(name).unwrap(),
        RecordType::AAAA,
    ));
    for (query, code) in [
        (any, ResponseCode::Refused),
        (transfer, ResponseCode::Refused),
        (chaos, ResponseCode::Refused),
        (notify, ResponseCode::NotImp),
        (none, ResponseCode::FormErr),
        (two, ResponseCode::FormErr),
        (
            edns(question(name, RecordType::A), 1232, 1),
            ResponseCode::BADVERS,
        ),
    ] {
        let reply = f.udp(&query).await;
        // BADSIG and BADVERS are one number.
        let found = u16::from(reply.metadata.response_code);
        assert_eq!(found, u16::from(code), "{query}");
        assert!(reply.answers.is_empty());
    }
}

#[tokio::test]
async fn malformed_queries_get_an_error_and_the_server_goes_on() {
    let f = Fixture::new(&[]).await;
    // A header that promises a question which is not there.
    let reply = raw_udp(f.server.address(), &[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    assert_eq!(
        (&reply[..2], reply[3] & 0xf),
        ([7, 7].as_slice(), 1),
        "FORMERR"
    );
    // Replies and fragments are not answered at all: the next answer is that of the next question.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(f.server.address()).await.unwrap();
    socket.send(&[1, 2, 3]).await.unwrap();
    socket
        .send(&[9, 9, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let query = question("web.default.svc.cluster.local.", RecordType::A);
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
}

#[tokio::test]
async fn a_client_that_hoards_connections_is_cut_off_and_udp_goes_on() {
    let f = Fixture::new(&[]).await;
    let mut hoard = Vec::new();
    // Closed at once at some point; the server has not to wait for any of them.
    for _ in 0..200 {
        hoard.push(TcpStream::connect(f.server.address()).await.unwrap());
        tokio::task::yield_now().await;
        if f.server.metrics.overloaded.get() > 0 {
            break;
        }
    }
    assert!(f.server.metrics.overloaded.get() > 0);
    assert!(hoard.len() >= 64, "{}", hoard.len());
    let reply = f.ask("web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply.answers), ["10.96.0.10"]);
    drop(hoard);
    let query = question("web.default.svc.cluster.local.", RecordType::A);
    // As soon as the server has noticed that they are gone.
    let answered = async {
        loop {
            let mut stream = TcpStream::connect(f.server.address()).await.unwrap();
            let bytes = query.to_vec().unwrap();
            let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(bytes);
            if stream.write_all(&framed).await.is_ok() && stream.read_u16().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(ANSWER, answered).await.unwrap();
}

/// What a made-up resolver does with a name.
#[derive(Clone)]
enum Behaviour {
    Address(Ipv4Addr),
    Missing,
    /// Answers only after it is told to.
    Held(Ipv4Addr, watch::Receiver<bool>),
}

struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(names: &[(&str, Behaviour)]) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let names: HashMap<String, Behaviour> = names
            .iter()
            .map(|(n, b)| ((*n).to_owned(), b.clone()))
            .collect();
        let log = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let name = query.queries[0].name().to_string();
                log.lock().unwrap().push(name.clone());
                // A name it does not know is met with silence.
                let Some(behaviour) = names.get(&name).cloned() else {
                    continue;
                };
                let socket = socket.clone();
                tokio::spawn(async move {
                    let reply = behave(&query, behaviour).await;
                    socket
                        .send_to(&reply.to_vec().unwrap(), from)
                        .await
                        .unwrap();
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn behave(query: &Message, behaviour: Behaviour) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.queries = query.queries.clone();
    let name = query.queries[0].name().clone();
    let address = match behaviour {
        Behaviour::Address(address) => address,
        Behaviour::Held(address, mut go) => {
            go.wait_for(|go| *go).await.unwrap();
            address
        }
        Behaviour::Missing => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 60);
            reply
                .authorities
                .push(Record::from_rdata(name.base_name(), 60, RData::SOA(soa)));
            return reply;
        }
    };
    if query.queries[0].query_type() == RecordType::A {
        reply
            .answers
            .push(Record::from_rdata(name, 120, RData::A(A(address))));
    }
    reply
}

const WWW: &str = "www.example.com.";
const WWW_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

#[tokio::test]
async fn other_names_are_forwarded_once_and_cached() {
    let upstream = Upstream::start(&[
        (WWW, Behaviour::Address(WWW_ADDRESS)),
        ("gone.example.com.", Behaviour::Missing),
    ])
    .await;
    let f = Fixture::new(&[upstream.address]).await;
    for _ in 0..3 {
        let reply = f.ask("WWW.example.com.", RecordType::A).await;
        assert_eq!(data(&reply.answers), ["192.0.2.80"]);
        assert!(!reply.metadata.authoritative);
    }
    assert_eq!(upstream.asked(), 1);
    for _ in 0..3 {
        let reply = f.ask("gone.example.com.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    }
    assert_eq!(upstream.asked(), 2);
    assert_eq!(f.server.metrics.cache_hits.get(), 4);
    assert_eq!(f.server.metrics.cache_misses.get(), 2);
    // Cluster names never leave the node.
    f.ask("nobody.default.svc.cluster.local.", RecordType::A)
        .await;
    assert_eq!(upstream.asked(), 2);

    let mut registry = Registry::default();
    f.server.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = "waggle_dns_queries_total{zone=\"upstream\",type=\"A\",rcode=\"NXDOMAIN\"} 3";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("waggle_dns_response_seconds_bucket"),
        "{text}"
    );
}

#[tokio::test]
async fn a_question_asked_by_many_at_once_is_asked_once() {
    let (go, held) = watch::channel(false);
    let upstream = Upstream::start(&[(WWW, Behaviour::Held(WWW_ADDRESS, held))]).await;
    let f = Fixture::new(&[upstream.address]).await;
    let asking = futures::future::join_all((0..20).map(|_| f.ask(WWW, RecordType::A)));
    let released = async {
        while upstream.asked() == 0 {
            tokio::task::yield_now().await;
        }
        go.send_replace(true);
    };
    let (replies, ()) = tokio::join!(asking, released);
    assert!(replies.iter().all(|r| data(&r.answers) == ["192.0.2.80"]));
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn a_silent_upstream_is_passed_over_and_silence_of_all_is_an_error() {
    let silent = Upstream::start(&[]).await;
    let upstream = Upstream::start(&[(WWW, Behaviour::Address(WWW_ADDRESS))]).await;
    let f = Fixture::new(&[silent.address, upstream.address]).await;
    let reply = f.ask(WWW, RecordType::A).await;
    assert_eq!(data(&reply.answers), ["192.0.2.80"]);
    let started = Instant::now();
    let reply = f.ask("silence.example.com.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "before clients give up"
    );
    assert_eq!(f.server.metrics.forward_failures.get(), 1);
    // Meanwhile, and after it, everything else is answered.
    f.ask("web.default.svc.cluster.local.", RecordType::A).await;
}

#[tokio::test]
async fn without_upstreams_other_names_are_refused_at_once() {
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Its own address does not count.
    let own = sockets.address().unwrap();
    let f = Fixture::on(sockets, &[own]).await;
    let reply = f.ask(WWW, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn external_names_are_followed_inside_and_outside() {
    let upstream = Upstream::start(&[(WWW, Behaviour::Address(WWW_ADDRESS))]).await;
    let f = Fixture::new(&[upstream.address]).await;
    let reply = f.ask("out.other.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply.answers), ["192.0.2.80", "www.Example.com."]);
    assert_eq!(
        reply.answers[0].record_type(),
        RecordType::CNAME,
        "the alias comes first"
    );
    let reply = f.ask("in.other.svc.cluster.local.", RecordType::A).await;
    assert_eq!(
        data(&reply.answers),
        ["10.96.0.10", "web.default.svc.cluster.local."]
    );
    let reply = f
        .ask("out.other.svc.cluster.local.", RecordType::CNAME)
        .await;
    assert_eq!(data(&reply.answers), ["www.Example.com."]);
}

#[tokio::test]
async fn aliases_that_go_in_circles_are_an_error() {
    let mut f = Fixture::new(&[]).await;
    let service = |to: &str| Service {
        external_name: Some(to.into()),
        ..Service::default()
    };
    f.apply(Batch {
        revision: 8,
        full: false,
        events: vec![
            Event::ServiceSet(object("x", "a"), service("b.x.svc.cluster.local")),
            Event::ServiceSet(object("x", "b"), service("a.x.svc.cluster.local")),
        ],
    })
    .await;
    let reply = f.ask("a.x.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn stopping_answers_what_was_asked() {
    let (go, held) = watch::channel(false);
    let upstream = Upstream::start(&[(WWW, Behaviour::Held(WWW_ADDRESS, held))]).await;
    let f = Fixture::new(&[upstream.address]).await;
    let address = f.server.address();
    let asking = tokio::spawn(async move { udp(address, &question(WWW, RecordType::A)).await });
    while upstream.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let stopping = tokio::spawn(f.server.stop());
    go.send_replace(true);
    stopping.await.unwrap();
    assert_eq!(data(&asking.await.unwrap().answers), ["192.0.2.80"]);
    // The port is free again.
    DnsSockets::bind(address).unwrap();
}

#[tokio::test]
async fn a_query_between_two_servers_waits_in_the_kept_socket() {
    let f = Fixture::new(&[]).await;
    let kept = f.server.sockets().unwrap();
    let address = f.server.address();
    f.server.stop().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query = question("web.default.svc.cluster.local.", RecordType::A);
    socket
        .send_to(&query.to_vec().unwrap(), address)
        .await
        .unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _next = Fixture::on(kept, &[]).await;
    let mut buffer = [0; 512];
    let length = tokio::time::timeout(ANSWER, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        Message::from_vec(&buffer[..length]).unwrap().metadata.id,
        query.metadata.id
    );
    let bytes = query.to_vec().unwrap();
    stream
        .write_u16(u16::try_from(bytes.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert!(stream.read_u16().await.unwrap() > 12);
}

/// What an agent had taken from the socket when it was killed, the next one answers.
#[tokio::test]
async fn what_an_agent_took_to_its_end_is_answered_by_the_next() {
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sockets.address().unwrap();
    let query = question("web.default.svc.cluster.local.", RecordType::A);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client
            .send_to(&query.to_vec().unwrap(), address)
            .await
            .unwrap();
        clients.push(client);
    }
    // One waits for somebody else, the other has just been taken. A kill runs no destructor.
    let ledger = sockets.questions.open().unwrap();
    let mut desk = ledger.desk(0);
    let socket = std::os::fd::AsRawFd::as_raw_fd(&sockets.udp);
    desk.receive(socket).unwrap();
    let (bytes, from) = desk.content().unwrap();
    std::mem::forget(ledger.hold(bytes, from).unwrap());
    desk.receive(socket).unwrap();
    let _next = Fixture::on(sockets, &[]).await;
    for client in clients {
        let mut buffer = [0; 512];
        let answered = tokio::time::timeout(ANSWER, client.recv(&mut buffer));
        let length = answered.await.unwrap().unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
    }
}

/// A question stays in its connection until it is answered, and the connection with whoever comes next: here a server
/// that stops, which is what a killed one leaves too.
#[tokio::test]
async fn a_connection_goes_on_with_the_next_server() {
    let (_go, held) = watch::channel(false);
    let upstream = Upstream::start(&[(WWW, Behaviour::Held(WWW_ADDRESS, held))]).await;
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sockets.address().unwrap();
    let kept = sockets.try_clone().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let here = "web.default.svc.cluster.local.";
    let asked = [WWW, here, here].map(|name| question(name, RecordType::A));
    let mut bytes = Vec::new();
    for query in &asked {
        let query = query.to_vec().unwrap();
        bytes.extend(u16::try_from(query.len()).unwrap().to_be_bytes());
        bytes.extend(query);
    }
    // The first is waited for elsewhere, the second lies behind it, the third has not come whole.
    let (before, after) = bytes.split_at(bytes.len() - 7);
    client.write_all(before).await.unwrap();
    let (accepted, _) = sockets.tcp.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let first = DnsSockets {
        connections: vec![accepted.try_clone().unwrap()],
        ..sockets
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let upstreams = [upstream.address];
    let server = runtime.spawn(async move { Fixture::on(first, &upstreams).await });
    let server = server.await.unwrap();
    while upstream.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // It is killed: nothing that it does happens any more, and its descriptors are closed.
    runtime.shutdown_background();
    drop((server.batches, server.applied));
    std::mem::forget(server.server);

    let answers = Upstream::start(&[(WWW, Behaviour::Address(WWW_ADDRESS))]).await;
    let second = DnsSockets {
        connections: vec![accepted],
        ..kept
    };
    let _next = Fixture::on(second, &[answers.address]).await;
    client.write_all(after).await.unwrap();
    for query in asked {
        let length = tokio::time::timeout(ANSWER, client.read_u16());
        let mut reply = vec![0; usize::from(length.await.unwrap().unwrap())];
        client.read_exact(&mut reply).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert_eq!(reply.answers.len(), 1);
    }
}

/// What an agent remembers is told at once; that a name is not there, when the control plane had time to say so.
#[tokio::test]
async fn what_is_remembered_is_told_before_the_control_plane_is_heard_of() {
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (batches, receiver) = mpsc::channel(8);
    let (sender, mut applied) = watch::channel(7);
    let config = DnsConfig {
        listen: sockets.address().unwrap(),
        cluster_domain: "cluster.local".into(),
        upstreams: Vec::new(),
    };
    let server = DnsServer::start_on(sockets, config, receiver, sender)
        .await
        .unwrap();
    let batch = |revision, name: &str| {
        let service = Service {
            cluster_ips: vec!["10.96.0.9".parse().unwrap()],
            ..Service::default()
        };
        let name = ObjectName {
            namespace: "default".into(),
            name: name.into(),
        };
        Arc::new(Batch {
            revision,
            full: true,
            events: vec![Event::ServiceSet(name, service)],
        })
    };
    batches.send(batch(Batch::REMEMBERED, "old")).await.unwrap();
    applied.wait_for(|applied| *applied == 0).await.unwrap();
    let ask = async |name: &str| {
        let name = format!("{name}.default.svc.cluster.local.");
        udp(server.address(), &question(&name, RecordType::A)).await
    };
    assert_eq!(data(&ask("old").await.answers), ["10.96.0.9"]);
    let (new, _) = tokio::join!(ask("new"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        batches.send(batch(8, "new")).await.unwrap();
    });
    assert_eq!(data(&new.answers), ["10.96.0.9"], "not denied before");
    assert_eq!(
        ask("old").await.metadata.response_code,
        ResponseCode::NXDomain
    );
}

/// After a start, the names that there are come from the control plane.
#[tokio::test]
async fn before_the_first_full_batch_no_name_is_denied() {
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (batches, receiver) = mpsc::channel(8);
    let (sender, _applied) = watch::channel(0);
    let config = DnsConfig {
        listen: sockets.address().unwrap(),
        cluster_domain: "cluster.local".into(),
        upstreams: Vec::new(),
    };
    let server = DnsServer::start_on(sockets, config, receiver, sender)
        .await
        .unwrap();
    let at = server.address();
    let early = tokio::spawn(async move {
        udp(
            at,
            &question("web.default.svc.cluster.local.", RecordType::A),
        )
        .await
    });
    // Other names need not wait.
    let other = udp(at, &question("example.com.", RecordType::A)).await;
    assert_eq!(other.metadata.response_code, ResponseCode::Refused);
    assert!(!early.is_finished());
    batches.send(Arc::new(example())).await.unwrap();
    assert_eq!(data(&early.await.unwrap().answers), ["10.96.0.10"]);
}

#[tokio::test]
async fn a_port_in_use_is_named_and_an_absent_address_can_be_bound() {
    let f = Fixture::new(&[]).await;
    let start = |listen: SocketAddr| {
        let (_, batches) = mpsc::channel(1);
        let config = DnsConfig {
            listen,
            cluster_domain: "cluster.local".into(),
            upstreams: Vec::new(),
        };
        DnsServer::start(config, batches, watch::channel(0).0)
    };
    let error = start(f.server.address()).await.unwrap_err();
    assert!(
        error.to_string().contains(&f.server.address().to_string()),
        "{error}"
    );
    // The data plane adds the link-local address to `lo` at some time.
    start("169.254.253.252:0".parse().unwrap()).await.unwrap();
    start("[fd00:dead::53]:0".parse().unwrap()).await.unwrap();
}

#[test]
fn domains_are_checked() {
    for text in ["", ".", "a..b", &"a".repeat(70)] {
        assert!(domain(text).is_err(), "{text}");
    }
    assert_eq!(
        domain("Cluster.Local").unwrap().to_string(),
        "cluster.local."
    );
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(
        mut packet in proptest::collection::vec(any::<u8>(), 0..600),
        plausible in any::<bool>(),
    ) {
        if plausible && packet.len() >= 12 {
            // A query with one question and perhaps EDNS: gets further into the parser.
            packet[2] &= 0x01;
            let additional = packet[11] & 1;
            packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, additional]);
        }
        let answerer = tests_answerer();
        let from = "127.0.0.1:9".parse().unwrap();
        for protocol in [hickory_server::net::xfer::Protocol::Udp, hickory_server::net::xfer::Protocol::Tcp] {
            match transport::read(&answerer, &packet, from, protocol) {
                Ok(answer::Step::Done(reply)) | Err(reply) => prop_assert!(reply.len() <= 65535),
                Ok(answer::Step::Forward(_)) => {}
            }
        }
    }
}

fn tests_answerer() -> Answerer {
    let metrics = Metrics::new();
    let listen = "127.0.0.1:1".parse().unwrap();
    let domain = domain("cluster.local").unwrap();
    Answerer {
        zone: ArcSwap::from(
            Feed::new(Zone::new(domain, Ipv4Addr::LOCALHOST.into())).apply(&example()),
        ),
        known: watch::Sender::new(super::answer::Known::All),
        forward: Forward::new(&[], listen, metrics.clone()),
        metrics,
    }
}

//! Members that do not hear each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waggle_tests::{Members, Witness, wait_until};

const CLIENTS: usize = 6;
const LIMIT: Duration = Duration::from_secs(90);

fn get(members: &Members, member: u8, path: &str) -> Result<Value, kube::Error> {
    ask(members, member, "GET", path, Vec::new())
}

fn ask(
    members: &Members,
    member: u8,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<Value, kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let client = members.client(member);
    members.run(async move { client.request::<Value>(request).await })
}

fn create(members: &Members, member: u8, name: &str) -> Result<Value, kube::Error> {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let path = "/api/v1/namespaces/default/configmaps";
    ask(
        members,
        member,
        "POST",
        path,
        object.to_string().into_bytes(),
    )
}

#[track_caller]
fn refusal(outcome: Result<Value, kube::Error>) -> (u16, String) {
    match outcome {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("no refusal: {other:?}"),
    }
}

/// The two that are not this one.
fn others(member: u8) -> (u8, u8) {
    match member {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    }
}

#[test]
fn partitions_lose_nothing_and_show_nothing_old() {
    let members = Members::start(3);
    let witness = Witness::start(&members, &[1, 2, 3], CLIENTS);
    witness.await_progress(50);
    for round in 0..super::rounds(5) {
        let leader = members.leader();
        let (one, other) = others(leader);
        let kind = match round % 5 {
            0 => {
                members.part(leader, one);
                members.part(leader, other);
                "the leader is alone"
            }
            1 => {
                members.part(one, leader);
                members.part(one, other);
                "a follower is alone"
            }
            2 => {
                members.part(leader, one);
                "the leader and a follower hear each other through the third alone"
            }
            3 => {
                members.drop_packets(leader, one);
                members.drop_packets(leader, other);
                "nobody hears the leader, which hears all"
            }
            _ => {
                members.drop_packets(one, leader);
                members.drop_packets(other, leader);
                "the leader hears nobody, and all hear it"
            }
        };
        let began = Instant::now();
        witness.await_progress(60);
        eprintln!(
            "{kind}: 60 writes within {:.1?}, the longest gap {:.2?}",
            began.elapsed(),
            witness.longest_gap(began)
        );
        members.heal();
        witness.await_progress(30);
        members.await_voters(3);
    }
    witness.finish(&members);
}

#[test]
fn a_minority_refuses_at_once_and_says_why() {
    let mut members = Members::start(3);
    create(&members, 1, "before").unwrap();
    let leader = members.leader();
    let (one, other) = others(leader);
    members.kill(one);
    members.kill(other);
    // The leader finds out; from then on everybody is refused at once.
    wait_until("the leader to notice", LIMIT, || {
        match create(&members, leader, "nobody-will-have-it") {
            Err(kube::Error::Api(status)) if status.code == 503 => Some(()),
            _ => None,
        }
    });
    let began = Instant::now();
    let (code, message) = refusal(create(&members, leader, "refused"));
    assert_eq!(code, 503, "{message}");
    assert!(message.contains("no leader"), "{message}");
    let (code, message) = refusal(get(
        &members,
        leader,
        "/api/v1/namespaces/default/configmaps/before",
    ));
    assert_eq!(code, 503, "{message}");
    assert!(message.contains("no leader"), "{message}");
    let took = began.elapsed();
    eprintln!("a write and a read were refused within {took:.2?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!message.contains("Node {"), "{message}");
    // It says so to whoever spreads requests over members, and to whoever asks who leads.
    let (code, message) = refusal(get(&members, leader, "/readyz"));
    assert_eq!(code, 500, "{message}");
    let status = members.status(leader).unwrap();
    assert!(status.iter().all(|it| it["leader"] == false), "{status:?}");
    // What asks for no more than memory gets it.
    let old = "/api/v1/namespaces/default/configmaps?resourceVersion=0";
    let list = get(&members, leader, old).unwrap();
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    assert!(
        names.contains(&"before") && !names.contains(&"refused"),
        "{names:?}"
    );
    // The same goes for what is saved.
    let file = members.scratch().join("snapshot");
    let path = file.to_string_lossy().into_owned();
    let refused = members.cluster(leader, &["snapshot", "save", &path]);
    let why = refused.fails();
    assert!(why.contains("no leader") && !file.exists(), "{why}");
    let saved = members.cluster(leader, &["snapshot", "save", "--stale", &path]);
    let said = saved.ok();
    assert!(said.contains("no majority was asked"), "{said}");
    members.cluster(leader, &["snapshot", "status", &path]).ok();
    // A member that has started again and found nobody says the same, and gives what it has.
    members.kill(leader);
    members.boot(leader, &[]);
    let (code, message) = wait_until("the member to say so", LIMIT, || {
        match get(&members, leader, "/api/v1/namespaces") {
            Err(kube::Error::Api(status)) => Some((status.code, status.message.clone())),
            _ => None,
        }
    });
    assert_eq!(code, 503, "{message}");
    assert!(message.contains("no leader"), "{message}");
    let (code, message) = refusal(get(&members, leader, "/readyz"));
    assert_eq!(code, 500, "{message}");
    assert!(members.metrics(leader).contains("waggle_store_"));
    let fresh = members.scratch().join("fresh");
    let path = fresh.to_string_lossy().into_owned();
    members
        .cluster(leader, &["snapshot", "save", "--stale", &path])
        .ok();
    let shown = |path: &str| members.cluster(leader, &["snapshot", "status", path]).ok();
    let revision = |text: String| -> u64 {
        let (_, rest) = text.split_once("at revision ").expect("a revision");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    assert_eq!(
        revision(shown(&path)),
        revision(shown(&file.to_string_lossy()))
    );
    members.boot(one, &[]);
    members.await_api(one);
    members.await_api(leader);
    create(&members, one, "after").unwrap();
    assert!(
        refusal(get(
            &members,
            one,
            "/api/v1/namespaces/default/configmaps/refused"
        ))
        .0 == 404
    );
    get(
        &members,
        leader,
        "/api/v1/namespaces/default/configmaps/after",
    )
    .unwrap();
}

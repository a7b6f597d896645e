//! Members that come and go while the cluster works, and a new cluster out of a snapshot.

use waggle_tests::{Members, Outcome, Witness, waggle, wait_until};

const CLIENTS: usize = 4;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(90);

#[test]
fn members_are_replaced_under_load() {
    let mut members = Members::start(3);
    // m3 is not asked: it will not be there in the end.
    let witness = Witness::start(&members, &[1, 2], CLIENTS);
    witness.await_progress(50);
    let mut third = 3;
    for _ in 0..super::rounds(1) {
        members.kill(third);
        members.cluster(1, &["remove", &format!("m{third}")]).ok();
        let next = if third == 9 { 3 } else { third + 1 };
        members.forget(next);
        members.join(next, 2);
        members.await_voters(3);
        // The one that was removed does not come back by itself.
        members.boot(third, &[]);
        assert_ne!(members.await_end(third), Some(0));
        let tail = members.tail(third);
        assert!(tail.contains("removed"), "{tail}");
        third = next;
        witness.await_progress(50);
    }
    // The leader as well, which is asked to go by the one that stays.
    let leader = members.leader();
    if leader != third {
        let stays = if leader == 1 { 2 } else { 1 };
        members
            .cluster(stays, &["remove", &format!("m{third}")])
            .ok();
        members.await_end(third);
        members.await_voters(2);
    }
    witness.await_progress(50);
    witness.finish(&members);
}

#[test]
fn a_snapshot_becomes_a_new_cluster() {
    let mut members = Members::found();
    let kubectl = |members: &Members, arguments: &[&str]| {
        let mut command = members.command("kubectl");
        command.env("KUBECONFIG", members.kubeconfig(1));
        command.env("HOME", members.scratch());
        Outcome::of(command.args(arguments))
    };
    kubectl(
        &members,
        &["create", "configmap", "kept", "--from-literal=a=b"],
    )
    .ok();
    let file = members.scratch().join("snapshot");
    let path = file.to_string_lossy().into_owned();
    members.cluster(1, &["snapshot", "save", &path]).ok();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600, "all Secrets are in it");
    kubectl(&members, &["create", "configmap", "later"]).ok();
    members.kill(1);

    // On another directory with the same CA: clients and nodes know the cluster again.
    let old = members.data(1);
    let kept = members.scratch().join("old");
    std::fs::rename(&old, &kept).unwrap();
    std::fs::create_dir(&old).unwrap();
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(kept.join("pki")).arg(old.join("pki"));
    Outcome::of(&mut copy).ok();
    let mut restore = std::process::Command::new(waggle());
    restore.args(["cluster", "snapshot", "restore", &path, "--data-dir"]);
    Outcome::of(restore.arg(&old)).ok();
    members.boot(1, &[]);
    members.await_api(1);
    let names = kubectl(&members, &["get", "configmap", "-o", "name"]).ok();
    assert!(names.contains("configmap/kept"), "{names}");
    assert!(!names.contains("configmap/later"), "{names}");
    // It takes members like any other.
    members.join(2, 1);
    members.await_voters(2);
    wait_until("the new member to have it", LIMIT, || {
        let client = members.client(2);
        let path = "/api/v1/namespaces/default/configmaps/kept";
        let get = http::Request::get(path).body(Vec::new()).unwrap();
        let answer = members.run(async move { client.request::<serde_json::Value>(get).await });
        answer.ok().filter(|object| object["data"]["a"] == "b")
    });
}

#[test]
fn space_is_given_back_by_every_member_under_load() {
    let members = Members::start(3);
    let witness = Witness::start(&members, &[1, 2, 3], CLIENTS);
    witness.await_progress(50);
    let text = members.cluster(2, &["defragment"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines.iter().all(|line| line.contains("bytes before")),
        "{text}"
    );
    let leader = members.leader();
    assert!(
        lines[2].contains(&format!("(m{leader})")),
        "the leader last: {text}"
    );
    assert!(!members.data(1).join("store/data.old").exists());
    witness.await_progress(50);
    let refused = members.cluster(2, &["defragment", "nobody"]).fails();
    assert!(refused.contains("there is no member nobody"), "{refused}");
    witness.finish(&members);
}

/// One number that the member tells Prometheus.
fn metric(members: &Members, member: u8, name: &str) -> u64 {
    let text = members.metrics(member);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn history_and_its_space_are_given_up_without_being_asked() {
    const MOST: usize = 600;
    const GIVEN_BACK: &str = "space on the disk is given back";
    let members = Members::start(3);
    let leader = members.leader();
    let followers: Vec<u8> = (1..=3).filter(|member| *member != leader).collect();
    let client = members.client(leader);
    let mut object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"},
    });
    let collection = "/api/v1/namespaces/default/configmaps";
    let mut written = 0;
    let gave_back = |member: &u8| members.log(*member).contains(GIVEN_BACK);
    // One object is alive, and replaced again and again. A leader leaves it to those that do not lead.
    let mut tried = 0;
    while !followers.iter().any(gave_back) {
        assert!(
            tried < MOST,
            "nothing was given back after {written} writes"
        );
        tried += 1;
        object["data"] = serde_json::json!({"text": format!("{written} {}", "x".repeat(900_000))});
        let request = match written {
            0 => http::Request::post(collection),
            _ => http::Request::put(format!("{collection}/large")),
        };
        let request = request.header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        let client = client.clone();
        let answer = members.run(async move { client.request::<serde_json::Value>(request).await });
        // A slow disk may cost an election, and an answer.
        let exists = |status: &kube::core::Status| status.code == 409;
        let done = match &answer {
            Err(kube::Error::Api(status)) => exists(status),
            other => other.is_ok(),
        };
        written += usize::from(done);
    }
    for member in followers.iter().filter(|member| gave_back(member)) {
        let log = members.log(*member);
        let line = log.lines().find(|line| line.contains(GIVEN_BACK)).unwrap();
        let number = |name: &str| -> u64 {
            let text = line.split(name).nth(1).unwrap();
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap()
        };
        let (before, after) = (number("before="), number("after="));
        assert!(after < before / 2, "{line}");
    }
    for member in 1..=3 {
        let compacted = metric(&members, member, "waggle_store_compacted_revision ");
        assert!(compacted > 0, "m{member} still has all history");
    }
    eprintln!("{written} writes of 900 kB until a follower had given space back");
    // Whoever asks for what was given up is told.
    let old = format!("{collection}?resourceVersion=1&resourceVersionMatch=Exact");
    let request = http::Request::get(old).body(Vec::new()).unwrap();
    let client = members.client(followers[0]);
    let answer = members.run(async move { client.request::<serde_json::Value>(request).await });
    assert!(
        matches!(&answer, Err(kube::Error::Api(status)) if status.code == 410),
        "{answer:?}"
    );
}

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

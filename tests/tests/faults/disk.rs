//! A disk that is full, and data of another version.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waggle_tests::{Members, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
/// Enough to make a database grow.
const SPARE: usize = 300;
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

fn ask(
    members: &Members,
    member: u8,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let body = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let client = members.client(member);
    members.run(async move { client.request::<Value>(request).await })
}

fn create(members: &Members, name: &str, size: usize) -> Result<Value, kube::Error> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"text": "x".repeat(size)},
    });
    ask(members, 1, "POST", COLLECTION, &object)
}

#[test]
fn a_full_disk_is_told_before_anything_breaks() {
    let mut members = Members::found();
    members.join(2, 1);
    members.connect(3);
    // A third of it is kept in reserve.
    members.limit_disk(3, 96);
    let line = members.cluster(1, &["add"]).ok();
    let further: Vec<String> = line.split_whitespace().skip(2).map(str::to_owned).collect();
    members.boot(3, &further);
    members.await_api(3);
    members.await_voters(3);

    // To be deleted later.
    for spare in 0..SPARE {
        create(&members, &format!("spare-{spare}"), 10).unwrap();
    }
    // Something else fills that disk, down to less than the reserve.
    let hog = members.data(3).join("hog");
    let mut file = std::fs::File::create(&hog).unwrap();
    let free = |members: &Members| {
        let path = members.data(3);
        let stat = nix::sys::statvfs::statvfs(&path).unwrap();
        stat.blocks_available() * stat.fragment_size()
    };
    while free(&members) > 24 << 20 {
        std::io::Write::write_all(&mut file, &vec![1; 1 << 20]).unwrap();
    }
    let began = Instant::now();
    let (code, message) = wait_until("the alarm", LIMIT, || {
        match create(&members, &nonce(began), 10) {
            Err(kube::Error::Api(status)) if status.code == 507 => {
                Some((status.code, status.message))
            }
            _ => None,
        }
    });
    assert!(message.contains("no space left"), "{code} {message}");
    let seen = wait_until("the alarm to be shown", LIMIT, || {
        let status = members.status(1)?;
        let full: Vec<_> = status
            .iter()
            .filter(|it| it["noSpace"] == true)
            .cloned()
            .collect();
        (full.len() == 1).then_some(full)
    });
    assert_eq!(seen[0]["name"], "m3");
    let metrics = members.metrics(3);
    assert!(metrics.contains("alarm_no_space 1"), "{metrics}");
    // Reads go on, and so does what makes space.
    ask(&members, 1, "GET", COLLECTION, &Value::Null).unwrap();
    let one = format!("{COLLECTION}/kube-root-ca.crt");
    ask(&members, 1, "DELETE", &one, &Value::Null).unwrap();

    // No byte is left: at the worst that member ends, with the reason; it loses nothing, and the others go on.
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    for spare in 0..SPARE {
        let one = format!("{COLLECTION}/spare-{spare}");
        ask(&members, 1, "DELETE", &one, &Value::Null).unwrap();
    }
    std::fs::remove_file(&hog).unwrap();
    if members.has_ended(3) {
        members.boot(3, &[]);
    }
    members.await_api(3);
    let began = Instant::now();
    wait_until("writes to be taken again", LIMIT, || {
        create(&members, &nonce(began), 10).ok()
    });
    create(&members, "after", 10).unwrap();
    let list = ask(&members, 3, "GET", COLLECTION, &Value::Null).unwrap();
    let names = list["items"].as_array().unwrap().iter();
    let mut names = names.filter_map(|item| item["metadata"]["name"].as_str());
    assert_eq!(names.find(|name| name.starts_with("spare")), None);
    let after = format!("{COLLECTION}/after");
    ask(&members, 3, "GET", &after, &Value::Null).unwrap();
}

fn nonce(since: Instant) -> String {
    format!("attempt-{}", since.elapsed().as_micros())
}

#[test]
fn data_of_an_unknown_version_is_refused() {
    let mut members = Members::found();
    members.stop(1);
    let format = members.data(1).join("store/format");
    let known = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, "waggle-store 99\n").unwrap();
    members.boot(1, &[]);
    assert_eq!(members.await_end(1), Some(1));
    let tail = members.tail(1);
    assert!(tail.contains("99"), "{tail}");
    std::fs::write(&format, known).unwrap();
    members.boot(1, &[]);
    members.await_api(1);
}

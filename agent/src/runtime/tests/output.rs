//! What containers write, from their pipes through rotated files to a reader.

use std::fmt::Write;

use super::*;
use crate::runtime::logs::{LogOptions, LogStream};
use crate::supervisor::logfile::rotated_files;

#[tokio::test]
async fn a_follower_sees_everything_through_rotation() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "seq 100000; echo -n end");
    spec.log_max_bytes = 500_000;
    spec.log_max_files = 100;
    sandbox.create(&spec).await.unwrap();
    let (ended, receiver) = tokio::sync::watch::channel(false);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut stream = LogStream::open(&spec.log_path, options, receiver)
        .await
        .unwrap();
    sandbox.start_container(&spec.id).await.unwrap();
    let finish = async {
        sandbox.ended(&spec.id).await;
        ended.send(true).unwrap();
    };
    let follow = async {
        let mut seen = Vec::new();
        while let Some(chunk) = stream.next_chunk().await.unwrap() {
            seen.extend_from_slice(&chunk);
        }
        String::from_utf8(seen).unwrap()
    };
    let ((), seen) = tokio::join!(finish, follow);
    let mut expected = String::new();
    for number in 1..=100_000 {
        writeln!(expected, "{number}").unwrap();
    }
    expected += "end";
    assert!(
        seen == expected,
        "{} of {} bytes",
        seen.len(),
        expected.len()
    );
    assert!(rotated_files(&spec.log_path).unwrap().len() > 5);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn old_files_are_removed() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "seq 50000");
    spec.log_max_bytes = 100_000;
    spec.log_max_files = 3;
    sandbox.create_and_start(&spec).await;
    sandbox.ended(&spec.id).await;
    let files = rotated_files(&spec.log_path).unwrap();
    assert_eq!(files.len(), 2);
    for file in files {
        assert!(file.metadata().unwrap().len() <= 100_000);
    }
    let (_ended, receiver) = tokio::sync::watch::channel(true);
    let options = LogOptions {
        tail_lines: Some(2),
        ..LogOptions::default()
    };
    let stream = LogStream::open(&spec.log_path, options, receiver).await;
    let chunk = stream.unwrap().next_chunk().await.unwrap().unwrap();
    assert_eq!(&chunk[..], b"49999\n50000\n");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_full_disk_does_not_stop_a_container() {
    let fixture = Fixture::new();
    let small = fixture.path("small");
    std::fs::create_dir(&small).unwrap();
    let flags = nix::mount::MsFlags::empty();
    let options = Some("size=64k");
    nix::mount::mount(Some("small"), &small, Some("tmpfs"), flags, options).unwrap();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "seq 100000; exit 6");
    spec.log_path = small.join("main.log");
    sandbox.create_and_start(&spec).await;
    let state = sandbox.ended(&spec.id).await;
    let log = std::fs::read(&spec.log_path).unwrap();
    sandbox.stop().await.unwrap();
    nix::mount::umount(&small).unwrap();
    assert_eq!(exit(&state).0, 6);
    assert!(log.ends_with(b"\n"), "no half a record");
    assert!(log.starts_with(b"2"));
    fixture.assert_clean().await;
}

#[tokio::test]
async fn standard_input_stays_open_when_asked_for() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let closed = fixture.container("closed", "cat; echo end of input");
    sandbox.create_and_start(&closed).await;
    sandbox.ended(&closed.id).await;
    assert_eq!(fixture.log("closed"), "stdout F end of input\n");
    let mut open = fixture.container("open", "echo waiting; cat; echo end of input");
    open.stdin = true;
    sandbox.create_and_start(&open).await;
    super::life::wait_for_log(&fixture, "open", "waiting").await;
    let states = sandbox.states().await.unwrap();
    assert!(matches!(states[&open.id], ContainerState::Running { .. }));
    sandbox.stop().await.unwrap();
    assert_eq!(fixture.log("open"), "stdout F waiting\n");
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_container_may_have_a_terminal() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo $TERM; echo error >&2; echo -n end";
    let mut spec = fixture.container("main", script);
    spec.terminal = true;
    sandbox.create_and_start(&spec).await;
    assert_eq!(exit(&sandbox.ended(&spec.id).await).0, 0);
    // A terminal ends lines with a carriage return, too, which counts as white space here.
    let log = fixture.log("main");
    let records: Vec<&str> = log.lines().map(str::trim_end).collect();
    assert_eq!(
        records,
        ["stdout F xterm", "stdout F error", "stdout P end"]
    );
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

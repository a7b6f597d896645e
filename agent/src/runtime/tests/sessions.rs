//! Somebody at a container's streams.

use super::*;
use crate::runtime::session::{self, Input, Output, Source, Wanted};

const PLAIN: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
    size: None,
};

/// What is put out, by source, to the end.
macro_rules! outputs {
    ($session:expr) => {{
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let all = async {
            while let Output::Bytes(source, bytes) = $session.output().await {
                match source {
                    Source::Stdout => out.extend_from_slice(&bytes),
                    Source::Stderr => errors.extend_from_slice(&bytes),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all)
            .await
            .unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(errors).unwrap(),
        )
    }};
}

fn shell(script: &str) -> [String; 3] {
    ["/bin/sh", "-c", script].map(str::to_owned)
}

#[tokio::test]
async fn commands_have_streams_of_their_own() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    let dir = fixture.path("run");
    let script = shell("while read x; do echo got $x; done; echo no >&2; exit 3");
    let mut command = session::exec(&dir, &spec.id, &script, PLAIN).await.unwrap();
    let mut input = command.input.take().unwrap();
    input.write(b"one\ntwo\n").await.unwrap();
    drop(input);
    let (out, errors) = outputs!(command);
    assert_eq!(
        (out.as_str(), errors.as_str()),
        ("got one\ngot two\n", "no\n")
    );
    assert_eq!(command.exit().unwrap(), 3);
    drop(command);

    // What runc says of a program that is not there is no output.
    let missing = ["/no/such/program".to_owned()];
    let mut command = session::exec(&dir, &spec.id, &missing, PLAIN)
        .await
        .unwrap();
    assert_eq!(outputs!(command), (String::new(), String::new()));
    let error = command.exit().unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    drop(command);
    let tty = Wanted { tty: true, ..PLAIN };
    let mut command = session::exec(&dir, &spec.id, &missing, tty).await.unwrap();
    assert_eq!(outputs!(command), (String::new(), String::new()));
    assert!(command.exit().is_err());
    drop(command);

    let left = std::fs::read_dir(dir.join("exec")).unwrap().count();
    assert_eq!(left, 0, "files of commands are left");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_output() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    let script = shell("read x; stty size; echo $TERM $x >&2; exit 4");
    let tty = Wanted { tty: true, ..PLAIN };
    let started = session::exec(&fixture.path("run"), &spec.id, &script, tty).await;
    let mut command = started.unwrap();
    command.terminal.as_ref().unwrap().resize(90, 33).unwrap();
    let mut input = command.input.take().unwrap();
    assert!(matches!(input, Input::Terminal(_)));
    input.write(b"typed\n").await.unwrap();
    let (out, errors) = outputs!(command);
    assert_eq!(out, "typed\r\n33 90\r\nxterm typed\r\n");
    assert_eq!((errors.as_str(), command.exit().unwrap()), ("", 4));
    drop(command);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

/// Whatever the command does first.
#[tokio::test]
async fn a_terminal_begins_with_its_size() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "sleep 1000");
    spec.user = "1000:1001".to_owned();
    spec.working_dir = "/tmp".to_owned();
    sandbox.create_and_start(&spec).await;
    let script = shell("stty size; echo $TERM $FLOWER $PWD; id -u; id -g; exit 4");
    let tty = Wanted {
        tty: true,
        size: Some((90, 33)),
        ..PLAIN
    };
    let started = session::exec(&fixture.path("run"), &spec.id, &script, tty).await;
    let mut command = started.unwrap();
    let (out, errors) = outputs!(command);
    assert_eq!(out, "33 90\r\nxterm clover /tmp\r\n1000\r\n1001\r\n");
    assert_eq!((errors.as_str(), command.exit().unwrap()), ("", 4));
    drop(command);
    let missing = ["/no/such/program".to_owned()];
    let started = session::exec(&fixture.path("run"), &spec.id, &missing, tty).await;
    let mut command = started.unwrap();
    assert_eq!(outputs!(command), (String::new(), String::new()));
    let error = command.exit().unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    drop(command);
    let left = std::fs::read_dir(fixture.path("run/exec")).unwrap();
    assert_eq!(left.count(), 0, "files of commands are left");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_command_that_nobody_wants_any_more_is_killed() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    for wanted in [PLAIN, Wanted { tty: true, ..PLAIN }] {
        let script = shell("trap '' HUP; echo here; sleep 4242");
        let started = session::exec(&fixture.path("run"), &spec.id, &script, wanted).await;
        let mut command = started.unwrap();
        assert!(matches!(
            command.output().await,
            Output::Bytes(Source::Stdout, _)
        ));
        drop(command);
        let look = shell("cat /proc/[0-9]*/cmdline");
        let gone = async {
            loop {
                let minute = Duration::from_secs(60);
                let seen = sandbox
                    .exec(&spec.id, &look, minute, 1 << 16)
                    .await
                    .unwrap();
                if !String::from_utf8_lossy(&seen.output).contains("4242") {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .unwrap();
    }
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_container_is_attached_to() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let script = "while read x; do echo got $x; done; echo over >&2";
    let mut spec = fixture.container("main", script);
    (spec.stdin, spec.stdin_once) = (true, true);
    sandbox.create_and_start(&spec).await;
    let dir = fixture.path("run");
    let mut first = session::attach(&dir, &spec.id, PLAIN).await.unwrap();
    let looks = Wanted {
        stdin: false,
        ..PLAIN
    };
    let mut second = session::attach(&dir, &spec.id, looks).await.unwrap();
    assert!(second.input.is_none() && first.terminal.is_none());
    first.input.as_mut().unwrap().write(b"one\n").await.unwrap();
    assert_eq!(
        first.output().await,
        Output::Bytes(Source::Stdout, "got one\n".into())
    );
    // Its last word is the container's end.
    drop(first.input.take());
    assert!(first.closer.ends_input);
    first.closer.close().await;
    let expected = ("got one\n".to_owned(), "over\n".to_owned());
    assert_eq!(outputs!(first), (String::new(), expected.1.clone()));
    assert_eq!(outputs!(second), expected);
    assert_eq!(exit(&sandbox.ended(&spec.id).await).0, 0);
    assert_eq!(fixture.log("main"), "stdout F got one\nstderr F over\n");
    let late = session::attach(&dir, &spec.id, looks).await.unwrap_err();
    assert!(matches!(late, RuntimeError::Conflict { .. }), "{late}");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn who_attaches_and_does_not_read_loses_nothing() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "read x; seq 300000");
    spec.stdin = true;
    spec.log_max_bytes = 100 << 20;
    sandbox.create_and_start(&spec).await;
    let dir = fixture.path("run");
    let mut client = session::attach(&dir, &spec.id, PLAIN).await.unwrap();
    client.input.as_mut().unwrap().write(b"go\n").await.unwrap();
    // It writes two megabytes, and is held up before long: the log grows no more.
    let log = || std::fs::metadata(&spec.log_path).map_or(0, |facts| facts.len());
    let held = async {
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = log();
            if now == last && now > 0 {
                return now;
            }
            last = now;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(20), held)
        .await
        .unwrap();
    assert!(held < 8_000_000, "{held} bytes in the log");
    let (out, _) = outputs!(client);
    assert_eq!(out.lines().count(), 300_000);
    assert!(out.ends_with("\n300000\n"));
    sandbox.ended(&spec.id).await;
    assert_eq!(fixture.log("main").lines().count(), 300_000);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

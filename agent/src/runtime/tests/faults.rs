//! What happens when the agent, the supervisor or runc dies or hangs.

use std::os::unix::fs::PermissionsExt;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::life::wait_for_log;
use super::*;
use crate::supervisor::cgroup::send_signal;

#[tokio::test]
async fn an_agent_that_comes_back_finds_everything() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let ended = fixture.container("ended", "exit 4");
    sandbox.create_and_start(&ended).await;
    sandbox.ended(&ended.id).await;
    let running = fixture.container("running", "echo on; while :; do sleep 0.05; done");
    sandbox.create_and_start(&running).await;
    let before = sandbox.states().await.unwrap();
    drop(sandbox);

    let sandbox = Sandbox::connect(&fixture.path("run"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(sandbox.states().await.unwrap(), before);
    // Logs went on, and everything can be done that could be done before.
    wait_for_log(&fixture, "running", "on").await;
    sandbox.kill(&running.id, libc::SIGKILL).await.unwrap();
    assert_eq!(exit(&sandbox.ended(&running.id).await).1, Some(9));
    let third = fixture.container("third", "exit 0");
    sandbox.create_and_start(&third).await;
    sandbox.ended(&third.id).await;
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
    assert!(
        Sandbox::connect(&fixture.path("run"))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn an_agent_that_dies_while_it_asks_does_not_stop_the_work() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "exit 0");
    // The request is on its way, nobody waits for the answer.
    let mut changes = sandbox.changes();
    let asking = sandbox.clone();
    let asked = spec.clone();
    let task = tokio::spawn(async move { asking.create(&asked).await });
    while !fixture
        .path("run/containers")
        .join(&spec.id)
        .join("config.json")
        .exists()
    {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    task.abort();
    while !sandbox.states().await.unwrap().contains_key(&spec.id) {
        changes.changed().await.unwrap();
    }
    sandbox.create(&spec).await.unwrap();
    sandbox.start_container(&spec.id).await.unwrap();
    sandbox.ended(&spec.id).await;
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_supervisor_that_is_killed_leaves_nothing_after_sweeping() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let ended = fixture.container("ended", "exit 4");
    sandbox.create_and_start(&ended).await;
    sandbox.ended(&ended.id).await;
    let running = fixture.container("running", "sleep 1000 & sleep 1000");
    sandbox.create_and_start(&running).await;
    let created = fixture.container("created", "exit 0");
    sandbox.create(&created).await.unwrap();
    let ContainerState::Running { pid, .. } = sandbox.states().await.unwrap()[&running.id] else {
        panic!("not running");
    };
    let mut changes = sandbox.changes();
    changes.borrow_and_update();
    assert!(send_signal(sandbox.client.pid, libc::SIGKILL));
    // The loss is noticed without asking.
    let noticed = tokio::time::timeout(Duration::from_secs(10), changes.changed());
    noticed.await.unwrap().unwrap();
    assert!(matches!(sandbox.states().await, Err(RuntimeError::Gone(_))));
    assert!(matches!(
        sandbox.create(&fixture.container("new", "")).await,
        Err(RuntimeError::Gone(_))
    ));
    let run_dir = fixture.path("run");
    assert!(Sandbox::connect(&run_dir).await.unwrap().is_none());

    let states = sweep(&run_dir).await.unwrap();
    assert_eq!(exit(&states[&ended.id]), (4, None, false));
    assert_eq!(exit(&states[&running.id]), (137, Some(9), false));
    assert_eq!(exit(&states[&created.id]), (137, Some(9), false));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    fixture.assert_clean().await;
    assert!(sweep(&run_dir).await.unwrap().is_empty());
    // The pod can begin anew.
    let sandbox = fixture.start().await;
    sandbox.create_and_start(&running).await;
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_supervisor_that_hangs_is_swept() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    assert!(send_signal(sandbox.client.pid, libc::SIGSTOP));
    sweep(&fixture.path("run")).await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn there_is_one_supervisor() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    let second = Sandbox::start(&fixture.sandbox(), &fixture.program()).await;
    let error = second.unwrap_err().to_string();
    assert!(error.contains("runs already"), "{error}");
    // The first is none the worse.
    let states = sandbox.states().await.unwrap();
    assert!(matches!(states[&spec.id], ContainerState::Running { .. }));
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_supervisor_that_cannot_start_says_why_and_leaves_nothing() {
    let fixture = Fixture::new();
    let mut spec = fixture.sandbox();
    spec.hostname = "x".repeat(100);
    let error = Sandbox::start(&spec, &fixture.program()).await.unwrap_err();
    assert!(error.to_string().contains("set host name"), "{error}");
    fixture.assert_clean().await;
    let error = Sandbox::start(&spec, &fixture.path("nothing"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
    fixture.assert_clean().await;
    spec.cgroup_parent = "../up".to_owned();
    let error = Sandbox::start(&spec, &fixture.program()).await.unwrap_err();
    assert!(matches!(error, RuntimeError::InvalidName(_)), "{error}");
}

#[tokio::test]
async fn nonsense_closes_the_connection_and_nothing_else() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    for nonsense in [
        &b"\xff\xff\xff\xff"[..],
        b"\0\0\0\x04nope",
        b"\0\0\0\x02{}",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(fixture.path("run/supervisor.sock")).unwrap();
        stream.write_all(nonsense).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert!(matches!(stream.read(&mut [0; 10]), Ok(0) | Err(_)));
    }
    // A client that never says anything is no trouble either.
    let _silent = UnixStream::connect(fixture.path("run/supervisor.sock")).unwrap();
    assert!(sandbox.states().await.unwrap().is_empty());
    let mut bad = fixture.container("main", "");
    bad.id = "../../etc".to_owned();
    assert!(matches!(
        sandbox.create(&bad).await,
        Err(RuntimeError::InvalidName(_))
    ));
    assert!(matches!(
        sandbox.start_container("nobody").await,
        Err(RuntimeError::NotFound(_))
    ));
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

/// A runc that hangs when it is to do `verb`.
fn hanging(fixture: &Fixture, verb: &str) -> OciRuntime {
    let program = fixture.path("runc");
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *\" {verb} \"*) exec /bin/busybox sleep 1000;; esac\n\
         exec runc \"$@\"\n"
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    OciRuntime {
        program,
        deadline: Duration::from_secs(5),
        ..OciRuntime::default()
    }
}

async fn killed_when_it_hangs(verb: &str) {
    let fixture = Fixture::new();
    let mut pod = fixture.sandbox();
    pod.runtime = hanging(&fixture, verb);
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let spec = fixture.container("main", "exit 0");
    let result = match sandbox.create(&spec).await {
        Ok(()) => sandbox.start_container(&spec.id).await,
        error => error,
    };
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&format!("runc {verb}")), "{error}");
    assert!(error.contains("timed out"), "{error}");
    sandbox.delete(&spec.id).await.unwrap();
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_runc_that_hangs_while_creating_is_killed() {
    killed_when_it_hangs("create").await;
}

#[tokio::test]
async fn a_runc_that_hangs_while_starting_is_killed() {
    killed_when_it_hangs("start").await;
}

/// What `runc delete` would do the supervisor does itself, where that is all.
#[tokio::test]
async fn an_ended_container_is_removed_without_another_runc() {
    let fixture = Fixture::new();
    let mut pod = fixture.sandbox();
    pod.runtime = hanging(&fixture, "delete");
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let ended = fixture.container("ended", "exit 0");
    sandbox.create_and_start(&ended).await;
    sandbox.ended(&ended.id).await;
    sandbox.delete(&ended.id).await.unwrap();
    let cgroup = format!("/{}/pod{}/{}", pod.cgroup_parent, pod.pod_uid, ended.id);
    for path in Hierarchies::detect().unwrap().directories(&cgroup) {
        assert!(!path.exists(), "{} is left", path.display());
    }
    let state = config::runc_root(&fixture.path("run")).join(&ended.id);
    assert!(!state.exists(), "runc's state is left");
    // So does the end of the pod with what still runs.
    let running = fixture.container("running", "sleep 1000");
    sandbox.create_and_start(&running).await;
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn sweeping_waits_for_a_supervisor_that_is_starting() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    sandbox.stop().await.unwrap();
    // What an agent leaves that died while it started a sandbox.
    let run_dir = fixture.path("run");
    let spec = fixture.sandbox();
    launch::prepare(&spec).unwrap();
    let starting = std::fs::File::create(config::lock_file(&run_dir)).unwrap();
    starting.try_lock().unwrap();
    let dir = run_dir.clone();
    let sweeping = tokio::spawn(async move { sweep(&dir).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!sweeping.is_finished());
    drop(starting);
    sweeping.await.unwrap().unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_supervisor_that_is_asked_to_end_takes_its_containers_along() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    assert!(send_signal(sandbox.client.pid, libc::SIGTERM));
    let mut changes = sandbox.changes();
    let gone = async {
        while !matches!(sandbox.states().await, Err(RuntimeError::Gone(_))) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
    assert!(!fixture.path("run/containers").join(&spec.id).exists());
    sweep(&fixture.path("run")).await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_runc_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let mut pod = fixture.sandbox();
    pod.runtime.program = fixture.path("no-runc");
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let error = sandbox
        .create(&fixture.container("main", ""))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no-runc: No such file"),
        "{error}"
    );
    assert!(sandbox.states().await.unwrap().is_empty());
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

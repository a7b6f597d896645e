//! From created to removed.

use super::*;

#[tokio::test]
async fn a_container_lives_and_ends() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "echo hello; echo $FLOWER $(hostname) >&2; exit 7");
    sandbox.create(&spec).await.unwrap();
    let states = sandbox.states().await.unwrap();
    assert_eq!(states.get(&spec.id), Some(&ContainerState::Created));
    // Asking again changes nothing.
    sandbox.create(&spec).await.unwrap();
    sandbox.start_container(&spec.id).await.unwrap();
    let state = sandbox.ended(&spec.id).await;
    assert_eq!(exit(&state), (7, None, false));
    let ContainerState::Exited {
        started_at: Some(started_at),
        finished_at,
        ..
    } = state
    else {
        panic!("{state:?}");
    };
    assert!(started_at <= finished_at);
    let mut log: Vec<String> = fixture.log("main").lines().map(str::to_owned).collect();
    log.sort();
    assert_eq!(log, ["stderr F clover bee", "stdout F hello"]);
    // Killing what has ended is no error; neither is removing twice.
    sandbox.kill(&spec.id, libc::SIGTERM).await.unwrap();
    sandbox.delete(&spec.id).await.unwrap();
    sandbox.delete(&spec.id).await.unwrap();
    assert_eq!(sandbox.states().await.unwrap(), BTreeMap::new());
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_signal_ends_a_container() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container(
        "main",
        "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done",
    );
    sandbox.create_and_start(&spec).await;
    let states = sandbox.states().await.unwrap();
    assert!(matches!(states[&spec.id], ContainerState::Running { .. }));
    wait_for_log(&fixture, "main", "up").await;
    sandbox.kill(&spec.id, libc::SIGTERM).await.unwrap();
    assert_eq!(exit(&sandbox.ended(&spec.id).await), (3, None, false));

    let stubborn = fixture.container("stubborn", "trap '' TERM; sleep 100 & wait");
    sandbox.create_and_start(&stubborn).await;
    sandbox.kill(&stubborn.id, libc::SIGKILL).await.unwrap();
    let state = sandbox.ended(&stubborn.id).await;
    assert_eq!(exit(&state), (137, Some(9), false));
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "");
    spec.args = vec!["/no/such/program".to_owned()];
    let error = sandbox.create(&spec).await.unwrap_err();
    let RuntimeError::Runc { verb, message, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*verb, "create");
    assert!(message.contains("/no/such/program"), "{message}");
    assert!(message.contains("no such file"), "{message}");
    // Nothing of the attempt is left, so it can be repeated.
    assert_eq!(sandbox.states().await.unwrap(), BTreeMap::new());
    spec.args = vec!["/bin/echo".to_owned()];
    sandbox.create_and_start(&spec).await;
    assert_eq!(exit(&sandbox.ended(&spec.id).await).0, 0);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn stopping_ends_what_runs() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    for name in ["one", "two"] {
        let spec = fixture.container(name, "sleep 1000");
        sandbox.create_and_start(&spec).await;
    }
    sandbox
        .create(&fixture.container("three", ""))
        .await
        .unwrap();
    let again = sandbox.clone();
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn commands_run_in_a_container() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    let exec = async |script: &str, timeout: Duration, max| {
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        sandbox.exec(&spec.id, &args, timeout, max).await
    };
    let minute = Duration::from_secs(60);
    let outcome = exec("echo a; echo b >&2; exit 5", minute, 100)
        .await
        .unwrap();
    assert_eq!(outcome.exit_code, 5);
    assert_eq!(outcome.output, b"a\nb\n");
    let outcome = exec("seq 100000", minute, 10).await.unwrap();
    assert_eq!(outcome.output, b"1\n2\n3\n4\n5\n");
    assert_eq!(outcome.exit_code, 0);
    // A process left behind that holds the output is not waited for.
    let outcome = exec("sleep 50 & echo done", minute, 100).await.unwrap();
    assert_eq!(outcome.output, b"done\n");
    // A command that is killed from elsewhere.
    let outcome = exec("kill -11 $$", minute, 100).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.timed_out), (139, false));

    let short = Duration::from_secs(2);
    let outcome = exec("echo first; sleep 77 & sleep 78", short, 100)
        .await
        .unwrap();
    assert!(outcome.timed_out);
    assert_eq!(outcome.output, b"first\n");
    let outcome = exec("cat /proc/[0-9]*/cmdline", minute, 4096)
        .await
        .unwrap();
    let processes = String::from_utf8_lossy(&outcome.output).replace('\0', " ");
    assert!(!processes.contains("sleep 7"), "{processes}");

    let nothing = ["/no/such".to_owned()];
    let error = sandbox
        .exec(&spec.id, &nothing, minute, 10)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
    let nobody = sandbox.exec("nobody", &nothing, minute, 10).await;
    assert!(matches!(nobody, Err(RuntimeError::NotFound(_))));
    assert_eq!(
        std::fs::read_dir(fixture.path("run/exec")).unwrap().count(),
        0
    );
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

/// Waits until a text is in a container's log.
pub(super) async fn wait_for_log(fixture: &Fixture, name: &str, text: &str) {
    let waiting = async {
        while !fixture.log(name).contains(text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap();
}

#[tokio::test]
async fn commands_end_with_their_client_and_their_container() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let spec = fixture.container("main", "echo up; exec sleep 1000");
    sandbox.create_and_start(&spec).await;
    let args = ["/bin/sh", "-c", "echo started; sleep 90"].map(str::to_owned);
    let hour = Duration::from_secs(3600);
    // A second agent, which dies while its command runs.
    let other = Sandbox::connect(&fixture.path("run"))
        .await
        .unwrap()
        .unwrap();
    let (id, command) = (spec.id.clone(), args.clone());
    let task = tokio::spawn(async move { other.exec(&id, &command, hour, 100).await });
    let processes = async || {
        let script = ["/bin/sh", "-c", "cat /proc/[0-9]*/cmdline"].map(str::to_owned);
        let outcome = sandbox.exec(&spec.id, &script, hour, 4096).await.unwrap();
        String::from_utf8_lossy(&outcome.output).replace('\0', " ")
    };
    let until = async |wanted: bool| {
        while processes().await.contains("sleep 90") != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), until(true))
        .await
        .unwrap();
    task.abort();
    tokio::time::timeout(Duration::from_secs(30), until(false))
        .await
        .unwrap();

    let command = sandbox.exec(&spec.id, &args, hour, 100);
    let kill = async {
        until(true).await;
        sandbox.kill(&spec.id, libc::SIGKILL).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(command, kill);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.exit_code, outcome.timed_out), (137, false));
    // The kernel ends what else is in a process namespace before its first process.
    sandbox.ended(&spec.id).await;
    let late = sandbox.exec(&spec.id, &args, hour, 100).await;
    assert!(matches!(late, Err(RuntimeError::Conflict { .. })));
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

/// The OCI runtime is started from a copy in memory, which nothing in a container has.
#[tokio::test]
async fn a_container_does_not_get_the_copy_of_the_runtime() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let pid = sandbox.client.pid;
    let open = |pid: u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let files = files
            .flatten()
            .flat_map(|file| std::fs::read_link(file.path()));
        files.map(|file| file.to_string_lossy().into_owned())
    };
    let copy = "/memfd:runc (deleted)";
    assert!(open(pid).any(|file| file == copy), "no copy");
    let spec = fixture.container("main", "sleep 1000");
    sandbox.create_and_start(&spec).await;
    let states = sandbox.states().await.unwrap();
    let ContainerState::Running { pid, .. } = states[&spec.id] else {
        panic!("{states:?}");
    };
    assert!(!open(pid).any(|file| file.contains("memfd")));
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert!(!environment.contains("GOMAXPROCS"), "{environment}");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

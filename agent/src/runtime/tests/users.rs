//! Pods with users of their own, and other OCI runtimes.

use std::os::unix::fs::PermissionsExt;

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::userns::{self, RANGE};

const FIRST: u32 = 3 * RANGE;

/// A network namespace that is gone with this.
struct Network(PathBuf);

impl Network {
    fn new(fixture: &Fixture) -> Self {
        // Others must get to the root file system.
        std::fs::set_permissions(fixture.dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let path = fixture.path("netns");
        std::fs::File::create(&path).unwrap();
        userns::create_with_network(FIRST, &path).unwrap();
        Self(path)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        userns::unmount_mapped(&self.0).unwrap();
    }
}

/// Lines of standard output.
fn said(fixture: &Fixture, name: &str) -> Vec<String> {
    let log = fixture.log(name);
    let lines = log
        .lines()
        .filter_map(|line| line.strip_prefix("stdout F "));
    lines.map(str::to_owned).collect()
}

fn runtime(program: &str) -> OciRuntime {
    OciRuntime {
        program: program.into(),
        refuses_hybrid: program == "crun",
        ..OciRuntime::default()
    }
}

async fn users_of_a_pod_are_nobody_outside(program: &str) {
    let fixture = Fixture::new();
    let network = Network::new(&fixture);
    let root = fixture.path("rootfs");
    for name in ["", "tmp", "etc"] {
        std::os::unix::fs::chown(root.join(name), Some(FIRST), Some(FIRST)).unwrap();
    }
    std::fs::create_dir(fixture.path("volume")).unwrap();
    std::fs::write(fixture.path("volume/from-outside"), "").unwrap();
    std::fs::write(fixture.path("hosts"), "127.0.0.1 localhost\n").unwrap();
    let mut pod = fixture.sandbox();
    pod.netns = Some(network.0.clone());
    pod.first_id = Some(FIRST);
    pod.sharing.processes = true;
    pod.runtime = runtime(program);
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let script = "cat /proc/self/uid_map | busybox tr -s ' '; id -u; hostname
        ls -ln /volume | busybox tail -n 1 | busybox awk '{print $3, $4}'
        echo inside > /volume/from-inside; echo name > /dev/stdout; cat /etc/hosts
        busybox ip link set lo up && echo network
        busybox hostname hive 2>/dev/null && echo renamed
        cat /proc/1/comm; exec sleep 1000";
    let mut spec = fixture.container("main", script);
    spec.env.push(("PATH".to_owned(), "/bin".to_owned()));
    spec.add_capabilities = vec!["NET_ADMIN".to_owned(), "SYS_ADMIN".to_owned()];
    spec.confinement.pid = PidNamespace::Pod;
    spec.mounts = ["volume", "hosts"]
        .map(|name| Mount {
            source: fixture.path(name),
            destination: if name == "volume" {
                "/volume"
            } else {
                "/etc/hosts"
            }
            .into(),
            ..Mount::default()
        })
        .to_vec();
    sandbox.create_and_start(&spec).await;
    let ContainerState::Running { pid, .. } = sandbox.states().await.unwrap()[&spec.id] else {
        panic!("not running");
    };
    let shell = |script: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let wait = shell(
        "until busybox grep -qs sleep /proc/*/comm; do busybox usleep 20000; done; id -u; echo by name > /dev/stdout",
    );
    let outcome = sandbox
        .exec(&spec.id, &wait, Duration::from_secs(20), 1000)
        .await
        .unwrap();
    let output = String::from_utf8(outcome.output).unwrap();
    assert_eq!((outcome.exit_code, output.as_str()), (0, "0\nby name\n"));
    let outside = std::fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((outside.uid(), outside.gid()), (FIRST, FIRST));
    sandbox.kill(&spec.id, libc::SIGKILL).await.unwrap();
    sandbox.ended(&spec.id).await;
    let expected = [
        " 0 196608 65536",
        "0",
        "bee",
        "0 0",
        "name",
        "127.0.0.1 localhost",
        "network",
        "renamed",
        "pause",
    ];
    assert_eq!(said(&fixture, "main"), expected, "{}", fixture.log("main"));
    // As root of the node would have written it: another pod that has the volume finds it its own.
    let written = fixture.path("volume/from-inside").metadata().unwrap();
    assert_eq!((written.uid(), written.gid()), (0, 0));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = config::bundle(&fixture.path("run"), &spec.id);
    assert!(!mounts.contains(bundle.to_str().unwrap()), "{mounts}");
    sandbox.delete(&spec.id).await.unwrap();
    sandbox.stop().await.unwrap();
    drop(network);
    fixture.assert_clean().await;
    assert!(fixture.path("volume/from-outside").exists());
}

#[tokio::test]
async fn users_of_a_pod_are_nobody_outside_with_runc() {
    users_of_a_pod_are_nobody_outside("runc").await;
}

#[tokio::test]
async fn users_of_a_pod_are_nobody_outside_with_crun() {
    users_of_a_pod_are_nobody_outside("crun").await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_pods_users_is_named() {
    let fixture = Fixture::new();
    let network = Network::new(&fixture);
    let mut pod = fixture.sandbox();
    pod.netns = Some(network.0.clone());
    pod.first_id = Some(FIRST);
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let mut spec = fixture.container("main", "true");
    spec.mounts = vec![Mount {
        source: "/proc".into(),
        destination: "/host".into(),
        ..Mount::default()
    }];
    let error = sandbox.create(&spec).await.unwrap_err().to_string();
    assert!(error.contains("file system of /proc cannot"), "{error}");
    std::fs::set_permissions(fixture.dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    spec.mounts.clear();
    let error = sandbox.create(&spec).await.unwrap_err().to_string();
    assert!(error.contains("cannot get through"), "{error}");
    sandbox.stop().await.unwrap();
    drop(network);
    // Only what the agent wrote down of a container that never was.
    crate::supervisor::record::remove_bundle(&config::bundle(&fixture.path("run"), &spec.id));
    fixture.assert_clean().await;
}

/// What the agent asks of any OCI runtime: a life from creation to removal, with limits, a terminal, commands, namespaces
/// of the pod, and errors that say something.
#[tokio::test]
async fn crun_does_what_runc_does() {
    let fixture = Fixture::new();
    let mut pod = fixture.sandbox();
    pod.runtime = runtime("crun");
    pod.resources.memory_limit_bytes = Some(64 << 20);
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();

    let mut spec = fixture.container(
        "main",
        "hostname; id -u; id -g; echo $FLOWER; exec sleep 1000",
    );
    spec.user = "1000:100".to_owned();
    spec.resources.memory_limit_bytes = Some(32 << 20);
    spec.confinement.seccomp = Seccomp::RuntimeDefault;
    spec.read_only_root = true;
    sandbox.create_and_start(&spec).await;
    super::life::wait_for_log(&fixture, "main", "clover").await;
    let command = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    let outcome = sandbox
        .exec(
            &spec.id,
            &command("echo out; touch /x 2>/dev/null || exit 7"),
            Duration::from_secs(20),
            100,
        )
        .await
        .unwrap();
    assert_eq!(
        (outcome.exit_code, outcome.output.as_slice()),
        (7, &b"out\n"[..])
    );
    sandbox.kill(&spec.id, libc::SIGTERM).await.unwrap();
    sandbox.kill(&spec.id, libc::SIGKILL).await.unwrap();
    assert_eq!(exit(&sandbox.ended(&spec.id).await).0, 128 + libc::SIGKILL);
    assert_eq!(said(&fixture, "main"), ["bee", "1000", "100", "clover"]);
    sandbox.delete(&spec.id).await.unwrap();

    let mut greedy = fixture.container(
        "greedy",
        "busybox dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    greedy.env.push(("PATH".to_owned(), "/bin".to_owned()));
    greedy.resources.memory_limit_bytes = Some(16 << 20);
    sandbox.create_and_start(&greedy).await;
    assert!(
        exit(&sandbox.ended(&greedy.id).await).2,
        "killed for its memory"
    );
    sandbox.delete(&greedy.id).await.unwrap();

    let mut terminal = fixture.container("terminal", "busybox test -t 1 && echo a terminal");
    terminal.env.push(("PATH".to_owned(), "/bin".to_owned()));
    terminal.terminal = true;
    sandbox.create_and_start(&terminal).await;
    sandbox.ended(&terminal.id).await;
    assert!(
        fixture.log("terminal").contains("a terminal"),
        "{}",
        fixture.log("terminal")
    );
    sandbox.delete(&terminal.id).await.unwrap();

    let mut none = fixture.container("none", "");
    none.args = vec!["/no/such/program".to_owned()];
    let result = match sandbox.create(&none).await {
        Ok(()) => sandbox.start_container(&none.id).await,
        error => error,
    };
    let error = result.unwrap_err().to_string();
    assert!(error.contains("/no/such/program"), "{error}");
    sandbox.delete(&none.id).await.unwrap();
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

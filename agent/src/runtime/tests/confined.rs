//! System calls, system controls and process ids of real containers.

use super::*;

#[tokio::test]
async fn system_calls_are_filtered_as_asked() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let script = "grep -c '^Seccomp:.2$' /proc/self/status; mkdir /tmp/a && echo made; \
                  unshare -m true 2>/dev/null || echo shut in";
    let profile = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    let profile = serde_json::from_value(profile).unwrap();
    for (name, seccomp, expected) in [
        ("free", Seccomp::Unconfined, "0\nmade\n"),
        ("default", Seccomp::RuntimeDefault, "1\nmade\nshut in\n"),
        ("own", Seccomp::Profile(Box::new(profile)), "1\n"),
    ] {
        let mut spec = fixture.container(name, script);
        spec.args[0] = "/bin/busybox".to_owned();
        spec.args.insert(1, "sh".to_owned());
        spec.env.push(("PATH".to_owned(), "/bin".to_owned()));
        spec.add_capabilities = match seccomp {
            // Without a filter it may, and so it is the filter that keeps it from it.
            Seccomp::RuntimeDefault => Vec::new(),
            _ => vec!["SYS_ADMIN".to_owned()],
        };
        spec.confinement.seccomp = seccomp;
        sandbox.create_and_start(&spec).await;
        sandbox.ended(&spec.id).await;
        let log = fixture.log(name);
        let lines: String = log
            .lines()
            .filter_map(|line| line.strip_prefix("stdout F "))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(lines, expected, "{name}: {log}");
        sandbox.delete(&spec.id).await.unwrap();
        std::fs::remove_dir(fixture.path("rootfs/tmp/a")).unwrap_or_default();
    }
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn containers_may_share_their_process_ids_and_orphans_are_taken_over() {
    let fixture = Fixture::new();
    let mut spec = fixture.sandbox();
    spec.sharing.processes = true;
    let sandbox = Sandbox::start(&spec, &fixture.program()).await.unwrap();
    let mut first = fixture.container("first", "sleep 1000 & sleep 1000");
    first.confinement.pid = PidNamespace::Pod;
    sandbox.create_and_start(&first).await;
    let mut second = fixture.container(
        "second",
        "until ls -d /proc/[0-9]* | tail -n 4 | while read p; do cat $p/comm; done | \
         busybox grep -c sleep | busybox grep -q 2; do sleep 0.05; done; cat /proc/1/comm",
    );
    second.env.push(("PATH".to_owned(), "/bin".to_owned()));
    second.confinement.pid = PidNamespace::Pod;
    sandbox.create_and_start(&second).await;
    sandbox.ended(&second.id).await;
    assert!(
        fixture.log("second").contains("pause"),
        "{}",
        fixture.log("second")
    );
    // The end of one is not the end of the other's processes; what it leaves goes with it.
    sandbox.kill(&first.id, 9).await.unwrap();
    sandbox.ended(&first.id).await;
    sandbox.delete(&first.id).await.unwrap();
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_container_may_see_the_processes_of_another() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let target = fixture.container("target", "exec sleep 1000");
    sandbox.create_and_start(&target).await;
    let ContainerState::Running { pid, .. } = sandbox.states().await.unwrap()[&target.id] else {
        panic!("not running");
    };
    let mut look = fixture.container("look", "cat /proc/1/cmdline | busybox tr '\\0' ' '");
    look.env.push(("PATH".to_owned(), "/bin".to_owned()));
    look.confinement.pid = PidNamespace::Of(pid);
    sandbox.create_and_start(&look).await;
    sandbox.ended(&look.id).await;
    assert!(
        fixture.log("look").contains("sleep 1000"),
        "{}",
        fixture.log("look")
    );
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn system_controls_are_the_pods() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "cat /proc/sys/kernel/msgmax");
    let control = ("kernel.msgmax".to_owned(), "12345".to_owned());
    spec.confinement.sysctls = BTreeMap::from([control]);
    sandbox.create_and_start(&spec).await;
    sandbox.ended(&spec.id).await;
    assert!(
        fixture.log("main").contains("12345"),
        "{}",
        fixture.log("main")
    );
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_ne!(host.trim(), "12345");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

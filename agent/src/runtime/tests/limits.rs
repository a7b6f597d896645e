//! What a container may use, see and do.

use super::*;
use crate::runtime::user::UserError;

const MIB: u64 = 1 << 20;

/// One value in the container's (or pod's) cgroup, by its v1 and its v2 name.
fn value(fixture: &Fixture, below: &str, v1: (&str, &str), v2: &str) -> String {
    let hierarchies = Hierarchies::detect().unwrap();
    let (root, file) = match hierarchies.v1.get(v1.0) {
        Some(root) => (root, v1.1),
        None => (hierarchies.v2.as_ref().unwrap(), v2),
    };
    let pod = format!("{}/pod{}", fixture.cgroup_parent, fixture.uid);
    let path = root.join(pod).join(below).join(file);
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[tokio::test]
async fn limits_are_in_the_cgroups() {
    let fixture = Fixture::new();
    let mut sandbox = fixture.sandbox();
    sandbox.resources = Resources {
        cpu_request_millis: Some(500),
        cpu_limit_millis: Some(2000),
        memory_request_bytes: None,
        memory_limit_bytes: Some(64 * MIB),
        pids_limit: Some(100),
    };
    let sandbox = Sandbox::start(&sandbox, &fixture.program()).await.unwrap();
    let mut spec = fixture.container("main", "sleep 1000");
    spec.resources = Resources {
        cpu_request_millis: Some(250),
        cpu_limit_millis: Some(1500),
        memory_request_bytes: None,
        memory_limit_bytes: Some(32 * MIB),
        pids_limit: Some(50),
    };
    spec.oom_score_adj = 123;
    sandbox.create_and_start(&spec).await;
    let ContainerState::Running { pid, .. } = sandbox.states().await.unwrap()[&spec.id] else {
        panic!("not running");
    };
    let unified = Hierarchies::detect().unwrap().is_unified();
    for (below, memory, pids) in [("", 64, "100"), (spec.id.as_str(), 32, "50")] {
        let limit = value(
            &fixture,
            below,
            ("memory", "memory.limit_in_bytes"),
            "memory.max",
        );
        assert_eq!(limit, (memory * MIB).to_string());
        assert_eq!(
            value(&fixture, below, ("pids", "pids.max"), "pids.max"),
            pids
        );
    }
    let shares = value(&fixture, &spec.id, ("cpu", "cpu.shares"), "cpu.weight");
    assert_eq!(shares, if unified { "10" } else { "256" });
    let quota = value(&fixture, &spec.id, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota, if unified { "150000 100000" } else { "150000" });
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "123");
    // Socket hooks attach to the v2 tree: the container must be in it, below the pod.
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let expected = format!(
        "0::/{}/pod{}/{}",
        fixture.cgroup_parent, fixture.uid, spec.id
    );
    assert!(cgroups.lines().any(|line| line == expected), "{cgroups}");
    // The supervisor is elsewhere: neither the pod's limits nor the agent's end concern it.
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", sandbox.client.pid)).unwrap();
    let expected = format!("0::/{}/supervisor", fixture.cgroup_parent);
    assert!(cgroups.lines().any(|line| line == expected), "{cgroups}");
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn too_much_memory_is_noticed() {
    let fixture = Fixture::new();
    let sandbox = fixture.start().await;
    for (name, script) in [
        ("itself", "exec tail /dev/zero"),
        ("child", "tail /dev/zero"),
    ] {
        let mut spec = fixture.container(name, script);
        spec.resources.memory_limit_bytes = Some(16 * MIB);
        sandbox.create_and_start(&spec).await;
        let (code, _, oom_killed) = exit(&sandbox.ended(&spec.id).await);
        assert_eq!((code, oom_killed), (137, true), "{name}");
    }
    let fine = fixture.container("fine", "kill -9 $$");
    sandbox.create_and_start(&fine).await;
    assert!(!exit(&sandbox.ended(&fine.id).await).2);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn users_come_from_the_image() {
    let fixture = Fixture::new();
    let etc = fixture.path("rootfs/etc");
    std::fs::write(
        etc.join("passwd"),
        "root:x:0:0::/:/bin/sh\nbee:x:77:78::/:\n",
    )
    .unwrap();
    std::fs::write(etc.join("group"), "hive:x:90:wasp,bee\n").unwrap();
    let sandbox = fixture.start().await;
    let mut spec = fixture.container("main", "id -u; id -g; id -G");
    spec.user = "bee".to_owned();
    spec.supplemental_groups = vec![5];
    spec.run_as_non_root = true;
    sandbox.create_and_start(&spec).await;
    sandbox.ended(&spec.id).await;
    let log = fixture.log("main");
    assert_eq!(log, "stdout F 77\nstdout F 78\nstdout F 78 5 90\n");

    let mut root = fixture.container("root", "");
    root.run_as_non_root = true;
    let error = sandbox.create(&root).await.unwrap_err();
    assert!(matches!(error, RuntimeError::User(UserError::Root)));
    root.user = "nobody".to_owned();
    let error = sandbox.create(&root).await.unwrap_err();
    assert!(matches!(
        error,
        RuntimeError::User(UserError::UnknownUser(_))
    ));
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn a_container_is_shut_in() {
    let fixture = Fixture::new();
    let secret = fixture.path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "honey\n").unwrap();
    let sandbox = fixture.start().await;
    let script = "
        cat /etc/secret/key
        echo x 2>/dev/null > /etc/secret/key || echo mount is read-only
        echo x 2>/dev/null > /file || echo root is read-only
        echo x 2>/dev/null > /proc/sys/kernel/hostname || echo proc is read-only
        [ -s /proc/kcore ] || echo kcore is masked
        echo shared > /dev/shm/file
        while read name value; do
            case $name in CapEff:|NoNewPrivs:) echo $name $value;; esac
        done < /proc/self/status
        exit 0";
    let mut spec = fixture.container("main", script);
    spec.read_only_root = true;
    spec.allow_privilege_escalation = false;
    spec.drop_capabilities = vec!["ALL".to_owned()];
    spec.add_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
    spec.mounts = vec![Mount {
        source: secret,
        destination: "/etc/secret".into(),
        read_only: true,
        ..Mount::default()
    }];
    std::fs::create_dir(fixture.path("rootfs/etc/secret")).unwrap();
    sandbox.create_and_start(&spec).await;
    assert_eq!(exit(&sandbox.ended(&spec.id).await).0, 0);
    let log = fixture.log("main").replace("stdout F ", "");
    let expected = "honey\nmount is read-only\nroot is read-only\nproc is read-only\n\
                    kcore is masked\nCapEff: 0000000000000400\nNoNewPrivs: 1\n";
    assert_eq!(log, expected);

    // Another container of the pod has the same shared memory and the default capabilities.
    let script = "cat /dev/shm/file; while read name value; do
        case $name in CapEff:|NoNewPrivs:) echo $name $value;; esac
        done < /proc/self/status";
    let second = fixture.container("second", script);
    sandbox.create_and_start(&second).await;
    sandbox.ended(&second.id).await;
    let log = fixture.log("second").replace("stdout F ", "");
    assert_eq!(log, "shared\nCapEff: 00000000a80425fb\nNoNewPrivs: 0\n");

    let mut privileged = fixture.container("privileged", "[ -b /dev/vda ] || [ -c /dev/kmsg ]");
    privileged.privileged = true;
    sandbox.create_and_start(&privileged).await;
    assert_eq!(exit(&sandbox.ended(&privileged.id).await).0, 0);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
}

#[tokio::test]
async fn containers_share_the_namespaces_of_their_pod() {
    let fixture = Fixture::new();
    // A network namespace that lives as long as this thread's guard.
    let netns = aya::test_helpers::NetNsGuard::new();
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    let mut pod = fixture.sandbox();
    pod.netns = Some(PathBuf::from("/proc").join(path).join("ns/net"));
    let wanted = std::fs::read_link(pod.netns.as_ref().unwrap()).unwrap();
    let sandbox = Sandbox::start(&pod, &fixture.program()).await.unwrap();
    let mut seen = Vec::new();
    for name in ["one", "two"] {
        let script =
            "for n in net uts ipc pid mnt; do cd /proc/self/ns; echo $(ls -l $n); done; sleep 1000";
        let spec = fixture.container(name, script);
        sandbox.create_and_start(&spec).await;
        super::life::wait_for_log(&fixture, name, "mnt:").await;
        let log = fixture.log(name);
        let links = log
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().to_owned());
        seen.push(links.collect::<Vec<_>>());
    }
    let [one, two] = seen.try_into().unwrap();
    assert_eq!(one[0], wanted.to_str().unwrap());
    assert_eq!(one[..3], two[..3], "shared");
    assert_ne!(one[3], two[3]);
    assert_ne!(one[4], two[4]);
    sandbox.stop().await.unwrap();
    fixture.assert_clean().await;
    drop(netns);
}

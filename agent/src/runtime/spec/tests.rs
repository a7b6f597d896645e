//! Tests of `runtime::spec`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::runtime::{Confinement, Mount, Resources};

fn container() -> ContainerSpec {
    ContainerSpec {
        id: "uid_main_0".to_owned(),
        rootfs: "/images/rootfs".into(),
        args: vec!["/bin/app".to_owned(), "-v".to_owned()],
        env: vec![("A".to_owned(), "1".to_owned())],
        working_dir: "/srv".to_owned(),
        user: String::new(),
        run_as_group: None,
        supplemental_groups: Vec::new(),
        run_as_non_root: false,
        read_only_root: true,
        privileged: false,
        allow_privilege_escalation: false,
        add_capabilities: Vec::new(),
        drop_capabilities: Vec::new(),
        mounts: Vec::new(),
        resources: Resources::default(),
        oom_score_adj: -997,
        log_path: "/var/log/0.log".into(),
        log_max_bytes: 1,
        log_max_files: 2,
        terminal: false,
        stdin: false,
        stdin_once: false,
        huge_pages: BTreeMap::new(),
        annotations: BTreeMap::from([("key".to_owned(), "value".to_owned())]),
        confinement: Confinement::default(),
    }
}

fn built(container: &ContainerSpec, unified: bool) -> Value {
    let user = User {
        uid: 1000,
        gid: 100,
        additional_gids: vec![100, 5],
    };
    let place = place(&user, unified);
    serde_json::to_value(build(container, &place).unwrap()).unwrap()
}

fn place(user: &User, unified: bool) -> Place<'_> {
    Place {
        hostname: "bee",
        cgroup: "/waggle/poduid/uid_main_0".into(),
        cgroup_namespace: unified,
        netns: Some(Path::new("/run/netns/uid")),
        uts: "/proc/7/ns/uts".into(),
        ipc: Some("/proc/7/ns/ipc".into()),
        pid: Pid::New,
        users: None,
        shm: "/run/pods/uid/shm".into(),
        user,
        capabilities: (1 << 41) - 1,
        least_oom_score: i32::MIN,
        devices: vec![LinuxDevice::default()],
        page_sizes: match unified {
            true => vec![2 << 20, 1 << 30],
            false => Vec::new(),
        },
    }
}

fn capabilities(container: &ContainerSpec) -> BTreeSet<String> {
    let spec = built(container, false);
    let capabilities = &spec["process"]["capabilities"];
    assert_eq!(capabilities.get("ambient"), None);
    assert_eq!(capabilities.get("inheritable"), None);
    let set = |name: &str| -> BTreeSet<String> {
        serde_json::from_value(capabilities[name].clone()).unwrap()
    };
    assert_eq!(set("bounding"), set("effective"));
    assert_eq!(set("bounding"), set("permitted"));
    set("bounding")
}

fn mounts(spec: &Value) -> Vec<&str> {
    let mounts = spec["mounts"].as_array().unwrap();
    mounts
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect()
}

#[test]
fn the_process_is_as_asked() {
    let spec = built(&container(), false);
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["/bin/app", "-v"]));
    assert_eq!(process["cwd"], "/srv");
    assert_eq!(process["env"], json!([DEFAULT_PATH, "HOSTNAME=bee", "A=1"]));
    let user = json!({"uid": 1000, "gid": 100, "additionalGids": [100, 5]});
    assert_eq!(process["user"], user);
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["oomScoreAdj"], -997);
    assert_eq!(process["terminal"], false);
    assert_eq!(
        spec["root"],
        json!({"path": "/images/rootfs", "readonly": true})
    );
    assert_eq!(spec["annotations"], json!({"key": "value"}));
    assert_eq!(spec.get("hostname"), None, "it is the pod's");
}

#[test]
fn a_score_that_the_node_cannot_give_is_the_lowest_that_it_can() {
    let user = User::default();
    let place = Place {
        least_oom_score: 0,
        ..place(&user, false)
    };
    let spec = serde_json::to_value(build(&container(), &place).unwrap()).unwrap();
    assert_eq!(spec["process"]["oomScoreAdj"], 0);
}

#[test]
fn what_is_given_is_not_overridden() {
    let mut container = container();
    container.terminal = true;
    container.working_dir = String::new();
    container.env = ["PATH", "HOSTNAME", "TERM"]
        .map(|key| (key.to_owned(), "x".to_owned()))
        .into();
    let spec = built(&container, false);
    assert_eq!(
        spec["process"]["env"],
        json!(["PATH=x", "HOSTNAME=x", "TERM=x"])
    );
    assert_eq!(spec["process"]["cwd"], "/");
}

#[test]
fn namespaces_are_the_pods_or_new() {
    let namespaces = |unified| built(&container(), unified)["linux"]["namespaces"].clone();
    let hybrid = json!([
        {"type": "pid"},
        {"type": "mount"},
        {"type": "ipc", "path": "/proc/7/ns/ipc"},
        {"type": "uts", "path": "/proc/7/ns/uts"},
        {"type": "network", "path": "/run/netns/uid"},
    ]);
    assert_eq!(namespaces(false), hybrid);
    let mut unified = hybrid;
    unified
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "cgroup"}));
    assert_eq!(namespaces(true), unified);
}

#[test]
fn resources_are_in_the_units_of_the_kernel() {
    let mut container = container();
    let resources =
        |container: &ContainerSpec| built(container, false)["linux"]["resources"].clone();
    let devices = json!([{"allow": false, "access": "rwm"}]);
    let least = json!({"cpu": {"shares": 2}, "devices": devices});
    assert_eq!(resources(&container), least);
    container.resources = Resources {
        cpu_request_millis: Some(500),
        cpu_limit_millis: Some(1500),
        memory_request_bytes: Some(1),
        memory_limit_bytes: Some(1 << 30),
        pids_limit: Some(99),
    };
    let all = json!({
        "cpu": {"shares": 512, "quota": 150_000, "period": 100_000},
        "memory": {"limit": 1 << 30},
        "pids": {"limit": 99},
        "devices": devices,
    });
    assert_eq!(resources(&container), all);
    // Where huge pages can be limited, those that were not asked for are not to be had.
    container.huge_pages = [(2 << 20, 8 << 20)].into();
    let limits = built(&container, true)["linux"]["resources"]["hugepageLimits"].clone();
    let expected = json!([{"pageSize": "2MB", "limit": 8 << 20}, {"pageSize": "1GB", "limit": 0}]);
    assert_eq!(limits, expected);
    let spec = built(&container, false);
    assert_eq!(spec["linux"]["cgroupsPath"], "/waggle/poduid/uid_main_0");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let mut container = container();
    let standard = capabilities(&container);
    assert_eq!(standard.len(), 14);
    assert!(standard.contains("CAP_NET_BIND_SERVICE") && !standard.contains("CAP_SYS_ADMIN"));
    container.add_capabilities = vec!["NET_ADMIN".to_owned(), "cap_sys_time".to_owned()];
    container.drop_capabilities = vec!["CAP_MKNOD".to_owned()];
    let changed = capabilities(&container);
    assert!(changed.contains("CAP_NET_ADMIN") && changed.contains("CAP_SYS_TIME"));
    assert!(!changed.contains("CAP_MKNOD"));
    container.drop_capabilities = vec!["ALL".to_owned()];
    let two = ["CAP_NET_ADMIN", "CAP_SYS_TIME"].map(str::to_owned);
    assert_eq!(capabilities(&container), BTreeSet::from(two));
    container.add_capabilities = vec!["all".to_owned()];
    container.drop_capabilities = vec!["SYS_ADMIN".to_owned()];
    let nearly_all = capabilities(&container);
    assert_eq!(nearly_all.len(), 40);
    assert!(!nearly_all.contains("CAP_SYS_ADMIN"));
    container.drop_capabilities.clear();
    container.add_capabilities = vec!["FLY".to_owned()];
    let error = capabilities::build(&container, 0).unwrap_err();
    assert_eq!(error, UnknownCapability("FLY".to_owned()));
}

#[test]
fn capabilities_have_their_numbers() {
    // As in linux/capability.h.
    for (number, name) in [
        (0, "CHOWN"),
        (12, "NET_ADMIN"),
        (21, "SYS_ADMIN"),
        (39, "BPF"),
    ] {
        let set = capabilities::from_mask(1 << number);
        let names: Vec<String> = set.iter().map(ToString::to_string).collect();
        assert_eq!(names, [name]);
    }
    assert_eq!(capabilities::from_mask(u64::MAX).len(), 41);
}

#[test]
fn privileged_containers_see_the_host() {
    let mut container = container();
    let shut_in = built(&container, false);
    assert_eq!(
        shut_in["linux"]["maskedPaths"].as_array().unwrap().len(),
        MASKED.len()
    );
    assert_eq!(shut_in["linux"].get("devices"), None);
    container.privileged = true;
    let spec = built(&container, false);
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!([]));
    assert_eq!(spec["linux"]["devices"].as_array().unwrap().len(), 1);
    let devices = json!([{"allow": true, "access": "rwm"}]);
    assert_eq!(spec["linux"]["resources"]["devices"], devices);
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(capabilities(&container).len(), 41);
    let sys = |spec: &Value| {
        let mounts = spec["mounts"].as_array().unwrap();
        let sys = mounts
            .iter()
            .find(|mount| mount["destination"] == "/sys")
            .unwrap();
        sys["options"].as_array().unwrap().last().unwrap().clone()
    };
    assert_eq!((sys(&shut_in), sys(&spec)), (json!("ro"), json!("rw")));
}

#[test]
fn mounts_come_outer_first_and_replace_defaults() {
    let mut container = container();
    let mount = |destination: &str, read_only| Mount {
        source: "/volumes/v".into(),
        destination: destination.into(),
        read_only,
        ..Mount::default()
    };
    container.mounts = vec![
        mount("/a/b/c", true),
        mount("/dev/shm", false),
        mount("/a", false),
    ];
    let spec = built(&container, false);
    assert_eq!(
        mounts(&spec),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/a",
            "/dev/shm",
            "/a/b/c"
        ]
    );
    let last = json!({
        "destination": "/a/b/c",
        "type": "bind",
        "source": "/volumes/v",
        "options": ["rbind", "rprivate", "ro"],
    });
    assert_eq!(spec["mounts"].as_array().unwrap().last(), Some(&last));
}

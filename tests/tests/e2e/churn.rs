//! Pods of all kinds come and go, and the agent is killed meanwhile: in the end the machine is as it was.
//!
//! `WAGGLE_CHURN_PODS` says how many pods (`cargo xtask test --churn`: 1,000); few are enough to see that nothing stays.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use waggle_tests::{Cluster, IMAGE, Leftovers, wait_until};

/// At once; a node takes 110.
const BATCH: usize = 60;
/// Without `WAGGLE_CHURN_PODS`: two of each kind.
const FEW: usize = 14;
const KINDS: usize = 7;

#[test]
fn pods_that_come_and_go_leave_nothing() {
    let count = std::env::var("WAGGLE_CHURN_PODS").ok();
    let count: usize = count.map_or(FEW, |count| count.parse().unwrap());
    let mut cluster = Cluster::start();
    std::fs::set_permissions(cluster.scratch(), PermissionsExt::from_mode(0o711)).unwrap();
    cluster.apply(
        r#"apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: crun}
handler: crun
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {key: sesame}
"#,
    );
    // What the first pod makes for all of them is there before anything is counted.
    cluster.apply(&pod(0));
    wait_until("the first pod", Duration::from_secs(60), || {
        all_as_they_should_be(&cluster, &[0]).then_some(())
    });
    cluster.kubectl(&["delete", "pod", "churn-0"]).ok();
    gone(&cluster);
    let before = Seen::look(&cluster);
    let numbers: Vec<usize> = (0..count).collect();
    for (index, batch) in numbers.chunks(BATCH).enumerate() {
        let manifest: String = batch.iter().map(|number| pod(*number)).collect();
        cluster.apply(&manifest);
        // Killed while pods begin, some of them in the middle of it.
        if index.is_multiple_of(2) {
            cluster.crash();
            cluster.boot();
        }
        wait_until("the pods", Duration::from_secs(240), || {
            all_as_they_should_be(&cluster, batch).then_some(())
        });
        let names: Vec<String> = batch
            .iter()
            .map(|number| format!("churn-{number}"))
            .collect();
        let mut delete = vec!["delete", "pod", "--wait=false"];
        delete.extend(names.iter().map(String::as_str));
        cluster.kubectl(&delete).ok();
        // Killed while they end.
        if index.is_multiple_of(3) {
            cluster.crash();
            cluster.boot();
        }
        gone(&cluster);
    }
    // What is done after a pod was reported as gone takes a moment.
    let mut after = Seen::look(&cluster);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while after != before && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        after = Seen::look(&cluster);
    }
    assert_eq!(after, before);
    cluster.stop();
    assert_eq!(cluster.leftovers(), Leftovers::default());
}

/// What of pods could be left while the cluster runs.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    links: BTreeSet<String>,
    supervisors: BTreeSet<String>,
    files: BTreeSet<String>,
    zombies: usize,
}

impl Seen {
    fn look(cluster: &Cluster) -> Self {
        let found = cluster.leftovers();
        let agent = cluster.data_dir().join("agent");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = |target: &&str| Path::new(target).starts_with(cluster.scratch());
        let mut files = BTreeSet::new();
        for dir in ["pods", "logs", "images/mounts"] {
            files.extend(names(&agent.join(dir)));
        }
        for dir in ["pods", "netns", "ipam"] {
            files.extend(names(&cluster.run_dir().join(dir)));
        }
        let children = format!("/proc/{0}/task/{0}/children", cluster.pid());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let zombie = |pid: &&str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") Z ")
        };
        Self {
            mounts: mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .filter(ours)
                .map(str::to_owned)
                .collect(),
            cgroups: found.cgroups,
            links: found.links,
            supervisors: found
                .processes
                .into_iter()
                .filter(|process| process.contains("waggle-supervisor "))
                .collect(),
            files,
            zombies: children.split_whitespace().filter(zombie).count(),
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|it| it.path().display().to_string()).collect()
}

fn gone(cluster: &Cluster) {
    wait_until("the pods to be gone", Duration::from_secs(240), || {
        let pods = cluster.kubectl(&["get", "pods", "-o", "name"]);
        (pods.code == Some(0) && pods.stdout.is_empty()).then_some(())
    });
}

/// Each pod is in the state in which its kind ends up.
fn all_as_they_should_be(cluster: &Cluster, batch: &[usize]) -> bool {
    let pods = cluster.kubectl(&["get", "pods", "-o", "json"]);
    let Ok(pods) = serde_json::from_str::<Value>(&pods.stdout) else {
        return false;
    };
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    batch.iter().all(|number| {
        let name = format!("churn-{number}");
        let pod = items.iter().find(|pod| pod["metadata"]["name"] == name);
        let Some(status) = pod.map(|pod| &pod["status"]) else {
            return false;
        };
        let first = &status["containerStatuses"][0];
        match number % KINDS {
            3 => status["phase"] == "Succeeded",
            4 => first["state"]["waiting"]["reason"] == "ErrImageNeverPull",
            5 => first["restartCount"].as_u64().unwrap_or(0) > 0,
            _ => {
                let all = status["containerStatuses"].as_array();
                all.is_some_and(|all| all.iter().all(|it| it["ready"] == true))
            }
        }
    })
}

fn pod(number: usize) -> String {
    let sleeps = format!(r#"{{name: main, image: {IMAGE}, command: ["sleep", "10000"]}}"#);
    let spec = match number % KINDS {
        0 => format!(
            r#"volumes: [{{name: memory, emptyDir: {{medium: Memory}}}}, {{name: keys, secret: {{secretName: keys}}}}]
  containers:
  - name: main
    image: {IMAGE}
    command: ["sleep", "10000"]
    volumeMounts: [{{name: memory, mountPath: /memory}}, {{name: keys, mountPath: /keys}}]"#
        ),
        1 => format!("hostUsers: false\n  containers: [{sleeps}]"),
        2 => format!("runtimeClassName: crun\n  containers: [{sleeps}]"),
        3 => format!(
            r#"restartPolicy: Never
  initContainers:
  - {{name: first, image: {IMAGE}, command: ["true"]}}
  - {{name: beside, image: {IMAGE}, restartPolicy: Always, command: ["sleep", "10000"]}}
  containers: [{{name: main, image: {IMAGE}, command: ["true"]}}]"#
        ),
        4 => "containers: [{name: main, image: waggle.test/none:1, imagePullPolicy: Never}]"
            .to_owned(),
        5 => format!(
            r#"hostNetwork: true
  containers: [{{name: main, image: {IMAGE}, command: ["false"]}}]"#
        ),
        _ => format!(
            r#"shareProcessNamespace: true
  containers:
  - name: main
    image: {IMAGE}
    command: ["sleep", "10000"]
    readinessProbe: {{exec: {{command: ["true"]}}, periodSeconds: 1}}
    lifecycle: {{preStop: {{exec: {{command: ["true"]}}}}}}
  - {{name: other, image: {IMAGE}, command: ["sleep", "10000"]}}"#
        ),
    };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: churn-{number}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  automountServiceAccountToken: {}\n  {spec}\n",
        number % KINDS != 1
    )
}

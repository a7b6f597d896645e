//! What a pod may ask of the node's kernel and runtimes, as its containers see it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use waggle_tests::{Cluster, IMAGE, Outcome, wait_until};

fn logs(cluster: &Cluster, pod: &str, container: &str) -> String {
    cluster.kubectl(&["logs", pod, "-c", container]).ok()
}

fn succeeded(cluster: &Cluster, pod: &str) {
    cluster.wait_for(&["pod", pod], "{.status.phase}", "Succeeded");
}

#[test]
fn a_runtime_class_chooses_the_program_that_runs_a_pod() {
    let cluster = Cluster::start();
    let pod = |name: &str, class: &str| {
        format!(
            r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: {class}
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: {IMAGE}, command: ["sh", "-c", "echo up; exec sleep 1000"]}}]
"#
        )
    };
    cluster.apply(
        r#"apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: small}
handler: crun
overhead: {podFixed: {memory: 8Mi, cpu: 10m}}
scheduling: {nodeSelector: {kubernetes.io/os: linux}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: sandboxed}
handler: kata
"#,
    );
    cluster.apply(&(pod("fast", "small") + &pod("never", "sandboxed")));
    cluster.wait_for(&["pod", "fast"], "{.status.phase}", "Running");
    cluster.wait_for(
        &["pod", "fast"],
        "{.spec.overhead.memory} {.spec.nodeSelector}",
        r#"8Mi {"kubernetes.io/os":"linux"}"#,
    );
    let uid = ["get", "pod", "fast", "-o", "jsonpath={.metadata.uid}"];
    let uid = cluster.kubectl(&uid).ok();
    let sandbox = cluster.run_dir().join(format!("pods/{uid}/sandbox.json"));
    let sandbox: Value = serde_json::from_slice(&std::fs::read(sandbox).unwrap()).unwrap();
    assert_eq!(sandbox["runc"], "crun");
    assert_eq!(
        cluster
            .kubectl(&["exec", "fast", "--", "sh", "-c", "echo in; exit 3"])
            .code,
        Some(3)
    );
    assert_eq!(logs(&cluster, "fast", "main"), "up\n");

    let why = r#"{.items[?(@.reason=="FailedCreatePodSandBox")].message}"#;
    let selector = "--field-selector=involvedObject.name=never";
    cluster.wait_for(
        &["events", selector],
        why,
        "Failed to create pod sandbox: failed to get sandbox runtime: no runtime for \"kata\" is configured",
    );
    cluster.wait_for(&["pod", "never"], "{.status.phase}", "Pending");
    // Once the class names what the node has, the pod begins.
    cluster
        .kubectl(&["delete", "runtimeclass", "sandboxed"])
        .ok();
    cluster.apply(
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: sandboxed}\nhandler: runc\n",
    );
    cluster.wait_for(&["pod", "never"], "{.status.phase}", "Running");
    let handlers = "jsonpath={.status.runtimeHandlers[*].name}";
    let handlers = cluster.kubectl(&["get", "node", "node-1", "-o", handlers]);
    assert_eq!(handlers.ok().trim(), "crun runc");
    let refused = cluster.apply_outcome(&pod("unknown", "no-such-class"));
    assert!(
        refused
            .stderr
            .contains("RuntimeClass \"no-such-class\" not found"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_pod_may_have_users_of_its_own() {
    let cluster = Cluster::start();
    // As a data directory below /var/lib is: others get through to what they may see.
    std::fs::set_permissions(cluster.scratch(), PermissionsExt::from_mode(0o711)).unwrap();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: words}}
data: {{word: honey}}
---
apiVersion: v1
kind: Secret
metadata: {{name: keys}}
stringData: {{key: sesame}}
---
apiVersion: v1
kind: Pod
metadata: {{name: own, labels: {{app: own}}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 3000}}
  volumes:
  - {{name: words, configMap: {{name: words}}}}
  - {{name: keys, secret: {{secretName: keys, defaultMode: 0400}}}}
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: image, image: {{reference: {IMAGE}}}}}
  containers:
  - name: main
    image: {IMAGE}
    volumeMounts:
    - {{name: words, mountPath: /words}}
    - {{name: keys, mountPath: /keys}}
    - {{name: scratch, mountPath: /scratch}}
    - {{name: memory, mountPath: /memory}}
    - {{name: image, mountPath: /image}}
    command:
    - sh
    - -c
    - |
      tr -s ' ' < /proc/self/uid_map | sed 's/^ //'
      id -u; stat -c '%u %g' / /etc/passwd /scratch /image/etc/passwd
      cat /words/word /keys/key; echo
      echo deep > /scratch/file; echo deep > /memory/file; chown 7:8 /scratch/file; stat -c '%u %g' /scratch/file
      chmod 0755 /etc/passwd && echo own root
      mkdir -p /var/www && echo bee > /var/www/index.html
      echo done; exec httpd -f -p 80 -h /var/www
"#
    ));
    cluster.wait_for(&["pod", "own"], "{.status.phase}", "Running");
    wait_until("the web server", std::time::Duration::from_secs(30), || {
        logs(&cluster, "own", "main").contains("done").then_some(())
    });
    let said = logs(&cluster, "own", "main");
    let (map, rest) = said.split_once('\n').unwrap();
    let map: Vec<u32> = map.split(' ').map(|it| it.parse().unwrap()).collect();
    assert!(
        map[0] == 0 && map[1] >= 65_536 && map[2] == 65_536,
        "{map:?}"
    );
    let expected = "0\n0 0\n0 0\n0 3000\n0 0\nhoneysesame\n7 8\nown root\ndone\n";
    assert_eq!(rest, expected);
    let pid = cluster.container_pid("own");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains(&format!("\nUid:\t{}\t", map[1])),
        "{status}"
    );
    // From outside the pod it is a pod like any other: its port below 1024, commands, copies, its end.
    let address = ["get", "pod", "own", "-o", "jsonpath={.status.podIP}"];
    let address = cluster.kubectl(&address).ok();
    let fetch = format!("curl -s --max-time 10 http://{address}/");
    assert_eq!(Outcome::of(&mut cluster.node_command(&fetch)).ok(), "bee\n");
    let run = [
        "exec",
        "own",
        "--",
        "sh",
        "-c",
        "id -u; echo x > /dev/stdout",
    ];
    assert_eq!(cluster.kubectl(&run).ok(), "0\nx\n");
    let file = cluster.scratch().join("in");
    std::fs::write(&file, "copied").unwrap();
    let file = file.to_str().unwrap();
    cluster.kubectl(&["cp", file, "own:/scratch/in"]).ok();
    let shown = ["exec", "own", "--", "cat", "/scratch/in"];
    assert_eq!(cluster.kubectl(&shown).ok(), "copied");
    cluster.kubectl(&["delete", "pod", "own"]).ok();
    let data = cluster.data_dir().display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts
            .lines()
            .any(|line| line.contains(&data) && line.contains("idmapped")),
        "{mounts}"
    );
}

#[test]
fn what_a_pod_asks_of_the_kernel_is_what_its_containers_see() {
    let cluster = Cluster::start();
    let shared = cluster.scratch().join("shared");
    std::fs::create_dir_all(shared.join("below")).unwrap();
    let _mounted = SharedMount::new(&shared);
    let shared = shared.display();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: strict}}
spec:
  restartPolicy: Never
  shareProcessNamespace: true
  securityContext:
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 3000
    supplementalGroups: [4000]
    supplementalGroupsPolicy: Strict
  volumes:
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 2Mi}}}}
  initContainers:
  - name: lasting
    restartPolicy: Always
    image: {IMAGE}
    command: ["sleep", "1000"]
  containers:
  - name: main
    image: {IMAGE}
    env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {{drop: [ALL], add: [NET_BIND_SERVICE]}}
    volumeMounts:
    - {{name: scratch, mountPath: /scratch, subPathExpr: of-$(POD)}}
    - {{name: memory, mountPath: /memory}}
    command:
    - sh
    - -c
    - |
      echo "$(id -u) $(id -g) $(id -G)"
      touch /x 2>/dev/null || echo read-only
      grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status | tr -s '\t' ' '
      touch /scratch/x && stat -c '%g' /scratch/x; mount | grep -c 'on /scratch .*of-strict\|on /scratch '
      dd if=/dev/zero of=/memory/x bs=1M count=5 2>&1 | grep -o 'No space left on device'
      df -m /memory | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
      until grep -qs sleep /proc/[0-9]*/comm; do usleep 20000; done; cat /proc/1/comm
      mount | grep -c 'on /proc/sys .*ro'
---
apiVersion: v1
kind: Pod
metadata: {{name: host}}
spec:
  restartPolicy: Never
  hostPID: true
  hostIPC: true
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "cat /proc/1/comm; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid"]
---
apiVersion: v1
kind: Pod
metadata: {{name: mounts}}
spec:
  restartPolicy: Never
  volumes:
  - {{name: shared, hostPath: {{path: "{shared}"}}}}
  - {{name: meeting, emptyDir: {{}}}}
  containers:
  - name: giver
    image: {IMAGE}
    securityContext: {{privileged: true}}
    volumeMounts:
    - {{name: shared, mountPath: /shared, mountPropagation: Bidirectional}}
    - {{name: meeting, mountPath: /meeting}}
    command:
    - sh
    - -c
    - |
      until [ -e /meeting/taker ] && [ -e /meeting/deaf ]; do usleep 20000; done
      mount -t tmpfs given /shared/below && touch /shared/below/given /meeting/given
      until [ -e /meeting/taken ] && [ -e /meeting/unheard ]; do usleep 20000; done
      umount /shared/below; ls -l /dev/null | cut -c 1; grep CapEff /proc/self/status | cut -f 2
  - name: taker
    image: {IMAGE}
    volumeMounts:
    - {{name: shared, mountPath: /shared, mountPropagation: HostToContainer}}
    - {{name: meeting, mountPath: /meeting}}
    command:
    - sh
    - -c
    - touch /meeting/taker; until [ -e /meeting/given ]; do usleep 20000; done; ls /shared/below; touch /meeting/taken
  - name: deaf
    image: {IMAGE}
    volumeMounts:
    - {{name: shared, mountPath: /shared, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: None}}
    - {{name: meeting, mountPath: /meeting}}
    command:
    - sh
    - -c
    - |
      touch /meeting/deaf; until [ -e /meeting/given ]; do usleep 20000; done
      ls /shared/below | wc -l; touch /shared/mounted/x 2>/dev/null || echo read-only below
      touch /meeting/unheard
---
apiVersion: v1
kind: Pod
metadata: {{name: unshared}}
spec:
  restartPolicy: Never
  volumes: [{{name: scratch, hostPath: {{path: "{shared}/mounted"}}}}]
  containers:
  - name: main
    image: {IMAGE}
    securityContext: {{privileged: true}}
    volumeMounts: [{{name: scratch, mountPath: /scratch, mountPropagation: Bidirectional}}]
    command: ["true"]
"#
    ));
    succeeded(&cluster, "strict");
    assert_eq!(
        logs(&cluster, "strict", "main"),
        "1000 1000 1000 3000 4000\nread-only\nCapEff: 0000000000000000\nCapBnd: 0000000000000400\nNoNewPrivs: 1\n\
         3000\n1\nNo space left on device\n2\npause\n1\n"
    );
    succeeded(&cluster, "host");
    let own = |name: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        link.display().to_string()
    };
    let first = std::fs::read_to_string("/proc/1/comm").unwrap();
    assert_eq!(
        logs(&cluster, "host", "main"),
        format!("{first}{}\n{}\n", own("ipc"), own("pid"))
    );
    succeeded(&cluster, "mounts");
    assert_eq!(logs(&cluster, "mounts", "taker"), "given\n");
    assert_eq!(logs(&cluster, "mounts", "deaf"), "0\nread-only below\n");
    let giver = logs(&cluster, "mounts", "giver");
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find_map(|it| it.strip_prefix("CapBnd:\t"));
    assert_eq!(giver, format!("c\n{}\n", all.unwrap()));
    let path = "{.status.containerStatuses[0].state.terminated.reason}";
    cluster.wait_for(&["pod", "unshared"], path, "StartError");
    let message = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
    let message = ["get", "pod", "unshared", "-o", message];
    let message = cluster.kubectl(&message).ok();
    assert!(
        message.contains("but it is not a shared mount"),
        "{message}"
    );
}

/// A shared tmpfs with a private one in `mounted`; both are gone with this.
struct SharedMount(String);

impl SharedMount {
    fn new(at: &std::path::Path) -> Self {
        let at = at.display().to_string();
        let script = format!(
            "mount -t tmpfs shared {at} && mount --make-shared {at} && mkdir {at}/below {at}/mounted && \
             mount -t tmpfs inner {at}/mounted && mount --make-private {at}/mounted"
        );
        Outcome::of(Command::new("sh").args(["-c", &script])).ok();
        Self(at)
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", &self.0]).status();
    }
}

#[test]
fn a_node_tells_what_it_and_its_pods_use() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: busy}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: scratch, emptyDir: {{}}}}]
  containers:
  - name: main
    image: {IMAGE}
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
    command: ["sh", "-c", "dd if=/dev/zero of=/scratch/x bs=1M count=3 2>/dev/null; echo up; exec sleep 1000"]
"#
    ));
    cluster.wait_for(&["pod", "busy"], "{.status.phase}", "Running");
    wait_until(
        "the container's word",
        std::time::Duration::from_secs(20),
        || (logs(&cluster, "busy", "main") == "up\n").then_some(()),
    );
    let raw = |path: &str| {
        let path = format!("/api/v1/nodes/node-1/proxy/{path}");
        cluster.kubectl(&["get", "--raw", &path])
    };
    let summary: Value = serde_json::from_str(&raw("stats/summary").ok()).unwrap();
    assert_eq!(summary["node"]["nodeName"], "node-1");
    let pods = summary["pods"].as_array().unwrap();
    let pod = pods.iter().find(|it| it["podRef"]["name"] == "busy");
    let pod = pod.unwrap_or_else(|| panic!("{summary}"));
    let number = |path: &str| pod.pointer(path).and_then(Value::as_u64);
    for path in [
        "/cpu/usageCoreNanoSeconds",
        "/memory/workingSetBytes",
        "/containers/0/memory/availableBytes",
        "/process_stats/process_count",
    ] {
        assert!(number(path).is_some_and(|value| value > 0), "{path}: {pod}");
    }
    let volumes = pod["volume"].as_array().unwrap();
    let scratch = volumes.iter().find(|it| it["name"] == "scratch").unwrap();
    assert!(
        scratch["usedBytes"].as_u64().unwrap() >= 3 << 20,
        "{scratch}"
    );
    let resource = raw("metrics/resource").ok();
    let of_pod = "pod_memory_working_set_bytes{namespace=\"default\",pod=\"busy\"} ";
    assert!(resource.contains(of_pod), "{resource}");
    let cadvisor = raw("metrics/cadvisor").ok();
    assert!(cadvisor.contains("container_spec_memory_limit_bytes{container=\"main\""));
    assert!(cadvisor.contains(" 67108864\n"), "{cadvisor}");
    let configuration: Value = serde_json::from_str(&raw("configz").ok()).unwrap();
    assert_eq!(configuration["kubeletconfig"]["maxPods"], 110);
    assert_eq!(raw("healthz").ok(), "ok");
    assert!(raw("logs/").ok().starts_with("<pre>"));
    assert!(raw("logs/../../etc/passwd").code != Some(0));
    // Who may not, gets nothing.
    cluster
        .kubectl(&["create", "serviceaccount", "nobody"])
        .ok();
    let as_nobody = cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/nodes/node-1/proxy/stats/summary",
        "--as=system:serviceaccount:default:nobody",
    ]);
    assert!(
        as_nobody.stderr.contains("orbidden"),
        "{}",
        as_nobody.stderr
    );
}

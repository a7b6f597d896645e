//! Redis with a replica that finds its leader by DNS, also after the leader has another address.

use waggle_tests::REDIS;

use crate::{exec, exec_until, lab, rolled, until};

#[test]
fn a_replica_finds_its_leader_by_name_wherever_it_is() {
    let lab = lab(2, &[&REDIS], &[]);
    let image = REDIS.image;
    let set = |name: &str, more: &str| {
        format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: None, publishNotReadyAddresses: true, selector: {{app: {name}}}, ports: [{{port: 6379}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  serviceName: {name}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 10
      securityContext: {{runAsUser: 999, runAsGroup: 999, fsGroup: 999}}
      containers:
      - name: redis
        image: {image}
        args: [redis-server, --dir, /data, --appendonly, "yes", --protected-mode, "no"{more}]
        readinessProbe: {{exec: {{command: [redis-cli, ping]}}, periodSeconds: 1}}
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 100Mi}}}}}}
"#
        )
    };
    lab.apply(&set("leader", ""));
    let name = "leader-0.leader.default.svc.cluster.local";
    let replica = format!(r#", --replicaof, {name}, "6379", --repl-timeout, "5""#);
    lab.apply(&set("replica", &replica));
    rolled(&lab, "statefulset/leader");
    rolled(&lab, "statefulset/replica");
    let get = ["redis-cli", "get", "where"];
    exec(&lab, "leader-0", &["redis-cli", "set", "where", "here"]).ok();
    exec_until(&lab, "replica-0", &get, |it| it == "here\n");

    let address = |pod: &str| until(&lab, &["pod", pod], "{.status.podIP}", |it| !it.is_empty());
    let before = address("leader-0");
    lab.kubectl(&["delete", "pod", "leader-0"]).ok();
    rolled(&lab, "statefulset/leader");
    assert_ne!(address("leader-0"), before);
    // Its file is there again, and the replica follows the name.
    let kept = exec(&lab, "leader-0", &["redis-cli", "get", "where"]).ok();
    assert_eq!(kept, "here\n");
    exec(&lab, "leader-0", &["redis-cli", "set", "where", "there"]).ok();
    exec_until(&lab, "replica-0", &get, |it| it == "there\n");
    let link = ["redis-cli", "info", "replication"];
    exec_until(&lab, "replica-0", &link, |it| {
        it.contains("master_link_status:up")
    });
}

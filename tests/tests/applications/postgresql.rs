//! PostgreSQL as a StatefulSet: what is committed outlives the pod, the agent and the node.

use waggle_tests::POSTGRESQL;

use crate::{exec, exec_until, lab, rolled, until, wait_for};

fn manifest() -> String {
    let image = POSTGRESQL.image;
    format!(
        r#"apiVersion: v1
kind: Secret
metadata: {{name: db}}
stringData: {{password: sesame}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: db}}
data:
  start.sh: |
    set -e
    if ! test -s "$PGDATA/PG_VERSION"; then
      initdb --username=postgres --pwfile=/secret/password --auth=scram-sha-256 --no-locale --encoding=UTF8
      echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    fi
    exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
---
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{selector: {{app: db}}, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: db-members}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db-members
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 20
      securityContext: {{runAsUser: 999, runAsGroup: 999, fsGroup: 999, runAsNonRoot: true}}
      containers:
      - name: postgres
        image: {image}
        command: [sh, /config/start.sh]
        env:
        - {{name: PGDATA, value: /data/pgdata}}
        - {{name: PGPASSWORD, valueFrom: {{secretKeyRef: {{name: db, key: password}}}}}}
        ports: [{{name: sql, containerPort: 5432}}]
        # A fast shutdown: TERM alone waits for clients.
        lifecycle: {{preStop: {{exec: {{command: [pg_ctl, stop, -m, fast]}}}}}}
        startupProbe: {{exec: {{command: [pg_isready, -h, /tmp]}}, periodSeconds: 1, failureThreshold: 120}}
        readinessProbe: {{exec: {{command: [pg_isready, -h, /tmp]}}, periodSeconds: 1}}
        livenessProbe: {{tcpSocket: {{port: sql}}, periodSeconds: 5}}
        resources: {{requests: {{cpu: 100m, memory: 128Mi}}, limits: {{memory: 512Mi}}}}
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {{drop: [ALL]}}
          seccompProfile: {{type: RuntimeDefault}}
        volumeMounts:
        - {{name: data, mountPath: /data}}
        - {{name: config, mountPath: /config}}
        - {{name: secret, mountPath: /secret}}
      volumes:
      - {{name: config, configMap: {{name: db}}}}
      - {{name: secret, secret: {{secretName: db}}}}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 0
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {{labelSelector: {{matchLabels: {{app: db}}}}, topologyKey: kubernetes.io/hostname}}
  containers:
  - name: psql
    image: {image}
    command: [sleep, "100000"]
    env:
    - {{name: PGPASSWORD, valueFrom: {{secretKeyRef: {{name: db, key: password}}}}}}
    - {{name: PGCONNECT_TIMEOUT, value: "3"}}
"#
    )
}

#[test]
fn what_is_committed_outlives_the_pod_the_agent_and_the_node() {
    let lab = lab(2, &[&POSTGRESQL], &[]);
    lab.apply(&manifest());
    rolled(&lab, "statefulset/db");
    wait_for(&lab, &["pod", "client"], "{.status.phase}", "Running");
    let node = until(&lab, &["pod", "db-0"], "{.spec.nodeName}", |it| {
        !it.is_empty()
    });
    let ask = |sql: &str| {
        let psql = ["psql", "-h", "db", "-U", "postgres", "-AtX", "-c", sql];
        exec_until(&lab, "client", &psql, |_| true)
    };
    let once = |sql: &str| {
        exec(
            &lab,
            "client",
            &["psql", "-h", "db", "-U", "postgres", "-AtX", "-c", sql],
        )
        .ok()
    };
    assert_eq!(
        ask("create table kept (what text primary key)"),
        "CREATE TABLE\n"
    );
    once("insert into kept select 'row ' || n from generate_series(1, 10000) n");
    let uid = |pod: &str| until(&lab, &["pod", pod], "{.metadata.uid}", |it| !it.is_empty());

    // Another pod, the same volume; found by the name of the member too.
    let first = uid("db-0");
    lab.kubectl(&["delete", "pod", "db-0"]).ok();
    rolled(&lab, "statefulset/db");
    assert_ne!(uid("db-0"), first);
    assert_eq!(ask("select count(*) from kept"), "10000\n");
    once("insert into kept values ('after the pod')");
    let member = "db-0.db-members.default.svc.cluster.local";
    let by_member = [
        "psql", "-h", member, "-U", "postgres", "-AtX", "-c", "select 1",
    ];
    assert_eq!(exec_until(&lab, "client", &by_member, |_| true), "1\n");

    // Without its agent the database goes on, and with the next one it is the same.
    let second = uid("db-0");
    lab.waggle(&["kill", &node]).ok();
    assert_eq!(
        once("insert into kept values ('without an agent')"),
        "INSERT 0 1\n"
    );
    lab.waggle(&["start", &node]).ok();
    rolled(&lab, "statefulset/db");
    assert_eq!(uid("db-0"), second);
    let restarts = "{.status.containerStatuses[0].restartCount}";
    wait_for(&lab, &["pod", "db-0"], restarts, "0");

    // Power goes in the midst of it: what was acknowledged is there afterwards.
    assert_eq!(
        once("insert into kept values ('before the power went')"),
        "INSERT 0 1\n"
    );
    lab.waggle(&["crash", &node]).ok();
    lab.waggle(&["start", &node]).ok();
    wait_for(&lab, &["pod", "db-0"], restarts, "1");
    assert_eq!(ask("select count(*) from kept"), "10003\n");
    assert_eq!(uid("db-0"), second);
    assert_eq!(
        ask("select count(*) from kept where what like 'before%'"),
        "1\n"
    );

    // The set goes and leaves the claim; the claim goes and takes the data along.
    lab.kubectl(&["delete", "statefulset", "db"]).ok();
    wait_for(&lab, &["pods", "-l", "app=db"], "{.items}", "[]");
    wait_for(&lab, &["pvc", "data-db-0"], "{.status.phase}", "Bound");
    lab.kubectl(&["delete", "pvc", "data-db-0"]).ok();
    wait_for(&lab, &["pv"], "{.items}", "[]");
}

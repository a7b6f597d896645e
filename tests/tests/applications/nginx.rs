//! nginx behind a Service: pages from a ConfigMap, by name from inside and by node port from outside, while it is rolled.

use std::collections::BTreeSet;

use waggle_tests::{IMAGE, NGINX, Outcome};

use crate::{exec, exec_until, lab, rolled, until};

const LARGE: usize = 8 << 20;

fn page(text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: page}}\ndata: {{index.html: \"{text}\\n\"}}\n"
    )
}

fn manifest() -> String {
    let image = NGINX.image;
    format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: nginx}}
data:
  nginx.conf: |
    user www-data;
    worker_processes 1;
    pid /tmp/nginx.pid;
    error_log /dev/stderr;
    events {{ }}
    http {{
      access_log /dev/stdout;
      default_type text/plain;
      server {{
        listen 8080;
        listen [::]:8080;
        location / {{ root /pages; }}
        location = /who {{ return 200 "$hostname\n"; }}
        location = /large {{ alias /large/file; }}
        location = /healthz {{ access_log off; return 204; }}
      }}
    }}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: web}}}}}}
      initContainers:
      - {{name: fill, image: {image}, command: [sh, -c, "head -c {LARGE} /dev/urandom > /large/file"], volumeMounts: [{{name: large, mountPath: /large}}]}}
      containers:
      - name: nginx
        image: {image}
        command: [nginx, -c, /config/nginx.conf, -g, daemon off;]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{exec: {{command: [nginx, -c, /config/nginx.conf, -s, quit]}}}}}}
        resources: {{requests: {{cpu: 20m, memory: 32Mi}}, limits: {{memory: 128Mi}}}}
        volumeMounts:
        - {{name: config, mountPath: /config}}
        - {{name: pages, mountPath: /pages}}
        - {{name: large, mountPath: /large}}
      volumes:
      - {{name: config, configMap: {{name: nginx}}}}
      - {{name: pages, configMap: {{name: page}}}}
      - {{name: large, emptyDir: {{sizeLimit: 64Mi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: {IMAGE}, command: [sleep, "3600"]}}
"#
    )
}

#[test]
fn nginx_serves_pages_behind_a_service_while_it_is_rolled() {
    let lab = lab(2, &[&NGINX], &[]);
    lab.apply(&page("first"));
    lab.apply(&manifest());
    rolled(&lab, "deployment/web");
    until(&lab, &["pod", "client"], "{.status.phase}", |it| {
        it == "Running"
    });
    let port = until(
        &lab,
        &["service", "web"],
        "{.spec.ports[0].nodePort}",
        |it| !it.is_empty(),
    );
    let nodes = lab.nodes();
    let url = |node: &str, path: &str| {
        let address = lab.node_addresses(node)[0];
        format!("http://{address}:{port}{path}")
    };
    let outside = |arguments: &[&str]| {
        let mut curl = lab.outside().command("curl");
        Outcome::of(curl.args(["-gsf", "-m", "10"]).args(arguments))
    };

    // By its name from a pod, by each node's port from outside; all three answer, and each request is logged once.
    exec_until(&lab, "client", &["curl", "-sf", "http://web/"], |it| {
        it == "first\n"
    });
    let mut seen = BTreeSet::new();
    let mut asked = 0;
    for node in &nodes {
        lab.wait("the node's port", || {
            let outcome = outside(&[&url(node, "/")]);
            (outcome.stdout == "first\n")
                .then_some(())
                .ok_or(format!("{outcome:?}"))
        });
    }
    while seen.len() < 3 {
        assert!(asked < 300, "only {seen:?} answer");
        seen.insert(outside(&[&url(&nodes[asked % 2], "/who")]).ok());
        seen.insert(exec(&lab, "client", &["curl", "-sf", "http://web/who"]).ok());
        asked += 2;
    }
    lab.wait("every request is logged", || {
        let logs = ["logs", "-l", "app=web", "-c", "nginx", "--tail=-1"];
        let logs = lab.kubectl(&logs).ok();
        let logged = logs.lines().filter(|line| line.contains("GET /who"));
        let logged = logged.count();
        (logged == asked)
            .then_some(())
            .ok_or_else(|| format!("{logged} of {asked}: {logs}"))
    });

    // One connection for two requests, and a large answer whole.
    let two = outside(&[
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} %{size_download} ",
        &url(&nodes[0], "/large"),
        &url(&nodes[0], "/large"),
    ]);
    assert_eq!(two.ok(), format!("1 {LARGE} 0 {LARGE} "));

    // A changed page is served without anybody being restarted.
    lab.apply(&page("second"));
    for node in &nodes {
        lab.wait("the changed page", || {
            let pages: BTreeSet<String> =
                (0..6).map(|_| outside(&[&url(node, "/")]).stdout).collect();
            (pages.len() == 1 && pages.contains("second\n"))
                .then_some(())
                .ok_or(format!("{pages:?}"))
        });
    }
    let restarts = until(
        &lab,
        &["pods", "-l", "app=web"],
        "{.items[*].status.containerStatuses[0].restartCount}",
        |it| !it.is_empty(),
    );
    assert_eq!(restarts, "0 0 0");

    // Nobody is turned away while every pod is replaced.
    lab.kubectl(&["rollout", "restart", "deployment/web"]).ok();
    let visits = std::thread::scope(|scope| {
        let roll_out = scope.spawn(|| rolled(&lab, "deployment/web"));
        let mut count = 0;
        while !roll_out.is_finished() {
            let answer = outside(&[&url(&nodes[count % 2], "/")]);
            assert_eq!(answer.stdout, "second\n", "{answer:?}");
            count += 1;
        }
        count
    });
    assert!(visits > 5, "{visits} visits during the roll-out");
    let now = until(
        &lab,
        &["pods", "-l", "app=web"],
        "{.items[*].metadata.name}",
        |it| it.split(' ').count() == 3,
    );
    assert!(
        seen.iter()
            .all(|name| !now.split(' ').any(|it| it == name.trim())),
        "{seen:?} are still among {now}"
    );

    lab.kubectl(&["delete", "service/web", "deployment/web"])
        .ok();
    lab.wait("nobody answers any more", || {
        let outcome = outside(&[&url(&nodes[0], "/")]);
        (outcome.code == Some(7))
            .then_some(())
            .ok_or(format!("{outcome:?}"))
    });
}

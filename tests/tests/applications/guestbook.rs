//! The guestbook of the Kubernetes tutorials: a stateless frontend, a leader that is written to, followers that are
//! read from.

use waggle_tests::{Outcome, PYTHON, REDIS};

use crate::{exec_until, lab, rolled, until};

const FRONTEND: &str = r"
    import http.server, socket, socketserver, urllib.parse
    def redis(host, *words):
        request = b'*%d\r\n' % len(words)
        for word in words:
            word = word.encode()
            request += b'$%d\r\n%s\r\n' % (len(word), word)
        with socket.create_connection((host, 6379), 5) as connection:
            connection.sendall(request)
            answer = connection.makefile('rb')
            def read():
                line = answer.readline().rstrip()
                kind, rest = line[:1], line[1:]
                if kind == b'*': return [read() for _ in range(int(rest))]
                if kind == b'$':
                    text = answer.read(int(rest)); answer.readline(); return text
                if kind == b'-': raise RuntimeError(rest)
                return rest
            return read()
    class Page(http.server.BaseHTTPRequestHandler):
        def answer(self, code, body):
            self.send_response(code); self.send_header('Content-Length', str(len(body)))
            self.end_headers(); self.wfile.write(body)
        def do_GET(self):
            if self.path == '/healthz': return self.answer(200, b'ok')
            self.answer(200, b'\n'.join(redis('redis-follower', 'lrange', 'guests', '0', '-1')) + b'\n')
        def do_POST(self):
            name = self.rfile.read(int(self.headers['Content-Length'])).decode()
            self.answer(200, redis('redis-leader', 'rpush', 'guests', name) + b'\n')
        def log_message(self, *_): pass
    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        address_family = socket.AF_INET6; daemon_threads = True
    import signal, threading
    server = Server(('::', 8080), Page)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
";

fn redis(name: &str, replicas: u32, more: &str) -> String {
    let image = REDIS.image;
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: redis-{name}, labels: {{app: guestbook}}}}
spec: {{selector: {{app: redis, role: {name}}}, ports: [{{port: 6379}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: redis-{name}, labels: {{app: guestbook}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: redis, role: {name}}}}}
  template:
    metadata: {{labels: {{app: redis, role: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: redis
        image: {image}
        args: [redis-server, --dir, /tmp, --protected-mode, "no"{more}]
        ports: [{{containerPort: 6379}}]
        readinessProbe: {{exec: {{command: [redis-cli, ping]}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 50m, memory: 32Mi}}}}
---
"#
    )
}

fn manifest() -> String {
    let image = PYTHON.image;
    let follower = r#", --replicaof, redis-leader, "6379""#;
    redis("leader", 1, "")
        + &redis("follower", 2, follower)
        + &format!(
            r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: frontend, labels: {{app: guestbook}}}}
data:
  frontend.py: |{FRONTEND}
---
apiVersion: v1
kind: Service
metadata: {{name: frontend, labels: {{app: guestbook}}}}
spec: {{type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {{app: frontend}}, ports: [{{port: 80, targetPort: http}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: frontend, labels: {{app: guestbook}}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: frontend}}}}
  template:
    metadata: {{labels: {{app: frontend}}}}
    spec:
      terminationGracePeriodSeconds: 5
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: frontend}}}}}}
      containers:
      - name: frontend
        image: {image}
        command: [python3, /code/frontend.py]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 50m, memory: 32Mi}}}}
        volumeMounts: [{{name: code, mountPath: /code}}]
      volumes: [{{name: code, configMap: {{name: frontend}}}}]
"#
        )
}

#[test]
fn guests_sign_from_outside_and_are_seen_by_all_also_through_a_roll_out() {
    let lab = lab(2, &[&REDIS, &PYTHON], &[]);
    lab.apply(&manifest());
    for deployment in ["redis-leader", "redis-follower", "frontend"] {
        rolled(&lab, &format!("deployment/{deployment}"));
    }
    let port = until(
        &lab,
        &["service", "frontend"],
        "{.spec.ports[0].nodePort}",
        |it| !it.is_empty(),
    );
    let nodes = lab.nodes();
    let url = |node: &str| {
        let address = lab.node_addresses(node)[0];
        format!("http://{address}:{port}/")
    };
    let outside = |arguments: &[&str]| {
        let mut curl = lab.outside().command("curl");
        Outcome::of(curl.args(["-gsf", "-m", "10"]).args(arguments))
    };
    lab.wait("the first guest", || {
        let outcome = outside(&["-d", "Ada", &url(&nodes[0])]);
        (outcome.code == Some(0))
            .then_some(())
            .ok_or(outcome.stderr)
    });
    outside(&["-d", "Grace", &url(&nodes[1])]).ok();
    for node in &nodes {
        for _ in 0..6 {
            lab.wait("both guests", || {
                let book = outside(&[&url(node)]);
                (book.stdout == "Ada\nGrace\n")
                    .then_some(())
                    .ok_or(format!("{book:?}"))
            });
        }
    }
    // Nobody is turned away while every frontend is replaced.
    lab.kubectl(&["rollout", "restart", "deployment/frontend"])
        .ok();
    let rolling = std::thread::scope(|scope| {
        let roll_out = scope.spawn(|| rolled(&lab, "deployment/frontend"));
        let mut count = 0;
        while !roll_out.is_finished() {
            let book = outside(&[&url(&nodes[count % 2])]);
            assert_eq!(book.code, Some(0), "{book:?}");
            count += 1;
        }
        count
    });
    assert!(rolling > 5, "{rolling} visits during the roll-out");
    // Followers that come later get the whole book from the leader.
    lab.kubectl(&["scale", "deployment/redis-follower", "--replicas=3"])
        .ok();
    rolled(&lab, "deployment/redis-follower");
    let followers = ["pods", "-l", "role=follower"];
    let names = until(&lab, &followers, "{.items[*].metadata.name}", |it| {
        !it.is_empty()
    });
    for name in names.split(' ') {
        let read = ["redis-cli", "lrange", "guests", "0", "-1"];
        exec_until(&lab, name, &read, |it| it == "Ada\nGrace\n");
    }
    lab.kubectl(&["delete", "all,configmaps", "-l", "app=guestbook"])
        .ok();
    crate::wait_for(&lab, &["pods"], "{.items}", "[]");
}

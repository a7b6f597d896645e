//! Prometheus scrapes the cluster that it runs in: what there is, the API says, to an account of its own.

use waggle_tests::{IMAGE, PROMETHEUS, PYTHON};

use crate::{lab, rolled, until};

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Debian builds Prometheus without its discovery of Kubernetes: this asks the API for the same, as the same account, and
/// tells Prometheus over HTTP.
const DISCOVERY: &str = r"
    import http.server, json, os, ssl, urllib.request
    account = '/var/run/secrets/kubernetes.io/serviceaccount/'
    server = 'https://%(KUBERNETES_SERVICE_HOST)s:%(KUBERNETES_SERVICE_PORT)s' % os.environ
    trust = ssl.create_default_context(cafile=account + 'ca.crt')
    def ask(path):
        bearer = {'Authorization': 'Bearer ' + open(account + 'token').read()}
        request = urllib.request.Request(server + path, headers=bearer)
        return json.load(urllib.request.urlopen(request, context=trust, timeout=5))['items']
    def asks(thing):
        return thing['metadata'].get('annotations', {}).get('prometheus.io/scrape') == 'true'
    def found(address, **labels):
        return {'targets': [address], 'labels': labels}
    def apiserver():
        for it in ask('/api/v1/namespaces/default/endpoints'):
            if it['metadata']['name'] != 'kubernetes': continue
            for subset in it['subsets']:
                for address in subset['addresses']:
                    yield found('%s:%d' % (address['ip'], subset['ports'][0]['port']))
    def nodes():
        for it in ask('/api/v1/nodes'):
            name = it['metadata']['name']
            path = '/api/v1/nodes/%s/proxy/metrics' % name
            zone = it['metadata']['labels']['topology.kubernetes.io/zone']
            yield found('kubernetes.default.svc:443', __metrics_path__=path, node=name, zone=zone)
    def pods():
        for it in ask('/api/v1/pods'):
            address = it['status'].get('podIP')
            if not asks(it) or not address or it['metadata'].get('deletionTimestamp'): continue
            for container in it['spec']['containers']:
                for port in container.get('ports', []):
                    yield found('%s:%d' % (address, port['containerPort']), pod=it['metadata']['name'])
    def services():
        for it in ask('/api/v1/services'):
            if asks(it):
                name, port = it['metadata'], it['spec']['ports'][0]['port']
                yield found('%s.%s.svc:%d' % (name['name'], name['namespace'], port))
    def endpoints():
        annotated = {it['metadata']['name'] for it in ask('/api/v1/services') if asks(it)}
        for it in ask('/api/v1/endpoints'):
            if it['metadata']['name'] not in annotated: continue
            for subset in it.get('subsets', []):
                for address in subset.get('addresses', []):
                    yield found('%s:%d' % (address['ip'], subset['ports'][0]['port']), pod=address['targetRef']['name'])
    def slices():
        chosen = '/apis/discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb'
        for it in ask(chosen):
            for endpoint in it.get('endpoints') or []:
                if endpoint['conditions']['ready']:
                    yield found('%s:%d' % (endpoint['addresses'][0], it['ports'][0]['port']))
    class Discovery(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            try: code, body = 200, json.dumps(list(globals()[self.path[1:]]())).encode()
            except Exception as error: code, body = 500, str(error).encode()
            self.send_response(code); self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    http.server.ThreadingHTTPServer(('127.0.0.1', 9099), Discovery).serve_forever()
";

fn manifest() -> String {
    let (image, python) = (PROMETHEUS.image, PYTHON.image);
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: monitoring}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: prometheus, namespace: monitoring}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: prometheus}}
rules:
- {{apiGroups: [""], resources: [nodes, nodes/proxy, nodes/metrics, services, endpoints, pods], verbs: [get, list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}}
- {{nonResourceURLs: [/metrics], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: prometheus}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus}}
subjects: [{{kind: ServiceAccount, name: prometheus, namespace: monitoring}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: prometheus, namespace: monitoring}}
data:
  prometheus.yml: |
    global: {{scrape_interval: 2s, scrape_timeout: 2s}}
    scrape_configs:
    - {{job_name: apiserver, http_sd_configs: [{{url: "http://localhost:9099/apiserver", refresh_interval: 2s}}], scheme: https, tls_config: {{ca_file: {ACCOUNT}/ca.crt, server_name: kubernetes.default.svc}}, authorization: {{credentials_file: {ACCOUNT}/token}}}}
    - {{job_name: nodes, http_sd_configs: [{{url: "http://localhost:9099/nodes", refresh_interval: 2s}}], scheme: https, tls_config: {{ca_file: {ACCOUNT}/ca.crt}}, authorization: {{credentials_file: {ACCOUNT}/token}}}}
    - {{job_name: slices, http_sd_configs: [{{url: "http://localhost:9099/slices", refresh_interval: 2s}}]}}
    - {{job_name: endpoints, http_sd_configs: [{{url: "http://localhost:9099/endpoints", refresh_interval: 2s}}]}}
    - {{job_name: services, http_sd_configs: [{{url: "http://localhost:9099/services", refresh_interval: 2s}}]}}
    - {{job_name: pods, http_sd_configs: [{{url: "http://localhost:9099/pods", refresh_interval: 2s}}]}}
  discovery.py: |{DISCOVERY}
---
apiVersion: v1
kind: Service
metadata: {{name: prometheus, namespace: monitoring}}
spec: {{selector: {{app: prometheus}}, ports: [{{name: web, port: 9090}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: prometheus, namespace: monitoring}}
spec:
  selector: {{matchLabels: {{app: prometheus}}}}
  template:
    metadata: {{labels: {{app: prometheus}}}}
    spec:
      serviceAccountName: prometheus
      terminationGracePeriodSeconds: 5
      securityContext: {{runAsUser: 999, runAsGroup: 999, fsGroup: 999}}
      containers:
      - name: prometheus
        image: {image}
        args: [prometheus, --config.file=/config/prometheus.yml, --storage.tsdb.path=/data]
        ports: [{{name: web, containerPort: 9090}}]
        readinessProbe: {{httpGet: {{path: /-/ready, port: web}}, periodSeconds: 1}}
        volumeMounts: [{{name: config, mountPath: /config}}, {{name: data, mountPath: /data}}]
      - name: discovery
        image: {python}
        command: [python3, /config/discovery.py]
        volumeMounts: [{{name: config, mountPath: /config}}]
      volumes: [{{name: config, configMap: {{name: prometheus}}}}, {{name: data, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, annotations: {{prometheus.io/scrape: "true"}}}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}, annotations: {{prometheus.io/scrape: "true"}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {IMAGE}
        command: [sh, -c, "mkdir -p /www; echo answers_of_web 42 > /www/metrics; exec httpd -f -p 8080 -h /www"]
        ports: [{{name: http, containerPort: 8080}}]
"#
    )
}

#[test]
fn prometheus_finds_and_scrapes_the_cluster_that_it_runs_in() {
    let lab = lab(2, &[&PROMETHEUS, &PYTHON], &[]);
    lab.apply(&manifest());
    rolled(&lab, "deployment/web");
    let available = "{.status.availableReplicas}";
    let deployment = ["deployment", "prometheus", "-n", "monitoring"];
    until(&lab, &deployment, available, |it| it == "1");
    let ask = |path: &str| -> Result<serde_json::Value, String> {
        let proxy = "/api/v1/namespaces/monitoring/services/prometheus:web/proxy";
        let outcome = lab.kubectl(&["get", "--raw", &format!("{proxy}/api/v1/{path}")]);
        serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error}: {outcome:?}"))
    };
    let wanted = [
        ("apiserver", 1),
        ("endpoints", 2),
        ("nodes", 2),
        ("pods", 2),
        ("services", 1),
        ("slices", 2),
    ];
    lab.wait("all targets are up", || {
        let answer = ask("targets?state=active")?;
        let targets = answer["data"]["activeTargets"].as_array().cloned();
        let targets = targets.ok_or("no targets")?;
        for (job, count) in wanted {
            let of_job = targets.iter().filter(|it| it["labels"]["job"] == job);
            let up = of_job.filter(|it| it["health"] == "up").count();
            if up != count {
                return Err(format!("{job} has {up} of {count}: {targets:#?}"));
            }
        }
        (targets.len() == wanted.iter().map(|(_, count)| count).sum::<usize>())
            .then_some(())
            .ok_or_else(|| format!("others as well: {targets:#?}"))
    });
    let value = |query: &str| -> Result<String, String> {
        let answer = ask(&format!("query?query={query}"))?;
        let value = answer["data"]["result"][0]["value"][1].as_str();
        value.map(str::to_owned).ok_or_else(|| answer.to_string())
    };
    lab.wait("what the cluster counts", || {
        for (query, expected) in [
            ("sum(answers_of_web{job=\"pods\"})", "84"),
            ("count(count(up{job=\"nodes\"}==1)by(zone))", "2"),
            ("count(waggle_store_revision{job=\"apiserver\"})", "1"),
        ] {
            let found = value(
                &query
                    .replace('"', "%22")
                    .replace(['{'], "%7B")
                    .replace('}', "%7D"),
            )?;
            if found != expected {
                return Err(format!("{query} is {found}"));
            }
        }
        Ok(())
    });
    // A further pod is found, one that goes is forgotten.
    for replicas in [3, 1] {
        let scale = format!("--replicas={replicas}");
        lab.kubectl(&["scale", "deployment", "web", &scale]).ok();
        lab.wait("the targets follow", || {
            let found = value("count(up%7Bjob=%22pods%22%7D==1)")?;
            (found == replicas.to_string()).then_some(()).ok_or(found)
        });
    }
}

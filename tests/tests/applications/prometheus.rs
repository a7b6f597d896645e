//! Prometheus scrapes the cluster that it runs in: found by Kubernetes service discovery, with its own account.

use waggle_tests::{IMAGE, PROMETHEUS};

use crate::{lab, rolled, until};

fn manifest() -> String {
    let image = PROMETHEUS.image;
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
    - job_name: apiserver
      kubernetes_sd_configs: [{{role: endpoints}}]
      scheme: https
      tls_config: {{ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}}
      authorization: {{credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token}}
      relabel_configs:
      - source_labels: [__meta_kubernetes_namespace, __meta_kubernetes_service_name, __meta_kubernetes_endpoint_port_name]
        action: keep
        regex: default;kubernetes;https
    - job_name: nodes
      kubernetes_sd_configs: [{{role: node}}]
      scheme: https
      tls_config: {{ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt}}
      authorization: {{credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token}}
      relabel_configs:
      - {{action: labelmap, regex: __meta_kubernetes_node_label_(.+)}}
      - {{target_label: __address__, replacement: "kubernetes.default.svc:443"}}
      - {{source_labels: [__meta_kubernetes_node_name], target_label: __metrics_path__, replacement: "/api/v1/nodes/$1/proxy/metrics"}}
    - job_name: slices
      kubernetes_sd_configs: [{{role: endpointslice}}]
      relabel_configs:
      - {{source_labels: [__meta_kubernetes_service_name], action: keep, regex: web}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
    - job_name: endpoints
      kubernetes_sd_configs: [{{role: endpoints}}]
      relabel_configs:
      - {{source_labels: [__meta_kubernetes_service_annotation_prometheus_io_scrape], action: keep, regex: "true"}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
    - job_name: services
      kubernetes_sd_configs: [{{role: service}}]
      relabel_configs:
      - {{source_labels: [__meta_kubernetes_service_annotation_prometheus_io_scrape], action: keep, regex: "true"}}
    - job_name: pods
      kubernetes_sd_configs: [{{role: pod}}]
      relabel_configs:
      - {{source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], action: keep, regex: "true"}}
      - {{source_labels: [__meta_kubernetes_pod_container_port_name], action: keep, regex: http}}
      - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
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
    let lab = lab(2, &[&PROMETHEUS], &[]);
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
            (
                "count(count(up{job=\"nodes\"}==1)by(topology_kubernetes_io_zone))",
                "2",
            ),
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

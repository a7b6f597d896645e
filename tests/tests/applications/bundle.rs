//! What a chart of a real application brings: some thirty manifests, applied, upgraded and deleted, with nothing left in
//! the store or on the node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use waggle_tests::{Cluster, IMAGE, Leftovers};

/// One manifest for each kind of thing that charts bring; `version` is what an upgrade changes.
fn chart(version: u32) -> Vec<String> {
    let run = format!(
        "image: {IMAGE}, command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.2; done\"], \
         env: [{{name: VERSION, value: \"{version}\"}}], \
         resources: {{requests: {{cpu: 10m, memory: 8Mi}}, limits: {{cpu: 100m, memory: 32Mi}}}}"
    );
    let pod = |app: &str, more: &str| {
        format!(
            "metadata: {{labels: {{app: {app}, version: \"{version}\"}}}}\n    spec:\n      serviceAccountName: \
             shop\n      priorityClassName: shop\n      terminationGracePeriodSeconds: 3\n{more}"
        )
    };
    let replicas = version + 1;
    let web = pod(
        "web",
        &format!(
            r#"      initContainers:
      - {{name: wait, {run}, command: ["true"]}}
      - {{name: proxy, {run}, restartPolicy: Always}}
      containers:
      - name: web
        image: {IMAGE}
        command: [sh, -c, "mkdir -p /tmp/www; cat /config/index.html > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"]
        envFrom: [{{configMapRef: {{name: settings}}}}, {{secretRef: {{name: keys}}}}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
        livenessProbe: {{tcpSocket: {{port: http}}}}
        resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{cpu: 200m, memory: 64Mi}}}}
        volumeMounts: [{{name: page, mountPath: /config}}, {{name: tmp, mountPath: /tmp}}]
        securityContext: {{readOnlyRootFilesystem: true, runAsUser: 1000, runAsNonRoot: true}}
      volumes: [{{name: page, configMap: {{name: page}}}}, {{name: tmp, emptyDir: {{medium: Memory}}}}]
"#
        ),
    );
    let simple = |app: &str| pod(app, &format!("      containers: [{{name: main, {run}}}]\n"));
    let db = pod(
        "db",
        &format!(
            "      containers: [{{name: main, {run}, volumeMounts: [{{name: data, mountPath: /data}}]}}]\n"
        ),
    );
    let files = pod(
        "files",
        &format!(
            "      volumes: [{{name: files, persistentVolumeClaim: {{claimName: files}}}}]\n      containers: \
             [{{name: main, {run}, volumeMounts: [{{name: files, mountPath: /files}}]}}]\n"
        ),
    );
    let once = |app: &str| {
        pod(
            app,
            &format!(
                "      restartPolicy: Never\n      containers: [{{name: main, {run}, command: [echo, \
                 \"{version}\"]}}]\n"
            ),
        )
    };
    let n = "namespace: shop";
    let manifests = [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: shop}}".to_owned(),
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: shop}\nvalue: 100\ndescription: the \
         shop"
            .to_owned(),
        r"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: carts.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: carts, singular: cart, kind: Cart, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, required: [size], properties: {size: {type: integer, minimum: 1}}}}}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]"
            .to_owned(),
        format!("apiVersion: v1\nkind: LimitRange\nmetadata: {{name: limits, {n}}}\nspec: {{limits: [{{type: \
                 Container, defaultRequest: {{cpu: 10m, memory: 8Mi}}, default: {{cpu: 200m, memory: 64Mi}}}}]}}"),
        format!("apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: quota, {n}}}\nspec: {{hard: {{pods: \"30\", \
                 requests.cpu: \"2\", services: \"10\", persistentvolumeclaims: \"5\"}}}}"),
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: shop, {n}}}"),
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: shop, {n}}}\nrules: \
                 [{{apiGroups: [\"\"], resources: [configmaps], verbs: [get, list, watch]}}]"),
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: shop, {n}}}\nroleRef: \
                 {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: shop}}\nsubjects: [{{kind: ServiceAccount, \
                 name: shop, {n}}}]"),
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: shop}\nrules: [{apiGroups: \
         [shop.example.com], resources: [carts], verbs: [\"*\"]}]"
            .to_owned(),
        format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: \
                 shop}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: shop}}\nsubjects: \
                 [{{kind: ServiceAccount, name: shop, {n}}}]"),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, {n}}}\ndata: {{COLOUR: blue, VERSION: \
                 \"{version}\"}}"),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: page, {n}}}\ndata: {{index.html: \"version \
                 {version}\"}}"),
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, {n}}}\nstringData: {{KEY: sesame}}"),
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: registry, {n}}}\ntype: \
                 kubernetes.io/dockerconfigjson\nstringData: {{.dockerconfigjson: '{{\"auths\":{{}}}}'}}"),
        format!("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: files, {n}}}\nspec: {{accessModes: \
                 [ReadWriteOnce], resources: {{requests: {{storage: 10Mi}}}}}}"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web, {n}}}\nspec: {{selector: {{app: web}}, ports: \
                 [{{name: http, port: 80, targetPort: http}}]}}"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web-outside, {n}}}\nspec: {{type: NodePort, \
                 selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: db, {n}}}\nspec: {{clusterIP: None, selector: {{app: \
                 db}}, ports: [{{port: 5432}}]}}"),
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: billing, {n}}}\nspec: {{type: ExternalName, \
                 externalName: billing.example.com}}"),
        format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, {n}}}\nspec:\n  replicas: \
                 {replicas}\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    {web}"),
        format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: files, {n}}}\nspec:\n  strategy: {{type: \
                 Recreate}}\n  selector: {{matchLabels: {{app: files}}}}\n  template:\n    {files}"),
        format!("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db, {n}}}\nspec:\n  replicas: 2\n  \
                 serviceName: db\n  persistentVolumeClaimRetentionPolicy: {{whenDeleted: Delete, whenScaled: \
                 Retain}}\n  selector: {{matchLabels: {{app: db}}}}\n  template:\n    {db}  volumeClaimTemplates:\n  - \
                 metadata: {{name: data}}\n    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: \
                 10Mi}}}}}}"),
        format!("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, {n}}}\nspec:\n  selector: \
                 {{matchLabels: {{app: agent}}}}\n  template:\n    {}", simple("agent")),
        format!("apiVersion: batch/v1\nkind: Job\nmetadata: {{name: migrate-{version}, {n}}}\nspec:\n  template:\n    \
                 {}", once("migrate")),
        format!("apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: report, {n}}}\nspec:\n  schedule: \"0 3 1 1 \
                 *\"\n  timeZone: Europe/Berlin\n  jobTemplate:\n    spec: {{template: {{spec: {{restartPolicy: Never, \
                 containers: [{{name: main, {run}, command: [echo, report]}}]}}}}}}"),
        format!("apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: files, {n}}}\nspec: \
                 {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: files}}, maxReplicas: 1, metrics: \
                 [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: \
                 80}}}}}}]}}"),
        format!("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: web, {n}}}\nspec: \
                 {{minAvailable: 1, selector: {{matchLabels: {{app: web}}}}}}"),
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: shop}\nspec: {controller: \
         example.com/none}"
            .to_owned(),
        format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, {n}}}\nspec: \
                 {{ingressClassName: shop, rules: [{{host: shop.example.com, http: {{paths: [{{path: /, pathType: \
                 Prefix, backend: {{service: {{name: web, port: {{name: http}}}}}}}}]}}}}]}}"),
        format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: db, {n}}}\nspec: \
                 {{podSelector: {{matchLabels: {{app: db}}}}, policyTypes: [Ingress], ingress: [{{from: [{{podSelector: \
                 {{matchLabels: {{app: web}}}}}}]}}]}}"),
        format!("apiVersion: shop.example.com/v1\nkind: Cart\nmetadata: {{name: first, {n}}}\nspec: {{size: \
                 {version}}}"),
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: \
         shop}\nspec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [shop.example.com], \
         apiVersions: [v1], operations: [CREATE, UPDATE], resources: [carts]}]}, validations: [{expression: \
         'object.spec.size < 100', message: that is too much}]}"
            .to_owned(),
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {name: \
         shop}\nspec: {policyName: shop, validationActions: [Deny]}"
            .to_owned(),
    ];
    manifests.into()
}

/// Every object of every kind that can be listed, but for what tells of the past and what nodes renew.
fn objects(cluster: &Cluster) -> BTreeSet<String> {
    let kinds = ["api-resources", "--verbs=list,delete", "-o", "name"];
    let kinds = cluster.kubectl(&kinds).ok();
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events") && !kind.contains("metrics"))
        .collect();
    let names =
        "jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let list = cluster
        .kubectl(&["get", &kinds.join(","), "-A", "-o", names])
        .ok();
    list.lines().map(str::to_owned).collect()
}

fn on_the_node(cluster: &Cluster) -> Leftovers {
    let mut found = cluster.leftovers();
    // Those of the cluster itself have other numbers each time.
    found.processes.clear();
    found
}

#[test]
fn a_chart_is_applied_upgraded_and_deleted_and_nothing_is_left() {
    let cluster = Cluster::start();
    // What the first pod of a node brings stays for those that follow.
    let image = format!("--image={IMAGE}");
    let first = ["run", "first", &image, "--restart=Never", "--", "true"];
    cluster.kubectl(&first).ok();
    cluster.wait_for(&["pod", "first"], "{.status.phase}", "Succeeded");
    cluster.kubectl(&["delete", "pod", "first"]).ok();
    let (store, node) = (objects(&cluster), on_the_node(&cluster));
    let write = |version: u32| {
        let path = cluster.scratch().join(format!("chart-{version}.yaml"));
        std::fs::write(&path, chart(version).join("\n---\n")).unwrap();
        path.to_string_lossy().into_owned()
    };
    assert!(chart(1).len() >= 30);
    let settled = |version: u32| {
        for workload in [
            "deployment/web",
            "deployment/files",
            "statefulset/db",
            "daemonset/agent",
        ] {
            let status = ["rollout", "status", "-n", "shop", workload, "--timeout=90s"];
            let outcome = cluster.kubectl(&status);
            let pods = || cluster.kubectl(&["describe", "pods", "-n", "shop"]).stdout;
            assert!(outcome.code == Some(0), "{outcome:?}\n{}", pods());
        }
        let job = format!("job/migrate-{version}");
        let complete = [
            "wait",
            "-n",
            "shop",
            &job,
            "--for=condition=complete",
            "--timeout=60s",
        ];
        cluster.kubectl(&complete).ok();
        let web = "/api/v1/namespaces/shop/services/web:http/proxy/";
        waggle_tests::wait_until("the page", Duration::from_secs(20), || {
            let page = cluster.kubectl(&["get", "--raw", web]).stdout;
            (page == format!("version {version}")).then_some(())
        });
    };
    // A definition is there before what it defines, as charts have it (`crds/`).
    let first = write(1);
    let definition = cluster.scratch().join("definition.yaml");
    std::fs::write(&definition, &chart(1)[2]).unwrap();
    cluster
        .kubectl(&["apply", "-f", &definition.to_string_lossy()])
        .ok();
    let established = [
        "wait",
        "crd",
        "carts.shop.example.com",
        "--for=condition=established",
    ];
    cluster.kubectl(&established).ok();
    cluster.kubectl(&["apply", "-f", &first]).ok();
    settled(1);
    assert_eq!(
        cluster.kubectl(&["diff", "-f", &first]).ok(),
        "",
        "applied is what is there"
    );
    let rows = cluster.kubectl(&["get", "ct", "-n", "shop"]).ok();
    assert!(rows.contains("first") && rows.contains("SIZE"), "{rows}");

    let second = write(2);
    cluster.kubectl(&["apply", "-f", &second]).ok();
    settled(2);
    cluster.wait_for(
        &["deployment", "web", "-n", "shop"],
        "{.status.readyReplicas}",
        "3",
    );
    cluster.wait_for(&["cart", "first", "-n", "shop"], "{.spec.size}", "2");

    cluster
        .kubectl(&[
            "delete",
            "-f",
            &first,
            "-f",
            &second,
            "--ignore-not-found",
            "--timeout=120s",
        ])
        .ok();
    waggle_tests::wait_until("an empty store", Duration::from_secs(60), || {
        (objects(&cluster) == store).then_some(())
    });
    let started = Instant::now();
    while on_the_node(&cluster) != node && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(on_the_node(&cluster), node);
    let volumes = cluster.data_dir().join("agent/local-volumes");
    assert_eq!(std::fs::read_dir(volumes).map_or(0, Iterator::count), 0);
}

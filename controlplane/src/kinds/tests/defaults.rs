//! What the server adds to what a client leaves out.

use serde_json::json;

use super::{created, kind};

#[test]
fn a_pod_gets_everything_that_kubernetes_documents() {
    let pod = created(
        kind("Pod"),
        json!({"metadata": {"name": "a"}, "spec": {
            "containers": [{
                "name": "a", "image": "nginx",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}],
        }, "status": {"phase": "Running"}}),
    );
    assert_eq!(
        pod,
        json!({
            "metadata": {"name": "a", "namespace": "default", "generation": 1},
            "spec": {
                "containers": [{
                    "name": "a", "image": "nginx", "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {
                        "limits": {"cpu": "1", "memory": "1Gi"},
                        "requests": {"cpu": "1", "memory": "1Gi"},
                    },
                    "readinessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1,
                        "failureThreshold": 3,
                    },
                    "env": [{"name": "IP", "valueFrom": {
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"},
                    }}],
                }],
                "volumes": [
                    {"name": "v", "emptyDir": {}},
                    {"name": "c", "configMap": {"name": "c", "defaultMode": 420}},
                ],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "securityContext": {}, "enableServiceLinks": true,
                "serviceAccountName": "default", "serviceAccount": "default",
                "tolerations": [
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                     "effect": "NoExecute", "tolerationSeconds": 300},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                     "effect": "NoExecute", "tolerationSeconds": 300},
                ],
            },
            "status": {"phase": "Pending", "qosClass": "Guaranteed"},
        })
    );
}

#[test]
fn the_pull_policy_follows_from_the_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:latest@sha256:abc", "IfNotPresent"),
    ] {
        let pod = created(
            kind("Pod"),
            json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": image}]}}),
        );
        assert_eq!(
            pod["spec"]["containers"][0]["imagePullPolicy"], policy,
            "{image}"
        );
    }
}

#[test]
fn the_quality_of_service_follows_from_the_resources() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
            "Burstable",
        ),
    ] {
        let pod = created(
            kind("Pod"),
            json!({"metadata": {"name": "a"}, "spec": {
                "containers": [{"name": "a", "image": "x", "resources": resources}],
            }}),
        );
        assert_eq!(pod["status"]["qosClass"], class, "{resources}");
    }
}

#[test]
fn a_deployment_gets_its_strategy() {
    let deployment = created(
        kind("Deployment"),
        json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": []}}}}),
    );
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    // What only admission adds is not in templates.
    assert_eq!(
        spec["template"]["spec"],
        json!({
            "containers": [], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
        })
    );
    assert_eq!(deployment["metadata"]["generation"], 1);
}

#[test]
fn a_service_gets_what_its_type_has() {
    let service = created(
        kind("Service"),
        json!({"metadata": {"name": "a"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
    );
    assert_eq!(
        service["spec"],
        json!({
            "type": "LoadBalancer", "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
            "allocateLoadBalancerNodePorts": true, "ipFamilyPolicy": "SingleStack",
        })
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
    let service = created(
        kind("Service"),
        json!({"metadata": {"name": "a"}, "spec": {
            "clusterIP": "fd00::1", "sessionAffinity": "ClientIP", "ports": [],
        }}),
    );
    assert_eq!(service["spec"]["clusterIPs"], json!(["fd00::1"]));
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6"]));
    assert_eq!(
        service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
}

#[test]
fn a_secret_takes_plain_strings() {
    let secret = created(
        kind("Secret"),
        json!({"metadata": {"name": "a"}, "data": {"a": "b2xk"}, "stringData": {"a": "new"}}),
    );
    assert_eq!(secret["data"], json!({"a": "bmV3"}));
    assert_eq!(secret["type"], "Opaque");
    assert!(secret.get("stringData").is_none());
}

#[test]
fn a_namespace_is_labelled_and_finalized() {
    let namespace = created(kind("Namespace"), json!({"metadata": {"name": "a"}}));
    assert_eq!(
        namespace,
        json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        })
    );
}

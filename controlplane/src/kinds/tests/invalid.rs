//! Invalid objects and the exact sentences that clients get for them.

use serde_json::{Value, json};

use super::{kind, problems};

fn check(kind_name: &str, object: Value, expected: &[&str]) {
    assert_eq!(problems(kind(kind_name), object), expected);
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": spec})
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": spec})
}

fn container(fields: Value) -> Value {
    let mut container = json!({"name": "a", "image": "x"});
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    pod(json!({"containers": [container]}))
}

fn deployment(spec: Value) -> Value {
    let mut all = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": "web"}, "spec": all})
}

#[test]
fn good_objects_have_no_problems() {
    check("Pod", container(json!({})), &[]);
    check(
        "Service",
        service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}})),
        &[],
    );
    check("Service", service(json!({"clusterIP": "None"})), &[]);
    check(
        "Service",
        service(json!({"type": "ExternalName", "externalName": "a.example.com."})),
        &[],
    );
    check(
        "Service",
        service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]})),
        &[],
    );
    check(
        "Service",
        service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]})),
        &[],
    );
    check("Deployment", deployment(json!({})), &[]);
    check(
        "Deployment",
        deployment(json!({"strategy": {"type": "Recreate"}})),
        &[],
    );
    check("ReplicaSet", deployment(json!({})), &[]);
    check("Namespace", json!({"metadata": {"name": "team-a"}}), &[]);
    check("Node", json!({"metadata": {"name": "node-1.example"}}), &[]);
    check(
        "ConfigMap",
        json!({"metadata": {"name": "c"}, "data": {"a.b": "c"}}),
        &[],
    );
    check(
        "Secret",
        json!({"metadata": {"name": "s"}, "data": {"a": "Yg=="}}),
        &[],
    );
    check("ServiceAccount", json!({"metadata": {"name": "s"}}), &[]);
    check(
        "Lease",
        json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 40}}),
        &[],
    );
    check(
        "Event",
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}}),
        &[],
    );
    check(
        "EndpointSlice",
        json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        &[],
    );
    check(
        "Endpoints",
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
        &[],
    );
}

#[test]
fn names() {
    check(
        "ConfigMap",
        json!({"metadata": {"name": "Bad_Name"}}),
        &[
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of \
           lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
           character (e.g. 'example.com', regex used for validation is \
           '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
    );
    check(
        "Namespace",
        json!({"metadata": {"name": "-a"}}),
        &[
            "metadata.name: Invalid value: \"-a\": a lowercase RFC 1123 label must consist of lower case \
           alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
           'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "metadata.labels: Invalid value: \"-a\": a valid label must be an empty string or consist of \
           alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
           character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    check(
        "Namespace",
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    check(
        "Service",
        json!({"metadata": {"name": "1web"}, "spec": {"ports": [{"port": 80}]}}),
        &[
            "metadata.name: Invalid value: \"1web\": a DNS-1035 label must consist of lower case \
           alphanumeric characters or '-', start with an alphabetic character, and end with an \
           alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
           '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check(
        "ConfigMap",
        json!({"metadata": {}}),
        &["metadata.name: Required value: name or generateName is required"],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"name": "a".repeat(254)}}),
        &[&format!(
            "metadata.name: Invalid value: \"{}\": must be no more than 253 characters",
            "a".repeat(254)
        )],
    );
}

#[test]
fn metadata() {
    check(
        "ConfigMap",
        json!({"metadata": {"name": "a", "labels": {"a/b/c": "x", "b": "-"}}}),
        &[
            "metadata.labels: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
             'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
             (e.g. 'example.com/MyName')",
            "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of \
             alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"name": "a", "labels": {"k": "v".repeat(64)}}}),
        &[&format!(
            "metadata.labels: Invalid value: \"{}\": must be no more than 63 bytes",
            "v".repeat(64)
        )],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"name": "a", "annotations": {"k": "v".repeat(256 * 1024)}}}),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod"}]}}),
        &[
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ],
    );
    check(
        "Node",
        json!({"metadata": {"name": "a", "namespace": "b"}}),
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
}

#[test]
fn services() {
    check(
        "Service",
        service(json!({"ports": [{"port": 0}]})),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        "Service",
        service(json!({})),
        &["spec.ports: Required value"],
    );
    check(
        "Service",
        service(json!({"ports": [{"port": 80}, {"port": 80, "name": "b", "protocol": "TCP"}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ],
    );
    check(
        "Service",
        service(
            json!({"ports": [{"port": 80, "protocol": "HTTP", "nodePort": 30000, "targetPort": "no_good"}]}),
        ),
        &[
            "spec.ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.ports[0].targetPort: Invalid value: \"no_good\": must contain only alpha-numeric \
             characters (a-z, 0-9), and hyphens (-)",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ],
    );
    check(
        "Service",
        service(json!({"type": "Foo", "sessionAffinity": "Sticky", "ports": [{"port": 80}]})),
        &[
            "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
            "spec.type: Unsupported value: \"Foo\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check(
        "Service",
        service(json!({"clusterIP": "1.2.3", "ports": [{"port": 80}]})),
        &[
            "spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or \
           2001:db8::ffff)",
        ],
    );
    check(
        "Service",
        service(json!({"type": "ExternalName"})),
        &["spec.externalName: Required value"],
    );
    check(
        "Service",
        service(json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"})),
        &[
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
           externally-accessible services",
        ],
    );
    check(
        "Service",
        service(json!({
            "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90_000}},
        })),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater \
           than 0 and less than 86400",
        ],
    );
    check(
        "Service",
        service(json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]})),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
           (127.0.0.0/8, ::1/128)",
        ],
    );
}

#[test]
fn load_balancers_and_external_names() {
    let noted = |ranges: &str, kind: &str| {
        json!({
            "metadata": {"name": "web", "annotations": {
                "service.beta.kubernetes.io/load-balancer-source-ranges": ranges}},
            "spec": {"type": kind, "ports": [{"port": 80}]},
        })
    };
    check(
        "Service",
        noted("10.0.0.0/8, 192.0.2.0/24", "LoadBalancer"),
        &[],
    );
    check("Service", noted(" ", "ClusterIP"), &[]);
    check(
        "Service",
        noted("10.0.0.0/8", "ClusterIP"),
        &[
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only \
           be used when `type` is 'LoadBalancer'",
        ],
    );
    check(
        "Service",
        service(json!({"type": "LoadBalancer", "ports": [{"port": 80}],
            "loadBalancerSourceRanges": ["10.0.0.0/33"], "loadBalancerClass": "a b"})),
        &[
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, \
             (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            "spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of alphanumeric characters, \
             '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
             'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    check(
        "Service",
        service(
            json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.1",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
        ),
        &[
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ],
    );
}

#[test]
fn pods() {
    check("Pod", pod(json!({})), &["spec.containers: Required value"]);
    check(
        "Pod",
        pod(json!({"containers": [{}, {"name": "A", "image": " x"}]})),
        &[
            "spec.containers[0].name: Required value",
            "spec.containers[0].image: Required value",
            "spec.containers[1].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an alphanumeric \
             character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.containers[1].image: Invalid value: \" x\": must not have leading or trailing whitespace",
        ],
    );
    check(
        "Pod",
        pod(json!({
            "restartPolicy": "Sometimes", "dnsPolicy": "Mine",
            "containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x", "imagePullPolicy": "Maybe"}],
        })),
        &[
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.containers[1].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \
             \"Always\", \"IfNotPresent\", \"Never\"",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"OnFailure\", \"Never\"",
            "spec.dnsPolicy: Unsupported value: \"Mine\": supported values: \
             \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
        ],
    );
}

#[test]
fn ports_and_environment() {
    check(
        "Pod",
        container(json!({"ports": [
            {"containerPort": 70_000}, {"containerPort": 80, "name": "web"},
            {"containerPort": 81, "name": "web", "hostPort": -1}, {},
        ]})),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and \
             65535, inclusive",
            "spec.containers[0].ports[2].name: Duplicate value: \"web\"",
            "spec.containers[0].ports[2].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[3].containerPort: Required value",
        ],
    );
    check(
        "Pod",
        container(json!({"env": [
            {"name": ""}, {"name": "A=B"},
            {"name": "C", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "D", "valueFrom": {}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}},
        ]})),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name \
             must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` \
             is not empty",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
             `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error \
             converting fieldPath: field label not supported: spec.foo",
        ],
    );
}

#[test]
fn restart_rules() {
    let rule = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "exitCodes": {"operator": operator, "values": values}});
    check(
        "Pod",
        container(json!({"restartPolicyRules": [
            rule("RestartAllContainers", "In", &[1]), rule("Nonsense", "Of", &[]), {"action": "Restart"}]})),
        &[
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart \
             rules are used",
            "spec.containers[0].restartPolicyRules[1].action: Unsupported value: \"Nonsense\": supported \
             values: \"Restart\", \"RestartAllContainers\"",
            "spec.containers[0].restartPolicyRules[1].exitCodes.operator: Unsupported value: \"Of\": \
             supported values: \"In\", \"NotIn\"",
            "spec.containers[0].restartPolicyRules[1].exitCodes.values: Invalid value: []: must specify at \
             least 1 value",
            "spec.containers[0].restartPolicyRules[2].exitCodes: Required value: must be specified",
        ],
    );
}

#[test]
fn resources_and_probes() {
    check(
        "Pod",
        container(json!({"resources": {
            "limits": {"cpu": "1", "memory": "-1", "foo": "1"}, "requests": {"cpu": "2"},
        }})),
        &[
            "spec.containers[0].resources.limits[foo]: Invalid value: \"foo\": must be a standard \
             resource for containers",
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or \
             equal to 0",
            "spec.containers[0].resources.requests[foo]: Invalid value: \"foo\": must be a standard \
             resource for containers",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than \
             or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to \
             cpu limit of 1",
        ],
    );
    check(
        "Pod",
        container(json!({
            "readinessProbe": {},
            "livenessProbe": {"tcpSocket": {"port": 0}, "exec": {"command": ["a"]}, "successThreshold": 2,
                              "timeoutSeconds": -1},
        })),
        &[
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.timeoutSeconds: Invalid value: -1: must be greater than or \
             equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ],
    );
}

#[test]
fn volumes_and_mounts() {
    check(
        "Pod",
        pod(json!({
            "volumes": [
                {"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}},
                {"name": "v", "configMap": {}},
                {"name": "h", "hostPath": {"path": "/a/../b", "type": "Socks"}},
                {"name": "s", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../x"}]}},
            ],
            "containers": [{"name": "a", "image": "x", "volumeMounts": [
                {"name": "w", "mountPath": "/w"}, {"name": "v"}, {"name": "v", "mountPath": "/w"},
            ]}],
        })),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.volumes[1].configMap.name: Required value",
            "spec.volumes[2].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[2].hostPath.type: Unsupported value: \"Socks\": supported values: \"\", \
             \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
             \"FileOrCreate\", \"Socket\"",
            "spec.volumes[3].secret.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Required value",
            "spec.containers[0].volumeMounts[2].mountPath: Invalid value: \"/w\": must be unique",
        ],
    );
}

#[test]
fn scheduling() {
    check(
        "Pod",
        pod(json!({
            "containers": [{"name": "a", "image": "x"}],
            "tolerations": [
                {"key": "", "operator": "Equal"},
                {"key": "a", "operator": "Exists", "tolerationSeconds": 3},
                {"key": "b", "operator": "Is"},
                {"key": "c", "effect": "Sometimes"},
            ],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "a", "operator": "In"}, {"key": "b", "operator": "Like"},
                ]}],
            }}},
        })),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
             .nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when \
             `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
             .nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: \"Like\": not a valid \
             selector operator",
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` \
             is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
            "spec.tolerations[2].operator: Unsupported value: \"Is\": supported values: \"Equal\", \"Exists\"",
            "spec.tolerations[3].effect: Unsupported value: \"Sometimes\": supported values: \
             \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
}

#[test]
fn deployments() {
    check(
        "Deployment",
        deployment(json!({"selector": {"matchLabels": {"app": "other"}}, "replicas": -1})),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match \
             template `labels`",
        ],
    );
    check(
        "Deployment",
        deployment(json!({"selector": {}})),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    check(
        "Deployment",
        deployment(json!({"selector": null})),
        &["spec.selector: Required value"],
    );
    check(
        "Deployment",
        deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}})),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when \
           `maxSurge` is 0",
        ],
    );
    check(
        "Deployment",
        deployment(json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}})),
        &[
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ],
    );
    check(
        "Deployment",
        deployment(
            json!({"strategy": {"rollingUpdate": {"maxSurge": "half"}}, "progressDeadlineSeconds": 5, "minReadySeconds": 5}),
        ),
        &[
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"half\": a valid percent string must \
             be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for \
             validation is '[0-9]+%')",
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ],
    );
    let mut never = deployment(json!({}));
    never["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    check(
        "Deployment",
        never,
        &[
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
}

#[test]
fn the_small_kinds() {
    check(
        "ConfigMap",
        json!({"metadata": {"name": "c"}, "data": {"a b": "", "k": ""}, "binaryData": {"k": ""}}),
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric \
             characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used \
             for validation is '[-._a-zA-Z0-9]+')",
            "data[k]: Invalid value: \"k\": duplicate of key present in binaryData",
        ],
    );
    check(
        "ConfigMap",
        json!({"metadata": {"name": "c"}, "data": {"a": "x".repeat(1024 * 1024 + 1)}}),
        &["[]: Too long: may not be more than 1048576 bytes"],
    );
    check(
        "Secret",
        json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}),
        &["data[tls.key]: Required value"],
    );
    check(
        "Secret",
        json!({"metadata": {"name": "s"}, "type": "kubernetes.io/service-account-token"}),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    check(
        "Lease",
        json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}}),
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    );
    check(
        "Event",
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    check(
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {
            "podCIDR": "10.0.0.0/33", "taints": [{"key": "a", "effect": "Never"}],
        }}),
        &[
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\"",
            "spec.podCIDRs[0]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, (e.g. \
             10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    check(
        "EndpointSlice",
        json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [
            {"addresses": []}, {"addresses": ["::1"]}, {"addresses": ["127.0.0.1"]},
        ], "ports": [{"port": 0}]}),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
            "endpoints[2].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
             (127.0.0.0/8, ::1/128)",
            "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        "Endpoints",
        json!({"metadata": {"name": "e"}, "subsets": [{"ports": [{"port": 80}]}]}),
        &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
    );
}

//! Rules of Kubernetes' kinds, one row each: a good object, what is changed in it, and what is said of that.

use serde_json::{Value, json};

use super::{changed, kind, problems};

const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// The object without what is at `path`, or with another value there.
fn with(mut object: Value, path: &str, value: Option<Value>) -> Value {
    let (holder, last) = path.rsplit_once('/').unwrap();
    let holder = object.pointer_mut(holder).unwrap();
    match (holder, value) {
        (Value::Object(map), Some(value)) => drop(map.insert(last.to_owned(), value)),
        (Value::Object(map), None) => drop(map.remove(last).unwrap()),
        (Value::Array(list), Some(value)) => list.push(value),
        other => panic!("{path}: {other:?}"),
    }
    object
}

/// Rows: path, new value (nothing: it is removed), complaints.
fn check(name: &str, good: &Value, rows: &[(&str, Option<Value>, &[String])]) {
    let none: Vec<String> = Vec::new();
    assert_eq!(problems(kind(name), good.clone()), none, "{name}");
    for (path, value, expected) in rows {
        let object = with(good.clone(), path, value.clone());
        assert_eq!(
            problems(kind(name), object),
            *expected,
            "{name} {path} {value:?}"
        );
    }
}

fn one(text: impl Into<String>) -> Vec<String> {
    vec![text.into()]
}

#[test]
fn finalizers_have_a_domain() {
    let map = json!({"metadata": {"name": "c"}});
    let bare = "metadata.finalizers[1]: Invalid value: \"x\": name is neither a standard finalizer name nor is it \
                fully qualified";
    let rows = [(
        "/metadata/finalizers",
        Some(json!(["foregroundDeletion", "x", "a.b/c"])),
        &one(bare)[..],
    )];
    check("ConfigMap", &map, &rows);
    let api = json!({"metadata": {"name": "v1.a.b", "finalizers": ["x"]},
        "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
    check("APIService", &api, &[]);
}

#[test]
fn ports() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "appProtocol": "a.b/http"}]}});
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"ports": [{"port": 80, "appProtocol": "http"}],
        "addresses": [{"ip": "10.0.0.1", "nodeName": "n"}]}]});
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}]}}]});
    let wrong = |field: &str| {
        one(format!(
            "{field}.appProtocol: Invalid value: \"A b\": {NAME_PART}"
        ))
    };
    let value = || Some(json!("A b"));
    check(
        "Service",
        &service,
        &[(
            "/spec/ports/0/appProtocol",
            value(),
            &wrong("spec.ports[0]"),
        )],
    );
    check(
        "Endpoints",
        &endpoints,
        &[
            (
                "/subsets/0/ports/0/appProtocol",
                value(),
                &wrong("subsets[0].ports[0]"),
            ),
            (
                "/subsets/0/addresses/0/nodeName",
                value(),
                &one(format!(
                    "subsets[0].addresses[0].nodeName: Invalid value: \"A b\": {SUBDOMAIN}"
                )),
            ),
        ],
    );
    check(
        "EndpointSlice",
        &slice,
        &[
            ("/ports/0/appProtocol", value(), &wrong("ports[0]")),
            (
                "/endpoints/0/hints/forZones/-",
                Some(json!({"name": "a"})),
                &one("endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""),
            ),
        ],
    );
}

#[test]
fn limits_and_quotas() {
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "2"}, "default": {"cpu": "1"}, "min": {"cpu": "1"}}]}});
    check(
        "LimitRange",
        &range,
        &[
            (
                "/spec/limits/0/type",
                Some(json!("Node")),
                &one(
                    "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified",
                ),
            ),
            ("/spec/limits/0/type", Some(json!("a.b/Node")), &[]),
            (
                "/spec/limits/0/max/foo",
                Some(json!("1")),
                // What a maximum says is the default too.
                &["max", "default", "defaultRequest"].map(|field| {
                    format!(
                        "spec.limits[0].{field}[foo]: Invalid value: \"foo\": must be a standard resource for \
                         containers"
                    )
                }),
            ),
            (
                "/spec/limits/0/default/cpu",
                Some(json!("3")),
                // And a default is what is requested by default, too.
                &[
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 2",
                    "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2",
                ]
                .map(str::to_owned),
            ),
            (
                "/spec/limits/0/default/cpu",
                Some(json!("500m")),
                &[
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"500m\": min value 1 is greater than default request \
                     value 500m",
                    "spec.limits[0].default[cpu]: Invalid value: \"1\": min value 1 is greater than default value 500m",
                ]
                .map(str::to_owned),
            ),
        ],
    );
    // What is counted by its resource is no resource that a scope could be about.
    let quota = json!({"metadata": {"name": "q"}, "spec": {"scopes": ["NotTerminating"],
        "hard": {"pods": "1", "count/deployments.apps": "1"}}});
    let unsupported = one(
        "spec.scopes: Invalid value: [\"NotTerminating\"]: unsupported scope applied to resource",
    );
    check(
        "ResourceQuota",
        &quota,
        &[("/spec/hard/services", Some(json!("1")), &unsupported)],
    );
}

#[test]
fn volumes_of_drivers() {
    let secret = json!({"name": "s", "namespace": "n"});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "D.example.com", "volumeHandle": "h", "nodeStageSecretRef": secret}}});
    check(
        "PersistentVolume",
        &volume,
        &[
            // The cluster's own.
            ("/spec/csi/driver", Some(json!("waggle.dev/local")), &[]),
            (
                "/spec/csi/driver",
                Some(json!("A b")),
                &one(format!(
                    "spec.csi.driver: Invalid value: \"A b\": {SUBDOMAIN}"
                )),
            ),
            (
                "/spec/csi/nodeStageSecretRef/namespace",
                None,
                &one("spec.csi.nodeStageSecretRef.namespace: Required value"),
            ),
        ],
    );
    let folder = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}});
    let kinds = "supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \
                 \"File\", \"FileOrCreate\", \"Socket\"";
    check(
        "PersistentVolume",
        &folder,
        &[(
            "/spec/hostPath/type",
            Some(json!("Socks")),
            &one(format!(
                "spec.hostPath.type: Unsupported value: \"Socks\": {kinds}"
            )),
        )],
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}],
        "volumes": [{"name": "v", "csi": {"driver": "d"}}]}});
    check(
        "Pod",
        &pod,
        &[
            (
                "/spec/volumes/0/csi/driver",
                Some(json!("A b")),
                &one(format!("spec.volumes[0].csi.driver: Invalid value: \"A b\": {SUBDOMAIN}")),
            ),
            (
                "/spec/volumes/-",
                Some(json!({"name": "g", "gitRepo": {"directory": "/a"}})),
                &[
                    "spec.volumes[1].gitRepo.repository: Required value".to_owned(),
                    "spec.volumes[1].gitRepo.directory: Invalid value: \"/a\": must be a relative path".to_owned(),
                ],
            ),
            (
                "/spec/volumes/-",
                Some(json!({"name": "g", "gcePersistentDisk": {"pdName": "a", "partition": 256}})),
                &one("spec.volumes[1].persistentDisk.partition: Invalid value: 256: must be between 0 and 255, inclusive"),
            ),
        ],
    );
    let node = json!({"metadata": {"name": "n"}, "spec": {"drivers": [
        {"name": "d", "nodeID": "i", "topologyKeys": ["a"]}]}});
    check(
        "CSINode",
        &node,
        &[(
            "/spec/drivers/0/topologyKeys/-",
            Some(json!("a")),
            &one("spec.drivers[0]: Duplicate value: \"a\""),
        )],
    );
    let expression = json!({"key": "zone", "values": ["a"]});
    let class = json!({"metadata": {"name": "c"}, "provisioner": "p",
        "allowedTopologies": [{"matchLabelExpressions": [expression]}]});
    check(
        "StorageClass",
        &class,
        &[
            (
                "/allowedTopologies/-",
                Some(json!({"matchLabelExpressions": [expression]})),
                &one("allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""),
            ),
            (
                "/allowedTopologies/0/matchLabelExpressions/-",
                Some(expression.clone()),
                &one(
                    "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
                ),
            ),
            (
                "/allowedTopologies/0/matchLabelExpressions/0/values/-",
                Some(json!("a")),
                &one(
                    "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
                ),
            ),
        ],
    );
}

#[test]
fn places_of_pods() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}],
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}});
    let term = "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm";
    let key = "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey";
    check(
        "Pod",
        &pod,
        &[
            (
                term,
                None,
                &[
                    format!("{key}: Required value: can not be empty"),
                    format!("{key}: Invalid value: \"\": name part must be non-empty"),
                    format!("{key}: Invalid value: \"\": {NAME_PART}"),
                ],
            ),
            (
                "/spec/topologySpreadConstraints/0/whenUnsatisfiable",
                None,
                &one(
                    "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"\": supported values: \
                     \"DoNotSchedule\", \"ScheduleAnyway\"",
                ),
            ),
        ],
    );
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}});
    check(
        "Node",
        &node,
        &[(
            "/spec/podCIDRs/-",
            Some(json!("10.0.1.0/24")),
            &one(
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR \
                 for each IP family",
            ),
        )],
    );
}

#[test]
fn traffic() {
    let ingress = json!({"metadata": {"name": "i"}, "spec": {
        "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}},
        "tls": [{"hosts": ["a.b"], "secretName": "s"}]}});
    check(
        "Ingress",
        &ingress,
        &[
            (
                "/spec/tls/0/hosts/-",
                Some(json!("")),
                &one(format!(
                    "spec.tls[0].hosts[1]: Invalid value: \"\": {SUBDOMAIN}"
                )),
            ),
            (
                "/spec/tls/0/secretName",
                Some(json!("A b")),
                &one(format!(
                    "spec.tls[0].secretName: Invalid value: \"A b\": {SUBDOMAIN}"
                )),
            ),
        ],
    );
    let class = json!({"metadata": {"name": "c"}, "spec": {"controller": "a.b/c", "parameters":
        {"kind": "K", "name": "n", "scope": "Namespace", "namespace": "x"}}});
    check(
        "IngressClass",
        &class,
        &[(
            "/spec/parameters/namespace",
            Some(json!("A b")),
            &one(format!(
                "spec.parameters.namespace: Invalid value: \"A b\": {LABEL}"
            )),
        )],
    );
    let api = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1",
        "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "n", "name": "s"}}});
    check(
        "APIService",
        &api,
        &[(
            "/spec/service/port",
            Some(json!(0)),
            &one(
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ),
        )],
    );
}

#[test]
fn scalers() {
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 2,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
            "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]}});
    check(
        "HorizontalPodAutoscaler",
        &scaler,
        &[
            (
                "/spec/metrics/0/object/describedObject/kind",
                None,
                &one("spec.metrics[0].object.describedObject.kind: Required value"),
            ),
            (
                "/spec/metrics/0/object/metric/name",
                Some(json!("a/b")),
                &one(
                    "spec.metrics[0].object.metric.name: Invalid value: \"a/b\": may not contain '/'",
                ),
            ),
            (
                "/spec/metrics/0/object/metric/name",
                None,
                &one(
                    "spec.metrics[0].object.metric.name: Required value: must specify a metric name",
                ),
            ),
            (
                "/spec/metrics/0/object/target/type",
                None,
                &one(
                    "spec.metrics[0].object.target.type: Required value: must specify a metric target type",
                ),
            ),
        ],
    );
}

#[test]
fn webhooks() {
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"]});
    let hooks = json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c", "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://a.b/c"}, "rules": [rule]}]});
    let at = "webhooks[0].rules[0]";
    check(
        "ValidatingWebhookConfiguration",
        &hooks,
        &[
            (
                "/webhooks/0/rules/0/apiGroups/-",
                Some(json!("*")),
                &one(format!(
                    "{at}.apiGroups: Invalid value: [\"\",\"*\"]: if '*' is present, must not specify other API groups"
                )),
            ),
            (
                "/webhooks/0/rules/0/apiVersions/-",
                Some(json!("")),
                &one(format!("{at}.apiVersions[1]: Required value")),
            ),
            (
                "/webhooks/0/rules/0/resources/-",
                Some(json!("pods/log")),
                &one(format!(
                    "{at}.resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log"
                )),
            ),
            (
                "/webhooks/0/admissionReviewVersions/-",
                Some(json!("v1")),
                &one(
                    "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
                ),
            ),
        ],
    );
}

#[test]
fn events() {
    let find = |group: &str| {
        let mut kinds = super::all().iter().filter(|kind| kind.kind == "Event");
        *kinds.find(|kind| kind.group == group).unwrap()
    };
    let event = json!({"metadata": {"name": "e"}, "regarding": {"namespace": "default"}, "type": "Normal",
        "eventTime": "2026-01-02T03:04:05.000000Z", "series": {"count": 1}, "deprecatedCount": 3});
    let mut said = problems(find("events.k8s.io"), event.clone());
    assert_eq!(said[0], "reportingController: Required value");
    said.retain(|complaint| !complaint.starts_with("reportingController: "));
    assert_eq!(
        said,
        [
            "reportingInstance: Required value",
            "action: Required value",
            "reason: Required value",
            "series.count: Invalid value: \"\": should be at least 2",
            "series.lastObservedTime: Required value",
            "count: Invalid value: \"\": needs to be unset",
        ]
    );
    let core = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"},
        "eventTime": "2026-01-02T03:04:05.000000Z", "reportingComponent": "a.b/c", "reason": "R"});
    assert_eq!(
        problems(find(""), core),
        [
            "reportingInstance: Required value",
            "action: Required value"
        ]
    );
    let old =
        json!({"metadata": {"name": "e"}, "regarding": {"namespace": "default"}, "type": "Normal"});
    let mut new = old.clone();
    new["type"] = "Warning".into();
    new["series"] = json!({"count": 2});
    let (complaints, _) = changed(find("events.k8s.io"), old, new, "");
    assert_eq!(
        complaints,
        [
            "series.lastObservedTime: Required value",
            "type: Invalid value: \"Warning\": field is immutable"
        ]
    );
}

#[test]
fn node_affinity_is_about_values_that_labels_can_have() {
    let term = |operator: &str, values: &[&str]| {
        json!({"matchExpressions": [
        {"key": "a", "operator": operator, "values": values}]})
    };
    let required = |term: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [term]}}})
    };
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x"}],
        "affinity": required(term("In", &["b", ""]))}});
    let field = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
                 matchExpressions[0].values";
    let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                 regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let wrong = |index: usize, text: &str| {
        one(format!(
            "{field}[{index}]: Invalid value: \"{text}\": {value}"
        ))
    };
    let preferred = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": term("In", &["a b"])}]}});
    let rows = [
        (
            "/spec/affinity",
            Some(required(term("NotIn", &["a", "a b"]))),
            &wrong(1, "a b")[..],
        ),
        (
            "/spec/affinity",
            Some(required(term("Gt", &["-1"]))),
            &wrong(0, "-1")[..],
        ),
        ("/spec/affinity", Some(preferred), &[]),
    ];
    check("Pod", &pod, &rows);
}

#[test]
fn what_a_volume_begins_with() {
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}}});
    let source = |group: &str, kind: &str, name: &str| {
        Some(json!({"apiGroup": group, "kind": kind, "name": name}))
    };
    let default_group = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
    let unequal = "spec: Invalid value: \"spec.dataSource\": must match dataSourceRef";
    let rows = [
        // The older field drops what it does not know.
        ("/spec/dataSource", source("A.b", "X", ""), &[][..]),
        (
            "/spec/dataSourceRef",
            source("", "", ""),
            &[
                "spec.dataSourceRef.name: Required value".to_owned(),
                "spec.dataSourceRef.kind: Required value".to_owned(),
                format!("spec.dataSourceRef: Invalid value: \"\": {default_group}"),
                unequal.to_owned(),
            ][..],
        ),
        (
            "/spec/dataSourceRef",
            source("", "Pod", "a"),
            &[
                format!("spec.dataSourceRef: Invalid value: \"Pod\": {default_group}"),
                unequal.to_owned(),
            ][..],
        ),
        (
            "/spec/dataSourceRef",
            source("", "PersistentVolumeClaim", "b"),
            &one(unequal)[..],
        ),
        (
            "/spec/dataSourceRef",
            source("", "PersistentVolumeClaim", "a"),
            &[],
        ),
        (
            "/spec/dataSourceRef",
            source("A.b", "X", "a"),
            &[
                format!("spec.dataSourceRef.apiGroup: Invalid value: \"A.b\": {SUBDOMAIN}"),
                unequal.to_owned(),
            ][..],
        ),
    ];
    check("PersistentVolumeClaim", &claim, &rows);
}

#[test]
fn a_storage_class_may_leave_the_policy_to_its_volumes() {
    let class = |policy: &str| json!({"metadata": {"name": "a"}, "provisioner": "a.b/c", "reclaimPolicy": policy});
    assert_eq!(
        problems(kind("StorageClass"), class("")),
        Vec::<String>::new()
    );
    assert_eq!(
        problems(kind("StorageClass"), class("Recycle")),
        ["reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""]
    );
}

/// Kubernetes puts a default where a field is absent; where a field can be absent, empty is a value of its own.
#[test]
fn an_empty_word_is_not_a_default() {
    let pod = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}});
    let rows: &[(&str, Value, &str, &str)] = &[
        (
            "PersistentVolumeClaim",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
            "/spec/volumeMode",
            "spec.volumeMode",
        ),
        (
            "PersistentVolume",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/x"}}}),
            "/spec/volumeMode",
            "spec.volumeMode",
        ),
        (
            "StorageClass",
            json!({"provisioner": "a.b/c"}),
            "/volumeBindingMode",
            "volumeBindingMode",
        ),
        (
            "CSIDriver",
            json!({"spec": {}}),
            "/spec/fsGroupPolicy",
            "spec.fsGroupPolicy",
        ),
        (
            "Job",
            json!({"spec": {"template": pod, "manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}}),
            "/spec/completionMode",
            "spec.completionMode",
        ),
        (
            "Job",
            json!({"spec": {"template": pod, "manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}}),
            "/spec/podReplacementPolicy",
            "spec.podReplacementPolicy",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 80}]}}),
            "/spec/internalTrafficPolicy",
            "spec.internalTrafficPolicy",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"port": 80}]}}),
            "/spec/ipFamilyPolicy",
            "spec.ipFamilyPolicy",
        ),
        (
            "NetworkPolicy",
            json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}}),
            "/spec/ingress/0/ports/0/protocol",
            "spec.ingress[0].ports[0].protocol",
        ),
        (
            "EndpointSlice",
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 80}]}),
            "/ports/0/protocol",
            "ports[0].protocol",
        ),
        (
            "IngressClass",
            json!({"spec": {"controller": "a.b/c", "parameters": {"kind": "A", "name": "b"}}}),
            "/spec/parameters/scope",
            "spec.parameters.scope",
        ),
        (
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://a/b"}, "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
            "/webhooks/0/failurePolicy",
            "webhooks[0].failurePolicy",
        ),
        (
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://a/b"}, "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
            "/webhooks/0/matchPolicy",
            "webhooks[0].matchPolicy",
        ),
        (
            "ValidatingWebhookConfiguration",
            json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://a/b"}, "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
            "/webhooks/0/rules/0/scope",
            "webhooks[0].rules[0].scope",
        ),
    ];
    for (name, good, path, field) in rows {
        let mut good = good.clone();
        good["metadata"] = json!({"name": "a"});
        let empty = |text: &str| with(good.clone(), path, Some(text.into()));
        assert_eq!(
            problems(kind(name), good.clone()),
            Vec::<String>::new(),
            "{name}"
        );
        let said = problems(kind(name), empty(""));
        let refused = format!("{field}: Unsupported value: \"\": supported values: ");
        assert!(
            said.len() == 1 && said[0].starts_with(&refused),
            "{name} {path}: {said:?}"
        );
    }
}

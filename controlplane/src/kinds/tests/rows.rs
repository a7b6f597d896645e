//! The cells of `kubectl get`, as Kubernetes prints them.

use serde_json::{Value, json};

use super::kind;
use crate::kinds::{selector, time};

/// 2026-01-02T03:04:05Z
const CREATED: &str = "2026-01-02T03:04:05Z";

fn now() -> i64 {
    time::seconds(CREATED).unwrap() + 3 * 3600
}

fn row(kind_name: &str, mut object: Value) -> Vec<Value> {
    object["metadata"]["creationTimestamp"] = CREATED.into();
    kind(kind_name).strategy.row(&object, now())
}

fn header(kind_name: &str) -> Vec<&'static str> {
    kind(kind_name)
        .strategy
        .columns()
        .iter()
        .map(|column| column.name)
        .collect()
}

#[test]
fn headers_are_those_of_kubernetes() {
    for (kind_name, names) in [
        (
            "Pod",
            "Name,Ready,Status,Restarts,Age,IP,Node,Nominated Node,Readiness Gates",
        ),
        (
            "Deployment",
            "Name,Ready,Up-to-date,Available,Age,Containers,Images,Selector",
        ),
        (
            "ReplicaSet",
            "Name,Desired,Current,Ready,Age,Containers,Images,Selector",
        ),
        (
            "Service",
            "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector",
        ),
        (
            "Node",
            "Name,Status,Roles,Age,Version,Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
        ),
        (
            "Event",
            "Last Seen,Type,Reason,Object,Subobject,Source,Message,First Seen,Count,Name",
        ),
        ("Namespace", "Name,Status,Age"),
        ("Endpoints", "Name,Endpoints,Age"),
        ("EndpointSlice", "Name,AddressType,Ports,Endpoints,Age"),
        ("ConfigMap", "Name,Data,Age"),
        ("Secret", "Name,Type,Data,Age"),
        ("ServiceAccount", "Name,Secrets,Age"),
        ("Lease", "Name,Holder,Age"),
    ] {
        assert_eq!(header(kind_name).join(","), names);
    }
}

/// READY, STATUS and RESTARTS of a pod with one container.
fn pod(status: Value) -> (String, String, String) {
    pod_with(json!({"containers": [{"name": "a"}]}), json!({}), status)
}

fn pod_with(spec: Value, metadata: Value, status: Value) -> (String, String, String) {
    let cells = row(
        "Pod",
        json!({"metadata": metadata, "spec": spec, "status": status}),
    );
    let text = |at: usize| cells[at].as_str().unwrap().to_owned();
    (text(1), text(2), text(3))
}

fn cells(ready: &str, status: &str, restarts: &str) -> (String, String, String) {
    (ready.into(), status.into(), restarts.into())
}

#[test]
fn the_status_of_a_pod_is_what_matters_most_about_it() {
    let one = |state: Value| json!({"phase": "Running", "containerStatuses": [state]});
    assert_eq!(
        pod(json!({"phase": "Pending"})),
        cells("0/1", "Pending", "0")
    );
    assert_eq!(
        pod(one(json!({"ready": true, "state": {"running": {}}}))),
        cells("1/1", "Running", "0")
    );
    assert_eq!(
        pod(one(
            json!({"state": {"waiting": {"reason": "ContainerCreating"}}})
        )),
        cells("0/1", "ContainerCreating", "0")
    );
    assert_eq!(
        pod(one(json!({
            "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-02T05:59:05Z"}},
        }))),
        cells("0/1", "CrashLoopBackOff", "3 (5m ago)")
    );
    assert_eq!(
        pod(json!({"phase": "Succeeded", "containerStatuses": [
            {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
        ]})),
        cells("0/1", "Completed", "0")
    );
    assert_eq!(
        pod(json!({"phase": "Failed", "containerStatuses": [
            {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
        ]})),
        cells("0/1", "Error", "0")
    );
    assert_eq!(
        pod(
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 7}}}]})
        ),
        cells("0/1", "ExitCode:7", "0")
    );
    assert_eq!(
        pod(
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]})
        ),
        cells("0/1", "Signal:9", "0")
    );
    assert_eq!(
        pod(json!({"phase": "Failed", "reason": "Evicted"})),
        cells("0/1", "Evicted", "0")
    );
}

#[test]
fn init_containers_are_counted() {
    let spec =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let status = |statuses: Value| json!({"phase": "Pending", "initContainerStatuses": statuses});
    let with = |statuses: Value| pod_with(spec.clone(), json!({}), status(statuses));
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    assert_eq!(
        with(json!([{"name": "i", "state": {"running": {}}}])),
        cells("0/1", "Init:0/2", "0")
    );
    assert_eq!(
        with(json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}])),
        cells("0/1", "Init:1/2", "0")
    );
    assert_eq!(
        with(
            json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}])
        ),
        cells("0/1", "Init:CrashLoopBackOff", "2")
    );
    assert_eq!(
        with(json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])),
        cells("0/1", "Init:Error", "0")
    );
    assert_eq!(
        with(json!([{"name": "i", "state": {"terminated": {"exitCode": 3}}}])),
        cells("0/1", "Init:ExitCode:3", "0")
    );
}

#[test]
fn sidecars_count_as_containers() {
    let spec = json!({
        "containers": [{"name": "a"}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}],
    });
    let status = json!({
        "phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}}],
    });
    assert_eq!(
        pod_with(spec, json!({}), status),
        cells("2/2", "Running", "2")
    );
}

#[test]
fn a_pod_that_goes_is_terminating() {
    let gone = json!({"deletionTimestamp": CREATED});
    let spec = json!({"containers": [{"name": "a"}]});
    let with = |status: Value| pod_with(spec.clone(), gone.clone(), status).1;
    assert_eq!(with(json!({"phase": "Running"})), "Terminating");
    assert_eq!(with(json!({"phase": "Succeeded"})), "Succeeded");
    assert_eq!(
        with(json!({"phase": "Running", "reason": "NodeLost"})),
        "Unknown"
    );
    assert_eq!(
        pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        ]}))
        .1,
        "SchedulingGated"
    );
}

#[test]
fn the_wide_columns_of_a_pod() {
    let cells = row(
        "Pod",
        json!({
            "metadata": {"name": "web"},
            "spec": {"nodeName": "n1", "containers": [], "readinessGates": [{"conditionType": "a/b"}]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "a/b", "status": "True"}]},
        }),
    );
    assert_eq!(
        cells[4..],
        ["3h", "10.0.0.1", "n1", "<none>", "1/1"].map(Value::from)
    );
    let cells = row("Pod", json!({"metadata": {"name": "web"}}));
    assert_eq!(cells[5..], ["<none>"; 4].map(Value::from));
}

#[test]
fn workloads() {
    let object = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]}, {"key": "x", "operator": "DoesNotExist"},
            ]},
            "template": {"spec": {"containers": [
                {"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"},
            ]}},
        },
        "status": {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1},
    });
    assert_eq!(
        row("Deployment", object.clone()),
        [
            json!("web"),
            json!("2/3"),
            json!(3),
            json!(1),
            json!("3h"),
            json!("a,b"),
            json!("x:1,y:2"),
            json!("app=web,tier in (a,b),!x"),
        ]
    );
    assert_eq!(
        row("ReplicaSet", object)[..5],
        [json!("web"), json!(3), json!(3), json!(2), json!("3h")]
    );
}

#[test]
fn services() {
    let with = |spec: Value, status: Value| {
        row(
            "Service",
            json!({"metadata": {"name": "web"}, "spec": spec, "status": status}),
        )
    };
    let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "nodePort": 30053, "protocol": "UDP"}]);
    assert_eq!(
        with(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "ports": ports, "selector": {"b": "2", "a": "1"}}),
            json!({}),
        ),
        [
            "web",
            "NodePort",
            "10.0.0.1",
            "<none>",
            "80/TCP,53:30053/UDP",
            "3h",
            "a=1,b=2"
        ]
        .map(Value::from)
    );
    assert_eq!(
        with(
            json!({"type": "ExternalName", "externalName": "a.b"}),
            json!({})
        ),
        [
            "web",
            "ExternalName",
            "<none>",
            "a.b",
            "<none>",
            "3h",
            "<none>"
        ]
        .map(Value::from)
    );
    assert_eq!(
        with(json!({"type": "LoadBalancer"}), json!({}))[3],
        "<pending>"
    );
    assert_eq!(
        with(
            json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.9"]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"}]}}),
        )[3],
        "192.0.2.1,lb,192.0.2.9"
    );
    assert_eq!(
        with(json!({"type": "ClusterIP", "clusterIP": "None"}), json!({}))[2],
        "None"
    );
}

#[test]
fn nodes() {
    let node = json!({
        "metadata": {"name": "n1", "labels": {
            "node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/worker": "",
        }},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.18",
                         "containerRuntimeVersion": "runc://1.1.5"},
        },
    });
    assert_eq!(
        row("Node", node),
        [
            "n1",
            "Ready,SchedulingDisabled",
            "control-plane,worker",
            "3h",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.18",
            "runc://1.1.5",
        ]
        .map(Value::from)
    );
    let bare = row("Node", json!({"metadata": {"name": "n2"}}));
    assert_eq!(bare[1], "Unknown");
    assert_eq!(bare[2], "<none>");
    assert_eq!(bare[7], "<unknown>");
}

#[test]
fn events() {
    let event = json!({
        "metadata": {"name": "web.1"},
        "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"},
        "type": "Warning", "reason": "BackOff", "message": "again \n",
        "source": {"component": "agent", "host": "n1"},
        "firstTimestamp": "2026-01-02T04:04:05Z", "lastTimestamp": "2026-01-02T06:03:05Z", "count": 4,
    });
    let shown: Vec<Value> = vec![
        "60s".into(),
        "Warning".into(),
        "BackOff".into(),
        "pod/web".into(),
        "spec.containers{a}".into(),
        "agent, n1".into(),
        "again".into(),
        "120m".into(),
        4.into(),
        "web.1".into(),
    ];
    assert_eq!(row("Event", event), shown);
    let series = json!({
        "involvedObject": {"kind": "Node", "name": "n"}, "eventTime": "2026-01-02T06:00:00.000000Z",
        "series": {"count": 9, "lastObservedTime": "2026-01-02T06:04:00.000000Z"}, "reportingComponent": "s",
    });
    let cells = row("Event", series);
    assert_eq!(
        (&cells[0], &cells[8], &cells[5]),
        (&"5s".into(), &9.into(), &"s".into())
    );
}

#[test]
fn addresses_of_endpoints() {
    let ips = |list: &[&str]| -> Value {
        list.iter()
            .map(|ip| json!({"ip": ip}))
            .collect::<Vec<_>>()
            .into()
    };
    let endpoints = |addresses: &[&str]| {
        let subsets = json!([{"addresses": ips(addresses), "ports": [{"port": 80}]}]);
        row(
            "Endpoints",
            json!({"metadata": {"name": "e"}, "subsets": subsets}),
        )[1]
        .clone()
    };
    assert_eq!(endpoints(&[]), "<none>");
    assert_eq!(
        endpoints(&["10.0.0.1", "fd00::1"]),
        "10.0.0.1:80,[fd00::1]:80"
    );
    assert_eq!(
        endpoints(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"]),
        "1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 2 more..."
    );
    let slice = row(
        "EndpointSlice",
        json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}],
               "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}),
    );
    assert_eq!(
        slice[1..4],
        ["IPv4", "80,x", "10.0.0.1,10.0.0.2"].map(Value::from)
    );
    let empty = row("EndpointSlice", json!({"metadata": {"name": "e"}}));
    assert_eq!(empty[2..4], ["<unset>", "<unset>"].map(Value::from));
}

#[test]
fn the_small_kinds() {
    assert_eq!(
        row(
            "ConfigMap",
            json!({"metadata": {"name": "c"}, "data": {"a": ""}, "binaryData": {"b": ""}})
        ),
        [json!("c"), json!(2), json!("3h")]
    );
    assert_eq!(
        row(
            "Secret",
            json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": ""}})
        ),
        [json!("s"), json!("Opaque"), json!(1), json!("3h")]
    );
    assert_eq!(
        row(
            "Namespace",
            json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}})
        ),
        [json!("n"), json!("Active"), json!("3h")]
    );
    assert_eq!(
        row(
            "Lease",
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}})
        ),
        [json!("l"), json!("me"), json!("3h")]
    );
}

#[test]
fn ages_are_short() {
    for (seconds, shown) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (121, "2m1s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600 + 60, "8h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86_400, "8d"),
        (729 * 86_400, "729d"),
        (730 * 86_400, "2y"),
        (731 * 86_400, "2y1d"),
        (8 * 365 * 86_400 + 86_400, "8y"),
    ] {
        assert_eq!(time::human_duration(seconds), shown);
    }
    assert_eq!(time::age("", 0), "<unknown>");
}

#[test]
fn selectors_match_labels() {
    let labels = json!({"app": "web", "tier": "a"});
    let matches = |selector: Value| selector::matches(&selector, Some(&labels));
    assert!(matches(json!({})));
    assert!(matches(json!({"matchLabels": {"app": "web"}})));
    assert!(!matches(json!({"matchLabels": {"app": "web", "x": "y"}})));
    let expr = |key: &str, operator: &str, values: Value| {
        matches(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
    };
    assert!(expr("tier", "In", json!(["a", "b"])));
    assert!(!expr("none", "In", json!(["a"])));
    assert!(expr("none", "NotIn", json!(["a"])));
    assert!(!expr("tier", "NotIn", json!(["a"])));
    assert!(expr("tier", "Exists", json!([])));
    assert!(expr("none", "DoesNotExist", json!([])));
    assert!(!expr("tier", "Gt", json!(["1"])));
}

#[test]
fn an_autoscaler_shows_each_metric_beside_its_target() {
    let metric = |kind: &str, source: &str, target: Value| json!({"type": kind, (source): {"target": target}});
    let average = json!({"type": "AverageValue", "averageValue": "5"});
    let autoscaler = |metrics: [Value; 2], current: Value| {
        json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3, "metrics": metrics},
            "status": {"currentMetrics": current}})
    };
    let queue = metric("External", "external", average.clone());
    let mut cpu = metric(
        "Resource",
        "resource",
        json!({"type": "Utilization", "averageUtilization": 50}),
    );
    cpu["resource"]["name"] = "cpu".into();
    // One that is not known keeps its place.
    let current = json!([{"type": ""},
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 20}}}]);
    let shown = row("HorizontalPodAutoscaler", autoscaler([queue, cpu], current));
    assert_eq!(shown[2], "<unknown>/5 (avg), cpu: 20%/50%");
    let hits = metric("Object", "object", json!({"type": "Value", "value": "2k"}));
    let pods = metric("Pods", "pods", average);
    let current = json!([{"type": "Object", "object": {"current": {"value": "1500"}}},
        {"type": "Pods", "pods": {"current": {"averageValue": "4"}}}]);
    let shown = row("HorizontalPodAutoscaler", autoscaler([hits, pods], current));
    assert_eq!(shown[2], "1500/2k, 4/5");
}

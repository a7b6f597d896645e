//! What may change, and what an update of one part does to the others.

use serde_json::{Value, json};

use super::{changed, kind};

fn pod() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {
        "containers": [{"name": "a", "image": "x:1"}], "nodeSelector": {"a": "b"},
    }})
}

fn deployment() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]},
        },
    }})
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

const POD_SPEC: &str = "spec: Forbidden: pod updates may not change fields other than \
                        `spec.containers[*].image`,`spec.initContainers[*].image`,\
                        `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                        tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                        was previously negative)";

#[test]
fn a_pod_may_change_its_image_and_little_else() {
    let with = |change: fn(&mut Value)| {
        let mut new = pod();
        change(&mut new);
        changed(kind("Pod"), pod(), new, "").0
    };
    assert!(with(|pod| pod["spec"]["containers"][0]["image"] = "y:2".into()).is_empty());
    assert!(with(|pod| pod["metadata"]["labels"] = json!({"a": "b"})).is_empty());
    assert!(with(|pod| pod["spec"]["activeDeadlineSeconds"] = 5.into()).is_empty());
    assert!(
        with(|pod| pod["spec"]["tolerations"] = json!([{"key": "x", "operator": "Exists"}]))
            .is_empty()
    );
    assert_eq!(
        with(|pod| pod["spec"]["nodeSelector"] = json!({"a": "c"})),
        [POD_SPEC]
    );
    assert_eq!(
        with(|pod| pod["spec"]["containers"][0]["args"] = json!(["x"])),
        [POD_SPEC]
    );
    assert_eq!(
        with(|pod| {
            pod["spec"]["containers"] =
                json!([{"name": "a", "image": "x:1"}, {"name": "b", "image": "x"}]);
        }),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn a_status_update_of_a_pod_changes_only_the_status() {
    let mut new = pod();
    new["spec"]["nodeSelector"] = json!({"a": "c"});
    new["status"] = json!({"phase": "Running"});
    let (problems, stored) = changed(kind("Pod"), pod(), new, "status");
    assert!(problems.is_empty());
    assert_eq!(stored["spec"]["nodeSelector"], json!({"a": "b"}));
    assert_eq!(
        stored["status"],
        json!({"phase": "Running", "qosClass": "BestEffort"})
    );
}

#[test]
fn the_generation_counts_changes_of_the_spec() {
    let (_, same) = changed(kind("Deployment"), deployment(), deployment(), "");
    assert_eq!(same["metadata"]["generation"], 1);
    let mut more = deployment();
    more["spec"]["replicas"] = 3.into();
    more["status"] = json!({"replicas": 7});
    let (problems, scaled) = changed(kind("Deployment"), deployment(), more, "");
    assert!(problems.is_empty());
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_eq!(scaled["status"], json!({}));
}

#[test]
fn a_selector_stays() {
    let mut new = deployment();
    new["spec"]["selector"]["matchLabels"]["tier"] = "x".into();
    new["spec"]["template"]["metadata"]["labels"]["tier"] = "x".into();
    for name in ["Deployment", "ReplicaSet"] {
        let (problems, _) = changed(kind(name), deployment(), new.clone(), "");
        assert_eq!(
            problems,
            [
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"x\"}}: field is immutable"
            ]
        );
    }
}

#[test]
fn an_update_of_a_service_keeps_what_was_allocated() {
    let old = service(json!({
        "type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}],
    }));
    let (problems, stored) = changed(
        kind("Service"),
        old.clone(),
        service(json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "name": "b"}]})),
        "",
    );
    assert_eq!(problems, ["spec.ports[0].name: Required value"]);
    assert_eq!(stored["spec"]["clusterIPs"], json!(["10.0.0.1"]));
    assert_eq!(stored["spec"]["ports"][0]["nodePort"], 30080);
    // A change to ClusterIP gives the node ports back.
    let mut cluster = old.clone();
    cluster["spec"]["type"] = "ClusterIP".into();
    cluster["spec"]["externalTrafficPolicy"] = "Cluster".into();
    let (problems, stored) = changed(kind("Service"), old, cluster, "");
    assert_eq!(problems, Vec::<String>::new());
    assert!(stored["spec"]["ports"][0].get("nodePort").is_none());
    assert!(stored["spec"].get("externalTrafficPolicy").is_none());
}

#[test]
fn a_cluster_ip_stays() {
    let with = |ip: &str| service(json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    let (problems, _) = changed(kind("Service"), with("10.0.0.1"), with("10.0.0.2"), "");
    assert_eq!(
        problems,
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    let (problems, stored) = changed(
        kind("Service"),
        with("10.0.0.1"),
        service(json!({"type": "ExternalName", "externalName": "a.b"})),
        "",
    );
    assert_eq!(problems, Vec::<String>::new());
    assert!(stored["spec"].get("clusterIPs").is_none());
}

#[test]
fn the_class_of_a_load_balancer_is_chosen_with_the_type() {
    let with = |class: Option<&str>| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        if let Some(class) = class {
            spec["loadBalancerClass"] = class.into();
        }
        service(spec)
    };
    for (old, new, shown) in [
        (Some("a.b/c"), Some("a.b/d"), "a.b/d"),
        (None, Some("a.b/c"), "a.b/c"),
        (Some("a.b/c"), None, ""),
    ] {
        let (problems, _) = changed(kind("Service"), with(old), with(new), "");
        let expected =
            format!("spec.loadBalancerClass: Invalid value: \"{shown}\": may not change once set");
        assert_eq!(problems, [expected]);
    }
    let plain = service(json!({"ports": [{"port": 80}]}));
    let (problems, _) = changed(kind("Service"), plain.clone(), with(Some("a.b/c")), "");
    assert_eq!(problems, Vec::<String>::new());
    let mut back = with(Some("a.b/c"));
    back["spec"]["type"] = "ClusterIP".into();
    let (problems, stored) = changed(kind("Service"), with(Some("a.b/c")), back, "");
    assert_eq!(problems, Vec::<String>::new());
    assert!(stored["spec"].get("loadBalancerClass").is_none());
}

#[test]
fn what_is_immutable_stays() {
    let map = |data: &str, immutable: bool| json!({"metadata": {"name": "a"}, "data": {"k": data}, "immutable": immutable});
    for name in ["ConfigMap", "Secret"] {
        let (problems, _) = changed(kind(name), map("YQ==", true), map("Yg==", false), "");
        assert_eq!(
            problems,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
    let secret = |kind: &str| json!({"metadata": {"name": "a"}, "type": kind});
    let (problems, _) = changed(kind("Secret"), secret("a"), secret("b"), "");
    assert_eq!(problems, ["type: Invalid value: \"b\": field is immutable"]);
}

#[test]
fn metadata_that_names_the_object_stays() {
    let with = |name: &str, uid: &str| json!({"metadata": {"name": name, "uid": uid}});
    let (problems, _) = changed(kind("ConfigMap"), with("a", "1"), with("b", "2"), "");
    assert_eq!(
        problems,
        [
            "metadata.name: Invalid value: \"b\": field is immutable",
            "metadata.uid: Invalid value: \"2\": field is immutable",
        ]
    );
    let mut dying = with("a", "1");
    dying["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into();
    let mut more = dying.clone();
    more["metadata"]["finalizers"] = json!(["x/y"]);
    let (problems, _) = changed(kind("ConfigMap"), dying, more, "");
    assert_eq!(
        problems,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
             deleted, found new finalizers []string{\"x/y\"}"
        ]
    );
}

#[test]
fn a_node_reports_status_and_labels_together() {
    let node = |spec: Value, status: Value| json!({"metadata": {"name": "n"}, "spec": spec, "status": status});
    let (problems, stored) = changed(
        kind("Node"),
        node(json!({"unschedulable": true}), json!({})),
        node(json!({}), json!({"capacity": {"cpu": "2"}})),
        "status",
    );
    assert!(problems.is_empty());
    assert_eq!(stored["spec"], json!({"unschedulable": true}));
    assert_eq!(stored["status"]["allocatable"], json!({"cpu": "2"}));
    let (problems, _) = changed(
        kind("Node"),
        node(json!({"podCIDR": "10.1.0.0/24"}), json!({})),
        node(json!({"podCIDR": "10.2.0.0/24"}), json!({})),
        "",
    );
    assert_eq!(
        problems,
        ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]
    );
}

#[test]
fn extended_resources_that_are_advertised_can_be_allocated() {
    let node = |capacity: Value, allocatable: Value| {
        json!({"metadata": {"name": "n"}, "spec": {},
            "status": {"capacity": capacity, "allocatable": allocatable}})
    };
    let (_, stored) = changed(
        kind("Node"),
        node(
            json!({"cpu": "2", "a.com/kept": "4", "a.com/gone": "1"}),
            json!({"cpu": "1", "a.com/kept": "3", "a.com/gone": "1"}),
        ),
        node(
            json!({"cpu": "2", "a.com/kept": "4", "a.com/new": "5"}),
            json!({"cpu": "1", "a.com/kept": "3", "a.com/gone": "1"}),
        ),
        "status",
    );
    assert_eq!(
        stored["status"]["allocatable"],
        json!({"cpu": "1", "a.com/kept": "3", "a.com/new": "5"})
    );
    let (_, stored) = changed(
        kind("Node"),
        node(json!({"a.com/x": "4"}), json!({"a.com/x": "4"})),
        node(json!({"a.com/x": "6"}), json!({"a.com/x": "4"})),
        "status",
    );
    assert_eq!(stored["status"]["allocatable"], json!({"a.com/x": "6"}));
}

#[test]
fn a_pod_that_never_ran_goes_at_once() {
    let strategy = kind("Pod").strategy;
    let grace = |pod: Value| strategy.default_grace_period(&pod);
    assert_eq!(grace(json!({"spec": {}})), Some(0));
    let running = json!({
        "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}, "status": {"phase": "Running"},
    });
    assert_eq!(grace(running.clone()), Some(7));
    let mut done = running;
    done["status"]["phase"] = "Succeeded".into();
    assert_eq!(grace(done), Some(0));
    assert_eq!(
        kind("Service").strategy.default_grace_period(&json!({})),
        None
    );
}

//! Strategic merge patch, against a naive client and against k8s-openapi's typed merge.

use super::*;

fn pod(containers: Value) -> Value {
    json!({"metadata": {"finalizers": ["a/a", "b/b"]}, "spec": {"containers": containers}})
}

fn patched(object: &Value, patch: &Value) -> Value {
    strategic_merge_patch(POD, object, patch).unwrap()
}

#[test]
fn containers_are_merged_by_name() {
    let before = pod(
        json!([{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]),
    );
    let patch = json!({"spec": {"containers": [
        {"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}]}, {"name": "c"},
    ]}});
    assert_eq!(
        patched(&before, &patch)["spec"]["containers"],
        json!([
            {"name": "a", "image": "y", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}]},
            {"name": "c"},
            {"name": "b"},
        ])
    );
}

#[test]
fn an_entry_is_deleted_by_directive() {
    let before = pod(json!([{"name": "a"}, {"name": "b"}]));
    let patch = json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}});
    assert_eq!(
        patched(&before, &patch)["spec"]["containers"],
        json!([{"name": "b"}])
    );
}

#[test]
fn a_list_is_replaced_by_directive() {
    let before = pod(json!([{"name": "a"}, {"name": "b"}]));
    let patch = json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}});
    assert_eq!(
        patched(&before, &patch)["spec"]["containers"],
        json!([{"name": "c"}])
    );
}

#[test]
fn an_object_is_replaced_by_directive() {
    let before = json!({"spec": {"nodeSelector": {"a": "1", "b": "2"}}});
    let patch = json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}});
    assert_eq!(
        patched(&before, &patch),
        json!({"spec": {"nodeSelector": {"c": "3"}}})
    );
    let patch = json!({"spec": {"nodeSelector": {"$patch": "delete"}}});
    assert_eq!(
        patched(&before, &patch),
        json!({"spec": {"nodeSelector": {}}})
    );
}

#[test]
fn lists_without_merge_strategy_are_replaced() {
    let before = json!({"spec": {"tolerations": [{"key": "a"}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "b"}]}});
    assert_eq!(patched(&before, &patch), patch);
}

#[test]
fn scalars_are_added_and_deleted() {
    let before = pod(json!([]));
    let patch = json!({"metadata": {
        "finalizers": ["c/c"],
        "$deleteFromPrimitiveList/finalizers": ["a/a"],
    }});
    assert_eq!(
        patched(&before, &patch)["metadata"]["finalizers"],
        json!(["c/c", "b/b"])
    );
}

#[test]
fn retained_keys_are_all_that_is_left() {
    let before =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        strategic_merge_patch(DEPLOYMENT, &before, &patch).unwrap(),
        json!({"spec": {"strategy": {"type": "Recreate"}}})
    );
    let volumes = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {"volumes": [
        {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}
    ]}});
    assert_eq!(
        patched(&volumes, &patch),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}})
    );
}

#[test]
fn the_order_directive_orders_and_does_not_stay() {
    let before = pod(json!([{"name": "a"}, {"name": "s"}, {"name": "b"}]));
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
    assert_eq!(
        patched(&before, &patch)["spec"],
        json!({"containers": [{"name": "s"}, {"name": "b"}, {"name": "a"}]})
    );
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "n"}, {"name": "a"}, {"name": "b"}],
        "containers": [{"name": "n", "image": "i"}],
    }});
    assert_eq!(
        patched(&before, &patch)["spec"]["containers"],
        json!([{"name": "n", "image": "i"}, {"name": "a"}, {"name": "s"}, {"name": "b"}])
    );
}

#[test]
fn null_deletes_and_is_not_stored() {
    let before = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let patch = json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": "1"}}});
    assert_eq!(
        patched(&before, &patch),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}})
    );
}

#[test]
fn malformed_patches_are_refused() {
    let before = pod(json!([{"name": "a"}]));
    for patch in [
        json!([]),
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"containers": [{"$patch": "delete"}]}}),
        json!({"spec": {"$setElementOrder/containers": 1}}),
        // What is changed is not in the order, or not in this one.
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "containers": [{"name": "a"}, {"name": "b"}]}}),
    ] {
        assert!(
            matches!(
                strategic_merge_patch(POD, &before, &patch),
                Err(PatchError::Malformed(_))
            ),
            "{patch}"
        );
    }
}

/// k8s-openapi merges typed objects by the same documented strategies; both must end with the same
/// content, whatever the order.
fn agrees_with_typed_merge<K>(definition: &str, base: Value, patch: Value)
where
    K: k8s_openapi::DeepMerge + serde::Serialize + serde::de::DeserializeOwned,
{
    let ours = strategic_merge_patch(definition, &base, &patch).unwrap();
    let mut theirs: K = serde_json::from_value(base).unwrap();
    theirs.merge_from(serde_json::from_value(patch).unwrap());
    let typed = |value: Value| {
        let typed: K = serde_json::from_value(value).unwrap();
        sorted(serde_json::to_value(typed).unwrap())
    };
    assert_eq!(typed(ours), sorted(serde_json::to_value(theirs).unwrap()));
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.into_iter().map(sorted).collect();
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect(),
        ),
        other => other,
    }
}

#[test]
fn merge_keys_agree_with_those_of_the_typed_merge() {
    use k8s_openapi::api::{apps::v1 as apps, core::v1 as core};
    agrees_with_typed_merge::<core::Pod>(
        POD,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "labels": {"a": "1", "b": "2"}, "finalizers": ["a/a", "b/b"],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1"},
                    {"apiVersion": "v1", "kind": "A", "name": "b", "uid": "2"},
                ],
            },
            "spec": {
                "containers": [{
                    "name": "a", "image": "x", "args": ["1", "2"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "envFrom": [{"prefix": "a"}],
                    "ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81}],
                    "volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}],
                    "volumeDevices": [{"name": "v", "devicePath": "/a"}],
                }],
                "initContainers": [{"name": "i"}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "tolerations": [{"key": "a"}],
                "imagePullSecrets": [{"name": "a"}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
                "topologySpreadConstraints": [{"topologyKey": "a", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
                "schedulingGates": [{"name": "a"}],
                "readinessGates": [{"conditionType": "a"}],
            },
            "status": {
                "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}],
                "podIPs": [{"ip": "1.1.1.1"}], "containerStatuses": [],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "labels": {"b": "3"}, "finalizers": ["b/b", "c/c"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "B", "name": "b", "uid": "2"}],
            },
            "spec": {
                "containers": [
                    {
                        "name": "a", "args": ["3"],
                        "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
                        "envFrom": [{"prefix": "b"}],
                        "ports": [{"containerPort": 80, "hostPort": 8080}],
                        "volumeMounts": [{"name": "w", "mountPath": "/b"}],
                        "volumeDevices": [{"name": "w", "devicePath": "/a"}],
                    },
                    {"name": "b"},
                ],
                "initContainers": [{"name": "i", "image": "y"}],
                "volumes": [{"name": "w", "emptyDir": {}}],
                "tolerations": [{"key": "b"}],
                "imagePullSecrets": [{"name": "b"}],
                "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}, {"ip": "1.1.1.2"}],
                "topologySpreadConstraints": [{"topologyKey": "a", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
                "schedulingGates": [{"name": "b"}],
                "readinessGates": [{"conditionType": "b"}],
            },
            "status": {
                "conditions": [{"type": "B", "status": "False"}],
                "podIPs": [{"ip": "1.1.1.2"}],
            },
        }),
    );
    agrees_with_typed_merge::<core::Service>(
        "io.k8s.api.core.v1.Service",
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {},
            "spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81}], "externalIPs": ["1.1.1.1"]},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {},
            "spec": {"ports": [{"port": 80, "targetPort": 8080}], "externalIPs": ["1.1.1.2"]},
        }),
    );
    agrees_with_typed_merge::<core::Node>(
        "io.k8s.api.core.v1.Node",
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {},
            "spec": {"podCIDRs": ["10.0.0.0/24"], "taints": [{"key": "a", "effect": "NoExecute"}]},
            "status": {
                "addresses": [{"type": "Hostname", "address": "a"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "images": [{"names": ["a"]}],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {},
            "spec": {"podCIDRs": ["fd00::/64"], "taints": [{"key": "b", "effect": "NoExecute"}]},
            "status": {
                "addresses": [{"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "1.1.1.1"}],
                "conditions": [{"type": "Ready", "status": "False"}],
                "images": [{"names": ["b"]}],
            },
        }),
    );
    agrees_with_typed_merge::<apps::Deployment>(
        DEPLOYMENT,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
            "spec": {
                "selector": {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                "template": {},
            },
            "status": {"conditions": [{"type": "Available", "status": "True"}]},
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {},
            "spec": {
                "selector": {"matchLabels": {"b": "2"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
                "template": {},
            },
            "status": {"conditions": [{"type": "Progressing", "status": "True"}]},
        }),
    );
}

/// What a client that knows the merge keys sends to get from `from` to `to`.
fn diff(from: &Value, to: &Value) -> Value {
    let (from, to) = (entries(from), entries(to));
    let mut containers: Vec<Value> = from
        .iter()
        .filter(|a| !to.iter().any(|b| b["name"] == a["name"]))
        .map(|a| json!({"name": a["name"], "$patch": "delete"}))
        .collect();
    for b in &to {
        let mut entry = b.clone();
        if let Some(a) = from.iter().find(|a| a["name"] == b["name"])
            && a.get("image").is_some()
            && b.get("image").is_none()
        {
            entry["image"] = Value::Null;
        }
        containers.push(entry);
    }
    let order: Vec<Value> = to.iter().map(|b| json!({"name": b["name"]})).collect();
    json!({"spec": {"containers": containers, "$setElementOrder/containers": order}})
}

fn entries(pod: &Value) -> Vec<Value> {
    pod["spec"]["containers"].as_array().unwrap().clone()
}

fn pods() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-e]", prop::option::of("[xyz]"), 0..5)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|containers| {
            let all: Vec<Value> = containers
                .into_iter()
                .map(|(name, image)| match image {
                    Some(image) => json!({"name": name, "image": image}),
                    None => json!({"name": name}),
                })
                .collect();
            json!({"spec": {"containers": all}})
        })
}

proptest! {
    #[test]
    fn a_patch_made_from_two_pods_turns_one_into_the_other(from in pods(), to in pods()) {
        prop_assert_eq!(patched(&from, &diff(&from, &to)), to);
    }

    #[test]
    fn a_patch_leaves_alone_what_a_third_party_added(from in pods(), to in pods()) {
        let mut live = from.clone();
        live["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "zz"}));
        let result = patched(&live, &diff(&from, &to));
        let containers = entries(&result);
        prop_assert!(containers.iter().any(|c| c["name"] == "zz"));
        let others: Vec<Value> = containers.into_iter().filter(|c| c["name"] != "zz").collect();
        prop_assert_eq!(others, entries(&to));
    }

    #[test]
    fn no_patch_panics(
        object in crate::kinds::tests::arbitrary_json(),
        patch in crate::kinds::tests::arbitrary_json(),
    ) {
        let _ = strategic_merge_patch(POD, &object, &patch);
        let _ = json_patch(&object, &patch);
        merge_patch(&object, &patch);
        let _ = server_side_apply(POD, Some(&object), &patch, "m", false, "", NOW);
        let mut new = patch;
        track_update(POD, Some(&object), &mut new, "m", "", NOW);
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";
const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T04:00:00Z";

mod json_and_merge {
    use super::*;

    #[test]
    fn json_patch_applies_all_or_nothing() {
        let object = json!({"a": [1, 2], "b": {"c": 3}});
        let patch = json!([
            {"op": "test", "path": "/b/c", "value": 3},
            {"op": "add", "path": "/a/1", "value": 9},
            {"op": "move", "from": "/b/c", "path": "/d"},
            {"op": "remove", "path": "/a/0"},
        ]);
        assert_eq!(
            json_patch(&object, &patch).unwrap(),
            json!({"a": [9, 2], "b": {}, "d": 3})
        );
    }

    #[test]
    fn json_patch_errors_say_which_kind_they_are() {
        let object = json!({"a": 1});
        assert!(matches!(
            json_patch(&object, &json!({"op": "add"})),
            Err(PatchError::Malformed(_))
        ));
        assert!(matches!(
            json_patch(&object, &json!([{"op": "remove", "path": "/x/y"}])),
            Err(PatchError::Unprocessable(_))
        ));
        assert_eq!(
            json_patch(&object, &json!([{"op": "test", "path": "/a", "value": 2}])),
            Err(PatchError::Unprocessable(
                "testing value /a failed: test failed".into()
            ))
        );
    }

    #[test]
    fn copies_of_copies_are_stopped() {
        let object = json!({"a": {"b": "x".repeat(1000)}});
        let operations: Vec<Value> = (0..64)
            .map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/c{n}")}))
            .collect();
        assert!(matches!(
            json_patch(&object, &Value::from(operations)),
            Err(PatchError::Unprocessable(_))
        ));
    }

    #[test]
    fn merge_patch_follows_the_examples_of_the_rfc() {
        for (object, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            assert_eq!(merge_patch(&object, &patch), merged);
        }
    }
}

mod strategic_merge {
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
        let before = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
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
        let patch =
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}});
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
        let patch =
            json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": "1"}}});
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
}

mod server_side {
    use super::*;

    fn apply(live: Option<&Value>, applied: &Value, manager: &str) -> Result<Value, PatchError> {
        server_side_apply(DEPLOYMENT, live, applied, manager, false, "", NOW)
    }

    fn forced(live: &Value, applied: &Value, manager: &str) -> Value {
        server_side_apply(DEPLOYMENT, Some(live), applied, manager, true, "", NOW).unwrap()
    }

    fn deployment(spec: Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
            "spec": spec,
        })
    }

    fn containers(list: Value) -> Value {
        json!({"template": {"spec": {"containers": list}}})
    }

    fn owned(object: &Value, manager: &str) -> Value {
        object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["manager"] == manager)
            .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
    }

    fn without_managed(object: &Value) -> Value {
        let mut object = object.clone();
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
        object
    }

    #[test]
    fn what_is_applied_first_is_owned() {
        let applied = deployment(json!({
            "replicas": 3,
            "template": {"spec": {"containers": [
                {"name": "web", "image": "x", "ports": [{"containerPort": 80}]}
            ]}},
        }));
        let object = apply(None, &applied, "me").unwrap();
        assert_eq!(without_managed(&object), applied);
        assert_eq!(
            object["metadata"]["managedFields"],
            json!([{
                "manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW,
                "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {
                        "f:replicas": {},
                        "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                            ".": {}, "f:name": {}, "f:image": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {},
                            }},
                        }}}},
                    },
                },
            }])
        );
    }

    #[test]
    fn a_conflict_names_manager_and_field() {
        let live = apply(None, &deployment(json!({"replicas": 3})), "one").unwrap();
        let error = apply(Some(&live), &deployment(json!({"replicas": 4})), "two").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
        );
        let PatchError::Conflicts(conflicts) = error else {
            panic!("not a conflict");
        };
        assert_eq!(conflicts[0].message(), "conflict with \"one\"");
        assert_eq!(conflicts[0].field, ".spec.replicas");
    }

    #[test]
    fn conflicts_with_updaters_name_the_version_and_list_all_fields() {
        let mut live = deployment(json!({
            "replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}},
        }));
        track_update(DEPLOYMENT, None, &mut live, "kubectl-edit", "", NOW);
        let applied = deployment(json!({
            "replicas": 4, "template": {"spec": {"containers": [{"name": "a", "image": "y"}]}},
        }));
        let error = apply(Some(&live), &applied, "two").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using apps/v1:\n\
             - .spec.replicas\n\
             - .spec.template.spec.containers[name=\"a\"].image"
        );
    }

    #[test]
    fn force_takes_the_field_over() {
        let live = apply(
            None,
            &deployment(json!({"replicas": 3, "paused": true})),
            "one",
        )
        .unwrap();
        let object = forced(&live, &deployment(json!({"replicas": 4})), "two");
        assert_eq!(object["spec"], json!({"replicas": 4, "paused": true}));
        assert_eq!(owned(&object, "one")["f:spec"], json!({"f:paused": {}}));
        assert_eq!(owned(&object, "two")["f:spec"], json!({"f:replicas": {}}));
    }

    #[test]
    fn agreeing_managers_share_a_field_until_both_give_it_up() {
        let with = deployment(json!({"replicas": 3, "paused": true}));
        let without = deployment(json!({"paused": true}));
        let live = apply(None, &with, "one").unwrap();
        let live = apply(Some(&live), &with, "two").unwrap();
        let live = apply(Some(&live), &without, "one").unwrap();
        assert_eq!(live["spec"], json!({"replicas": 3, "paused": true}));
        let live = apply(Some(&live), &without, "two").unwrap();
        assert_eq!(live["spec"], json!({"paused": true}));
    }

    #[test]
    fn what_is_left_out_is_removed_with_what_held_it() {
        let live = apply(
            None,
            &deployment(containers(
                json!([{"name": "a"}, {"name": "b", "image": "x"}]),
            )),
            "me",
        )
        .unwrap();
        let live = apply(
            Some(&live),
            &deployment(containers(json!([{"name": "a"}]))),
            "me",
        )
        .unwrap();
        assert_eq!(live["spec"], containers(json!([{"name": "a"}])));
        let mut bare = deployment(json!({"replicas": 1}));
        bare["metadata"].as_object_mut().unwrap().remove("labels");
        let live = apply(Some(&live), &bare, "me").unwrap();
        assert_eq!(without_managed(&live), bare);
    }

    #[test]
    fn what_others_set_inside_an_object_survives() {
        let live = apply(None, &deployment(json!({"replicas": 1})), "me").unwrap();
        let mut updated = live.clone();
        updated["metadata"]["labels"]["extra"] = "1".into();
        updated["spec"]["template"] = json!({"spec": {"containers": [{"name": "side"}]}});
        track_update(DEPLOYMENT, Some(&live), &mut updated, "other", "", LATER);
        let live = apply(
            Some(&updated),
            &deployment(containers(json!([{"name": "a"}]))),
            "me",
        )
        .unwrap();
        assert_eq!(
            live["metadata"]["labels"],
            json!({"app": "web", "extra": "1"})
        );
        assert_eq!(
            live["spec"],
            containers(json!([{"name": "side"}, {"name": "a"}]))
        );
    }

    #[test]
    fn an_update_moves_ownership() {
        let live = apply(
            None,
            &deployment(json!({"replicas": 1, "paused": true})),
            "me",
        )
        .unwrap();
        let mut updated = live.clone();
        updated["spec"]["replicas"] = 5.into();
        track_update(
            DEPLOYMENT,
            Some(&live),
            &mut updated,
            "kubectl-scale",
            "",
            LATER,
        );
        assert_eq!(owned(&updated, "me")["f:spec"], json!({"f:paused": {}}));
        assert_eq!(
            owned(&updated, "kubectl-scale"),
            json!({"f:spec": {"f:replicas": {}}})
        );
        // Giving up what one no longer owns removes nothing.
        let live = apply(Some(&updated), &deployment(json!({"paused": true})), "me").unwrap();
        assert_eq!(live["spec"]["replicas"], 5);
        // An update without a change leaves everything as it is.
        let mut same = live.clone();
        track_update(DEPLOYMENT, Some(&live), &mut same, "someone", "", LATER);
        assert_eq!(same, live);
    }

    #[test]
    fn subresources_have_entries_of_their_own() {
        let live = apply(None, &deployment(json!({"replicas": 1})), "me").unwrap();
        let mut updated = live.clone();
        updated["status"] =
            json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
        track_update(DEPLOYMENT, Some(&live), &mut updated, "me", "status", LATER);
        let entries = updated["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1]["subresource"], "status");
        assert_eq!(
            entries[1]["fieldsV1"],
            json!({"f:status": {
                "f:replicas": {},
                "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {
                    ".": {}, "f:type": {}, "f:status": {},
                }},
            }})
        );
    }

    #[test]
    fn an_object_without_managed_fields_belongs_to_who_was_before() {
        let live = deployment(json!({"replicas": 1}));
        let error = apply(Some(&live), &deployment(json!({"replicas": 2})), "me").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: \
             .spec.replicas"
        );
    }

    #[test]
    fn atomic_things_are_taken_as_a_whole() {
        let selector = |labels: Value| deployment(json!({"selector": {"matchLabels": labels}}));
        let live = apply(None, &selector(json!({"a": "1"})), "one").unwrap();
        assert_eq!(owned(&live, "one")["f:spec"], json!({"f:selector": {}}));
        let error = apply(Some(&live), &selector(json!({"b": "2"})), "two").unwrap_err();
        assert!(error.to_string().ends_with(": .spec.selector"), "{error}");
    }

    #[test]
    fn bad_configurations_are_refused() {
        for applied in [
            json!([]),
            json!({"metadata": {"managedFields": [{"manager": "x"}]}}),
            deployment(containers(json!([{"image": "x"}]))),
            deployment(containers(json!([{"name": "x"}, {"name": "x"}]))),
        ] {
            assert!(
                matches!(apply(None, &applied, "me"), Err(PatchError::Malformed(_))),
                "{applied}"
            );
        }
    }

    #[test]
    fn another_spelling_of_a_quantity_is_no_conflict() {
        let limits = |cpu: &str| {
            deployment(containers(
                json!([{"name": "a", "resources": {"limits": {"cpu": cpu}}}]),
            ))
        };
        let live = apply(None, &limits("1"), "one").unwrap();
        let live = apply(Some(&live), &limits("1000m"), "two").unwrap();
        assert_eq!(owned(&live, "one"), owned(&live, "two"));
    }

    #[test]
    fn nobody_owns_a_field_that_is_not_stored() {
        let live = apply(None, &deployment(json!({"replicas": 1, "foo": 1})), "one").unwrap();
        assert_eq!(owned(&live, "one")["f:spec"], json!({"f:replicas": {}}));
    }

    #[test]
    fn kubectl_may_go_from_client_side_to_server_side_apply() {
        const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
        let first = deployment(json!({"replicas": 1, "paused": true}));
        let mut live = first.clone();
        live["metadata"]["annotations"] = json!({ANNOTATION: first.to_string()});
        track_update(
            DEPLOYMENT,
            None,
            &mut live,
            "kubectl-client-side-apply",
            "",
            NOW,
        );
        let mut scaled = live.clone();
        scaled["spec"]["paused"] = false.into();
        track_update(
            DEPLOYMENT,
            Some(&live),
            &mut scaled,
            "kubectl-edit",
            "",
            NOW,
        );
        // What it applied itself is no conflict, whatever else changed is one.
        let more = deployment(json!({"replicas": 2, "paused": false}));
        let object = apply(Some(&scaled), &more, "kubectl").unwrap();
        assert_eq!(object["spec"]["replicas"], 2);
        assert_eq!(
            serde_json::from_str::<Value>(
                object["metadata"]["annotations"][ANNOTATION]
                    .as_str()
                    .unwrap()
            )
            .unwrap(),
            more
        );
        let error = apply(
            Some(&scaled),
            &deployment(json!({"paused": true})),
            "kubectl",
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.paused"
        );
        assert!(apply(Some(&scaled), &more, "other").is_err());
        assert_eq!(apply(Some(&object), &more, "kubectl").unwrap(), object);
    }

    #[test]
    fn managed_fields_can_be_reset() {
        let live = apply(None, &deployment(json!({"replicas": 1})), "me").unwrap();
        let mut cleared = live.clone();
        cleared["metadata"]["managedFields"] = json!([{}]);
        track_update(DEPLOYMENT, Some(&live), &mut cleared, "me", "", LATER);
        assert_eq!(cleared, without_managed(&live));
    }

    #[test]
    fn field_sets_survive_the_wire() {
        let json = json!({
            "f:a": {".": {}, "f:b": {}, "k:{\"x\":1,\"y\":\"z\"}": {".": {}, "f:x": {}}},
            "f:c": {"v:\"q\"": {}, "i:3": {}},
        });
        let fields = fields::Fields::from_json(&json);
        assert_eq!(fields.to_json(), json);
        assert_eq!(
            fields.paths(),
            [
                ".a",
                ".a.b",
                ".a[x=1,y=\"z\"]",
                ".a[x=1,y=\"z\"].x",
                ".c[3]",
                ".c[=\"q\"]"
            ]
        );
    }

    /// Small config maps: a few keys with a few values.
    fn configs() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d]", "[xyz]", 0..4).prop_map(|data| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
        })
    }

    fn data(object: &Value) -> serde_json::Map<String, Value> {
        object["data"].as_object().cloned().unwrap_or_default()
    }

    proptest! {
        #[test]
        fn applying_twice_is_applying_once(first in configs(), second in configs()) {
            let apply = |live: Option<&Value>, applied: &Value, now| {
                server_side_apply(CONFIG_MAP, live, applied, "me", true, "", now).unwrap()
            };
            let live = apply(None, &first, NOW);
            let once = apply(Some(&live), &second, NOW);
            prop_assert_eq!(apply(Some(&once), &second, LATER), once);
        }

        /// Against a plain model: each manager has the set of keys it last applied; a key is there as long as
        /// someone has it, with the value that was applied last.
        #[test]
        fn keys_live_as_long_as_someone_wants_them(
            steps in prop::collection::vec((0usize..3, configs()), 1..8)
        ) {
            let managers = ["one", "two", "three"];
            let mut wanted: Vec<Vec<String>> = vec![Vec::new(); 3];
            let mut model = std::collections::BTreeMap::new();
            let mut live: Option<Value> = None;
            for (who, applied) in steps {
                live = Some(
                    server_side_apply(CONFIG_MAP, live.as_ref(), &applied, managers[who], true, "", NOW)
                        .unwrap(),
                );
                let applied = data(&applied);
                for (key, value) in &applied {
                    // Whoever wanted another value has lost the key.
                    if model.get(key) != Some(value) {
                        for (other, keys) in wanted.iter_mut().enumerate() {
                            if other != who {
                                keys.retain(|wanted| wanted != key);
                            }
                        }
                    }
                    model.insert(key.clone(), value.clone());
                }
                let before = std::mem::replace(&mut wanted[who], applied.keys().cloned().collect());
                for key in before {
                    if !wanted.iter().flatten().any(|wanted| *wanted == key) {
                        model.remove(&key);
                    }
                }
                let found: std::collections::BTreeMap<String, Value> =
                    data(live.as_ref().unwrap()).into_iter().collect();
                prop_assert_eq!(&found, &model);
            }
        }
    }
}

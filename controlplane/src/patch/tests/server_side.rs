//! Server-side apply, against a plain model of who wants what.

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
fn a_status_from_an_old_copy_takes_nobodys_ownership() {
    let old = apply(None, &deployment(json!({"replicas": 1})), "me").unwrap();
    let mut live = old.clone();
    live["spec"]["replicas"] = 2.into();
    track_update(DEPLOYMENT, Some(&old), &mut live, "other", "", LATER);
    for managed_fields in [old["metadata"]["managedFields"].clone(), json!([{}])] {
        let mut written = live.clone();
        written["metadata"]["managedFields"] = managed_fields;
        written["status"] = json!({"replicas": 1});
        let subresource = "status";
        track_update(
            DEPLOYMENT,
            Some(&live),
            &mut written,
            "me",
            subresource,
            LATER,
        );
        assert_eq!(
            owned(&written, "other"),
            json!({"f:spec": {"f:replicas": {}}})
        );
    }
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

//! Which structures a writer owns as such: those that are pointers, since all other ones are there without being set.

use super::*;

/// What the maker of an object of the definition owns.
fn made(definition: &str, object: &Value) -> Value {
    updated(definition, None, object)
}

fn updated(definition: &str, old: Option<&Value>, object: &Value) -> Value {
    let mut object = object.clone();
    track_update(definition, old, &mut object, "me", "", NOW);
    object["metadata"]["managedFields"][0]["fieldsV1"].clone()
}

#[test]
fn structures_that_are_always_written_are_nobodys() {
    let rows = [
        (
            "io.k8s.api.apps.v1.StatefulSet",
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
            json!({"f:updateStrategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:partition": {}}}}),
        ),
        (
            "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
            json!({"scaleTargetRef": {"kind": "Deployment", "name": "web"}}),
            json!({"f:scaleTargetRef": {"f:kind": {}, "f:name": {}}}),
        ),
        (
            "io.k8s.api.batch.v1.CronJob",
            json!({"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}}),
            json!({"f:jobTemplate": {"f:spec": {"f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}},
            }}}}}}),
        ),
        (
            "io.k8s.api.core.v1.PersistentVolumeClaim",
            json!({"resources": {"requests": {"storage": "1Gi"}}}),
            json!({"f:resources": {"f:requests": {".": {}, "f:storage": {}}}}),
        ),
    ];
    for (definition, spec, owned) in rows {
        let object = json!({"metadata": {"name": "n"}, "spec": spec});
        assert_eq!(made(definition, &object)["f:spec"], owned, "{definition}");
    }
}

#[test]
fn structures_behind_pointers_and_in_new_entries_are_owned() {
    let template = json!({"spec": {"containers": [
        {"name": "a", "resources": {"limits": {"cpu": "1"}}},
    ]}});
    let owned = json!({".": {}, "f:spec": {".": {}, "f:containers": {".": {}, "k:{\"name\":\"a\"}": {
        ".": {}, "f:name": {},
        "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}},
    }}}});
    let object = json!({"spec": {"template": template}});
    let fields = made("io.k8s.api.core.v1.ReplicationController", &object);
    assert_eq!(fields["f:spec"]["f:template"], owned);

    let claim = json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}});
    let object = json!({"spec": {"volumes": [{"name": "v", "ephemeral": {
        "volumeClaimTemplate": claim,
    }}]}});
    let fields = made("io.k8s.api.core.v1.Pod", &object);
    let volume = &fields["f:spec"]["f:volumes"]["k:{\"name\":\"v\"}"];
    assert_eq!(
        volume["f:ephemeral"]["f:volumeClaimTemplate"]["f:spec"],
        json!({".": {}, "f:resources": {".": {}, "f:requests": {".": {}, "f:storage": {}}}})
    );
}

#[test]
fn what_is_as_it_is_without_being_set_changes_nothing() {
    const BUDGET: &str = "io.k8s.api.policy.v1.PodDisruptionBudget";
    let status = |of: Value| json!({"metadata": {"name": "n"}, "status": of});
    let before = status(json!({}));
    let mut after = status(json!({"currentHealthy": 0, "desiredHealthy": 2}));
    track_update(BUDGET, Some(&before), &mut after, "me", "status", NOW);
    let owned = |object: &Value| object["metadata"]["managedFields"][0]["fieldsV1"].clone();
    assert_eq!(owned(&after), json!({"f:status": {"f:desiredHealthy": {}}}));
    // What becomes zero is changed, not gone.
    let mut zero = status(json!({"currentHealthy": 0}));
    track_update(BUDGET, Some(&after), &mut zero, "other", "status", NOW);
    assert_eq!(owned(&zero), json!({"f:status": {"f:desiredHealthy": {}}}));
    assert_eq!(zero["metadata"]["managedFields"][0]["manager"], "other");
}

#[test]
fn references_are_owned_as_a_whole() {
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "u"}],
    });
    assert_eq!(
        made("io.k8s.api.rbac.v1.RoleBinding", &binding),
        json!({"f:roleRef": {}, "f:subjects": {}})
    );
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let owned = json!({"metadata": {"ownerReferences": [owner]}});
    assert_eq!(
        made("io.k8s.api.core.v1.ConfigMap", &owned)["f:metadata"]["f:ownerReferences"],
        json!({".": {}, "k:{\"uid\":\"u\"}": {}})
    );
}

#[test]
fn a_budgets_selector_is_replaced_by_a_patch() {
    let budget = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
    let patch = json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}});
    let definition = "io.k8s.api.policy.v1.PodDisruptionBudget";
    let patched = strategic_merge_patch(definition, &budget, &patch).unwrap();
    assert_eq!(
        patched["spec"]["selector"],
        json!({"matchLabels": {"b": "2"}})
    );
}

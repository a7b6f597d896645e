//! What is given as empty is not the same as what is not given, unless Kubernetes takes it for that; and rules about
//! several fields of an object. One row each: a good object, what is changed in it, and the first that is said of that.

use serde_json::{Value, json};

use super::{changed, created, kind, problems};

/// Rows: pointer, new value, how the first complaint begins (nothing: there is none).
fn check(name: &str, good: &Value, rows: &[(&str, Value, &str)]) {
    assert_eq!(problems(kind(name), good.clone()), Vec::<String>::new());
    for (path, value, expected) in rows {
        let mut object = good.clone();
        let (holder, last) = path.rsplit_once('/').unwrap();
        object.pointer_mut(holder).unwrap()[last] = value.clone();
        let found = problems(kind(name), object).into_iter().next();
        let found = found.unwrap_or_default();
        let same = if expected.is_empty() {
            found.is_empty()
        } else {
            found.starts_with(expected)
        };
        assert!(same, "{name} {path} {value}: {found}");
    }
}

#[test]
fn references_of_ingresses_and_their_classes() {
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "c", "defaultBackend": {
        "resource": {"apiGroup": "x.io", "kind": "K", "name": "n"}}}});
    check(
        "Ingress",
        &ingress,
        &[
            (
                "/spec/ingressClassName",
                json!(""),
                "spec.ingressClassName: Invalid value: \"\": a lowercase RFC 1123",
            ),
            (
                "/spec/defaultBackend/resource/apiGroup",
                json!(""),
                "spec.defaultBackend.resource.apiGroup: Invalid value: \"\": a lowercase RFC 1123",
            ),
            (
                "/spec/defaultBackend",
                json!({}),
                "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
            ),
            (
                "/spec/defaultBackend",
                json!({"service": {"name": "s", "port": {"name": "http", "number": 0}}}),
                "",
            ),
        ],
    );
    let class = json!({"metadata": {"name": "c"}, "spec": {"controller": "x.io/c", "parameters": {
        "apiGroup": "x.io", "kind": "K", "name": "n"}}});
    check(
        "IngressClass",
        &class,
        &[
            (
                "/spec/parameters/apiGroup",
                json!(""),
                "spec.parameters.apiGroup: Invalid value: \"\"",
            ),
            (
                "/spec/parameters/namespace",
                json!(""),
                "spec.parameters.namespace: Forbidden",
            ),
        ],
    );
}

#[test]
fn endpoints_and_autoscalers() {
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
    let topology = "endpoints[0].deprecatedTopology: Invalid value: ";
    check(
        "EndpointSlice",
        &slice,
        &[
            (
                "/endpoints/0/hostname",
                json!(""),
                "endpoints[0].hostname: Invalid value: \"\"",
            ),
            (
                "/endpoints/0/deprecatedTopology",
                json!({"a": 5}),
                &format!("{topology}5: must be a string"),
            ),
            (
                "/endpoints/0/deprecatedTopology",
                json!({"a": "b c"}),
                &format!("{topology}\"b c\": a valid label"),
            ),
            (
                "/endpoints/0/deprecatedTopology",
                json!([]),
                &format!("{topology}[]: must be an object"),
            ),
        ],
    );
    let scaler = json!({"metadata": {"name": "s"}, "spec": {
        "maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 10}]}}}});
    check(
        "HorizontalPodAutoscaler",
        &scaler,
        &[(
            "/spec/behavior/scaleUp/selectPolicy",
            json!(""),
            "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"\"",
        )],
    );
    let set = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxUnavailable": 1}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    check(
        "Deployment",
        &set,
        &[(
            "/spec/strategy/rollingUpdate/maxSurge",
            json!(""),
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"\": a valid percent string",
        )],
    );
}

#[test]
fn servers_that_are_called() {
    let hook = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"service": {"name": "s", "namespace": "n", "path": "/x"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}]});
    let path = "webhooks[0].clientConfig.service.path: Invalid value: ";
    check(
        "MutatingWebhookConfiguration",
        &hook,
        &[
            (
                "/webhooks/0/reinvocationPolicy",
                json!(""),
                "webhooks[0].reinvocationPolicy: Unsupported value: \"\"",
            ),
            (
                "/webhooks/0/clientConfig/service/path",
                json!("/x/../y"),
                &format!("{path}\"/x/../y\": segment[1]: a lowercase RFC 1123 subdomain"),
            ),
            (
                "/webhooks/0/clientConfig/service/path",
                json!("/x//y"),
                &format!("{path}\"/x//y\": segment[1] may not be empty"),
            ),
            ("/webhooks/0/clientConfig/service/path", json!("/x/y/"), ""),
        ],
    );
    let service = json!({"metadata": {"name": "v1.x.io"}, "spec": {
        "group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
        "insecureSkipTLSVerify": true, "service": {"name": "s", "namespace": "n"}}});
    let skip = "spec.insecureSkipTLSVerify: Invalid value: true: ";
    check(
        "APIService",
        &service,
        &[
            (
                "/spec/service",
                Value::Null,
                &format!("{skip}local APIServices may not have insecureSkipTLSVerify"),
            ),
            (
                "/spec/caBundle",
                json!("AAAA"),
                &format!("{skip}may not be true if caBundle is present"),
            ),
        ],
    );
}

#[test]
fn rules_of_flow_schemas() {
    let schema = json!({"metadata": {"name": "f"}, "spec": {
        "matchingPrecedence": 0, "priorityLevelConfiguration": {"name": "l"},
        "rules": [{
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"], "namespaces": ["a"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/x/*"]}]}]}});
    // A precedence of 0 is one that is not given.
    let made = created(kind("FlowSchema"), schema.clone());
    assert_eq!(made["spec"]["matchingPrecedence"], 1000);
    let resources = "spec.rules[0].resourceRules[0]";
    let paths = "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: ";
    let account = "spec.rules[0].subjects[0].serviceAccount";
    check(
        "FlowSchema",
        &schema,
        &[
            (
                "/spec/matchingPrecedence",
                json!(1),
                "spec.matchingPrecedence: Invalid value: 1: only the schema named",
            ),
            (
                "/spec/rules/0/subjects/0/user",
                json!({"name": "u"}),
                "spec.rules[0].subjects[0].user: Forbidden",
            ),
            (
                "/spec/rules/0/subjects/0/serviceAccount/name",
                json!("A b"),
                &format!("{account}.name: Invalid value: \"A b\""),
            ),
            (
                "/spec/rules/0/subjects/0/serviceAccount/namespace",
                json!("A b"),
                &format!("{account}.namespace: Invalid value: \"A b\""),
            ),
            (
                "/spec/rules/0/resourceRules/0/verbs",
                json!([""]),
                &format!("{resources}.verbs: Unsupported value: "),
            ),
            (
                "/spec/rules/0/resourceRules/0/namespaces",
                json!(["*", "a"]),
                &format!("{resources}.namespaces: Invalid value: [\"*\",\"a\"]: if '*' is present"),
            ),
            (
                "/spec/rules/0/resourceRules/0/namespaces",
                json!([""]),
                &format!(
                    "{resources}.namespaces[0]: Invalid value: \"\": each member of this list"
                ),
            ),
            (
                "/spec/rules/0/nonResourceRules/0/nonResourceURLs",
                json!([""]),
                &format!("{paths}\"\": must not be empty"),
            ),
            (
                "/spec/rules/0/nonResourceRules/0/nonResourceURLs",
                json!(["/a*b"]),
                &format!("{paths}\"/a*b\": wildcard can only do suffix matching"),
            ),
        ],
    );
    let level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {"limitResponse": {
        "type": "Queue", "queuing": {"queues": 0, "handSize": 0, "queueLengthLimit": 0}}}}});
    check("PriorityLevelConfiguration", &level, &[]);
}

#[test]
fn amounts_of_limit_ranges() {
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{
        "type": "Container", "max": {"cpu": "4"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "4"}}]}});
    check(
        "LimitRange",
        &range,
        &[
            (
                "/spec/limits/0/maxLimitRequestRatio/cpu",
                json!("5"),
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"5\": ratio 5 is greater than max/min = \
                 4.000000",
            ),
            ("/spec/limits/0/default", json!({"x.io/d": "2"}), ""),
            (
                "/spec/limits",
                json!([{"type": "Container", "default": {"x.io/d": "2"}, "defaultRequest": {"x.io/d": "1"}}]),
                "spec.limits[0].defaultRequest[x.io/d]: Invalid value: \"1\": default value 2 must equal to \
                 defaultRequest value 1 in x.io/d",
            ),
        ],
    );
}

#[test]
fn classes_attachments_and_secrets() {
    let class = json!({"metadata": {"name": "p"}, "value": 1});
    let required = "preemptionPolicy: Required value";
    check(
        "PriorityClass",
        &class,
        &[("/preemptionPolicy", json!(""), required)],
    );
    let class = json!({"metadata": {"name": "s"}, "provisioner": "x.io/p"});
    check(
        "StorageClass",
        &class,
        &[(
            "/allowedTopologies",
            json!([{}]),
            "allowedTopologies[0].matchLabelExpressions: Duplicate value: \"\"",
        )],
    );
    let attachment = json!({"metadata": {"name": "a"}, "spec": {
        "attacher": "x.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    check(
        "VolumeAttachment",
        &attachment,
        &[(
            "/spec/source/persistentVolumeName",
            json!(""),
            "spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName",
        )],
    );
    // "0", which is JSON and no configuration.
    let secret = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/dockerconfigjson", "data": {
        ".dockerconfigjson": "e30="}});
    check(
        "Secret",
        &secret,
        &[(
            "/data/.dockerconfigjson",
            json!("MA=="),
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": must be a JSON object",
        )],
    );
}

#[test]
fn schemas_of_definitions() {
    let definition = json!({"metadata": {"name": "as.x.io"}, "spec": {
        "group": "x.io", "scope": "Cluster", "names": {"plural": "as", "kind": "A", "listKind": "AList"},
        "conversion": {"strategy": "None"},
        "versions": [{"name": "v1", "served": true, "storage": true, "deprecated": true, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {
                "l": {"type": "array", "items": {"type": "string"}}, "m": {"type": "object"}}}}}]}});
    let schema = "spec.validation.openAPIV3Schema.properties";
    let here = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let warning = "spec.versions[0].deprecationWarning: Invalid value: ";
    check(
        "CustomResourceDefinition",
        &definition,
        &[
            (
                &format!("{here}/p"),
                json!({}),
                &format!("{schema}[p].type: Required value"),
            ),
            (
                &format!("{here}/m/x-kubernetes-preserve-unknown-fields"),
                json!(false),
                &format!(
                    "{schema}[m].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or"
                ),
            ),
            (
                &format!("{here}/m/x-kubernetes-map-type"),
                json!(""),
                &format!("{schema}[m].x-kubernetes-map-type: Unsupported value: \"\""),
            ),
            (
                &format!("{here}/l/x-kubernetes-list-type"),
                json!(""),
                &format!("{schema}[l].x-kubernetes-list-type: Unsupported value: \"\""),
            ),
            (
                &format!("{here}/l/x-kubernetes-list-map-keys"),
                json!(["a"]),
                &format!("{schema}[l].x-kubernetes-list-type: Required value: must be map if"),
            ),
            (
                "/spec/versions/0/deprecationWarning",
                json!(""),
                &format!("{warning}\"\": must not be an empty string"),
            ),
            ("/spec/versions/0/deprecationWarning", json!("w"), ""),
        ],
    );
}

#[test]
fn pods_and_their_sources() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}], "env": [
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "s"}}]}]}});
    let container = "spec.containers[0]";
    check(
        "Pod",
        &pod,
        &[
            (
                "/spec/containers/0/volumeMounts/0/mountPropagation",
                json!(""),
                &format!("{container}.volumeMounts[0].mountPropagation: Unsupported value: \"\""),
            ),
            (
                "/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion",
                json!("v2"),
                &format!(
                    "{container}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name\": error"
                ),
            ),
            (
                "/spec/containers/0/env/1/valueFrom/configMapKeyRef/name",
                json!("A b"),
                &format!(
                    "{container}.env[1].valueFrom.configMapKeyRef.name: Invalid value: \"A b\""
                ),
            ),
            (
                "/spec/containers/0/envFrom/0/secretRef/name",
                json!("A b"),
                &format!("{container}.envFrom[0].secretRef.name: Invalid value: \"A b\""),
            ),
            (
                "/metadata/ownerReferences",
                json!([{"apiVersion": "a/b/c", "kind": "K", "name": "n", "uid": "u"}]),
                "metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\"",
            ),
        ],
    );
}

/// What Kubernetes fills in for sources of volumes, and what an update that says nothing of it keeps.
#[test]
fn what_pods_are_given() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "env": [
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}],
        "volumes": [
            {"name": "a", "iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.com.example:a", "lun": 0}},
            {"name": "b", "rbd": {"monitors": ["m"], "image": "i"}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}}]}});
    let made = created(kind("Pod"), pod.clone());
    let spec = &made["spec"];
    assert_eq!(spec["volumes"][0]["iscsi"]["iscsiInterface"], "default");
    assert_eq!(spec["volumes"][1]["rbd"]["keyring"], "/etc/ceph/keyring");
    let claim = &spec["volumes"][2]["ephemeral"]["volumeClaimTemplate"]["spec"];
    assert_eq!(claim["volumeMode"], "Filesystem");
    let variable = &spec["containers"][0]["env"][0]["valueFrom"];
    assert_eq!(variable["resourceFieldRef"]["divisor"], "0");

    let mut stored = pod.clone();
    stored["spec"]["priority"] = 7.into();
    stored["spec"]["preemptionPolicy"] = "Never".into();
    let (problems, kept) = changed(kind("Pod"), stored, pod, "");
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(kept["spec"]["priority"], 7);
    assert_eq!(kept["spec"]["preemptionPolicy"], "Never");
}

#[test]
fn the_order_of_scopes_is_no_change() {
    let quota = |scopes: Value| json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}, "scopes": scopes}});
    let kind = kind("ResourceQuota");
    let old = quota(json!(["BestEffort", "NotTerminating"]));
    let same = quota(json!(["NotTerminating", "BestEffort"]));
    assert_eq!(changed(kind, old.clone(), same, "").0, Vec::<String>::new());
    let other = quota(json!(["BestEffort"]));
    assert_eq!(changed(kind, old, other, "").0.len(), 1);
}

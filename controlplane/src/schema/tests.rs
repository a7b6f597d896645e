//! Tests of `schema`.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::facts;
use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";
const SERVICE: &str = "io.k8s.api.core.v1.Service";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

#[test]
fn every_kind_has_a_definition() {
    for kind in crate::kinds::all() {
        assert!(schema().definition(kind.definition).is_some(), "{kind:?}");
    }
}

#[test]
fn every_fact_is_about_a_list_or_object_that_exists() {
    for (definition, field, _, _) in facts::FIELDS {
        // Types that nothing served refers to yet are none of this test's business.
        let Some(known) = schema().definition(definition) else {
            continue;
        };
        assert!(known.field(field).is_some(), "{definition}.{field}");
    }
    for name in facts::ATOMIC_TYPES {
        if let Some(known) = schema().definition(name) {
            assert!(known.atomic);
        }
    }
}

#[test]
fn merge_keys_are_fields_of_the_entries() {
    for definition in &schema().definitions {
        for field in &definition.fields {
            let Node::List { items, list_type } = &field.node else {
                continue;
            };
            let keys: Vec<&str> = match list_type {
                ListType::Map(keys) => keys.iter().map(|key| &**key).collect(),
                _ => Vec::new(),
            };
            for key in keys
                .iter()
                .chain(Some(&field.patch.key).filter(|k| !k.is_empty()))
            {
                assert!(
                    schema().field(items, key).is_some(),
                    "{}.{}: {key}",
                    definition.name,
                    field.name
                );
            }
        }
    }
}

fn messages(definition: &str, mut body: Value) -> (Vec<String>, Value) {
    let problems = check_and_prune(definition, &mut body);
    (problems.iter().map(ToString::to_string).collect(), body)
}

#[test]
fn unknown_fields_are_named_and_removed() {
    let (found, body) = messages(
        POD,
        json!({"spec": {"foo": 1, "containers": [{"name": "a", "imag": "x"}]}, "status": null}),
    );
    assert_eq!(
        found,
        [
            "unknown field \"spec.containers[0].imag\"",
            "unknown field \"spec.foo\""
        ]
    );
    assert_eq!(body, json!({"spec": {"containers": [{"name": "a"}]}}));
}

#[test]
fn wrong_types_are_fatal_and_named_as_kubernetes_does() {
    let mut body = json!({"spec": {"ports": [{"port": "http"}]}});
    let problems = check_and_prune(SERVICE, &mut body);
    assert_eq!(
        decode_error("Service", "v1", &problems).unwrap(),
        "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal string into \
         Go struct field ServicePort.spec.ports.port of type int32"
    );
    assert_eq!(strict_error(&problems), None);
    let (found, _) = messages(DEPLOYMENT, json!({"spec": {"replicas": 1.5}}));
    assert_eq!(
        found,
        [
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of \
             type int32"
        ]
    );
    let (found, _) = messages(POD, json!({"metadata": {"labels": {"a": 1}}}));
    assert_eq!(
        found,
        [
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type \
             string"
        ]
    );
    let (found, _) = messages(POD, json!([1]));
    assert_eq!(
        found,
        ["json: cannot unmarshal array into Go value of type v1.Pod"]
    );
}

#[test]
fn values_are_brought_into_the_stored_form() {
    let (found, body) = messages(
        POD,
        json!({
            "metadata": {"creationTimestamp": "2026-01-02T03:04:05.5+02:00", "labels": {"a": null}},
            "spec": {"containers": [{
                "name": "a",
                "ports": [{"containerPort": 80.0}],
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
            }]},
        }),
    );
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(
        body,
        json!({
            "metadata": {"creationTimestamp": "2026-01-02T01:04:05Z", "labels": {"a": ""}},
            "spec": {"containers": [{
                "name": "a",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            }]},
        })
    );
}

#[test]
fn texts_that_cannot_be_read_are_fatal() {
    let limits =
        |cpu: &str| json!({"spec": {"containers": [{"resources": {"limits": {"cpu": cpu}}}]}});
    assert_eq!(
        messages(POD, limits("lots")).0,
        ["quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"]
    );
    assert_eq!(
        messages(POD, limits("1Kb")).0,
        ["quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"]
    );
    assert_eq!(
        messages(POD, limits("1KK")).0,
        ["unable to parse quantity's suffix"]
    );
    assert_eq!(
        messages("io.k8s.api.core.v1.Secret", json!({"data": {"a": "b?=="}})).0,
        ["illegal base64 data at input byte 1"]
    );
    assert_eq!(
        messages(POD, json!({"metadata": {"creationTimestamp": "now"}})).0,
        ["parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\""]
    );
}

#[test]
fn duplicate_fields_are_found_in_the_text() {
    let found: Vec<String> = duplicate_fields(
        br#"{"spec": {"a": 1, "a": {"x": null, "x": true}, "l": [{"b": 1.5, "b": "c"}]}, "spec": {}}"#,
    )
    .iter()
    .map(ToString::to_string)
    .collect();
    assert_eq!(
        found,
        [
            "duplicate field \"spec.a\"",
            "duplicate field \"spec.a.x\"",
            "duplicate field \"spec.l[0].b\"",
            "duplicate field \"spec\"",
        ]
    );
    assert_eq!(duplicate_fields(b"{"), Vec::new());
    assert_eq!(duplicate_fields(&b"[".repeat(100_000)), Vec::new());
}

fn arbitrary_json() -> impl proptest::strategy::Strategy<Value = Value> {
    crate::kinds::tests::arbitrary_json()
}

proptest::proptest! {
    #[test]
    fn checking_never_panics_and_is_idempotent(mut body in arbitrary_json()) {
        for kind in crate::kinds::all() {
            check_and_prune(kind.definition, &mut body);
        }
        let mut pod = body.clone();
        let first = check_and_prune(POD, &mut pod);
        if !first.iter().any(FieldProblem::is_fatal) {
            let before = pod.clone();
            proptest::prop_assert_eq!(check_and_prune(POD, &mut pod), Vec::new());
            proptest::prop_assert_eq!(pod, before);
        }
    }
}

#[test]
fn the_v2_document_has_what_kubectl_reads() {
    let document = openapi_v2(&[]);
    let container = &document["definitions"]["io.k8s.api.core.v1.Container"]["properties"];
    assert_eq!(
        container["ports"]["x-kubernetes-patch-merge-key"],
        "containerPort"
    );
    assert_eq!(
        container["ports"]["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    let pod = &document["definitions"][POD];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    assert!(names.contains(&"dryRun") && names.contains(&"fieldValidation"));
    every_reference_resolves(&document, &document);
}

/// What a client would refuse by a type that is too narrow: `kubectl apply` of a CustomResourceDefinition
/// whose schema has an `enum`, or `items`.
#[test]
fn values_of_several_shapes_have_no_single_type() {
    let document = openapi_v2(&[]);
    let extensions = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";
    for name in [
        "JSON",
        "JSONSchemaPropsOrArray",
        "JSONSchemaPropsOrBool",
        "JSONSchemaPropsOrStringArray",
    ] {
        let definition = document["definitions"][format!("{extensions}{name}")]
            .as_object()
            .unwrap();
        let fields: Vec<&String> = definition.keys().collect();
        assert_eq!(fields, ["description"], "{name}");
    }
    let core = openapi_v3("", "v1", &[]).unwrap();
    assert_eq!(
        core["components"]["schemas"]["io.k8s.apimachinery.pkg.api.resource.Quantity"]["oneOf"],
        json!([{"type": "string"}, {"type": "number"}])
    );
}

/// Names and tags are what generators of clients make methods and classes of.
#[test]
fn operations_are_named_as_kubernetes_names_them() {
    let document = openapi_v2(&[]);
    let is = |path: &str, method: &str, id: &str, tag: &str| {
        let operation = &document["paths"][path][method];
        assert_eq!(operation["operationId"], id, "{method} {path}");
        assert_eq!(operation["tags"], json!([tag]), "{method} {path}");
    };
    let pods = "/api/v1/namespaces/{namespace}/pods";
    is(
        "/api/v1/pods",
        "get",
        "listCoreV1PodForAllNamespaces",
        "core_v1",
    );
    is(
        pods,
        "delete",
        "deleteCoreV1CollectionNamespacedPod",
        "core_v1",
    );
    let status = format!("{pods}/{{name}}/status");
    is(
        &status,
        "put",
        "replaceCoreV1NamespacedPodStatus",
        "core_v1",
    );
    let exec = format!("{pods}/{{name}}/exec");
    is(
        &exec,
        "post",
        "connectCoreV1PostNamespacedPodExec",
        "core_v1",
    );
    let log = format!("{pods}/{{name}}/log");
    is(&log, "get", "readCoreV1NamespacedPodLog", "core_v1");
    let eviction = format!("{pods}/{{name}}/eviction");
    is(
        &eviction,
        "post",
        "createCoreV1NamespacedPodEviction",
        "core_v1",
    );
    let proxy = "/api/v1/nodes/{name}/proxy/{path}";
    is(
        proxy,
        "patch",
        "connectCoreV1PatchNodeProxyWithPath",
        "core_v1",
    );
    is(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "post",
        "createRbacAuthorizationV1ClusterRole",
        "rbacAuthorization_v1",
    );
    is(
        "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews",
        "post",
        "createAuthorizationV1NamespacedLocalSubjectAccessReview",
        "authorization_v1",
    );
    is(
        "/api/v1/componentstatuses",
        "get",
        "listCoreV1ComponentStatus",
        "core_v1",
    );
    let paths = document["paths"].as_object().unwrap().values();
    let mut ids: Vec<&str> = paths
        .flat_map(|path| path.as_object().unwrap().values())
        .filter_map(|operation| operation["operationId"].as_str())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "each names one operation");
}

#[test]
fn nothing_is_required_that_kubernetes_does_not_require() {
    let document = openapi_v2(&[]);
    let required = |name: &str| &document["definitions"][format!("io.k8s.api.{name}")]["required"];
    assert_eq!(
        *required("authorization.v1.SelfSubjectAccessReview"),
        json!(["spec"])
    );
    assert_eq!(*required("core.v1.Pod"), Value::Null);
    assert_eq!(*required("core.v1.LocalObjectReference"), Value::Null);
    assert_eq!(*required("core.v1.SecretKeySelector"), json!(["key"]));
    assert_eq!(
        *required("core.v1.Event"),
        json!(["involvedObject", "metadata"])
    );
}

fn every_reference_resolves(document: &Value, value: &Value) {
    if let Some(target) = value.get("$ref").and_then(Value::as_str) {
        assert!(
            document.pointer(target.trim_start_matches('#')).is_some(),
            "{target}"
        );
    }
    match value {
        Value::Object(map) => map
            .values()
            .for_each(|v| every_reference_resolves(document, v)),
        Value::Array(list) => list
            .iter()
            .for_each(|v| every_reference_resolves(document, v)),
        _ => {}
    }
}

#[test]
fn every_group_version_has_a_complete_v3_document() {
    assert!(group_versions().contains(&"apis/apps/v1".to_owned()));
    for path in group_versions() {
        let mut steps = path.split('/').skip(1);
        let first = steps.next().unwrap();
        let (group, version) = match steps.next() {
            Some(version) => (first, version),
            None => ("", first),
        };
        let document = openapi_v3(group, version, &[]).unwrap();
        every_reference_resolves(&document, &document);
    }
    assert_eq!(openapi_v3("example.com", "v1", &[]), None);
    let apps = openapi_v3("apps", "v1", &[]).unwrap();
    let schemas = apps["components"]["schemas"].as_object().unwrap();
    assert!(schemas.contains_key("io.k8s.api.core.v1.Container"));
    assert!(!schemas.contains_key("io.k8s.api.core.v1.Node"));
}

#[test]
fn the_protobuf_form_is_well_formed() {
    let document = openapi_v2(&[]);
    let bytes = openapi_v2_protobuf(&document);
    // Field 1, length-delimited: swagger "2.0".
    assert_eq!(&bytes[..5], b"\x0a\x032.0");
    let definitions = document["definitions"].as_object().unwrap().len();
    // Field 9 of the document holds one entry per definition.
    let found = fields(&bytes)
        .into_iter()
        .filter(|(field, _)| *field == 9)
        .map(|(_, definitions)| fields(definitions).len())
        .sum::<usize>();
    assert_eq!(found, definitions);
}

/// Length-delimited fields of a protobuf message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        assert_eq!(tag & 7, 2);
        let length = usize::try_from(varint(&mut bytes)).unwrap();
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        out.push((tag >> 3, value));
    }
    out
}

#[test]
fn what_is_not_written_is_not_kept() {
    let (_, mut body) = messages(
        DEPLOYMENT,
        json!({"spec": {
            "replicas": 0, "paused": false, "minReadySeconds": 0, "selector": {"matchLabels": {}},
            "template": {"metadata": {"labels": {}}, "spec": {
                "hostNetwork": false, "nodeName": "", "nodeSelector": {}, "securityContext": {},
                "automountServiceAccountToken": false,
                "containers": [{"name": "", "args": [], "env": [{"name": "a", "value": ""}]}],
            }},
        }}),
    );
    // Who judges the object sees lists and maps that were given as empty.
    assert_eq!(body["spec"]["template"]["metadata"]["labels"], json!({}));
    drop_unset(DEPLOYMENT, &mut body);
    assert_eq!(
        body,
        json!({"spec": {
            "replicas": 0, "selector": {},
            "template": {"metadata": {}, "spec": {
                "securityContext": {}, "automountServiceAccountToken": false,
                "containers": [{"name": "", "env": [{"name": "a"}]}],
            }},
        }})
    );
    // Data of the user's own has no such fields.
    let (_, mut body) = messages(
        "io.k8s.api.core.v1.ConfigMap",
        json!({"data": {"a": ""}, "immutable": false}),
    );
    drop_unset("io.k8s.api.core.v1.ConfigMap", &mut body);
    assert_eq!(body, json!({"data": {"a": ""}, "immutable": false}));
}

//! What fuzz targets call: any bytes as parts of a request. Compiled for them and for tests only.

use std::sync::LazyLock;

use http::Method;
use serde_json::{Value, json};

use super::body::{self, FieldValidation};
use super::negotiate::Encoding;
use super::read::list_options;
use super::request::{self, Query};
use crate::kinds::{self, Kind};
use crate::patch;
use crate::schema::check_and_prune;

fn pods() -> &'static Kind<'static> {
    kinds::by_plural("", "v1", "pods").expect("pods are built in")
}

/// As the path of a request, with what is to be allowed for it.
pub(crate) fn path(bytes: &[u8]) {
    let path = String::from_utf8_lossy(bytes);
    let Some(place) = request::parse_path(&path) else {
        return;
    };
    let query = Query::parse("");
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let wanted = request::attributes(&method, &path, &place, &query);
        for part in [&wanted.namespace, &wanted.name, &wanted.resource] {
            assert!(!part.contains('/') && part != "." && part != "..", "{part}");
        }
    }
    assert!(path.ends_with(request::proxied_path(&path)));
}

/// As the query of a list, and of a write.
pub(crate) fn query(bytes: &[u8]) {
    let query = Query::parse(&String::from_utf8_lossy(bytes));
    let _ = list_options(pods(), &query);
    let _ = query.dry_run("CreateOptions");
    let _ = FieldValidation::parse(query.get("fieldValidation"), "CreateOptions");
}

/// As the body of a write, in each encoding. What is taken must be judged, shown and written anew.
pub(crate) fn body(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let kinds = kinds::all();
    let kind = kinds[usize::from(first / 3) % kinds.len()];
    let encoding = match first % 3 {
        0 => Encoding::Json,
        1 => Encoding::Yaml,
        _ => Encoding::Protobuf,
    };
    let Ok((mut object, _)) = body::object_of(kind, rest, encoding, FieldValidation::Strict) else {
        return;
    };
    if encoding == Encoding::Json && !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    kind.strategy.default(&mut object);
    kind.strategy.prepare_create(&mut object);
    let _ = kind.strategy.validate(&object, None, "");
    let _ = kind.strategy.validate(&object, Some(&object), "");
    let _ = kind.strategy.warnings(&object);
    let _ = kind.strategy.row(&object, 0);
    let _ = kind.strategy.selectable(&object);
    let written = object.to_string();
    let again: Value = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(again.to_string(), written);
}

static POD: LazyLock<Value> = LazyLock::new(|| {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}, "finalizers": ["e/f"]},
        "spec": {"containers": [
            {"name": "g", "image": "h", "ports": [{"containerPort": 1}], "env": [{"name": "i", "value": "j"}]},
            {"name": "k", "image": "l"},
        ], "tolerations": [{"key": "m"}]},
    });
    pods().strategy.default(&mut pod);
    pod
});

/// As a patch of a pod, of each of the four kinds.
pub(crate) fn patch(bytes: &[u8]) {
    let Ok(change) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let now = "2026-01-01T00:00:00Z";
    let patched = [
        patch::json_patch(&POD, &change),
        Ok(patch::merge_patch(&POD, &change)),
        patch::strategic_merge_patch(pods(), &POD, &change),
        patch::server_side_apply(pods(), Some(&POD), &change, "fuzz", true, "", now),
        patch::apply_configuration(pods(), &POD, &change),
    ];
    for mut object in patched.into_iter().flatten() {
        if !object.is_object() {
            continue;
        }
        let fatal = check_and_prune(pods(), &mut object);
        if fatal.iter().any(crate::schema::FieldProblem::is_fatal) {
            continue;
        }
        patch::track_update(pods(), Some(&POD), &mut object, "fuzz", "", now);
        pods().strategy.default(&mut object);
        let _ = pods().strategy.validate(&object, Some(&POD), "");
    }
}

//! What every pod gets besides the defaults of its type: the service account, tolerations for nodes that are
//! in trouble. Templates do not get these; nor is here what depends on other objects (priority, runtime).

use serde_json::{Value, json};

use crate::kinds::access::{fill, list, object_mut, text};

/// How long a pod stays on a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;

pub(super) fn fill_in(object: &mut Value) {
    let spec = object_mut(object, &["spec"]);
    fill(spec, "serviceAccountName", "default");
    let account = spec["serviceAccountName"].clone();
    spec.insert("serviceAccount".into(), account);
    if spec.get("enableServiceLinks").is_none_or(Value::is_null) {
        spec.insert("enableServiceLinks".into(), true.into());
    }
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        tolerate(object, key);
    }
}

fn tolerate(object: &mut Value, key: &str) {
    let tolerated = list(object, &["spec", "tolerations"]).iter().any(|known| {
        let effect = text(known, &["effect"]);
        (text(known, &["key"]) == key || text(known, &["key"]).is_empty())
            && (effect == "NoExecute" || effect.is_empty())
    });
    if tolerated {
        return;
    }
    let tolerations = object_mut(object, &["spec"])
        .entry("tolerations")
        .or_insert(Value::Null);
    if !tolerations.is_array() {
        *tolerations = json!([]);
    }
    if let Value::Array(list) = tolerations {
        list.push(json!({
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": TOLERATION_SECONDS,
        }));
    }
}

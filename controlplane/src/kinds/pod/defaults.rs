//! Defaults of a pod spec, the same for pods and for templates.

use serde_json::{Map, Value};

use crate::kinds::access::{at, fill, fill_absent, flag, list_mut, object_mut, text};

/// Fills in the pod spec at `path`.
pub(super) fn pod_spec(object: &mut Value, path: &[&str]) {
    let spec = object_mut(object, path);
    fill(spec, "restartPolicy", "Always");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "schedulerName", "default-scheduler");
    if !spec.get("securityContext").is_some_and(Value::is_object) {
        spec.insert("securityContext".into(), Value::Object(Map::new()));
    }
    // The old name of the field is kept in step.
    let account = match spec.get("serviceAccountName").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => text_of(spec, "serviceAccount"),
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        if let Some(Value::Array(containers)) = spec.get_mut(field) {
            for one in containers {
                container(one, host_network && field != "ephemeralContainers");
            }
        }
    }
    if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
        volumes.iter_mut().for_each(volume);
    }
}

fn text_of(object: &Map<String, Value>, key: &str) -> String {
    object
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned()
}

fn container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(text(container, &["image"]));
    let Some(fields) = container.as_object_mut() else {
        return;
    };
    fill(fields, "imagePullPolicy", policy);
    fill(fields, "terminationMessagePath", "/dev/termination-log");
    fill(fields, "terminationMessagePolicy", "File");
    if !fields.get("resources").is_some_and(Value::is_object) {
        fields.insert("resources".into(), Value::Object(Map::new()));
    }
    requests_from_limits(container);
    for port in list_mut(container, &["ports"]) {
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        fill(port, "protocol", "TCP");
        if host_network && port.get("hostPort").is_none_or(|p| p == 0) {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            port.insert("hostPort".into(), number);
        }
    }
    for variable in list_mut(container, &["env"]) {
        field_ref(variable, "valueFrom");
        resource_field_ref(variable.get_mut("valueFrom"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else {
            continue;
        };
        let fields = object_mut(probe, &[]);
        for (field, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            if fields.get(field).is_none_or(|v| v.is_null() || v == 0) {
                fields.insert(field.into(), value.into());
            }
        }
        http_get(probe);
        if probe.get("grpc").is_some_and(Value::is_object) {
            let grpc = object_mut(probe, &["grpc"]);
            if grpc.get("service").is_none_or(Value::is_null) {
                grpc.insert("service".into(), "".into());
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            http_get(hook);
        }
    }
}

/// `Always` for `latest` and for images without tag or digest, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = match container["resources"].get("limits") {
        Some(Value::Object(limits)) if !limits.is_empty() => limits.clone(),
        _ => return,
    };
    let requests = object_mut(container, &["resources", "requests"]);
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

fn http_get(handler: &mut Value) {
    if handler.get("httpGet").is_some_and(Value::is_object) {
        let get = object_mut(handler, &["httpGet"]);
        fill(get, "path", "/");
        fill(get, "scheme", "HTTP");
    }
}

/// The version of the object that `fieldRef` below `key` refers to.
fn field_ref(holder: &mut Value, key: &str) {
    let inner = if key.is_empty() {
        Some(holder)
    } else {
        holder.get_mut(key)
    };
    if let Some(reference) = inner
        .and_then(|inner| inner.get_mut("fieldRef"))
        .and_then(Value::as_object_mut)
    {
        fill(reference, "apiVersion", "v1");
    }
}

/// A divisor that is not given is shown as 0, and counts as 1.
fn resource_field_ref(holder: Option<&mut Value>) {
    if let Some(Value::Object(reference)) =
        holder.and_then(|holder| holder.get_mut("resourceFieldRef"))
    {
        fill(reference, "divisor", "0");
    }
}

fn volume(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else {
        return;
    };
    let has_source = fields
        .iter()
        .any(|(key, value)| key != "name" && !value.is_null());
    if !has_source {
        fields.insert("emptyDir".into(), Value::Object(Map::new()));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = fields.get_mut(source).and_then(Value::as_object_mut) {
            fill(source, "defaultMode", 0o644);
        }
    }
    crate::kinds::storage::default_source(fields);
    if let Some(host_path) = fields.get_mut("hostPath").and_then(Value::as_object_mut)
        && host_path.get("type").is_none_or(Value::is_null)
    {
        host_path.insert("type".into(), "".into());
    }
    for item in list_mut(volume, &["downwardAPI", "items"]) {
        field_ref(item, "");
        resource_field_ref(Some(item));
    }
    for source in list_mut(volume, &["projected", "sources"]) {
        if let Some(token) = source
            .get_mut("serviceAccountToken")
            .and_then(Value::as_object_mut)
        {
            fill(token, "expirationSeconds", 3600);
        }
        for item in list_mut(source, &["downwardAPI", "items"]) {
            field_ref(item, "");
            resource_field_ref(Some(item));
        }
    }
    if at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]).is_some() {
        const CLAIM: &[&str] = &["ephemeral", "volumeClaimTemplate", "spec"];
        fill_absent(object_mut(volume, CLAIM), "volumeMode", "Filesystem");
    }
    if volume
        .get("image")
        .is_some_and(|image| image.is_object() && !flag(image, &["reference"]))
    {
        let policy = pull_policy(text(volume, &["image", "reference"]));
        fill(object_mut(volume, &["image"]), "pullPolicy", policy);
    }
}

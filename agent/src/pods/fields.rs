//! The downward API: fields of a pod and resources of a container as text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::qos;
use super::quantity;

/// What a pod does not know of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) pod_addresses: Vec<IpAddr>,
    pub(crate) host_addresses: Vec<IpAddr>,
    pub(crate) node_name: String,
    /// The node's allocatable CPU, memory and disk: limits of containers that have none.
    pub(crate) allocatable_cpu_millis: u64,
    pub(crate) allocatable_memory_bytes: u64,
    pub(crate) allocatable_storage_bytes: u64,
}

/// The value of `fieldRef.fieldPath`.
pub(crate) fn field(pod: &Pod, path: &str, around: &Surroundings) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let join = |addresses: &[IpAddr]| {
        addresses
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => first(&around.host_addresses),
        "status.hostIPs" => join(&around.host_addresses),
        "status.podIP" => first(&around.pod_addresses),
        "status.podIPs" => join(&around.pod_addresses),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` per line, sorted.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// In double quotes, as programs that read these files unquote it: what cannot be printed is escaped as in Go and C.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; `container` is the one it stands in, if it stands in one.
pub(crate) fn resource(
    pod: &Pod,
    container: Option<&str>,
    selector: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, String> {
    let name = selector
        .container_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or(container)
        .ok_or_else(|| "resourceFieldRef needs a containerName".to_owned())?;
    let found = pod
        .spec
        .iter()
        .flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        })
        .find(|container| container.name == name)
        .ok_or_else(|| format!("container {name} not found"))?;
    let resources = qos::resources(found);
    let divisor = selector.divisor.as_ref();
    let (value, unit) = match selector.resource.as_str() {
        "limits.cpu" => (
            resources
                .cpu_limit_millis
                .unwrap_or(around.allocatable_cpu_millis),
            cpu_unit(divisor),
        ),
        "requests.cpu" => (resources.cpu_request_millis.unwrap_or(0), cpu_unit(divisor)),
        "limits.memory" => (
            resources
                .memory_limit_bytes
                .unwrap_or(around.allocatable_memory_bytes),
            byte_unit(divisor),
        ),
        "requests.memory" => (
            resources.memory_request_bytes.unwrap_or(0),
            byte_unit(divisor),
        ),
        "limits.ephemeral-storage" => (
            bytes(found, "ephemeral-storage", true).unwrap_or(around.allocatable_storage_bytes),
            byte_unit(divisor),
        ),
        other => match other.split_once('.') {
            Some((part @ ("limits" | "requests"), name))
                if name == "ephemeral-storage" || name.starts_with("hugepages-") =>
            {
                let value = bytes(found, name, part == "limits");
                (value.unwrap_or(0), byte_unit(divisor))
            }
            _ => return Err(format!("unsupported container resource: {other}")),
        },
    };
    Ok(value.div_ceil(unit).to_string())
}

/// What a container asks for of something that is counted in bytes; a request that is not given is the limit.
fn bytes(container: &Container, name: &str, limit: bool) -> Option<u64> {
    let resources = container.resources.as_ref()?;
    let of = |map: &Option<BTreeMap<String, Quantity>>| {
        map.as_ref()
            .and_then(|map| map.get(name))
            .and_then(quantity::whole)
    };
    let limits = of(&resources.limits);
    if limit {
        limits
    } else {
        of(&resources.requests).or(limits)
    }
}

type Divisor<'a> = Option<&'a Quantity>;

fn cpu_unit(divisor: Divisor<'_>) -> u64 {
    divisor
        .and_then(quantity::millis)
        .filter(|unit| *unit > 0)
        .unwrap_or(1_000)
}

fn byte_unit(divisor: Divisor<'_>) -> u64 {
    divisor
        .and_then(quantity::whole)
        .filter(|unit| *unit > 0)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "x\"y", "a": "1"}},
            "spec": {"containers": [{"name": "c", "resources":
                {"limits": {"cpu": "1500m", "memory": "64Mi", "ephemeral-storage": "1Gi",
                    "hugepages-2Mi": "4Mi"}}}, {"name": "plain"}]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_a_pod() {
        let around = Surroundings {
            pod_addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            node_name: "n".to_owned(),
            ..Surroundings::default()
        };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd00::1"),
            ("spec.nodeName", "n"),
        ] {
            assert_eq!(field(&pod(), path, &around).unwrap(), expected, "{path}");
        }
        assert!(field(&pod(), "spec.nonsense", &around).is_err());
        let odd = "1\n\u{7}\u{1b}\u{a0} o\u{301}'\\\0";
        assert_eq!(quoted(odd), "\"1\\n\\a\\x1b\\u00a0 o\u{301}'\\\\\\x00\"");
    }

    #[test]
    fn resources_round_up_to_the_divisor() {
        let selector = |resource: &str, divisor: Option<&str>| ResourceFieldSelector {
            container_name: None,
            divisor: divisor.map(|text| Quantity(text.to_owned())),
            resource: resource.to_owned(),
        };
        let around = Surroundings::default();
        let value = |selector| resource(&pod(), Some("c"), &selector, &around).unwrap();
        assert_eq!(value(selector("limits.cpu", None)), "2");
        assert_eq!(value(selector("limits.cpu", Some("1m"))), "1500");
        assert_eq!(value(selector("limits.memory", Some("1Mi"))), "64");
        let storage = selector("requests.ephemeral-storage", Some("1Mi"));
        assert_eq!(value(storage), "1024");
        assert_eq!(value(selector("limits.hugepages-2Mi", None)), "4194304");
        let around = Surroundings {
            allocatable_storage_bytes: 5 << 30,
            ..Surroundings::default()
        };
        let plain = |selector| resource(&pod(), Some("plain"), &selector, &around).unwrap();
        let storage = selector("limits.ephemeral-storage", Some("1Gi"));
        assert_eq!(plain(storage), "5");
        assert_eq!(plain(selector("requests.ephemeral-storage", None)), "0");
        assert!(resource(&pod(), None, &selector("limits.cpu", None), &around).is_err());
    }
}

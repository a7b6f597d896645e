//! The environment of a container: references resolved, `$(NAME)` expanded, Services of the namespace.
//! Pure but for the look-ups (files of volumes: `env_file`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::env_file;
use super::expand::expand;
use super::fields::{self, Surroundings};
use super::objects::{Lookup, Objects, ServiceFacts};

/// Why there is no environment yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("{kind} \"{name}\" was not received from the control plane yet")]
    NotReceived { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error("{0}")]
    Field(String),
}

/// Name and value in the order in which they were given; a later value of a name replaces the earlier one.
#[derive(Debug, Default)]
struct Variables {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn into_vec(mut self) -> Vec<(String, String)> {
        self.order
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.values.remove(&name)?)))
            .collect()
    }
}

/// Environment of `container`, without what its image sets; `volumes` is where the pod's are.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    around: &Surroundings,
    volumes: &Path,
) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let links = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links)
        .unwrap_or(true);
    let services = if links {
        objects.services(namespace)
    } else {
        objects
            .kubernetes()
            .map(|facts| ("kubernetes".to_owned(), facts))
            .into_iter()
            .collect()
    };
    let service_variables: BTreeMap<String, String> = service_variables(&services);

    let mut variables = Variables::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in env_from(namespace, source, objects)? {
            variables.set(&format!("{prefix}{key}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, |name| {
                    variables
                        .values
                        .get(name)
                        .or_else(|| service_variables.get(name))
                        .cloned()
                }))
            }
            Some(source) => match &source.file_key_ref {
                Some(reference) => env_file::value(pod, volumes, reference)?,
                None => referenced(pod, container, namespace, variable, objects, around)?,
            },
        };
        if let Some(value) = value {
            variables.set(&variable.name, value);
        }
    }
    for (name, value) in service_variables {
        if !variables.values.contains_key(&name) {
            variables.set(&name, value);
        }
    }
    Ok(variables.into_vec())
}

fn env_from(
    namespace: &str,
    source: &k8s_openapi::api::core::v1::EnvFromSource,
    objects: &Objects,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    if let Some(reference) = &source.config_map_ref {
        let optional = reference.optional == Some(true);
        if let Some(map) = require(
            "configmap",
            &reference.name,
            optional,
            objects.config_map(namespace, &reference.name),
        )? {
            found.extend(map.data.clone().unwrap_or_default());
        }
    }
    if let Some(reference) = &source.secret_ref {
        let optional = reference.optional == Some(true);
        if let Some(secret) = require(
            "secret",
            &reference.name,
            optional,
            objects.secret(namespace, &reference.name),
        )? {
            found.extend(
                secret
                    .data
                    .iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), lossy(&value.0))),
            );
        }
    }
    Ok(found)
}

/// The value of a variable with `valueFrom`; `None` when it is optional and not there.
fn referenced(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    variable: &EnvVar,
    objects: &Objects,
    around: &Surroundings,
) -> Result<Option<String>, ConfigError> {
    let Some(source) = &variable.value_from else {
        return Ok(None);
    };
    if let Some(reference) = &source.field_ref {
        return fields::field(pod, &reference.field_path, around)
            .map(Some)
            .map_err(ConfigError::Field);
    }
    if let Some(reference) = &source.resource_field_ref {
        return fields::resource(pod, Some(&container.name), reference, around)
            .map(Some)
            .map_err(ConfigError::Field);
    }
    let no_key = |kind: &'static str, name: &str, key: &str| ConfigError::NoKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let found = objects.config_map(namespace, &reference.name);
        let Some(map) = require("configmap", &reference.name, optional, found)? else {
            return Ok(None);
        };
        return match map
            .data
            .iter()
            .flatten()
            .find(|(key, _)| **key == reference.key)
        {
            Some((_, value)) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(no_key("ConfigMap", &reference.name, &reference.key)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let found = objects.secret(namespace, &reference.name);
        let Some(secret) = require("secret", &reference.name, optional, found)? else {
            return Ok(None);
        };
        return match secret
            .data
            .iter()
            .flatten()
            .find(|(key, _)| **key == reference.key)
        {
            Some((_, value)) => Ok(Some(lossy(&value.0))),
            None if optional => Ok(None),
            None => Err(no_key("Secret", &reference.name, &reference.key)),
        };
    }
    Err(ConfigError::Field(format!(
        "environment variable {} has a source that is not supported",
        variable.name
    )))
}

/// The object, `None` when it may be missing and is.
pub(crate) fn require<T>(
    kind: &'static str,
    name: &str,
    optional: bool,
    found: Lookup<T>,
) -> Result<Option<std::sync::Arc<T>>, ConfigError> {
    match found {
        Lookup::Found(object) => Ok(Some(object)),
        Lookup::Absent if optional => Ok(None),
        Lookup::Absent => Err(ConfigError::NotFound {
            kind,
            name: name.to_owned(),
        }),
        Lookup::Unknown => Err(ConfigError::NotReceived {
            kind,
            name: name.to_owned(),
        }),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Variables that tell of Services, in the form that container links had.
fn service_variables(services: &BTreeMap<String, ServiceFacts>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, facts) in services {
        let prefix = name.to_uppercase().replace(['-', '.'], "_");
        let host = facts.cluster_ip.to_string();
        let mut set = |suffix: &str, value: String| {
            variables.insert(format!("{prefix}_{suffix}"), value);
        };
        set("SERVICE_HOST", host.clone());
        for (index, (port_name, protocol, port)) in facts.ports.iter().enumerate() {
            if index == 0 {
                set("SERVICE_PORT", port.to_string());
            }
            if !port_name.is_empty() {
                let port_name = port_name.to_uppercase().replace('-', "_");
                set(&format!("SERVICE_PORT_{port_name}"), port.to_string());
            }
            let lower = protocol.to_lowercase();
            let url = match facts.cluster_ip {
                IpAddr::V4(ip) => format!("{lower}://{ip}:{port}"),
                IpAddr::V6(ip) => format!("{lower}://[{ip}]:{port}"),
            };
            if index == 0 {
                set("PORT", url.clone());
            }
            let port_prefix = format!("PORT_{port}_{protocol}");
            set(&port_prefix, url);
            set(&format!("{port_prefix}_PROTO"), lower);
            set(&format!("{port_prefix}_PORT"), port.to_string());
            set(&format!("{port_prefix}_ADDR"), host.clone());
        }
    }
    variables
}

#[cfg(test)]
mod tests;

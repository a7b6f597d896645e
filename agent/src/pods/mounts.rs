//! What a pod's volumes hold, with all references resolved, and where containers mount them. Pure but for
//! the look-ups.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection,
    Volume, VolumeProjection,
};

use super::claims;
use super::environment::{ConfigError, require};
use super::fields::{self, Surroundings};
use super::objects::{Lookup, Objects};
use super::tokens::TokenWish;
use super::{qos, quantity};
use crate::volumes::payload::{self, File};

/// How long a token is to live when nobody says.
const TOKEN_SECONDS: i64 = 3600;

/// What an emptyDir is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Disk,
    Memory,
    /// Huge pages of so many bytes each.
    HugePages(u64),
}

/// A volume, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeContent {
    Empty {
        medium: Medium,
        size_bytes: Option<u64>,
    },
    Files {
        /// Not on the disk.
        memory: bool,
        files: Vec<File>,
    },
    HostPath {
        path: String,
        kind: String,
        /// Its files become the pod's `fsGroup`'s.
        grouped: bool,
    },
    /// A directory that the node makes for a claim, and keeps.
    Local { handle: String },
    /// Mounted when the first container that uses it begins.
    Image,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Payload(#[from] payload::PayloadError),
    #[error("volumes of this type are not supported")]
    Unsupported,
    #[error("{0}")]
    Token(String),
    #[error("hugePages storage requested, but there is no resource request for huge pages")]
    NoHugePages,
    #[error("medium: {0} can't be used if container requests multiple huge page sizes")]
    HugePageSizes(String),
    #[error(transparent)]
    Claim(#[from] claims::ClaimError),
}

fn medium(pod: &Pod, medium: &str) -> Result<Medium, VolumeError> {
    let Some(rest) = medium.strip_prefix("HugePages") else {
        return Ok(match medium {
            "Memory" => Medium::Memory,
            _ => Medium::Disk,
        });
    };
    let named = rest.strip_prefix('-').and_then(quantity::bytes);
    let mut sizes = qos::huge_page_sizes(pod).into_iter();
    match (named, sizes.next(), sizes.next()) {
        (Some(named), ..) if qos::huge_page_sizes(pod).contains(&named) => {
            Ok(Medium::HugePages(named))
        }
        (None, Some(only), None) if rest.is_empty() => Ok(Medium::HugePages(only)),
        (None, Some(_), Some(_)) => Err(VolumeError::HugePageSizes(medium.to_owned())),
        _ => Err(VolumeError::NoHugePages),
    }
}

/// What `volume` is to hold.
pub(crate) fn resolve(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    around: &Surroundings,
) -> Result<VolumeContent, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(empty) = &volume.empty_dir {
        return Ok(VolumeContent::Empty {
            medium: medium(pod, empty.medium.as_deref().unwrap_or_default())?,
            size_bytes: empty.size_limit.as_ref().and_then(quantity::whole),
        });
    }
    if let Some(source) = &volume.config_map {
        let found = objects.config_map(namespace, &source.name);
        return Ok(VolumeContent::Files {
            memory: false,
            files: config_map_files(
                &source.name,
                found,
                source.items.as_deref(),
                source.default_mode,
                source.optional == Some(true),
            )?,
        });
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        return Ok(VolumeContent::Files {
            memory: true,
            files: secret_files(
                name,
                objects.secret(namespace, name),
                source.items.as_deref(),
                source.default_mode,
                source.optional == Some(true),
            )?,
        });
    }
    if let Some(source) = &volume.downward_api {
        return Ok(VolumeContent::Files {
            memory: false,
            files: downward_files(
                pod,
                source.items.as_deref().unwrap_or_default(),
                source.default_mode,
                around,
            )?,
        });
    }
    if let Some(source) = &volume.projected {
        let mut files = BTreeMap::new();
        for projection in source.sources.iter().flatten() {
            let part = projected(
                pod,
                namespace,
                projection,
                source.default_mode,
                objects,
                around,
            )?;
            files.extend(part.into_iter().map(|file| (file.path.clone(), file)));
        }
        return Ok(VolumeContent::Files {
            memory: true,
            files: files.into_values().collect(),
        });
    }
    if let Some(source) = &volume.host_path {
        return Ok(VolumeContent::HostPath {
            path: source.path.clone(),
            kind: source.type_.clone().unwrap_or_default(),
            grouped: false,
        });
    }
    if let Some(claim) = claims::name_of(pod, volume) {
        let own = volume.ephemeral.as_ref();
        let owner = own.map(|_| pod.metadata.uid.as_deref().unwrap_or_default());
        return Ok(claims::resolve(namespace, claim, owner, objects)?);
    }
    if volume.image.is_some() {
        return Ok(VolumeContent::Image);
    }
    Err(VolumeError::Unsupported)
}

/// Whether containers may write to it; the files of objects they may not.
pub(crate) fn is_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
        || volume.image.is_some()
}

fn projected(
    pod: &Pod,
    namespace: &str,
    projection: &VolumeProjection,
    default_mode: Option<i32>,
    objects: &Objects,
    around: &Surroundings,
) -> Result<Vec<File>, VolumeError> {
    if let Some(source) = &projection.config_map {
        return config_map_files(
            &source.name,
            objects.config_map(namespace, &source.name),
            source.items.as_deref(),
            default_mode,
            source.optional == Some(true),
        );
    }
    if let Some(source) = &projection.secret {
        return secret_files(
            &source.name,
            objects.secret(namespace, &source.name),
            source.items.as_deref(),
            default_mode,
            source.optional == Some(true),
        );
    }
    if let Some(source) = &projection.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        return downward_files(pod, items, default_mode, around);
    }
    if let Some(source) = &projection.service_account_token {
        return token_file(pod, namespace, source, default_mode, objects);
    }
    Err(VolumeError::Unsupported)
}

fn token_file(
    pod: &Pod,
    namespace: &str,
    source: &ServiceAccountTokenProjection,
    mode: Option<i32>,
    objects: &Objects,
) -> Result<Vec<File>, VolumeError> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone());
    let wish = TokenWish {
        pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
        namespace: namespace.to_owned(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        account: account
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        audience: source.audience.clone().unwrap_or_default(),
        seconds: source.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    };
    let token = objects.tokens.get(&wish).map_err(VolumeError::Token)?;
    let owner = user_of(pod);
    let context = pod
        .spec
        .as_ref()
        .and_then(|it| it.security_context.as_ref());
    let has_group = context.is_some_and(|context| context.fs_group.is_some());
    // Where it is known who reads it, nobody else does.
    let mode = if owner.is_some() || has_group {
        0o600
    } else {
        payload::mode(mode).unwrap_or(payload::DEFAULT_MODE)
    };
    let file = payload::file(&source.path, mode, token.into_bytes())?;
    Ok(vec![File { owner, ..file }])
}

/// The user that all containers of the pod run as, if the pod says that of each.
fn user_of(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let shared = spec.security_context.as_ref().and_then(|it| it.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| {
            let own = container.security_context.as_ref();
            own.and_then(|own| own.run_as_user).or(shared)
        });
    let first = users.next()??;
    users
        .all(|user| user == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

fn config_map_files(
    name: &str,
    found: Lookup<ConfigMap>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
) -> Result<Vec<File>, VolumeError> {
    let Some(map) = require("configmap", name, optional, found)? else {
        return Ok(Vec::new());
    };
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()));
    let data: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    Ok(payload::project(&data, items, mode, optional)?)
}

fn secret_files(
    name: &str,
    found: Lookup<Secret>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
) -> Result<Vec<File>, VolumeError> {
    let Some(secret) = require("secret", name, optional, found)? else {
        return Ok(Vec::new());
    };
    let data: BTreeMap<String, Vec<u8>> = secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()))
        .collect();
    Ok(payload::project(&data, items, mode, optional)?)
}

fn downward_files(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    around: &Surroundings,
) -> Result<Vec<File>, VolumeError> {
    let default_mode = payload::mode(default_mode).unwrap_or(payload::DEFAULT_MODE);
    items
        .iter()
        .map(|item| {
            let text = if let Some(field) = &item.field_ref {
                fields::field(pod, &field.field_path, around)
            } else if let Some(resource) = &item.resource_field_ref {
                fields::resource(pod, None, resource, around)
            } else {
                Err(format!("{} refers to nothing", item.path))
            };
            let text = text.map_err(ConfigError::Field)?;
            let mode = payload::mode(item.mode).unwrap_or(default_mode);
            Ok(payload::file(&item.path, mode, text.into_bytes())?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_the_users_if_all_containers_run_as_the_same_one() {
        let user = |spec: serde_json::Value| {
            user_of(&serde_json::from_value(serde_json::json!({"spec": spec})).unwrap())
        };
        let container =
            |user: serde_json::Value| serde_json::json!({"name": "c", "securityContext": user});
        let (none, seven) = (
            container(serde_json::json!({})),
            container(serde_json::json!({"runAsUser": 7})),
        );
        let context = serde_json::json!({"runAsUser": 7});
        assert_eq!(user(serde_json::json!({"containers": [none]})), None);
        assert_eq!(user(serde_json::json!({"containers": [seven]})), Some(7));
        assert_eq!(user(serde_json::json!({"containers": [seven, none]})), None);
        assert_eq!(
            user(serde_json::json!({"securityContext": context, "containers": [seven, none]})),
            Some(7)
        );
        let eight = container(serde_json::json!({"runAsUser": 8}));
        assert_eq!(
            user(serde_json::json!({"initContainers": [eight], "containers": [seven]})),
            None
        );
    }

    #[test]
    fn an_empty_volume_is_on_what_it_asks_for() {
        let on = |name: &str, sizes: &[&str]| {
            let limits: BTreeMap<String, &str> = sizes
                .iter()
                .map(|size| (format!("hugepages-{size}"), "1Gi"))
                .collect();
            let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers":
                [{"name": "c", "resources": {"limits": limits}}]}}))
            .unwrap();
            medium(&pod, name).map_err(|error| error.to_string())
        };
        assert_eq!(on("", &["2Mi"]), Ok(Medium::Disk));
        assert_eq!(on("Memory", &["2Mi"]), Ok(Medium::Memory));
        assert_eq!(on("HugePages", &["2Mi"]), Ok(Medium::HugePages(2 << 20)));
        let both = ["2Mi", "1Gi"];
        assert_eq!(on("HugePages-1Gi", &both), Ok(Medium::HugePages(1 << 30)));
        assert!(on("HugePages", &both).unwrap_err().contains("multiple"));
        for (name, sizes) in [("HugePages", &[][..]), ("HugePages-1Gi", &["2Mi"][..])] {
            assert!(on(name, sizes).unwrap_err().contains("no resource request"));
        }
    }
}

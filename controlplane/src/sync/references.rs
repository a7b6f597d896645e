//! The ConfigMaps, Secrets, ServiceAccounts, claims (with their volumes) and the RuntimeClass that a pod refers to:
//! what its node needs, and no more. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, Volume};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
    ServiceAccount,
    Claim,
    /// Of no namespace.
    Volume,
    /// Of no namespace.
    RuntimeClass,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::Claim => "PersistentVolumeClaim",
            Self::Volume => "PersistentVolume",
            Self::RuntimeClass => "RuntimeClass",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Reference {
    pub(super) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// `pull_secrets` gives those of a ServiceAccount of the pod's namespace, `volume_of` the volume of a claim.
pub(super) fn references(
    pod: &Pod,
    pull_secrets: &dyn Fn(&str) -> Vec<String>,
    volume_of: &dyn Fn(&str) -> Option<String>,
) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            found.insert(Reference::new(kind, namespace, name));
        }
    };
    let Some(spec) = &pod.spec else { return found };
    let account = spec
        .service_account_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    add(Kind::ServiceAccount, account);
    for name in pull_secrets(account) {
        add(Kind::Secret, &name);
    }
    for LocalObjectReference { name } in spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, name);
    }
    for volume in spec.volumes.iter().flatten() {
        from_volume(volume, &mut add);
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut volumes = Vec::new();
    for claim in spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| claim_of(volume, name))
    {
        add(Kind::Claim, &claim);
        volumes.extend(volume_of(&claim));
    }
    let init = spec.init_containers.iter().flatten();
    for container in spec.containers.iter().chain(init) {
        from_environment(
            container.env.as_deref(),
            container.env_from.as_deref(),
            &mut add,
        );
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        from_environment(
            container.env.as_deref(),
            container.env_from.as_deref(),
            &mut add,
        );
    }
    for volume in volumes {
        found.insert(Reference::new(Kind::Volume, "", &volume));
    }
    if let Some(class) = spec.runtime_class_name.as_deref()
        && !class.is_empty()
    {
        found.insert(Reference::new(Kind::RuntimeClass, "", class));
    }
    found
}

/// The claim of a volume; an ephemeral one has a claim named after its pod.
fn claim_of(volume: &Volume, pod: &str) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    }
}

fn from_environment(
    variables: Option<&[EnvVar]>,
    sources: Option<&[EnvFromSource]>,
    add: &mut impl FnMut(Kind, &str),
) {
    for variable in variables.into_iter().flatten() {
        let Some(source) = &variable.value_from else {
            continue;
        };
        if let Some(key) = &source.config_map_key_ref {
            add(Kind::ConfigMap, &key.name);
        }
        if let Some(key) = &source.secret_key_ref {
            add(Kind::Secret, &key.name);
        }
    }
    for source in sources.into_iter().flatten() {
        if let Some(map) = &source.config_map_ref {
            add(Kind::ConfigMap, &map.name);
        }
        if let Some(secret) = &source.secret_ref {
            add(Kind::Secret, &secret.name);
        }
    }
}

fn from_volume(volume: &Volume, add: &mut impl FnMut(Kind, &str)) {
    if let Some(map) = &volume.config_map {
        add(Kind::ConfigMap, &map.name);
    }
    if let Some(name) = volume
        .secret
        .as_ref()
        .and_then(|secret| secret.secret_name.as_ref())
    {
        add(Kind::Secret, name);
    }
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    for source in sources {
        if let Some(map) = &source.config_map {
            add(Kind::ConfigMap, &map.name);
        }
        if let Some(secret) = &source.secret {
            add(Kind::Secret, &secret.name);
        }
    }
}

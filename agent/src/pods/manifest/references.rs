//! What of the API a pod refers to: a static pod may refer to nothing, since it runs whatever the control plane says, and
//! with nobody's rights (`PreventStaticPodAPIReferences` of Kubernetes). Pure.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EphemeralContainer, PodSpec, Volume, VolumeProjection,
};

const SECRETS: &str = "secrets";
const CONFIG_MAPS: &str = "configmaps";
const ACCOUNTS: &str = "serviceaccounts";
const CLAIMS: &str = "persistentvolumeclaims";

/// The resource of the first reference.
pub(super) fn of(spec: &PodSpec) -> Option<&'static str> {
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if named(&spec.service_account_name) || named(&spec.service_account) {
        return Some(ACCOUNTS);
    }
    if spec.image_pull_secrets.iter().flatten().next().is_some() {
        return Some(SECRETS);
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("resourceclaims");
    }
    let init = spec.init_containers.iter().flatten();
    let mut containers = spec.containers.iter().chain(init).map(Variables::of);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let mut ephemeral = ephemeral.map(Variables::of_ephemeral);
    let mut volumes = spec.volumes.iter().flatten();
    containers
        .find_map(Variables::reference)
        .or_else(|| ephemeral.find_map(Variables::reference))
        .or_else(|| volumes.find_map(volume))
}

struct Variables<'a> {
    single: Option<&'a Vec<EnvVar>>,
    whole: Option<&'a Vec<EnvFromSource>>,
}

impl<'a> Variables<'a> {
    fn of(container: &'a Container) -> Self {
        Self {
            single: container.env.as_ref(),
            whole: container.env_from.as_ref(),
        }
    }

    fn of_ephemeral(container: &'a EphemeralContainer) -> Self {
        Self {
            single: container.env.as_ref(),
            whole: container.env_from.as_ref(),
        }
    }

    fn reference(self) -> Option<&'static str> {
        let whole = self.whole.into_iter().flatten().find_map(|from| {
            let secret = from.secret_ref.as_ref().map(|_| SECRETS);
            secret.or_else(|| from.config_map_ref.as_ref().map(|_| CONFIG_MAPS))
        });
        whole.or_else(|| {
            let single = self.single.into_iter().flatten();
            let mut sources = single.filter_map(|variable| variable.value_from.as_ref());
            sources.find_map(|from| {
                let secret = from.secret_key_ref.as_ref().map(|_| SECRETS);
                secret.or_else(|| from.config_map_key_ref.as_ref().map(|_| CONFIG_MAPS))
            })
        })
    }
}

fn volume(volume: &Volume) -> Option<&'static str> {
    let is = |there: bool, what| there.then_some(what);
    is(volume.config_map.is_some(), CONFIG_MAPS)
        .or(is(volume.secret.is_some(), SECRETS))
        .or(is(volume.persistent_volume_claim.is_some(), CLAIMS))
        .or(is(volume.ephemeral.is_some(), CLAIMS))
        .or(is(volume.csi.is_some(), "csidrivers"))
        .or(is(volume.azure_file.is_some(), SECRETS))
        .or(is(volume.glusterfs.is_some(), "endpoints"))
        .or_else(|| {
            let sources = volume.projected.as_ref()?.sources.as_ref()?;
            sources.iter().find_map(projection)
        })
}

fn projection(source: &VolumeProjection) -> Option<&'static str> {
    let is = |there: bool, what| there.then_some(what);
    is(source.config_map.is_some(), CONFIG_MAPS)
        .or(is(source.secret.is_some(), SECRETS))
        .or(is(source.service_account_token.is_some(), ACCOUNTS))
        .or(is(
            source.cluster_trust_bundle.is_some(),
            "clustertrustbundles",
        ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn referenced(change: impl FnOnce(&mut Value)) -> Option<&'static str> {
        let mut spec = json!({
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "b"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/x"}}],
        });
        change(&mut spec);
        of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_a_node_has_itself_is_no_reference() {
        assert_eq!(referenced(|_| {}), None);
        let own = json!([{"name": "p", "projected": {"sources": [{"downwardAPI": {}}]}}]);
        assert_eq!(referenced(|spec| spec["volumes"] = own), None);
    }

    #[test]
    fn objects_of_the_api_are_named() {
        let container = |field: &str, value: Value| {
            let field = field.to_owned();
            move |spec: &mut Value| spec["containers"][0][field] = value
        };
        let secret = json!([{"secretRef": {"name": "s"}}]);
        assert_eq!(referenced(container("envFrom", secret)), Some(SECRETS));
        let map =
            json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
        assert_eq!(referenced(container("env", map)), Some(CONFIG_MAPS));
        let init =
            json!([{"name": "i", "image": "i", "envFrom": [{"configMapRef": {"name": "m"}}]}]);
        assert_eq!(
            referenced(|spec| spec["initContainers"] = init),
            Some(CONFIG_MAPS)
        );
        let account = json!("builder");
        assert_eq!(
            referenced(|spec| spec["serviceAccountName"] = account),
            Some(ACCOUNTS)
        );
        for (volume, what) in [
            (json!({"configMap": {"name": "m"}}), CONFIG_MAPS),
            (json!({"secret": {"secretName": "s"}}), SECRETS),
            (json!({"persistentVolumeClaim": {"claimName": "c"}}), CLAIMS),
            (json!({"csi": {"driver": "d"}}), "csidrivers"),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
                ACCOUNTS,
            ),
        ] {
            let mut volume = volume;
            volume["name"] = "v".into();
            let found = referenced(|spec| spec["volumes"] = json!([volume]));
            assert_eq!(found, Some(what));
        }
    }
}

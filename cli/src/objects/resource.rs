//! What a word such as `po`, `deployment` or `endpointslices.discovery.k8s.io` means: the cluster says.

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};

/// A kind of object that the cluster serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) api: ApiResource,
    pub(super) namespaced: bool,
    names: Vec<String>,
}

impl Resource {
    fn new(group_version: &str, listed: &APIResource) -> Self {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        let kind = GroupVersionKind::gvk(group, version, &listed.kind);
        let mut names = vec![
            listed.name.clone(),
            listed.singular_name.clone(),
            listed.kind.to_lowercase(),
        ];
        names.extend(listed.short_names.iter().flatten().cloned());
        Self {
            api: ApiResource::from_gvk_with_plural(&kind, &listed.name),
            namespaced: listed.namespaced,
            names,
        }
    }

    fn is(&self, word: &str) -> bool {
        let (name, group) = word.split_once('.').unwrap_or((word, ""));
        let names = self.names.iter().any(|known| known == name);
        names && (group.is_empty() || group == self.api.group)
    }

    /// How messages name it: `deployment.apps`.
    pub(super) fn label(&self) -> String {
        let kind = self.api.kind.to_lowercase();
        match self.api.group.as_str() {
            "" => kind,
            group => format!("{kind}.{group}"),
        }
    }

    pub(super) fn objects(&self, client: &Client, namespace: &str) -> kube::Api<DynamicObject> {
        if self.namespaced {
            kube::Api::namespaced_with(client.clone(), namespace, &self.api)
        } else {
            kube::Api::all_with(client.clone(), &self.api)
        }
    }

    pub(super) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = match self.api.group.as_str() {
            "" => format!("/api/{}", self.api.version),
            group => format!("/apis/{group}/{}", self.api.version),
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.api.plural));
        if let Some(name) = name {
            path.push_str(&format!("/{name}"));
        }
        path
    }
}

/// Everything that is served, the core group first.
pub(super) async fn all(client: &Client) -> kube::Result<Vec<Resource>> {
    let mut lists = vec![client.list_core_api_resources("v1").await?];
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.as_ref();
        let Some(version) = preferred.or(group.versions.first()) else {
            continue;
        };
        lists.push(
            client
                .list_api_group_resources(&version.group_version)
                .await?,
        );
    }
    let mut resources = Vec::new();
    for list in &lists {
        let own = list.resources.iter().filter(|it| !it.name.contains('/'));
        resources.extend(own.map(|listed| Resource::new(&list.group_version, listed)));
    }
    Ok(resources)
}

pub(super) async fn find(client: &Client, word: &str) -> anyhow::Result<Resource> {
    let word = word.to_lowercase();
    match all(client).await?.into_iter().find(|it| it.is(&word)) {
        Some(resource) => Ok(resource),
        None => bail!("the server doesn't have a resource type \"{word}\""),
    }
}

/// By what a manifest says.
pub(super) fn of_kind<'a>(
    resources: &'a [Resource],
    api_version: &str,
    kind: &str,
) -> Option<&'a Resource> {
    let mut all = resources.iter();
    all.find(|it| it.api.api_version == api_version && it.api.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_kind() {
        let listed = APIResource {
            name: "deployments".into(),
            singular_name: "deployment".into(),
            kind: "Deployment".into(),
            namespaced: true,
            short_names: Some(vec!["deploy".into()]),
            ..APIResource::default()
        };
        let resource = Resource::new("apps/v1", &listed);
        for word in ["deployments", "deployment", "deploy", "deploy.apps"] {
            assert!(resource.is(word), "{word}");
        }
        assert!(!resource.is("deploy.batch") && !resource.is("pods"));
        assert_eq!(resource.label(), "deployment.apps");
        assert_eq!(
            resource.path(Some("a"), Some("b")),
            "/apis/apps/v1/namespaces/a/deployments/b"
        );
        assert_eq!(resource.path(None, None), "/apis/apps/v1/deployments");
    }
}

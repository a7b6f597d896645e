//! Group versions that other servers answer (APIService with a Service): requests are passed on as they come, and
//! discovery says what those servers say.
//!
//! What this server has itself, built in or defined, stays its own whatever an APIService says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::request::Parts;
use http::{Request, Response, Uri};
use hyper::upgrade::OnUpgrade;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Api;
use super::openapi::merge::Described;
use super::proxy::{Exchange, headers};
use super::request::Place;
use crate::auth::User;
use crate::cache::{Cache, ObjectKey};
use crate::extension::{self, Extensions, identity};
use crate::registry::{ApiError, Registry};

/// How long what a server said that it serves may be shown without asking again.
const FRESH: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Said {
    at: Instant,
    /// Of an APIResourceList.
    resources: Vec<Value>,
}

/// A server's OpenAPI v2 document and its hash, if it gave one.
#[derive(Debug, Clone)]
struct Document {
    at: Instant,
    given: Option<(Arc<Value>, String)>,
}

/// State: `said` by group version and `documents` by server, written by whoever asks for discovery or for OpenAPI
/// documents. No lock is held while another is taken.
#[derive(Debug)]
pub(crate) struct Aggregator {
    cache: Cache,
    extensions: Extensions,
    said: Mutex<HashMap<String, Said>>,
    documents: Mutex<HashMap<String, Document>>,
}

/// A group version of another server, as discovery shows it.
#[derive(Debug, Clone)]
pub(super) struct Extended {
    pub(super) group: String,
    pub(super) version: String,
    /// Of an APIResourceList; `None` where nobody asked, or the server does not say it.
    pub(super) resources: Option<Vec<Value>>,
}

/// Group and version of paths below `/apis`, but for those that name a group alone, and of their OpenAPI documents.
fn group_version(place: &Place) -> Option<(&str, &str)> {
    match place {
        Place::Resource(target) if !target.group.is_empty() => {
            Some((target.group.as_str(), target.version.as_str()))
        }
        Place::Path(segments) => match segments.as_slice() {
            [apis, group, version] if apis == "apis" => Some((group.as_str(), version.as_str())),
            [openapi, v3, apis, group, version]
                if openapi == "openapi" && v3 == "v3" && apis == "apis" =>
            {
                Some((group.as_str(), version.as_str()))
            }
            _ => None,
        },
        Place::Resource(_) => None,
    }
}

fn name_of(api: &APIService) -> (&str, &str) {
    let spec = api.spec.as_ref();
    let group = spec.and_then(|spec| spec.group.as_deref());
    let version = spec.and_then(|spec| spec.version.as_deref());
    (group.unwrap_or_default(), version.unwrap_or_default())
}

/// Whether this server answers for the group version itself.
fn is_own(registry: &Registry, group: &str, version: &str) -> bool {
    let own = super::discovery::groups(&registry.defined(), &[]);
    own.iter()
        .any(|(name, versions)| name == group && versions.iter().any(|known| known == version))
}

impl Aggregator {
    pub(crate) fn new(cache: &Cache, extensions: Extensions) -> Self {
        Self {
            cache: cache.clone(),
            extensions,
            said: Mutex::default(),
            documents: Mutex::default(),
        }
    }

    /// Whose the place is, if it is another server's.
    pub(super) fn answers(&self, registry: &Registry, place: &Place) -> Option<Arc<APIService>> {
        let (group, version) = group_version(place)?;
        let key = ObjectKey::cluster(&format!("{version}.{group}"));
        let api = self.cache.api_services.get_key(&key)?;
        extension::service(&api)?;
        (!is_own(registry, group, version)).then_some(api)
    }

    /// The group versions that are available now, by name.
    fn available(&self, registry: &Registry) -> Vec<Arc<APIService>> {
        let mut all = self.cache.api_services.list("");
        all.retain(|api| extension::service(api).is_some() && extension::is_available(api));
        if !all.is_empty() {
            all.retain(|api| {
                let (group, version) = name_of(api);
                !is_own(registry, group, version)
            });
        }
        all.sort_by(|a, b| name_of(a).cmp(&name_of(b)));
        all
    }

    /// What discovery shows besides this server's own; `whole` asks for the resources too.
    pub(super) async fn extended(&self, registry: &Registry, whole: bool) -> Vec<Extended> {
        let available = self.available(registry);
        let asked = available.iter().map(|api| async {
            let (group, version) = name_of(api);
            Extended {
                group: group.to_owned(),
                version: version.to_owned(),
                resources: if whole {
                    self.resources(api).await
                } else {
                    None
                },
            }
        });
        futures::future::join_all(asked).await
    }

    /// Entries of the index of OpenAPI documents: path of a group version, and URL of its document, which is passed on
    /// to the server when it is asked for. A server without such documents has no entry.
    pub(super) async fn v3_documents(&self, registry: &Registry) -> Vec<(String, Value)> {
        let available = self.available(registry);
        let asked = available.iter().map(|api| async {
            let (group, version) = name_of(api);
            let path = format!("apis/{group}/{version}");
            match self.extensions.get(api, "/openapi/v3").await {
                Ok(index) => {
                    let entry = index.get("paths")?.get(&path)?.clone();
                    let own = format!("/openapi/v3/{path}");
                    let url = entry["serverRelativeURL"].as_str()?;
                    // Another place on this server would be somebody else's.
                    (url.split('?').next() == Some(own.as_str())).then_some((path, entry))
                }
                Err(error) => {
                    tracing::debug!(path, %error, "a server does not describe what it serves");
                    None
                }
            }
        });
        let found = futures::future::join_all(asked).await;
        found.into_iter().flatten().collect()
    }

    /// What the OpenAPI v2 documents of the servers say, by group version. A server without one says nothing.
    pub(super) async fn described(&self, registry: &Registry) -> Vec<Described> {
        let mut all = Vec::new();
        // One after the other: a server of several group versions is asked once.
        for api in self.available(registry) {
            let (group, version) = name_of(&api);
            if let Some((document, hash)) = self.document(&api).await {
                all.push(Described {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    document,
                    hash,
                });
            }
        }
        all
    }

    async fn document(&self, api: &APIService) -> Option<(Arc<Value>, String)> {
        let (namespace, name, port) = extension::place(extension::service(api)?);
        let server = format!("{namespace}/{name}:{port}");
        let known = self.documents().get(&server).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return known.given;
        }
        let given = match self.extensions.get(api, "/openapi/v2").await {
            Ok(document) => {
                let hash = hex::encode(Sha256::digest(document.to_string()));
                Some((Arc::new(document), hash))
            }
            Err(error) => {
                tracing::debug!(server, %error, "a server does not describe what it serves");
                None
            }
        };
        let mut all = self.documents();
        all.retain(|_, document| document.at.elapsed() < FRESH);
        let at = Instant::now();
        let kept = Document { at, given };
        all.insert(server, kept.clone());
        kept.given
    }

    fn documents(&self) -> std::sync::MutexGuard<'_, HashMap<String, Document>> {
        self.documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn resources(&self, api: &APIService) -> Option<Vec<Value>> {
        let (group, version) = name_of(api);
        let path = format!("/apis/{group}/{version}");
        let known = self.said().get(&path).cloned();
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return Some(known.resources);
        }
        match self.extensions.get(api, &path).await {
            Ok(list) => {
                let resources = list["resources"].as_array().cloned().unwrap_or_default();
                let said = Said {
                    at: Instant::now(),
                    resources: resources.clone(),
                };
                let mut all = self.said();
                all.retain(|_, said| said.at.elapsed() < FRESH);
                all.insert(path, said);
                Some(resources)
            }
            Err(error) => {
                tracing::debug!(path, %error, "a server does not say what it serves");
                None
            }
        }
    }

    fn said(&self) -> std::sync::MutexGuard<'_, HashMap<String, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Extended {
    /// In the form of aggregated discovery. Pure.
    pub(super) fn aggregated(&self) -> Value {
        let kind = |resource: &Value| {
            let or = |field: &str, own: &str| match resource[field].as_str() {
                None | Some("") => own.to_owned(),
                Some(given) => given.to_owned(),
            };
            json!({
                "group": or("group", &self.group),
                "version": or("version", &self.version),
                "kind": resource["kind"],
            })
        };
        let mut shown: Vec<Value> = Vec::new();
        let resources = self.resources.as_deref().unwrap_or_default();
        let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
        for resource in resources
            .iter()
            .filter(|resource| !name(resource).contains('/'))
        {
            let namespaced = resource["namespaced"] == true;
            let mut entry = json!({
                "resource": resource["name"],
                "responseKind": kind(resource),
                "scope": if namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": resource["singularName"],
                "verbs": resource["verbs"],
            });
            for field in ["shortNames", "categories"] {
                if let Some(names) = resource.get(field) {
                    entry[field] = names.clone();
                }
            }
            let prefix = format!("{}/", name(resource));
            let below: Vec<Value> = resources
                .iter()
                .filter_map(|below| {
                    let name = name(below);
                    let name = name.strip_prefix(&prefix)?;
                    Some(json!({"subresource": name, "responseKind": kind(below), "verbs": below["verbs"]}))
                })
                .collect();
            if !below.is_empty() {
                entry["subresources"] = below.into();
            }
            shown.push(entry);
        }
        let freshness = if self.resources.is_some() {
            "Current"
        } else {
            "Stale"
        };
        json!({"version": self.version, "resources": shown, "freshness": freshness})
    }
}

impl Api {
    /// Passes a request on to the server that answers for it.
    pub(super) async fn aggregate(
        &self,
        user: &User,
        parts: &Parts,
        body: Body,
        api: &APIService,
    ) -> Result<Response<Body>, ApiError> {
        let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
        if !extension::is_available(api) {
            return Err(unavailable("service unavailable".to_owned()));
        }
        let server = self.aggregator.extensions.connect(api).await;
        let server = server
            .map_err(|error| unavailable(format!("error trying to reach service: {error}")))?;
        let path = parts
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let uri: Uri = path
            .parse()
            .map_err(|_| ApiError::bad_request("the path cannot be that of a request"))?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers::onwards(&parts.headers, &parts.uri);
        identity::set(request.headers_mut(), user);
        if let Some(service) = extension::service(api) {
            extension::set_host(request.headers_mut(), &extension::host(service));
        }
        let exchange = Exchange {
            request,
            prefix: String::new(),
            client: parts.extensions.get::<OnUpgrade>().cloned(),
            stopping: self.stopping.clone(),
        };
        exchange.run(server).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_list_becomes_aggregated_discovery() {
        let extended = Extended {
            group: "wardle.example.com".to_owned(),
            version: "v1alpha1".to_owned(),
            resources: Some(vec![
                json!({"name": "flunders", "singularName": "", "namespaced": true, "kind": "Flunder",
                    "verbs": ["get"], "shortNames": ["fl"]}),
                json!({"name": "flunders/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                    "version": "v1", "kind": "Scale", "verbs": ["get", "update"]}),
            ]),
        };
        let expected = json!({"version": "v1alpha1", "freshness": "Current", "resources": [{
            "resource": "flunders", "scope": "Namespaced", "singularResource": "", "verbs": ["get"],
            "shortNames": ["fl"],
            "responseKind": {"group": "wardle.example.com", "version": "v1alpha1", "kind": "Flunder"},
            "subresources": [{"subresource": "scale", "verbs": ["get", "update"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
        }]});
        assert_eq!(extended.aggregated(), expected);
        let silent = Extended {
            resources: None,
            ..extended
        };
        assert_eq!(silent.aggregated()["freshness"], "Stale");
    }
}

//! What the API is: `/api`, `/apis`, resource lists, aggregated discovery, `/version`. Made from the kinds.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::aggregator::Extended;
use super::dispatch::header;
use super::negotiate::{Encoding, accept_object, media_ranges};
use super::{component_status, ordered, respond, usage};
use crate::kinds::{self, Kind, KindRef, Scope};
use crate::registry::definitions::Defined;
use crate::registry::versions::{self, precedence};
use crate::registry::{ApiError, Registry};

const MAJOR: &str = "1";
const MINOR: &str = "36";

/// What can be done with objects of a kind.
fn verbs(kind: &Kind<'_>) -> Vec<&'static str> {
    let mut verbs = vec!["create", "delete"];
    if kind.deletes_collections() {
        verbs.push("deletecollection");
    }
    verbs.extend(["get", "list", "patch", "update", "watch"]);
    verbs
}

/// Resources that are answered, not stored.
struct Answered {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    scope: Scope,
}

const ANSWERED: &[Answered] = &[
    Answered {
        group: "",
        kind: "Binding",
        plural: "bindings",
        singular: "binding",
        scope: Scope::Namespaced,
    },
    Answered {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        scope: Scope::Cluster,
    },
    Answered {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        scope: Scope::Cluster,
    },
    Answered {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        scope: Scope::Namespaced,
    },
    Answered {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        scope: Scope::Cluster,
    },
    Answered {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        scope: Scope::Cluster,
    },
    Answered {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        scope: Scope::Cluster,
    },
];

/// What is computed when it is asked for: read only.
const COMPUTED: &[Answered] = &[
    Answered {
        group: "",
        kind: component_status::KIND,
        plural: component_status::PLURAL,
        singular: "componentstatus",
        scope: Scope::Cluster,
    },
    Answered {
        group: usage::GROUP,
        kind: "NodeMetrics",
        plural: "nodes",
        singular: "",
        scope: Scope::Cluster,
    },
    Answered {
        group: usage::GROUP,
        kind: "PodMetrics",
        plural: "pods",
        singular: "",
        scope: Scope::Namespaced,
    },
];

fn computed_version(resource: &Answered) -> &'static str {
    match resource.group {
        usage::GROUP => usage::VERSION,
        _ => "v1",
    }
}

/// Groups that exist for a subresource only: `kubectl drain` looks for this one.
const BARE_GROUPS: &[&str] = &["policy"];

/// Groups with their versions, in order; the core group is not among them. Those that users have defined come after
/// the built-in ones, those of other servers last.
pub(super) fn groups(defined: &Defined, extended: &[Extended]) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    let built_in = kinds::all().iter().map(|kind| (kind.group, kind.version));
    let answered = ANSWERED.iter().map(|resource| (resource.group, "v1"));
    let bare = BARE_GROUPS.iter().map(|group| (*group, "v1"));
    let measured = std::iter::once((usage::GROUP, usage::VERSION));
    let custom = defined
        .served()
        .map(|version| (version.common.group.as_str(), version.name.as_str()));
    let extended = extended
        .iter()
        .map(|other| (other.group.as_str(), other.version.as_str()));
    for (group, version) in built_in
        .chain(answered)
        .chain(bare)
        .chain(measured)
        .chain(custom)
        .chain(extended)
    {
        if group.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(known, _)| known == group) {
            Some((_, versions)) if versions.iter().any(|known| known == version) => {}
            Some((_, versions)) => versions.push(version.to_owned()),
            None => groups.push((group.to_owned(), vec![version.to_owned()])),
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| precedence(version));
    }
    groups
}

/// The kinds of one group version, built in or defined.
fn kinds_of(defined: &Defined, group: &str, version: &str) -> Vec<KindRef> {
    let built_in = kinds::all()
        .iter()
        .filter(|kind| kind.group == group && kind.version == version);
    let custom = defined
        .served()
        .filter(|known| known.common.group == group && known.name == version);
    built_in
        .map(|kind| KindRef::BuiltIn(kind))
        .chain(custom.map(|version| KindRef::Custom(Arc::clone(version))))
        .collect()
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Cluster => "Cluster",
        Scope::Namespaced => "Namespaced",
    }
}

/// Group, version and kind that a subresource speaks, and its verbs.
pub(super) fn subresource<'a>(
    kind: &Kind<'a>,
    name: &str,
) -> ((&'a str, &'a str, &'a str), Vec<&'static str>) {
    let own = (kind.group, kind.version, kind.kind);
    match name {
        "scale" => (
            ("autoscaling", "v1", "Scale"),
            vec!["get", "patch", "update"],
        ),
        "eviction" => (("policy", "v1", "Eviction"), vec!["create"]),
        "binding" => (("", "v1", "Binding"), vec!["create"]),
        "token" => (
            ("authentication.k8s.io", "v1", "TokenRequest"),
            vec!["create"],
        ),
        "log" => (own, vec!["get"]),
        "attach" => (("", "v1", "PodAttachOptions"), vec!["create", "get"]),
        "exec" => (("", "v1", "PodExecOptions"), vec!["create", "get"]),
        "portforward" => (("", "v1", "PodPortForwardOptions"), vec!["create", "get"]),
        "proxy" => (
            ("", "v1", proxy_options(kind)),
            vec!["create", "delete", "get", "patch", "update"],
        ),
        "finalize" => (own, vec!["update"]),
        _ => (own, vec!["get", "patch", "update"]),
    }
}

fn proxy_options(kind: &Kind<'_>) -> &'static str {
    match kind.plural {
        "nodes" => "NodeProxyOptions",
        "services" => "ServiceProxyOptions",
        _ => "PodProxyOptions",
    }
}

/// `/version`.
pub(super) fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+waggle.{own}"),
        // Set where the program is built from a known commit.
        "gitCommit": option_env!("WAGGLE_GIT_COMMIT").unwrap_or_default(),
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers everything below `/api` and `/apis`, and `/` itself; `None` where there is nothing.
pub(super) fn serve(
    registry: &Registry,
    extended: &[Extended],
    segments: &[&str],
    headers: &HeaderMap,
) -> Option<Result<Response<Body>, ApiError>> {
    let defined = &*registry.defined();
    if matches!(segments, ["api"] | ["apis"])
        && let Some(version) = aggregated_version(header(headers, &ACCEPT))
    {
        let answer = serve_aggregated(defined, extended, segments[0], version, headers);
        return Some(Ok(answer));
    }
    let value = match segments {
        [] => json!({"paths": paths(defined, extended)}),
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups(defined, extended).iter().map(group).collect::<Vec<_>>(),
        }),
        ["api", version] => resource_list(defined, "", version)?,
        ["apis", name] => {
            let groups = groups(defined, extended);
            let found = groups.iter().find(|(known, _)| known == name)?;
            let mut value = group(found);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        ["apis", group, version] => resource_list(defined, group, version)?,
        _ => return None,
    };
    // The list of paths is JSON for everybody.
    let encoding = match segments {
        [] => Ok(Encoding::Json),
        _ => accept_object(header(headers, &ACCEPT)),
    };
    let body = ordered::line(&value).into();
    Some(encoding.and_then(|encoding| respond::object(StatusCode::OK, encoding, body)))
}

fn paths(defined: &Defined, extended: &[Extended]) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, versions) in groups(defined, extended) {
        paths.push(format!("/apis/{group}"));
        paths.extend(
            versions
                .iter()
                .map(|version| format!("/apis/{group}/{version}")),
        );
    }
    let others = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths
}

fn group((name, versions): &(String, Vec<String>)) -> Value {
    let entry =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({
        "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

fn resource_list(defined: &Defined, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in kinds_of(defined, group, version) {
        let kind = kind.get();
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.scope == Scope::Namespaced,
            "kind": kind.kind,
            "verbs": verbs(&kind),
            "storageVersionHash": storage_version_hash(&kind),
        });
        names(&kind, &mut entry);
        resources.push(entry);
        for name in kind.subresources {
            let ((other_group, other_version, other_kind), verbs) = subresource(&kind, name);
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural),
                "singularName": "",
                "namespaced": kind.scope == Scope::Namespaced,
                "kind": other_kind,
                "verbs": verbs,
            });
            if (other_group, other_version) != (group, version) {
                entry["group"] = other_group.into();
                entry["version"] = other_version.into();
            }
            resources.push(entry);
        }
    }
    for resource in ANSWERED
        .iter()
        .filter(|resource| resource.group == group && version == "v1")
    {
        resources.push(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.scope == Scope::Namespaced,
            "kind": resource.kind,
            "verbs": ["create"],
        }));
    }
    for resource in COMPUTED
        .iter()
        .filter(|resource| resource.group == group && version == computed_version(resource))
    {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.scope == Scope::Namespaced,
            "kind": resource.kind,
            "verbs": ["get", "list"],
        });
        if resource.plural == component_status::PLURAL {
            entry["shortNames"] = json!([component_status::SHORT]);
        }
        resources.push(entry);
    }
    let bare = BARE_GROUPS.contains(&group) && version == "v1";
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    (bare || !resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        })
    })
}

/// Tells clients when objects come to be stored in another version: eight bytes of a digest of the group, version and
/// kind that is stored. Aggregated discovery has no such field.
fn storage_version_hash(kind: &Kind<'_>) -> String {
    let stored = versions::stored(kind);
    let version = match kind.strategy.custom() {
        Some(custom) => custom.common.storage_version.as_str(),
        None => stored.version,
    };
    let name = format!("{}/{version}/{}", stored.group, stored.kind);
    BASE64.encode(&Sha256::digest(name)[..8])
}

/// What else a kind is called.
fn names(kind: &Kind<'_>, entry: &mut Value) {
    for (field, names) in [
        ("shortNames", kind.all_short_names()),
        ("categories", kind.all_categories()),
    ] {
        if !names.is_empty() {
            entry[field] = json!(names);
        }
    }
}

/// The version of `apidiscovery.k8s.io` that the client prefers to the plain lists.
fn aggregated_version(accept: &str) -> Option<&'static str> {
    for range in media_ranges(accept) {
        if range.media_type != "application/json" {
            continue;
        }
        let aggregated = range.parameter("g") == "apidiscovery.k8s.io"
            && range.parameter("as") == "APIGroupDiscoveryList";
        match (aggregated, range.parameter("v")) {
            (true, "v2") => return Some("v2"),
            (true, "v2beta1") => return Some("v2beta1"),
            (true, _) => {}
            (false, _) => return None,
        }
    }
    None
}

/// Whether the answer shows the resources of all groups.
pub(super) fn is_whole(segments: &[&str], headers: &HeaderMap) -> bool {
    segments == ["apis"] && aggregated_version(header(headers, &ACCEPT)).is_some()
}

fn serve_aggregated(
    defined: &Defined,
    extended: &[Extended],
    root: &str,
    version: &'static str,
    headers: &HeaderMap,
) -> Response<Body> {
    static CORE: OnceLock<(String, Value)> = OnceLock::new();
    // Of the definitions of this generation.
    static OTHERS: ArcSwapOption<(u64, String, Value)> = ArcSwapOption::const_empty();
    let made;
    let (etag, items) = if root == "api" {
        let (etag, items) =
            CORE.get_or_init(|| tagged(vec![aggregated(defined, &[], "", &["v1".to_owned()])]));
        (etag, items)
    } else {
        let known = OTHERS
            .load_full()
            .filter(|known| known.0 == defined.generation && extended.is_empty());
        made = known.unwrap_or_else(|| {
            let groups = groups(defined, extended);
            let groups = groups
                .iter()
                .map(|(group, versions)| aggregated(defined, extended, group, versions));
            let (etag, items) = tagged(groups.collect());
            let made = Arc::new((defined.generation, etag, items));
            if extended.is_empty() {
                OTHERS.store(Some(Arc::clone(&made)));
            }
            made
        });
        (&made.1, &made.2)
    };
    let etag = format!("\"{version}{etag}\"");
    if header(headers, &IF_NONE_MATCH) == etag {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let mut response = respond::value(
        StatusCode::OK,
        &json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{version}"),
            "metadata": {},
            "items": items,
        }),
    );
    let media =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let set = response.headers_mut();
    if let Ok(media) = HeaderValue::from_str(&media) {
        set.insert(CONTENT_TYPE, media);
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        set.insert(ETAG, etag);
    }
    set.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn tagged(items: Vec<Value>) -> (String, Value) {
    let items = Value::Array(items);
    (hex::encode(Sha256::digest(items.to_string())), items)
}

fn response_kind((group, version, kind): (&str, &str, &str)) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated(defined: &Defined, extended: &[Extended], group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let other = extended
                .iter()
                .find(|other| (&*other.group, &other.version) == (group, version));
            if let Some(other) = other {
                return other.aggregated();
            }
            let mut resources: Vec<Value> = kinds_of(defined, group, version)
                .iter()
                .map(|kind| aggregated_kind(&kind.get()))
                .collect();
            resources.extend(
                ANSWERED
                    .iter()
                    .filter(|resource| resource.group == group)
                    .map(|resource| {
                        json!({
                            "resource": resource.plural,
                            "responseKind": response_kind((group, version, resource.kind)),
                            "scope": scope(resource.scope),
                            "singularResource": resource.singular,
                            "verbs": ["create"],
                        })
                    }),
            );
            let computed = COMPUTED.iter().filter(|resource| resource.group == group);
            resources.extend(computed.map(|resource| {
                let mut entry = json!({
                    "resource": resource.plural,
                    "responseKind": response_kind((group, version, resource.kind)),
                    "scope": scope(resource.scope),
                    "singularResource": resource.singular,
                    "verbs": ["get", "list"],
                });
                if resource.plural == component_status::PLURAL {
                    entry["shortNames"] = json!([component_status::SHORT]);
                }
                entry
            }));
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_kind(kind: &Kind<'_>) -> Value {
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response_kind((kind.group, kind.version, kind.kind)),
        "scope": scope(kind.scope),
        "singularResource": kind.singular,
        "verbs": verbs(kind),
    });
    names(kind, &mut entry);
    let below: Vec<Value> = kind
        .subresources
        .iter()
        .copied()
        .map(|name| {
            let (speaks, verbs) = subresource(kind, name);
            json!({"subresource": name, "responseKind": response_kind(speaks), "verbs": verbs})
        })
        .collect();
    if !below.is_empty() {
        entry["subresources"] = Value::Array(below);
    }
    entry
}

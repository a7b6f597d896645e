//! The operations that each kind has, in a neutral form that both versions of the document are made from.

use serde_json::{Map, Value, json};

use super::{COMPONENT_STATUS, Custom, EXTRA, group_version_path};
use crate::kinds::{self, Kind};

/// One operation on one path.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// `get`, `list`, `post`, `put`, `patch`, `delete`, `deletecollection`, `connect`
    pub(super) action: &'static str,
    pub(super) id: String,
    pub(super) query: &'static [&'static str],
    /// Definition of the body, if it has one.
    pub(super) body: Option<String>,
    /// Definition of the answer.
    pub(super) answer: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
    /// Media types that a patch may have.
    pub(super) patches: &'static [&'static str],
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) path: String,
    /// `namespace`, `name`
    pub(super) parameters: Vec<&'static str>,
    pub(super) operations: Vec<Operation>,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const READ: &[&str] = &["pretty"];
const LIST: &[&str] = &[
    "pretty",
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["pretty", "dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &[
    "pretty",
    "dryRun",
    "fieldManager",
    "fieldValidation",
    "force",
];
const DELETE: &[&str] = &[
    "pretty",
    "dryRun",
    "gracePeriodSeconds",
    "orphanDependents",
    "propagationPolicy",
];

/// (JSON type, what it does) of a query or path parameter.
pub(super) fn parameter(name: &str) -> (&'static str, &'static str) {
    match name {
        "name" => ("string", "Name of the object."),
        "namespace" => ("string", "Namespace of the object."),
        "path" => ("string", "The rest of the path."),
        "pretty" => ("string", "Whether the answer is indented."),
        "allowWatchBookmarks" => ("boolean", "Whether a watch sends bookmarks."),
        "continue" => ("string", "Where the last page of a list ended."),
        "fieldSelector" => ("string", "Only objects whose fields match."),
        "labelSelector" => ("string", "Only objects whose labels match."),
        "limit" => ("integer", "At most this many objects."),
        "resourceVersion" => ("string", "Version of the state that is asked for."),
        "resourceVersionMatch" => ("string", "How the version is meant."),
        "sendInitialEvents" => ("boolean", "Whether a watch begins with what there is."),
        "timeoutSeconds" => ("integer", "How long the call may take."),
        "watch" => ("boolean", "Whether changes are streamed."),
        "dryRun" => ("string", "All: do everything but store the result."),
        "fieldManager" => ("string", "Who the changed fields belong to."),
        "fieldValidation" => (
            "string",
            "What happens on unknown fields: Ignore, Warn or Strict.",
        ),
        "force" => ("boolean", "Whether fields are taken from other managers."),
        "gracePeriodSeconds" => ("integer", "Time that the object has to end."),
        "orphanDependents" => ("boolean", "Whether dependents stay."),
        "propagationPolicy" => ("string", "What happens to dependents."),
        _ => ("string", ""),
    }
}

struct Builder<'a> {
    kind: Kind<'a>,
    base: String,
}

impl Builder<'_> {
    fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        id: &str,
        query: &'static [&'static str],
        body: Option<&str>,
        answer: &str,
    ) -> Operation {
        let scope = if self.kind.is_namespaced() {
            "Namespaced"
        } else {
            ""
        };
        Operation {
            method,
            action,
            id: format!(
                "{id}{}{scope}{}",
                camel(self.kind.group, self.kind.version),
                self.kind.kind
            ),
            query,
            body: body.map(str::to_owned),
            answer: answer.to_owned(),
            group: self.kind.group.to_owned(),
            version: self.kind.version.to_owned(),
            kind: self.kind.kind.to_owned(),
            // What has no types that the server knows has no merge keys: kubectl looks here.
            patches: if self.kind.is_custom() {
                CUSTOM_PATCH_TYPES
            } else {
                PATCH_TYPES
            },
        }
    }

    fn collection(&self) -> Path {
        let definition = self.kind.definition;
        let list = super::list_definition(&self.kind);
        let options = format!("{META}DeleteOptions");
        let status = format!("{META}Status");
        let mut operations = vec![
            self.operation("get", "list", "list", LIST, None, &list),
            self.operation(
                "post",
                "post",
                "create",
                WRITE,
                Some(definition),
                definition,
            ),
        ];
        if self.kind.deletes_collections() {
            operations.push(self.operation(
                "delete",
                "deletecollection",
                "deleteCollection",
                DELETE,
                Some(&options),
                &status,
            ));
        }
        Path {
            path: self.base.clone(),
            parameters: self.namespace(),
            operations,
        }
    }

    fn namespace(&self) -> Vec<&'static str> {
        if self.kind.is_namespaced() {
            vec!["namespace"]
        } else {
            Vec::new()
        }
    }

    fn one(&self) -> Path {
        let definition = self.kind.definition;
        let options = format!("{META}DeleteOptions");
        let status = format!("{META}Status");
        let patch = format!("{META}Patch");
        let mut parameters = self.namespace();
        parameters.push("name");
        Path {
            path: format!("{}/{{name}}", self.base),
            parameters,
            operations: vec![
                self.operation("get", "get", "read", READ, None, definition),
                self.operation("put", "put", "replace", WRITE, Some(definition), definition),
                self.operation("patch", "patch", "patch", PATCH, Some(&patch), definition),
                self.operation(
                    "delete",
                    "delete",
                    "delete",
                    DELETE,
                    Some(&options),
                    &status,
                ),
            ],
        }
    }

    fn subresource(&self, name: &'static str) -> Option<Path> {
        let patch = format!("{META}Patch");
        let own = self.kind.definition;
        let (body, writes_only, kind) = match name {
            "status" | "ephemeralcontainers" | "resize" | "finalize" => (own, false, None),
            "scale" => (
                "io.k8s.api.autoscaling.v1.Scale",
                false,
                Some(("autoscaling", "Scale")),
            ),
            "binding" => ("io.k8s.api.core.v1.Binding", true, Some(("", "Binding"))),
            "eviction" => (
                "io.k8s.api.policy.v1.Eviction",
                true,
                Some(("policy", "Eviction")),
            ),
            "token" => (
                "io.k8s.api.authentication.v1.TokenRequest",
                true,
                Some(("authentication.k8s.io", "TokenRequest")),
            ),
            _ => return None,
        };
        let suffix = |verb: &str| format!("{verb}{}", capital(name));
        let mut operations = if writes_only {
            vec![self.operation("post", "post", &suffix("create"), WRITE, Some(body), body)]
        } else {
            vec![
                self.operation("get", "get", &suffix("read"), READ, None, body),
                self.operation("put", "put", &suffix("replace"), WRITE, Some(body), body),
                self.operation(
                    "patch",
                    "patch",
                    &suffix("patch"),
                    PATCH,
                    Some(&patch),
                    body,
                ),
            ]
        };
        if let Some((group, kind)) = kind {
            for operation in &mut operations {
                operation.group = group.to_owned();
                operation.version = "v1".to_owned();
                operation.kind = kind.to_owned();
            }
        }
        let mut parameters = self.namespace();
        parameters.push("name");
        Some(Path {
            path: format!("{}/{{name}}/{name}", self.base),
            parameters,
            operations,
        })
    }

    fn everywhere(&self, root: &str) -> Option<Path> {
        self.kind.is_namespaced().then(|| Path {
            path: format!("{root}/{}", self.kind.plural),
            parameters: Vec::new(),
            operations: vec![self.operation(
                "get",
                "list",
                "listForAllNamespaces",
                LIST,
                None,
                &super::list_definition(&self.kind),
            )],
        })
    }
}

/// `CoreV1`, `AppsV1`
fn camel(group: &str, version: &str) -> String {
    let group = group.split('.').next().filter(|group| !group.is_empty());
    format!("{}{}", capital(group.unwrap_or("core")), capital(version))
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// The paths of one group version, or of all.
pub(super) fn paths(only: Option<(&str, &str)>, custom: Custom<'_>) -> Vec<Path> {
    let wanted = |group: &str, version: &str| only.is_none_or(|only| only == (group, version));
    let mut all = Vec::new();
    let built_in = kinds::all().iter().map(|kind| **kind);
    for kind in built_in.chain(custom.iter().map(|version| version.kind())) {
        if !wanted(kind.group, kind.version) {
            continue;
        }
        let root = format!("/{}", group_version_path(kind.group, kind.version));
        let base = if kind.is_namespaced() {
            format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{root}/{}", kind.plural)
        };
        let builder = Builder { kind, base };
        all.extend(builder.everywhere(&root));
        all.push(builder.collection());
        all.push(builder.one());
        all.extend(
            kind.subresources
                .iter()
                .filter_map(|name| builder.subresource(name)),
        );
    }
    for extra in EXTRA.iter().filter(|extra| !extra.plural.is_empty()) {
        if !wanted(extra.group, extra.version) {
            continue;
        }
        let root = format!("/{}", group_version_path(extra.group, extra.version));
        let read = extra.kind == COMPONENT_STATUS;
        let (path, parameters) = if read {
            (format!("{root}/{}/{{name}}", extra.plural), vec!["name"])
        } else if extra.namespaced {
            (
                format!("{root}/namespaces/{{namespace}}/{}", extra.plural),
                vec!["namespace"],
            )
        } else {
            (format!("{root}/{}", extra.plural), Vec::new())
        };
        let action = if read { "get" } else { "post" };
        let verb = if read { "read" } else { "create" };
        all.push(Path {
            path,
            parameters,
            operations: vec![Operation {
                method: action,
                action,
                id: format!("{verb}{}{}", camel(extra.group, extra.version), extra.kind),
                query: if read { READ } else { WRITE },
                body: (!read).then(|| extra.definition.to_owned()),
                answer: extra.definition.to_owned(),
                group: extra.group.to_owned(),
                version: extra.version.to_owned(),
                kind: extra.kind.to_owned(),
                patches: PATCH_TYPES,
            }],
        });
    }
    all
}

/// Media types of patches.
const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];
const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Media types of everything else.
pub(super) const TYPES: &[&str] = &["application/json", "application/yaml"];

impl Operation {
    /// What both versions of the document say about an operation.
    pub(super) fn common(&self) -> Map<String, Value> {
        let Value::Object(map) = json!({
            "description": format!("{} of {}.", capital(self.action), self.kind),
            "operationId": self.id,
            "tags": [camel(&self.group, &self.version).to_lowercase()],
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind":
                {"group": self.group, "version": self.version, "kind": self.kind},
        }) else {
            return Map::new();
        };
        map
    }
}

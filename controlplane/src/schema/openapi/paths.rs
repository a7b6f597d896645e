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
    /// Definition of the answer; text where there is none.
    pub(super) answer: Option<String>,
    /// Statuses of success.
    pub(super) codes: &'static [&'static str],
    /// Media types of the body and of the answer.
    pub(super) consumes: &'static [&'static str],
    pub(super) produces: &'static [&'static str],
    /// What generators of clients sort by: the group version of the path, `rbacAuthorization_v1`.
    tag: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
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
const DELETE_COLLECTION: &[&str] = &[
    "pretty",
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
const LOG: &[&str] = &[
    "pretty",
    "container",
    "follow",
    "insecureSkipTLSVerifyBackend",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
];
const ATTACH: &[&str] = &["container", "stderr", "stdin", "stdout", "tty"];
const EXEC: &[&str] = &["command", "container", "stderr", "stdin", "stdout", "tty"];
const PORT_FORWARD: &[&str] = &["ports"];
const PROXY: &[&str] = &["path"];

/// Where nothing but a connection is made.
const STREAM_METHODS: &[&str] = &["get", "post"];
const PROXY_METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch"];

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
        "command" => (
            "string",
            "What is run, one argument each time that it is given.",
        ),
        "container" => (
            "string",
            "Name of the container; the only one if there is one.",
        ),
        "follow" => ("boolean", "Whether the log is followed."),
        "insecureSkipTLSVerifyBackend" => ("boolean", "Whether the node may show any certificate."),
        "limitBytes" => ("integer", "At most this many bytes."),
        "ports" => ("integer", "Ports that are forwarded."),
        "previous" => ("boolean", "The log of the container that ended last."),
        "sinceSeconds" => ("integer", "Only what is not older than this."),
        "sinceTime" => ("string", "Only what is not older than this (RFC 3339)."),
        "stderr" | "stdin" | "stdout" => ("boolean", "Whether this stream is connected."),
        "stream" => ("string", "Which stream: All, Stdout or Stderr."),
        "tailLines" => ("integer", "At most this many lines, the last."),
        "timestamps" => ("boolean", "Whether each line begins with its time."),
        "tty" => ("boolean", "Whether there is a terminal."),
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
    /// `verb` and `suffix` stand around the kind in the name of the operation: `readCoreV1NamespacedPodStatus`.
    fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        (verb, suffix): (&str, &str),
        query: &'static [&'static str],
        body: Option<&str>,
        answer: &str,
    ) -> Operation {
        let scope = if self.kind.is_namespaced() && action != EVERYWHERE {
            "Namespaced"
        } else {
            ""
        };
        let kind = &self.kind;
        let part = if action == "deletecollection" {
            "Collection"
        } else {
            ""
        };
        let patches = action == "patch" && method == "patch";
        Operation {
            method,
            action: if action == EVERYWHERE { "list" } else { action },
            id: format!(
                "{verb}{}{part}{scope}{}{suffix}",
                camel(kind.group, kind.version),
                kind.kind
            ),
            query,
            body: body.map(str::to_owned),
            answer: Some(answer.to_owned()),
            codes: codes(action),
            consumes: match patches {
                false => ANY,
                // What has no types that the server knows has no merge keys: kubectl looks here.
                true if kind.is_custom() => CUSTOM_PATCH_TYPES,
                true => PATCH_TYPES,
            },
            produces: if matches!(action, "list" | EVERYWHERE) {
                LIST_TYPES
            } else {
                TYPES
            },
            tag: tag(kind.group, kind.version),
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            kind: kind.kind.to_owned(),
        }
    }

    fn collection(&self) -> Path {
        let definition = self.kind.definition;
        let list = super::list_definition(&self.kind);
        let options = format!("{META}DeleteOptions");
        let status = format!("{META}Status");
        let mut operations = vec![
            self.operation("get", "list", ("list", ""), LIST, None, &list),
            self.operation(
                "post",
                "post",
                ("create", ""),
                WRITE,
                Some(definition),
                definition,
            ),
        ];
        if self.kind.deletes_collections() {
            operations.push(self.operation(
                "delete",
                "deletecollection",
                ("delete", ""),
                DELETE_COLLECTION,
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
        let own = self.kind.definition;
        let options = format!("{META}DeleteOptions");
        let status = format!("{META}Status");
        let patch = format!("{META}Patch");
        let deleted = if self.kind.is_answer_of_its_deletion() {
            own
        } else {
            &status
        };
        let mut parameters = self.namespace();
        parameters.push("name");
        Path {
            path: format!("{}/{{name}}", self.base),
            parameters,
            operations: vec![
                self.operation("get", "get", ("read", ""), READ, None, own),
                self.operation("put", "put", ("replace", ""), WRITE, Some(own), own),
                self.operation("patch", "patch", ("patch", ""), PATCH, Some(&patch), own),
                self.operation(
                    "delete",
                    "delete",
                    ("delete", ""),
                    DELETE,
                    Some(&options),
                    deleted,
                ),
            ],
        }
    }

    fn subresource(&self, name: &'static str) -> Vec<Path> {
        let patch = format!("{META}Patch");
        let own = self.kind.definition;
        let core = |kind| Some(("", kind));
        let scale = ("autoscaling", "Scale");
        let (body, way, kind) = match name {
            "status" | "ephemeralcontainers" | "resize" | "approval" => (own, Way::Whole, None),
            "finalize" => (own, Way::Replace, None),
            "scale" => ("io.k8s.api.autoscaling.v1.Scale", Way::Whole, Some(scale)),
            "binding" => (
                "io.k8s.api.core.v1.Binding",
                Way::Create,
                Some(("", "Binding")),
            ),
            "eviction" => (
                "io.k8s.api.policy.v1.Eviction",
                Way::Create,
                Some(("policy", "Eviction")),
            ),
            "token" => (
                "io.k8s.api.authentication.v1.TokenRequest",
                Way::Create,
                Some(("authentication.k8s.io", "TokenRequest")),
            ),
            "log" => ("", Way::Log, None),
            "attach" => (
                "",
                Way::Connect(STREAM_METHODS, ATTACH),
                core("PodAttachOptions"),
            ),
            "exec" => (
                "",
                Way::Connect(STREAM_METHODS, EXEC),
                core("PodExecOptions"),
            ),
            "portforward" => (
                "",
                Way::Connect(STREAM_METHODS, PORT_FORWARD),
                core("PodPortForwardOptions"),
            ),
            "proxy" => {
                let options = match self.kind.plural {
                    "nodes" => "NodeProxyOptions",
                    "services" => "ServiceProxyOptions",
                    _ => "PodProxyOptions",
                };
                ("", Way::Connect(PROXY_METHODS, PROXY), core(options))
            }
            _ => return Vec::new(),
        };
        let suffix = capital(name);
        let replace = || {
            let names = ("replace", &*suffix);
            self.operation("put", "put", names, WRITE, Some(body), body)
        };
        let mut operations = match way {
            Way::Create => {
                let names = ("create", &*suffix);
                vec![self.operation("post", "post", names, WRITE, Some(body), body)]
            }
            Way::Replace => vec![replace()],
            Way::Whole => vec![
                self.operation("get", "get", ("read", &suffix), READ, None, body),
                replace(),
                self.operation(
                    "patch",
                    "patch",
                    ("patch", &suffix),
                    PATCH,
                    Some(&patch),
                    body,
                ),
            ],
            Way::Log => {
                let log = self.operation("get", "get", ("read", &suffix), LOG, None, body);
                vec![Operation {
                    answer: None,
                    produces: TEXT,
                    ..log
                }]
            }
            Way::Connect(methods, query) => self.connect(methods, query, &suffix),
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
        let path = format!("{}/{{name}}/{name}", self.base);
        let mut paths = Vec::new();
        if name == "proxy" {
            let Way::Connect(methods, query) = way else {
                return paths;
            };
            let mut below = self.connect(methods, query, "ProxyWithPath");
            for (below, here) in below.iter_mut().zip(&operations) {
                below.group.clone_from(&here.group);
                below.kind.clone_from(&here.kind);
            }
            let mut parameters = parameters.clone();
            parameters.push("path");
            paths.push(Path {
                path: format!("{path}/{{path}}"),
                parameters,
                operations: below,
            });
        }
        paths.push(Path {
            path,
            parameters,
            operations,
        });
        paths
    }

    fn connect(
        &self,
        methods: &'static [&'static str],
        query: &'static [&'static str],
        suffix: &str,
    ) -> Vec<Operation> {
        let (group, kind) = (camel(self.kind.group, self.kind.version), self.kind.kind);
        let scope = self.kind.is_namespaced().then_some("Namespaced");
        let one = |method: &&'static str| {
            let names = ("connect", suffix);
            let operation = self.operation(method, "connect", names, query, None, "");
            let (scope, verb) = (scope.unwrap_or(""), capital(method));
            Operation {
                id: format!("connect{group}{verb}{scope}{kind}{suffix}"),
                answer: None,
                produces: ANY,
                ..operation
            }
        };
        methods.iter().map(one).collect()
    }

    fn everywhere(&self, root: &str) -> Option<Path> {
        self.kind.is_namespaced().then(|| Path {
            path: format!("{root}/{}", self.kind.plural),
            parameters: Vec::new(),
            operations: vec![self.operation(
                "get",
                EVERYWHERE,
                ("list", "ForAllNamespaces"),
                LIST,
                None,
                &super::list_definition(&self.kind),
            )],
        })
    }
}

/// The action of a list of all namespaces, which is named without one.
const EVERYWHERE: &str = "list everywhere";

/// What can be done with a subresource.
#[derive(Debug, Clone, Copy)]
enum Way {
    Create,
    Replace,
    /// Read, replace and patch.
    Whole,
    Log,
    /// Methods and query parameters.
    Connect(&'static [&'static str], &'static [&'static str]),
}

/// What a status of success is called.
pub(super) fn status(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

fn codes(action: &str) -> &'static [&'static str] {
    match action {
        "post" => &["200", "201", "202"],
        "put" | "patch" => &["200", "201"],
        "delete" => &["200", "202"],
        _ => &["200"],
    }
}

/// `core`, `apps`, `rbacAuthorization`, `stableExampleCom`
fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "core".to_owned();
    }
    let mut parts = group.trim_end_matches(".k8s.io").split(['.', '-']);
    let first = parts.next().unwrap_or("").to_owned();
    parts.fold(first, |name, part| name + &capital(part))
}

/// `CoreV1`, `RbacAuthorizationV1`
fn camel(group: &str, version: &str) -> String {
    format!("{}{}", capital(&group_name(group)), capital(version))
}

/// `core_v1`
fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", group_name(group))
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
                .flat_map(|name| builder.subresource(name)),
        );
    }
    for extra in EXTRA.iter().filter(|extra| !extra.plural.is_empty()) {
        if !wanted(extra.group, extra.version) {
            continue;
        }
        let root = format!("/{}", group_version_path(extra.group, extra.version));
        let read = extra.kind == COMPONENT_STATUS;
        let scope = if extra.namespaced { "Namespaced" } else { "" };
        let operation = |verb: &str, method: &'static str, action: &'static str| Operation {
            method,
            action,
            id: format!(
                "{verb}{}{scope}{}",
                camel(extra.group, extra.version),
                extra.kind
            ),
            query: match action {
                "list" => LIST,
                "get" => READ,
                _ => WRITE,
            },
            body: (!read).then(|| extra.definition.to_owned()),
            answer: Some(match action {
                "list" => format!("{}List", extra.definition),
                _ => extra.definition.to_owned(),
            }),
            codes: codes(action),
            consumes: ANY,
            produces: TYPES,
            tag: tag(extra.group, extra.version),
            group: extra.group.to_owned(),
            version: extra.version.to_owned(),
            kind: extra.kind.to_owned(),
        };
        let (base, parameters) = if extra.namespaced {
            (
                format!("{root}/namespaces/{{namespace}}/{}", extra.plural),
                vec!["namespace"],
            )
        } else {
            (format!("{root}/{}", extra.plural), Vec::new())
        };
        let first = if read {
            operation("list", "get", "list")
        } else {
            operation("create", "post", "post")
        };
        if read {
            all.push(Path {
                path: format!("{base}/{{name}}"),
                parameters: vec!["name"],
                operations: vec![operation("read", "get", "get")],
            });
        }
        all.push(Path {
            path: base,
            parameters,
            operations: vec![first],
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
const ANY: &[&str] = &["*/*"];
const TEXT: &[&str] = &["text/plain"];
const TYPES: &[&str] = &["application/json", "application/yaml"];
const LIST_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/json;stream=watch",
];

impl Operation {
    /// What both versions of the document say about an operation.
    pub(super) fn common(&self) -> Map<String, Value> {
        let Value::Object(map) = json!({
            "description": format!("{} of {}.", capital(self.action), self.kind),
            "operationId": self.id,
            "tags": [self.tag],
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind":
                {"group": self.group, "version": self.version, "kind": self.kind},
        }) else {
            return Map::new();
        };
        map
    }
}

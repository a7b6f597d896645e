//! May this user do this? A chain of authorizers, the first opinion counts.

use std::sync::Arc;

pub(crate) mod rbac;

use super::identity::{MASTERS, User};
use crate::kinds::custom::expressions::{Access, Question};

/// What somebody wants to do: to a resource, or to a path that is no resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Set for requests that are about no resource.
    pub(crate) path: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow,
    NoOpinion,
}

/// A rule as `kubectl auth can-i --list` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourceRule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PathRule {
    pub(crate) verbs: Vec<String>,
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) resources: Vec<ResourceRule>,
    pub(crate) paths: Vec<PathRule>,
}

pub(crate) trait Authorizer: std::fmt::Debug + Send + Sync {
    fn authorize(&self, user: &User, attributes: &Attributes) -> Decision;

    /// Why it is allowed, where this authorizer allows it and has more to say than that.
    fn reason(&self, _user: &User, _attributes: &Attributes) -> Option<String> {
        None
    }

    /// What the user may do in the namespace, as far as this authorizer can list it.
    fn rules(&self, user: &User, namespace: &str) -> Rules;
}

/// Asks one after the other; who has no friend is denied.
#[derive(Debug, Clone)]
pub(crate) struct Chain(Vec<Arc<dyn Authorizer>>);

impl Chain {
    pub(crate) fn new(rbac: rbac::Rbac) -> Self {
        Self(vec![
            Arc::new(Masters),
            Arc::new(Nodes),
            Arc::new(Health),
            Arc::new(rbac),
        ])
    }

    pub(crate) fn allows(&self, user: &User, attributes: &Attributes) -> bool {
        self.authorize(user, attributes) == Decision::Allow
    }
}

/// Expressions of admission policies may ask.
impl Access for Chain {
    fn check(&self, question: &Question) -> (bool, String) {
        let user = User {
            name: question.user.clone(),
            uid: question.uid.clone(),
            groups: question.groups.clone(),
            ..User::default()
        };
        let attributes = Attributes {
            verb: question.verb.clone(),
            group: question.group.clone(),
            version: "*".to_owned(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            namespace: question.namespace.clone(),
            name: question.name.clone(),
            path: question.path.clone(),
        };
        (
            self.allows(&user, &attributes),
            self.reason(&user, &attributes).unwrap_or_default(),
        )
    }
}

impl Authorizer for Chain {
    fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        self.0
            .iter()
            .map(|link| link.authorize(user, attributes))
            .find(|decision| *decision != Decision::NoOpinion)
            .unwrap_or(Decision::NoOpinion)
    }

    fn reason(&self, user: &User, attributes: &Attributes) -> Option<String> {
        let mut links = self.0.iter();
        let link = links.find(|link| link.authorize(user, attributes) != Decision::NoOpinion)?;
        link.reason(user, attributes)
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for link in &self.0 {
            let rules = link.rules(user, namespace);
            all.resources.extend(rules.resources);
            all.paths.extend(rules.paths);
        }
        all
    }
}

impl Attributes {
    /// The sentence that tells a user what was refused.
    pub(crate) fn refusal(&self, user: &User) -> String {
        let who = format!("User \"{}\" cannot {}", user.name, self.verb);
        if let Some(path) = &self.path {
            return format!("{who} path \"{path}\"");
        }
        let resource = match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let place = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "{who} resource \"{resource}\" in API group \"{}\" {place}",
            self.group
        )
    }
}

/// `system:masters` may do everything.
#[derive(Debug)]
struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, user: &User, _: &Attributes) -> Decision {
        if user.is_in(MASTERS) {
            Decision::Allow
        } else {
            Decision::NoOpinion
        }
    }

    fn rules(&self, user: &User, _: &str) -> Rules {
        if !user.is_in(MASTERS) {
            return Rules::default();
        }
        Rules {
            resources: vec![ResourceRule {
                verbs: vec!["*".into()],
                groups: vec!["*".into()],
                resources: vec!["*".into()],
                names: Vec::new(),
            }],
            paths: vec![PathRule {
                verbs: vec!["*".into()],
                paths: vec!["*".into()],
            }],
        }
    }
}

/// Nodes get what concerns them through node sync; over REST a node may only look at itself.
#[derive(Debug)]
struct Nodes;

impl Authorizer for Nodes {
    fn authorize(&self, user: &User, wanted: &Attributes) -> Decision {
        match user.node_name() {
            // Which tokens they are is looked at where they are made.
            Some(_) if may_ask(wanted) => Decision::Allow,
            Some(node)
                if wanted.path.is_none()
                    && wanted.verb == "get"
                    && wanted.group.is_empty()
                    && wanted.resource == "nodes"
                    && wanted.subresource.is_empty()
                    && wanted.name == node =>
            {
                Decision::Allow
            }
            _ => Decision::NoOpinion,
        }
    }

    fn rules(&self, user: &User, _: &str) -> Rules {
        let Some(node) = user.node_name() else {
            return Rules::default();
        };
        Rules {
            resources: vec![
                ResourceRule {
                    verbs: vec!["get".into()],
                    groups: vec![String::new()],
                    resources: vec!["nodes".into()],
                    names: vec![node.to_owned()],
                },
                ResourceRule {
                    verbs: vec!["create".into()],
                    groups: vec![String::new()],
                    resources: vec!["serviceaccounts/token".into()],
                    names: Vec::new(),
                },
                ResourceRule {
                    verbs: vec!["create".into(), "get".into()],
                    groups: vec![CERTIFICATES.into()],
                    resources: vec!["certificatesigningrequests".into()],
                    names: Vec::new(),
                },
            ],
            paths: Vec::new(),
        }
    }
}

const CERTIFICATES: &str = "certificates.k8s.io";

/// What any node may do: ask for tokens of its pods, and for a new certificate of its own.
fn may_ask(wanted: &Attributes) -> bool {
    let resource = (
        wanted.group.as_str(),
        wanted.resource.as_str(),
        wanted.subresource.as_str(),
    );
    wanted.path.is_none()
        && match resource {
            ("", "serviceaccounts", "token") => wanted.verb == "create",
            (CERTIFICATES, "certificatesigningrequests", "") => {
                matches!(wanted.verb.as_str(), "create" | "get")
            }
            _ => false,
        }
}

/// Whether the server is well and which version it is may be asked by anybody, whatever roles say: a load
/// balancer must be able to look while the store cannot be read.
#[derive(Debug)]
struct Health;

const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Authorizer for Health {
    fn authorize(&self, _: &User, wanted: &Attributes) -> Decision {
        match &wanted.path {
            Some(path)
                if matches!(wanted.verb.as_str(), "get" | "head")
                    && PUBLIC_PATHS.iter().any(|root| is_below(path, root)) =>
            {
                Decision::Allow
            }
            _ => Decision::NoOpinion,
        }
    }

    fn rules(&self, _: &User, _: &str) -> Rules {
        Rules {
            resources: Vec::new(),
            paths: vec![PathRule {
                verbs: vec!["get".into()],
                paths: PUBLIC_PATHS.iter().map(|path| (*path).into()).collect(),
            }],
        }
    }
}

#[cfg(test)]
mod tests;

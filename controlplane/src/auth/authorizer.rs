//! May this user do this? A chain of authorizers, the first opinion counts; RBAC will be one more link.

use std::sync::Arc;

use super::identity::{AUTHENTICATED, MASTERS, User};

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
    pub(crate) verbs: Vec<&'static str>,
    pub(crate) groups: Vec<&'static str>,
    pub(crate) resources: Vec<&'static str>,
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) resources: Vec<ResourceRule>,
    /// Verbs and paths.
    pub(crate) paths: Vec<(Vec<&'static str>, Vec<&'static str>)>,
}

pub(crate) trait Authorizer: std::fmt::Debug + Send + Sync {
    fn authorize(&self, user: &User, attributes: &Attributes) -> Decision;

    /// What the user may do in the namespace, as far as this authorizer can list it.
    fn rules(&self, user: &User, namespace: &str) -> Rules;
}

/// Asks one after the other; who has no friend is denied.
#[derive(Debug, Clone)]
pub(crate) struct Chain(Vec<Arc<dyn Authorizer>>);

impl Default for Chain {
    fn default() -> Self {
        Self(vec![Arc::new(Masters), Arc::new(Nodes), Arc::new(Basics)])
    }
}

impl Chain {
    pub(crate) fn allows(&self, user: &User, attributes: &Attributes) -> bool {
        self.authorize(user, attributes) == Decision::Allow
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
                verbs: vec!["*"],
                groups: vec!["*"],
                resources: vec!["*"],
                names: Vec::new(),
            }],
            paths: vec![(vec!["*"], vec!["*"])],
        }
    }
}

/// Nodes get what concerns them through node sync; over REST a node may only look at itself.
#[derive(Debug)]
struct Nodes;

impl Authorizer for Nodes {
    fn authorize(&self, user: &User, wanted: &Attributes) -> Decision {
        match user.node_name() {
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
            resources: vec![ResourceRule {
                verbs: vec!["get"],
                groups: vec![""],
                resources: vec!["nodes"],
                names: vec![node.to_owned()],
            }],
            paths: Vec::new(),
        }
    }
}

/// What everybody may do who is known: see what the API is, and ask what they may do.
#[derive(Debug)]
struct Basics;

const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi"];
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Authorizer for Basics {
    fn authorize(&self, user: &User, wanted: &Attributes) -> Decision {
        let allowed = match &wanted.path {
            Some(path) => {
                let known = user.is_in(AUTHENTICATED);
                let reads = matches!(wanted.verb.as_str(), "get" | "head");
                let public = PUBLIC_PATHS.iter().any(|root| is_below(path, root));
                let discovery = DISCOVERY_PATHS.iter().any(|root| is_below(path, root));
                reads && (public || (known && discovery))
            }
            None => {
                let review = (wanted.group.as_str(), wanted.resource.as_str());
                user.is_in(AUTHENTICATED)
                    && wanted.verb == "create"
                    && SELF_REVIEWS.contains(&review)
            }
        };
        if allowed {
            Decision::Allow
        } else {
            Decision::NoOpinion
        }
    }

    fn rules(&self, user: &User, _: &str) -> Rules {
        if !user.is_in(AUTHENTICATED) {
            return Rules::default();
        }
        Rules {
            resources: SELF_REVIEWS
                .iter()
                .map(|(group, resource)| ResourceRule {
                    verbs: vec!["create"],
                    groups: vec![group],
                    resources: vec![resource],
                    names: Vec::new(),
                })
                .collect(),
            paths: vec![(
                vec!["get"],
                vec![
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                ],
            )],
        }
    }
}

#[cfg(test)]
mod tests;

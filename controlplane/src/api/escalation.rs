//! Nobody gives permissions that they do not have: writes of roles and bindings are checked against what the
//! writer holds. Source: the Kubernetes documentation, "Using RBAC Authorization", privilege escalation
//! prevention.

use serde_json::Value;

use super::Api;
use super::read::Subject;
use crate::auth::rbac::{Rbac, Rule};
use crate::auth::{Attributes, Chain, User};
use crate::kinds::rbac::GROUP;
use crate::kinds::{Kind, KindRef};
use crate::registry::{ApiError, Guard};

impl Api {
    /// What a write of `kind` by `user` must pass besides the rules of the kind.
    pub(super) fn guard(&self, user: &User, subject: Subject<'_>) -> Option<Guard> {
        let (KindRef::BuiltIn(kind), namespace) = (subject.handle, subject.namespace) else {
            return None;
        };
        if kind.group != GROUP {
            return self.certificate_guard(user, subject);
        }
        let check = Check {
            authorizer: self.authorizer.clone(),
            rbac: self.rbac.clone(),
            user: user.clone(),
            kind,
            namespace: namespace.to_owned(),
        };
        Some(Guard::new(move |old, new| check.check(old, new)))
    }
}

#[derive(Debug)]
struct Check {
    authorizer: Chain,
    rbac: Rbac,
    user: User,
    kind: &'static Kind<'static>,
    namespace: String,
}

impl Check {
    fn check(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if matches!(self.kind.kind, "Role" | "ClusterRole") {
            self.role(name, old, new)
        } else {
            self.binding(name, old, new)
        }
    }

    fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let wanted = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.authorizer.allows(&self.user, &wanted)
    }

    fn role(&self, name: &str, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let same = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        if self.may("escalate", self.kind.plural, &self.namespace, name) {
            return Ok(());
        }
        let mut wanted = rules(new);
        if new.get("aggregationRule").is_some() {
            // Whatever others label becomes part of it.
            let any = || vec!["*".to_owned()];
            wanted.push(Rule {
                verbs: any(),
                groups: any(),
                resources: any(),
                ..Rule::default()
            });
            wanted.push(Rule {
                verbs: any(),
                paths: any(),
                ..Rule::default()
            });
        }
        self.held(name, &wanted)
    }

    fn binding(&self, name: &str, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let same = |field: &str| old.is_some_and(|old| old.get(field) == new.get(field));
        if same("roleRef") && same("subjects") {
            return Ok(());
        }
        let role = new["roleRef"]["name"].as_str().unwrap_or_default();
        let (plural, place) = match new["roleRef"]["kind"].as_str() {
            Some("ClusterRole") => ("clusterroles", ""),
            _ => ("roles", self.namespace.as_str()),
        };
        if self.may("bind", plural, &self.namespace, role) {
            return Ok(());
        }
        match self.rbac.role(&(place.to_owned(), role.to_owned())) {
            Some(rules) => self.held(name, &rules),
            None => Err(ApiError::not_found_named(GROUP, plural, role)),
        }
    }

    fn held(&self, name: &str, wanted: &[Rule]) -> Result<(), ApiError> {
        let missing = self.rbac.missing(&self.user, &self.namespace, wanted);
        if missing.is_empty() || self.may("*", "*", "", "") {
            return Ok(());
        }
        let mut missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        missing.sort_unstable();
        missing.dedup();
        Err(ApiError::forbidden(
            GROUP,
            self.kind.plural,
            name,
            &format!(
                "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
                self.user.name,
                self.user.groups,
                missing.join("\n")
            ),
        ))
    }
}

fn rules(role: &Value) -> Vec<Rule> {
    let list = |rule: &Value, field: &str| {
        rule[field]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.as_str().map(str::to_owned))
            .collect()
    };
    role["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| Rule {
            verbs: list(rule, "verbs"),
            groups: list(rule, "apiGroups"),
            resources: list(rule, "resources"),
            names: list(rule, "resourceNames"),
            paths: list(rule, "nonResourceURLs"),
        })
        .collect()
}

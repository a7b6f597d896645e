//! RBAC: roles are lists of rules, bindings give them to users, groups and service accounts; nothing is ever
//! taken away by a rule. Source: the Kubernetes documentation, "Using RBAC Authorization".
//!
//! The tables are an index from subjects to bindings, so that a request looks at the bindings of its own user
//! and groups only, however many others there are. Written by whoever follows the store
//! (`controller/roles.rs`), read by every request.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Attributes, Authorizer, Decision, PathRule, ResourceRule, Rules};
use crate::auth::identity::User;

/// One rule of a role: about resources, or about paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    /// Empty: all names.
    pub(crate) names: Vec<String>,
    pub(crate) paths: Vec<String>,
}

/// Namespace and name; the namespace of cluster-wide objects is empty.
pub(crate) type RoleKey = (String, String);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    User(String),
    Group(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let account = |name: &str| {
            let rest = name.strip_prefix("system:serviceaccount:")?;
            let (namespace, name) = rest.split_once(':')?;
            Some(format!("ServiceAccount \"{name}/{namespace}\""))
        };
        match self {
            Self::Group(name) => write!(f, "Group \"{name}\""),
            Self::User(name) => match account(name) {
                Some(account) => f.write_str(&account),
                None => write!(f, "User \"{name}\""),
            },
        }
    }
}

impl Subject {
    /// A service account is a user of that name.
    pub(crate) fn service_account(namespace: &str, name: &str) -> Self {
        Self::User(format!("system:serviceaccount:{namespace}:{name}"))
    }
}

/// A RoleBinding (with a namespace) or ClusterRoleBinding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) subjects: Vec<Subject>,
    /// A role of the binding's own namespace, or (empty namespace) a ClusterRole.
    pub(crate) role: RoleKey,
}

#[derive(Debug, Default)]
struct Tables {
    roles: HashMap<RoleKey, Arc<[Rule]>>,
    bindings: HashMap<RoleKey, Binding>,
    of_subject: HashMap<Subject, HashSet<RoleKey>>,
}

/// Cheap to clone; clones share the tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rbac(Arc<RwLock<Tables>>);

impl Rbac {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there is no such role (any more).
    pub(crate) fn set_role(&self, key: RoleKey, rules: Option<Vec<Rule>>) {
        let mut tables = self.write();
        match rules {
            Some(rules) => tables.roles.insert(key, rules.into()),
            None => tables.roles.remove(&key),
        };
    }

    /// `None`: there is no such binding (any more).
    pub(crate) fn set_binding(&self, key: RoleKey, binding: Option<Binding>) {
        let mut tables = self.write();
        if let Some(old) = tables.bindings.remove(&key) {
            for subject in old.subjects {
                if let Some(keys) = tables.of_subject.get_mut(&subject) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        tables.of_subject.remove(&subject);
                    }
                }
            }
        }
        let Some(binding) = binding else {
            return;
        };
        for subject in &binding.subjects {
            tables
                .of_subject
                .entry(subject.clone())
                .or_default()
                .insert(key.clone());
        }
        tables.bindings.insert(key, binding);
    }

    /// The rules of a role; `None` if there is none of that name.
    pub(crate) fn role(&self, key: &RoleKey) -> Option<Arc<[Rule]>> {
        self.read().roles.get(key).cloned()
    }

    /// The rules that hold for the user in the namespace: those given cluster-wide, and those given there.
    fn held(&self, user: &User, namespace: &str) -> Vec<Arc<[Rule]>> {
        let tables = self.read();
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group));
        subjects
            .filter_map(|subject| tables.of_subject.get(&subject))
            .flatten()
            .filter(|(place, _)| place.is_empty() || place == namespace)
            .filter_map(|key| tables.bindings.get(key))
            .filter_map(|binding| tables.roles.get(&binding.role))
            .cloned()
            .collect()
    }

    /// Rules among `wanted` that the user does not have in the namespace: what it may not give to others.
    pub(crate) fn missing(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        let held = self.held(user, namespace);
        let held: Vec<&Rule> = held.iter().flat_map(|rules| rules.iter()).collect();
        wanted
            .iter()
            .flat_map(atoms)
            .filter(|atom| !held.iter().any(|rule| covers(rule, atom)))
            .collect()
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, user: &User, wanted: &Attributes) -> Decision {
        let held = self.held(user, &wanted.namespace);
        if held
            .iter()
            .flat_map(|rules| rules.iter())
            .any(|rule| allows(rule, wanted))
        {
            Decision::Allow
        } else {
            Decision::NoOpinion
        }
    }

    /// In the words of Kubernetes, with the first binding that gives it: of the whole cluster, then by name.
    fn reason(&self, user: &User, wanted: &Attributes) -> Option<String> {
        let tables = self.read();
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group));
        let mut given: Vec<(&RoleKey, &RoleKey, Subject)> = Vec::new();
        for subject in subjects {
            for key in tables.of_subject.get(&subject).into_iter().flatten() {
                let holds_there = key.0.is_empty() || key.0 == wanted.namespace;
                if let Some(binding) = tables.bindings.get(key).filter(|_| holds_there)
                    && let Some(rules) = tables.roles.get(&binding.role)
                    && rules.iter().any(|rule| allows(rule, wanted))
                {
                    given.push((key, &binding.role, subject.clone()));
                }
            }
        }
        let (binding, role, subject) = given.into_iter().min_by_key(|(key, _, _)| *key)?;
        let role_kind = if role.0.is_empty() {
            "ClusterRole"
        } else {
            "Role"
        };
        let bound = match binding {
            (place, name) if place.is_empty() => format!("ClusterRoleBinding \"{name}\""),
            (place, name) => format!("RoleBinding \"{name}/{place}\""),
        };
        let role = &role.1;
        Some(format!(
            "RBAC: allowed by {bound} of {role_kind} \"{role}\" to {subject}"
        ))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for rule in self
            .held(user, namespace)
            .iter()
            .flat_map(|rules| rules.iter())
        {
            if rule.paths.is_empty() {
                all.resources.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    groups: rule.groups.clone(),
                    resources: rule.resources.clone(),
                    names: rule.names.clone(),
                });
            } else {
                all.paths.push(PathRule {
                    verbs: rule.verbs.clone(),
                    paths: rule.paths.clone(),
                });
            }
        }
        all
    }
}

fn any_is(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

/// `pods`, `pods/log`, `*` (all, subresources too) or `*/scale` (that subresource of all).
fn resource_matches(entry: &str, resource: &str, subresource: &str) -> bool {
    if entry == "*" {
        return true;
    }
    match entry.split_once('/') {
        None => subresource.is_empty() && entry == resource,
        Some((of, sub)) => {
            !subresource.is_empty() && sub == subresource && (of == "*" || of == resource)
        }
    }
}

/// `*`, the path itself, or a prefix that ends in `*`.
fn path_matches(entry: &str, path: &str) -> bool {
    entry == path
        || entry
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

fn allows(rule: &Rule, wanted: &Attributes) -> bool {
    if !any_is(&rule.verbs, &wanted.verb) {
        return false;
    }
    match &wanted.path {
        Some(path) => rule.paths.iter().any(|entry| path_matches(entry, path)),
        None => {
            any_is(&rule.groups, &wanted.group)
                && rule
                    .resources
                    .iter()
                    .any(|entry| resource_matches(entry, &wanted.resource, &wanted.subresource))
                && (rule.names.is_empty() || rule.names.contains(&wanted.name))
        }
    }
}

/// A rule as rules of one verb, group, resource and name, or one verb and path.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let mut all = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.paths {
            all.push(Rule {
                verbs: vec![verb.clone()],
                paths: vec![path.clone()],
                ..Rule::default()
            });
        }
        for group in &rule.groups {
            for resource in &rule.resources {
                let mut atom = Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if rule.names.is_empty() {
                    all.push(atom.clone());
                }
                for name in &rule.names {
                    atom.names = vec![name.clone()];
                    all.push(atom.clone());
                }
            }
        }
    }
    all
}

/// Whether who has `rule` has `atom` (of one verb and so on) as well.
fn covers(rule: &Rule, atom: &Rule) -> bool {
    let of = |list: &[String], wanted: &[String]| wanted.iter().all(|entry| any_is(list, entry));
    if !of(&rule.verbs, &atom.verbs) {
        return false;
    }
    if !atom.paths.is_empty() {
        return atom.paths.iter().all(|path| {
            rule.paths.iter().any(|entry| {
                entry == path
                    || entry.strip_suffix('*').is_some_and(|prefix| {
                        path.strip_suffix('*').unwrap_or(path).starts_with(prefix)
                    })
            })
        });
    }
    let resources = atom.resources.iter().all(|resource| {
        rule.resources.iter().any(|entry| {
            entry == resource
                || entry == "*"
                || resource
                    .split_once('/')
                    .is_some_and(|(of, sub)| resource_matches(entry, of, sub))
        })
    });
    let names = rule.names.is_empty()
        || (!atom.names.is_empty() && atom.names.iter().all(|name| rule.names.contains(name)));
    of(&rule.groups, &atom.groups) && resources && names && !rule.resources.is_empty()
}

impl std::fmt::Display for Rule {
    /// As Kubernetes writes a rule in its refusals.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        let mut first = true;
        for (name, list) in parts {
            if list.is_empty() {
                continue;
            }
            let quoted: Vec<String> = list.iter().map(|entry| format!("{entry:?}")).collect();
            let comma = if first { "" } else { ", " };
            first = false;
            write!(f, "{comma}{name}:[{}]", quoted.join(" "))?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests;

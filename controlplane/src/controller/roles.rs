//! Keeps the authorizer's tables as the store has them.

use k8s_openapi::api::rbac::v1 as api;

use crate::auth::rbac::{Binding, Rbac, Rule, Subject};
use crate::cache::{Cache, Subscription};

/// In force as long as what is returned lives.
pub(super) fn follow(cache: &Cache, rbac: &Rbac) -> Vec<Subscription> {
    let key = |key: &crate::cache::ObjectKey| (key.namespace.to_string(), key.name.to_string());
    let of_cluster = {
        let rbac = rbac.clone();
        cache.cluster_roles.subscribe(move |delta| {
            let rules = delta.new.map(|role| rules(role.rules.as_deref()));
            rbac.set_role(key(delta.key), rules);
        })
    };
    let of_namespaces = {
        let rbac = rbac.clone();
        cache.roles.subscribe(move |delta| {
            let rules = delta.new.map(|role| rules(role.rules.as_deref()));
            rbac.set_role(key(delta.key), rules);
        })
    };
    let cluster_bindings = {
        let rbac = rbac.clone();
        cache.cluster_role_bindings.subscribe(move |delta| {
            let new = delta.new;
            let binding = new.map(|found| binding("", &found.role_ref, found.subjects.as_deref()));
            rbac.set_binding(key(delta.key), binding);
        })
    };
    let bindings = {
        let rbac = rbac.clone();
        cache.role_bindings.subscribe(move |delta| {
            let place = &delta.key.namespace;
            let new = delta.new;
            let binding =
                new.map(|found| binding(place, &found.role_ref, found.subjects.as_deref()));
            rbac.set_binding(key(delta.key), binding);
        })
    };
    vec![of_cluster, of_namespaces, cluster_bindings, bindings]
}

fn rules(rules: Option<&[api::PolicyRule]>) -> Vec<Rule> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    rules
        .unwrap_or_default()
        .iter()
        .map(|rule| Rule {
            verbs: rule.verbs.clone(),
            groups: list(&rule.api_groups),
            resources: list(&rule.resources),
            names: list(&rule.resource_names),
            paths: list(&rule.non_resource_urls),
        })
        .collect()
}

fn binding(namespace: &str, role: &api::RoleRef, subjects: Option<&[api::Subject]>) -> Binding {
    let subjects = subjects.unwrap_or_default().iter();
    let place = match role.kind.as_str() {
        "ClusterRole" => "",
        _ => namespace,
    };
    Binding {
        role: (place.to_owned(), role.name.clone()),
        subjects: subjects
            .filter_map(|subject| match subject.kind.as_str() {
                "User" => Some(Subject::User(subject.name.clone())),
                "Group" => Some(Subject::Group(subject.name.clone())),
                // An account without a namespace is one of the binding's.
                "ServiceAccount" => {
                    let own = subject.namespace.as_deref().filter(|own| !own.is_empty());
                    let place = own.unwrap_or(namespace);
                    (!place.is_empty()).then(|| Subject::service_account(place, &subject.name))
                }
                _ => None,
            })
            .collect(),
    }
}

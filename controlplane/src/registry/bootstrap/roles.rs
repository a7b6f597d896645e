//! The roles and bindings that every cluster has: the default roles of the Kubernetes documentation ("Using RBAC
//! Authorization", default roles and role bindings), without those of components that Waggle does not have.
//! Rules that somebody removed come back at the next start, unless the object says
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use serde_json::{Value, json};

use crate::kinds::rbac::GROUP;
use crate::registry::update::{Ownership, Place};
use crate::registry::{ApiError, Registry, object};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
/// Who holds a token of this group may make a machine a member of the control plane.
const JOINERS: &str = "system:bootstrappers:waggle:members";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn paths(paths: &[&str], verbs: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": verbs})
}

fn meta(name: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    for (key, value) in labels {
        all[*key] = (*value).into();
    }
    json!({"name": name, "labels": all, "annotations": {AUTOUPDATE: "true"}})
}

fn role(name: &str, labels: &[(&str, &str)], rules: Vec<Value>) -> Value {
    json!({"metadata": meta(name, labels), "rules": rules})
}

/// A role that is the sum of those that bear the label.
fn sum(name: &str, labels: &[(&str, &str)], of: &str) -> Value {
    json!({
        "metadata": meta(name, labels),
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {(of): "true"}}]},
    })
}

fn binding(name: &str, role: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "apiGroup": GROUP, "name": group}))
        .collect();
    json!({
        "metadata": meta(name, &[]),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })
}

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

/// For servers that extend the API, in `kube-system`.
fn authentication_reader() -> Value {
    let mut only = rule(&[""], &["configmaps"], READ);
    only["resourceNames"] = json!([super::EXTENSIONS]);
    role("extension-apiserver-authentication-reader", &[], vec![only])
}

fn cluster_roles() -> Vec<Value> {
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [
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
        "/version/",
    ];
    vec![
        role(
            "cluster-admin",
            &[],
            vec![rule(&["*"], &["*"], &["*"]), paths(&["*"], &["*"])],
        ),
        role(
            "waggle:join-member",
            &[],
            vec![paths(&["/waggle/v1/members"], &["post"])],
        ),
        role("system:discovery", &[], vec![paths(&discovery, &["get"])]),
        role(
            "system:public-info-viewer",
            &[],
            vec![paths(&health, &["get"])],
        ),
        role(
            "system:basic-user",
            &[],
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(
                    &["authentication.k8s.io"],
                    &["selfsubjectreviews"],
                    &["create"],
                ),
            ],
        ),
        role(
            "system:monitoring",
            &[],
            vec![paths(
                &["/healthz", "/livez", "/metrics", "/metrics/slis", "/readyz"],
                &["get"],
            )],
        ),
        role(
            "system:auth-delegator",
            &[],
            vec![
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(
                    &["authorization.k8s.io"],
                    &["subjectaccessreviews"],
                    &["create"],
                ),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            &[],
            vec![paths(
                &[
                    "/.well-known/openid-configuration",
                    "/.well-known/openid-configuration/",
                    "/openid/v1/jwks",
                    "/openid/v1/jwks/",
                ],
                &["get"],
            )],
        ),
        role(
            "system:node-bootstrapper",
            &[],
            vec![rule(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            )],
        ),
        approver("nodeclient"),
        approver("selfnodeclient"),
        sum("admin", &[], TO_ADMIN),
        sum("edit", &[(TO_ADMIN, "true")], TO_EDIT),
        sum("view", &[(TO_EDIT, "true")], TO_VIEW),
        role(
            "system:aggregate-to-admin",
            &[(TO_ADMIN, "true")],
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["localsubjectaccessreviews"],
                    &["create"],
                ),
                rule(&[GROUP], &["rolebindings", "roles"], READ),
                rule(&[GROUP], &["rolebindings", "roles"], WRITE),
            ],
        ),
        role("system:aggregate-to-edit", &[(TO_EDIT, "true")], edit()),
        role("system:aggregate-to-view", &[(TO_VIEW, "true")], view()),
    ]
}

/// The right to have a request of this kind approved without anybody looking at it.
fn approver(which: &str) -> Value {
    role(
        &format!("system:certificates.k8s.io:certificatesigningrequests:{which}"),
        &[],
        vec![rule(
            &["certificates.k8s.io"],
            &[&format!("certificatesigningrequests/{which}")],
            &["create"],
        )],
    )
}

fn edit() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &[
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
                "secrets",
                "services/proxy",
            ],
            READ,
        ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(
            &[""],
            &[
                "pods",
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "pods/proxy",
            ],
            WRITE,
        ),
        rule(
            &[""],
            &["pods/eviction", "serviceaccounts/token"],
            &["create"],
        ),
        rule(
            &[""],
            &[
                "configmaps",
                "events",
                "persistentvolumeclaims",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "secrets",
                "serviceaccounts",
                "services",
                "services/proxy",
            ],
            WRITE,
        ),
        rule(
            &["apps"],
            &[
                "daemonsets",
                "deployments",
                "deployments/rollback",
                "deployments/scale",
                "replicasets",
                "replicasets/scale",
                "statefulsets",
                "statefulsets/scale",
            ],
            WRITE,
        ),
        rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
        rule(&["batch"], &["cronjobs", "jobs"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(
            &["networking.k8s.io"],
            &["ingresses", "networkpolicies"],
            WRITE,
        ),
        rule(&["coordination.k8s.io"], &["leases"], READ),
        rule(&["coordination.k8s.io"], &["leases"], WRITE),
    ]
}

fn view() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &[
                "bindings",
                "configmaps",
                "endpoints",
                "events",
                "limitranges",
                "namespaces",
                "namespaces/status",
                "persistentvolumeclaims",
                "persistentvolumeclaims/status",
                "pods",
                "pods/log",
                "pods/status",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "replicationcontrollers/status",
                "resourcequotas",
                "resourcequotas/status",
                "serviceaccounts",
                "services",
                "services/status",
            ],
            READ,
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["metrics.k8s.io"], &["nodes", "pods"], READ),
        rule(&["events.k8s.io"], &["events"], READ),
        rule(
            &["apps"],
            &[
                "controllerrevisions",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status",
                "statefulsets",
                "statefulsets/scale",
                "statefulsets/status",
            ],
            READ,
        ),
        rule(
            &["autoscaling"],
            &[
                "horizontalpodautoscalers",
                "horizontalpodautoscalers/status",
            ],
            READ,
        ),
        rule(
            &["batch"],
            &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
            READ,
        ),
        rule(
            &["policy"],
            &["poddisruptionbudgets", "poddisruptionbudgets/status"],
            READ,
        ),
        rule(
            &["networking.k8s.io"],
            &["ingresses", "ingresses/status", "networkpolicies"],
            READ,
        ),
    ]
}

fn cluster_role_bindings() -> Vec<Value> {
    const KNOWN: &str = "system:authenticated";
    /// The group of those who hold a token that may make nodes (`waggle token create`).
    const BOOTSTRAPPERS: &str = "system:bootstrappers:waggle:default-node-token";
    const UNKNOWN: &str = "system:unauthenticated";
    vec![
        binding("cluster-admin", "cluster-admin", &["system:masters"]),
        binding("waggle:join-member", "waggle:join-member", &[JOINERS]),
        binding(
            "system:monitoring",
            "system:monitoring",
            &["system:monitoring"],
        ),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            &["system:serviceaccounts"],
        ),
        binding(
            "waggle:node-bootstrapper",
            "system:node-bootstrapper",
            &[BOOTSTRAPPERS],
        ),
        binding(
            "waggle:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            &[BOOTSTRAPPERS],
        ),
        binding(
            "waggle:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            &["system:nodes"],
        ),
        binding("system:discovery", "system:discovery", &[KNOWN]),
        binding("system:basic-user", "system:basic-user", &[KNOWN]),
        binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            &[KNOWN, UNKNOWN],
        ),
    ]
}

impl Registry {
    pub(super) async fn bootstrap_roles(&self) -> Result<(), ApiError> {
        for role in cluster_roles() {
            self.ensure_with("clusterroles", "", "rules", role).await?;
        }
        for binding in cluster_role_bindings() {
            self.ensure_with("clusterrolebindings", "", "subjects", binding)
                .await?;
        }
        self.ensure_with("roles", "kube-system", "rules", authentication_reader())
            .await
    }

    /// Creates the object, or adds to the list of one that is there what it lacks.
    async fn ensure_with(
        &self,
        plural: &str,
        namespace: &str,
        list: &str,
        object: Value,
    ) -> Result<(), ApiError> {
        let kind = super::kind(GROUP, plural)?;
        match self
            .create(kind, namespace, object.clone(), &super::options())
            .await
        {
            Err(error) if error.is_already_exists() => {}
            other => return other.map(drop),
        }
        let place = Place {
            kind,
            namespace,
            name: object::name(&object),
            subresource: "",
        };
        self.modify(place, &super::options(), Ownership::Track, |live| {
            Ok(completed(live, &object, list))
        })
        .await
        .map(drop)
    }
}

/// Pure: what is stored, with the entries of `list` that it lacks.
fn completed(live: &Value, wanted: &Value, list: &str) -> Value {
    let mut result = live.clone();
    if live["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return result;
    }
    let missing: Vec<Value> = wanted[list]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| !live[list].as_array().is_some_and(|has| has.contains(entry)))
        .cloned()
        .collect();
    if missing.is_empty() {
        return result;
    }
    match result.get_mut(list).and_then(Value::as_array_mut) {
        Some(has) => has.extend(missing),
        None => result[list] = missing.into(),
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_removed_comes_back_and_what_was_added_stays() {
        let wanted = json!({"rules": [{"verbs": ["get"]}, {"verbs": ["list"]}]});
        let live = json!({"rules": [{"verbs": ["own"]}, {"verbs": ["get"]}]});
        let result = completed(&live, &wanted, "rules");
        let verbs: Vec<&str> = result["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| rule["verbs"][0].as_str().unwrap())
            .collect();
        assert_eq!(verbs, ["own", "get", "list"]);
        let mut own = live.clone();
        own["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(completed(&own, &wanted, "rules"), own);
        // What an aggregated role is made of is its controller's.
        let sum = sum("admin", &[], TO_ADMIN);
        assert_eq!(completed(&sum, &sum, "rules"), sum);
    }
}

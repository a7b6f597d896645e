//! The audit policy (audit.k8s.io/v1): how much of a request is written down. The first rule that matches counts.
//! Pure. Source: the Kubernetes documentation, "Auditing".

use serde::Deserialize;

use crate::auth::{Attributes, User};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    #[serde(default, rename = "apiVersion")]
    version: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

/// What is written of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omitted: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if policy.version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err("it is no Policy of audit.k8s.io/v1".to_owned());
        }
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let about_objects = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if about_objects && !rule.paths.is_empty() {
                return Err(format!(
                    "rules[{index}].nonResourceURLs: rules cannot apply to both regular resources and \
                     non-resource URLs"
                ));
            }
        }
        Ok(policy)
    }

    /// Of everything who did what, and no content.
    pub(super) fn metadata() -> Self {
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
        Self::parse(text).expect("the text is fixed")
    }

    pub(super) fn judge(&self, user: &User, wanted: &Attributes) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(user, wanted));
        rule.map_or_else(Verdict::default, |rule| {
            let mut omitted = self.omit_stages.clone();
            omitted.extend(&rule.omit_stages);
            Verdict {
                level: rule.level,
                omitted,
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            }
        })
    }
}

impl Rule {
    fn matches(&self, user: &User, wanted: &Attributes) -> bool {
        let empty_or = |list: &[String], value: &str| {
            list.is_empty() || list.iter().any(|known| known == value)
        };
        let groups =
            self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group));
        if !groups || !empty_or(&self.users, &user.name) || !empty_or(&self.verbs, &wanted.verb) {
            return false;
        }
        match &wanted.path {
            Some(path) if !self.paths.is_empty() => {
                self.paths.iter().any(|known| path_matches(known, path))
            }
            // A rule for neither is for both.
            Some(_) => self.resources.is_empty() && self.namespaces.is_empty(),
            None if !self.paths.is_empty() => false,
            None => {
                empty_or(&self.namespaces, &wanted.namespace)
                    && (self.resources.is_empty()
                        || self.resources.iter().any(|known| known.matches(wanted)))
            }
        }
    }
}

fn path_matches(known: &str, path: &str) -> bool {
    known == "*"
        || known == path
        || known
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

impl GroupResources {
    fn matches(&self, wanted: &Attributes) -> bool {
        if self.group != wanted.group {
            return false;
        }
        let names = &self.resource_names;
        if !names.is_empty() && !names.contains(&wanted.name) {
            return false;
        }
        let whole = match wanted.subresource.as_str() {
            "" => wanted.resource.clone(),
            subresource => format!("{}/{subresource}", wanted.resource),
        };
        self.resources.is_empty()
            || self.resources.iter().any(|known| {
                let (first, second) = known.split_once('/').unwrap_or((known, ""));
                known == "*"
                    || *known == whole
                    || (first == "*" && !second.is_empty() && second == wanted.subresource)
                    || (second == "*" && first == wanted.resource)
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:node:n1"], verbs: [get]}
- {level: RequestResponse, resources: [{group: "", resources: [pods]}]}
- {level: Metadata, resources: [{group: "", resources: ["pods/log", "*/status"]}]}
- {level: Request, resources: [{group: "", resources: [configmaps], resourceNames: [watched]}], namespaces: [ns]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", "/version"]}
- {level: Metadata, omitStages: [ResponseStarted]}
"#;

    fn on(verb: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "ns".into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = Policy::parse(POLICY).unwrap();
        let ann = User::named("ann", Vec::new());
        let level = |user: &User, wanted: &Attributes| policy.judge(user, wanted).level;
        assert_eq!(level(&ann, &on("get", "pods", "a")), Level::RequestResponse);
        assert_eq!(level(&ann, &on("get", "pods/log", "a")), Level::Metadata);
        assert_eq!(
            level(&ann, &on("update", "pods/status", "a")),
            Level::Metadata
        );
        assert_eq!(
            level(&ann, &on("get", "configmaps", "watched")),
            Level::Request
        );
        assert_eq!(
            level(&ann, &on("get", "configmaps", "other")),
            Level::Metadata
        );
        let node = User::named("system:node:n1", Vec::new());
        assert_eq!(level(&node, &on("get", "pods", "a")), Level::None);
        let path = Attributes {
            verb: "get".into(),
            path: Some("/apis/apps".into()),
            ..Attributes::default()
        };
        assert_eq!(level(&ann, &path), Level::None);
        assert_eq!(level(&User::anonymous(), &path), Level::Metadata);
        let verdict = policy.judge(&User::anonymous(), &path);
        assert_eq!(
            verdict.omitted,
            [Stage::RequestReceived, Stage::ResponseStarted]
        );
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "",
            "kind: Policy",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, verb: [get]}]",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
    }
}

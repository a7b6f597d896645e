//! Admission policies: rules and changes in CEL, in force where they are bound. What both kinds have in common: whether
//! they are about a write, their parameters and their variables.

use serde_json::Value;

use super::all;
use super::matching::{self, Seen, Shown};
use crate::kinds::Kind;
use crate::kinds::access::{at, list, text};
use crate::kinds::custom::expressions::{self, Budget};
use crate::kinds::selector;
use crate::registry::judges::Attempt;
use crate::registry::list::ListOptions;
use crate::registry::{ApiError, Registry, object};
use crate::store::Freshness;

pub(super) mod mutating;
pub(super) mod validating;

/// A policy and where it is in force.
pub(super) struct Bound {
    policy: Value,
    binding: Value,
}

/// All of a kind that are bound, in the order of their bindings' names.
async fn bound(
    registry: &Registry,
    policies: &Kind<'_>,
    bindings: &Kind<'_>,
) -> Result<Vec<Bound>, ApiError> {
    let bindings = all(registry, bindings).await?;
    if bindings.is_empty() {
        return Ok(Vec::new());
    }
    let policies = all(registry, policies).await?;
    Ok(bindings
        .into_iter()
        .filter_map(|binding| {
            let name = text(&binding, &["spec", "policyName"]);
            let policy = policies
                .iter()
                .find(|policy| object::name(policy) == name)?;
            Some(Bound {
                policy: policy.clone(),
                binding,
            })
        })
        .collect())
}

/// What the expressions of a policy are evaluated with.
struct Evaluation {
    variables: Vec<(&'static str, cel::Value)>,
    own: std::collections::HashMap<String, cel::Value>,
    budget: Budget,
}

/// What is to be done about a write.
enum Applies {
    Not,
    /// Policy or binding cannot be put into force; for the failure policy to judge.
    Misconfigured(String),
    /// Once with each parameter, or once where there are none. An evaluation whose conditions fail is what is said of it.
    With(Shown, Vec<Result<Evaluation, String>>),
}

impl Bound {
    fn spec(&self) -> &Value {
        &self.policy["spec"]
    }

    fn insists(&self) -> bool {
        text(self.spec(), &["failurePolicy"]) != "Ignore"
    }

    async fn applies(
        &self,
        registry: &Registry,
        attempt: Attempt<'_>,
    ) -> Result<Applies, ApiError> {
        let Some(version) = self.matches(registry, attempt).await? else {
            return Ok(Applies::Not);
        };
        let found = match parameters(registry, self.spec(), &self.binding, attempt).await? {
            Ok(found) => found,
            Err(why) => return Ok(Applies::Misconfigured(why)),
        };
        let shown = Shown::of(registry, attempt, version).await?;
        let evaluations = {
            let kind = shown.kind(attempt.kind);
            let attempt = shown.attempt(&kind, attempt);
            let mut variables = matching::variables(registry, attempt);
            let namespace = match attempt.namespace {
                "" => None,
                name => matching::namespace(registry, name).await?,
            };
            let namespace = namespace.unwrap_or(Value::Null);
            let namespace = expressions::admission::namespace_value(&namespace);
            variables.push(("namespaceObject", namespace));
            let each = found.iter().map(|parameter| {
                let mut variables = variables.clone();
                variables.push(("params", expressions::plain(parameter)));
                self.evaluation(variables)
            });
            each.filter_map(Result::transpose).collect()
        };
        Ok(Applies::With(shown, evaluations))
    }

    /// `None` where the policy's conditions do not hold.
    fn evaluation(
        &self,
        variables: Vec<(&'static str, cel::Value)>,
    ) -> Result<Option<Evaluation>, String> {
        let holds = matching::conditions_hold(self.spec(), &variables)?;
        Ok(holds.then(|| Evaluation {
            variables,
            own: std::collections::HashMap::new(),
            budget: Budget::of_rules(),
        }))
    }

    /// Its constraints, and those of its binding.
    async fn matches(
        &self,
        registry: &Registry,
        attempt: Attempt<'_>,
    ) -> Result<Option<Seen>, ApiError> {
        let constraints = &self.spec()["matchConstraints"];
        let version = matching::rules_match(registry, constraints, "resourceRules", attempt);
        if version.is_none() || !matching::selectors_match(registry, constraints, attempt).await? {
            return Ok(None);
        }
        let Some(resources) = at(&self.binding, &["spec", "matchResources"]) else {
            return Ok(version);
        };
        let restricts = matching::restricts_to(registry, resources, attempt)
            && matching::selectors_match(registry, resources, attempt).await?;
        Ok(version.filter(|_| restricts))
    }
}

impl Evaluation {
    /// Evaluates the policy's own variables, in their order.
    fn define(&mut self, spec: &Value) -> Result<(), String> {
        for variable in list(spec, &["variables"]) {
            let program = expressions::compiled(text(variable, &["expression"]))?;
            // One that fails matters to those who use it.
            if let Ok(value) = program.evaluate(&self.variables, &mut self.budget) {
                self.own.insert(text(variable, &["name"]).to_owned(), value);
            }
            self.variables.retain(|(name, _)| *name != "variables");
            self.variables.push(("variables", self.own.clone().into()));
        }
        Ok(())
    }

    /// The value of an expression, or the sentence about why there is none.
    fn value(&mut self, source: &str) -> Result<cel::Value, String> {
        expressions::compiled(source)?
            .evaluate(&self.variables, &mut self.budget)
            .map_err(|error| expressions::failure(source, &error))
    }

    fn holds(&mut self, source: &str) -> Result<bool, String> {
        expressions::compiled(source)?
            .holds(&self.variables, &mut self.budget)
            .map_err(|error| expressions::failure(source, &error))
    }

    fn text(&mut self, source: &str) -> Option<String> {
        let program = expressions::compiled(source).ok()?;
        program.text(&self.variables, &mut self.budget).ok()
    }
}

/// The objects that a binding names, or selects: null where the policy has no parameters, or the binding gives none.
/// The inner error is a fault of policy or binding.
async fn parameters(
    registry: &Registry,
    spec: &Value,
    binding: &Value,
    attempt: Attempt<'_>,
) -> Result<Result<Vec<Value>, String>, ApiError> {
    let none = || Ok(Ok(vec![Value::Null]));
    let Some(of) = at(spec, &["paramKind"]) else {
        return none();
    };
    let (api_version, kind) = (text(of, &["apiVersion"]), text(of, &["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(handle) = registry.kind_named(group, version, kind) else {
        return Ok(Err(format!(
            "failed to configure policy: failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"
        )));
    };
    let Some(reference) = at(binding, &["spec", "paramRef"]) else {
        return none();
    };
    let wrong = |why: &str| Ok(Err(format!("failed to configure binding: {why}")));
    let kind = &handle.get();
    let given = text(reference, &["namespace"]);
    let namespace = match (kind.is_namespaced(), given, attempt.namespace) {
        (false, "", _) => "",
        (false, ..) => {
            return wrong(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`",
            );
        }
        (true, "", "") => {
            return wrong(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources",
            );
        }
        (true, "", own) => own,
        (true, given, _) => given,
    };
    let name = text(reference, &["name"]);
    let found: Vec<Value> = if name.is_empty() {
        let wanted = &reference["selector"];
        let options = ListOptions {
            resource_version: Some(0),
            ..ListOptions::default()
        };
        let page = registry.list(kind, namespace, &options).await?;
        page.items
            .iter()
            .map(|kv| object::decode(kv))
            .filter(|object| selector::matches(wanted, at(object, &["metadata", "labels"])))
            .collect()
    } else {
        match registry.get(kind, namespace, name, Freshness::Local).await {
            Ok(kv) => vec![object::decode(&kv)],
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        }
    };
    if found.is_empty() && text(reference, &["parameterNotFoundAction"]) == "Deny" {
        return wrong("no params found for policy binding with `Deny` parameterNotFoundAction");
    }
    registry.to_served(kind, found).await.map(Ok)
}

//! Admission policies: rules and changes in CEL, in force where they are bound. What both kinds have in common: whether
//! they are about a write, their parameters and their variables.

use serde_json::Value;

use super::{all, matching};
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
    /// A condition or a parameter is at fault; for the failure policy to judge.
    Failed(String),
    /// Once with each parameter, or once where there are none.
    With(Vec<Evaluation>),
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
        if !self.matches(registry, attempt).await? {
            return Ok(Applies::Not);
        }
        let spec = self.spec();
        match matching::conditions_hold(registry, spec, attempt) {
            Ok(true) => {}
            Ok(false) => return Ok(Applies::Not),
            Err(problem) => return Ok(Applies::Failed(problem)),
        }
        let mut variables = matching::variables(registry, attempt);
        let namespace = match attempt.namespace {
            "" => None,
            name => matching::namespace(registry, name).await?,
        };
        let namespace = namespace.unwrap_or(Value::Null);
        variables.push(("namespaceObject", expressions::plain(&namespace)));
        let with = |variables| Evaluation {
            variables,
            own: std::collections::HashMap::new(),
            budget: Budget::of_rules(),
        };
        let Some(kind) = at(spec, &["paramKind"]) else {
            return Ok(Applies::With(vec![with(variables)]));
        };
        let found = parameters(registry, kind, &self.binding, attempt).await?;
        if found.is_empty() {
            let reference = ["spec", "paramRef", "parameterNotFoundAction"];
            return Ok(if text(&self.binding, &reference) == "Allow" {
                Applies::Not
            } else {
                Applies::Failed(
                    "failed to configure binding: no params found for policy binding with `Deny` \
                     parameterNotFoundAction"
                        .to_owned(),
                )
            });
        }
        let each = found.iter().map(|parameter| {
            let mut variables = variables.clone();
            variables.push(("params", expressions::plain(parameter)));
            with(variables)
        });
        Ok(Applies::With(each.collect()))
    }

    /// Its constraints, and those of its binding.
    async fn matches(&self, registry: &Registry, attempt: Attempt<'_>) -> Result<bool, ApiError> {
        let constraints = &self.spec()["matchConstraints"];
        if !matching::rules_match(constraints, "resourceRules", attempt)
            || !matching::selectors_match(registry, constraints, attempt).await?
        {
            return Ok(false);
        }
        let Some(resources) = at(&self.binding, &["spec", "matchResources"]) else {
            return Ok(true);
        };
        Ok(matching::restricts_to(resources, attempt)
            && matching::selectors_match(registry, resources, attempt).await?)
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
            .map_err(|error| failure(source, &error))
    }

    fn holds(&mut self, source: &str) -> Result<bool, String> {
        expressions::compiled(source)?
            .holds(&self.variables, &mut self.budget)
            .map_err(|error| failure(source, &error))
    }

    fn text(&mut self, source: &str) -> Option<String> {
        let program = expressions::compiled(source).ok()?;
        program.text(&self.variables, &mut self.budget).ok()
    }
}

fn failure(source: &str, error: &expressions::EvaluationError) -> String {
    match error {
        expressions::EvaluationError::Budget => error.to_string(),
        _ => format!("expression '{}' resulted in error: {error}", source.trim()),
    }
}

/// The objects that a binding names, or selects.
async fn parameters(
    registry: &Registry,
    of: &Value,
    binding: &Value,
    attempt: Attempt<'_>,
) -> Result<Vec<Value>, ApiError> {
    let api_version = text(of, &["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some(handle) = registry.kind_named(group, version, text(of, &["kind"])) else {
        return Ok(Vec::new());
    };
    let kind = &handle.get();
    let reference = &binding["spec"]["paramRef"];
    let namespace = match text(reference, &["namespace"]) {
        _ if !kind.is_namespaced() => "",
        "" => attempt.namespace,
        given => given,
    };
    if kind.is_namespaced() && namespace.is_empty() {
        return Ok(Vec::new());
    }
    let name = text(reference, &["name"]);
    let found = if name.is_empty() {
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
    registry.to_served(kind, found).await
}

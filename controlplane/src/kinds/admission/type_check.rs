//! What a policy's expressions could not do with the objects that it is about: fields that these kinds do not have,
//! functions that do not take what they have. Policies are in force nevertheless; their status tells.

use serde_json::{Value, json};

use super::super::access::{list, text};
use super::super::custom::expressions::admission::{About, scope, variables};
use super::super::custom::expressions::types::Type;
use super::super::custom::expressions::{self, Visible};

#[cfg(test)]
mod tests;

/// So many kinds of a rule are looked at.
const MOST: usize = 10;

/// Group, version and resource of what a rule is about, where it says so without stars.
pub(crate) fn resources(policy: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for rule in list(policy, &["spec", "matchConstraints", "resourceRules"]) {
        let plain = |field: &str, unwanted: &[char]| {
            let given = list(rule, &[field]).iter().filter_map(Value::as_str);
            let (usable, others): (Vec<&str>, Vec<&str>) =
                given.partition(|one| !one.contains(unwanted));
            (usable, others.is_empty())
        };
        let (groups, all_groups) = plain("apiGroups", &['*']);
        let (versions, all_versions) = plain("apiVersions", &['*']);
        let (resources, _) = plain("resources", &['*', '/']);
        if !all_groups || !all_versions {
            continue;
        }
        let mut found = Vec::new();
        for group in sorted(groups) {
            for version in &sorted(versions.clone()) {
                for resource in &sorted(resources.clone()) {
                    let one = (
                        group.to_owned(),
                        (*version).to_owned(),
                        (*resource).to_owned(),
                    );
                    found.push(one);
                }
            }
        }
        found.truncate(MOST);
        all.append(&mut found);
    }
    all
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

/// A kind that a policy is about, as messages call it (`apps/v1, Kind=Deployment`), and the type of its objects.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) name: String,
    pub(crate) kind: Type,
}

/// `status.typeChecking.expressionWarnings`.
pub(crate) fn warnings(policy: &Value, kinds: &[Checked], params: Option<&Type>) -> Vec<Value> {
    let spec = &policy["spec"];
    let scopes: Vec<(&str, Visible)> = kinds
        .iter()
        .map(|of| (of.name.as_str(), visible(spec, &of.kind, params)))
        .collect();
    let mut warnings = Vec::new();
    for (number, validation) in list(spec, &["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &[field]);
            if source.is_empty() {
                continue;
            }
            let problems: Vec<String> = scopes
                .iter()
                .filter_map(|(name, scope)| {
                    let problem = expressions::judge(source, scope, None).err()?;
                    let problem = problem.trim_start_matches("compilation failed: ");
                    Some(format!("{name}: {problem}\n"))
                })
                .collect();
            if !problems.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{number}].{field}"),
                    "warning": problems.join("\n"),
                }));
            }
        }
    }
    warnings
}

/// What expressions see where objects are of this type.
fn visible(spec: &Value, object: &Type, params: Option<&Type>) -> Visible {
    let about = About {
        object: object.clone(),
        params: spec
            .get("paramKind")
            .map(|_| params.cloned().unwrap_or(Type::Dyn)),
        ..About::default()
    };
    let mut scope = scope(&about);
    let mut defined = Vec::new();
    for variable in list(spec, &["variables"]) {
        scope.set("variables", variables(&defined));
        let judged = expressions::judge(text(variable, &["expression"]), &scope, None);
        let kind = judged.map_or(Type::Dyn, |judged| judged.result);
        defined.push((text(variable, &["name"]).to_owned(), kind));
    }
    scope.set("variables", variables(&defined));
    scope
}

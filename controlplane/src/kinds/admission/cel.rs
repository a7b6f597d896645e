//! What webhooks and policies say in CEL, and with what parameters: whether it can be evaluated.

use serde_json::Value;

use super::super::access::{at, list, text};
use super::super::custom::expressions::admission::{About, scope, variables};
use super::super::custom::expressions::types::Type;
use super::super::custom::expressions::{self, Visible};
use super::super::errors::Errors;
use super::super::{names, selector};

/// Conditions in CEL: named, once each, and they can be compiled.
pub(super) fn validate_conditions(
    holder: &Value,
    path: &str,
    scope: &Visible,
    errors: &mut Errors,
) {
    let conditions = list(holder, &["matchConditions"]);
    if conditions.len() > 64 {
        errors.too_many(format!("{path}.matchConditions"), conditions.len(), 64);
    }
    let mut seen = std::collections::HashSet::new();
    for (number, condition) in conditions.iter().enumerate() {
        let path = format!("{path}.matchConditions[{number}]");
        let name = text(condition, &["name"]);
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(format!("{path}.name"), name);
        } else {
            errors.format(&format!("{path}.name"), name, names::qualified_name(name));
        }
        let source = text(condition, &["expression"]);
        let path = format!("{path}.expression");
        if source.trim().is_empty() {
            errors.required(path, "");
        } else {
            validate_expression(source.trim(), &path, scope, &[Type::Bool], errors);
        }
    }
}

/// Says what is wrong with an expression that must make a value of one of these types, or of any where none is said;
/// the type that it makes.
pub(super) fn validate_expression(
    source: &str,
    path: &str,
    scope: &Visible,
    wanted: &[Type],
    errors: &mut Errors,
) -> Type {
    let made = match expressions::judge(source, scope, None) {
        Ok(judged) => judged.result,
        Err(problem) => {
            errors.invalid(path, source, &problem);
            return Type::Dyn;
        }
    };
    if wanted.is_empty() || wanted.contains(&made) {
        return made;
    }
    let shown = |kind: &Type| match kind {
        Type::Null => "null_type".to_owned(),
        other => other.to_string(),
    };
    let all: Vec<String> = wanted.iter().map(shown).collect();
    let problem = match all.as_slice() {
        [one] => format!("must evaluate to {one} but got {}", shown(&made)),
        all => format!(
            "must evaluate to one of [{}] but got {}",
            all.join(" "),
            shown(&made)
        ),
    };
    errors.invalid(path, source, &problem);
    made
}

/// What expressions of a policy can refer to besides its variables.
pub(super) fn about(spec: &Value) -> About {
    About {
        params: at(spec, &["paramKind"]).map(|_| Type::Dyn),
        ..About::default()
    }
}

const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The variables of a policy, each of which sees those before it; the scope that has them all.
pub(super) fn validate_variables(spec: &Value, about: &About, errors: &mut Errors) -> Visible {
    let mut scope = scope(about);
    let mut defined = Vec::new();
    for (number, variable) in list(spec, &["variables"]).iter().enumerate() {
        let path = format!("spec.variables[{number}]");
        let name = text(variable, &["name"]);
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !RESERVED.contains(&name);
        if name.trim().is_empty() {
            errors.required(format!("{path}.name"), "name is not specified");
        } else if !is_name {
            let why = "name is not a valid CEL identifier";
            errors.invalid(format!("{path}.name"), name, why);
        }
        let source = text(variable, &["expression"]);
        let path = format!("{path}.expression");
        if source.trim().is_empty() {
            errors.required(path, "expression is not specified");
            continue;
        }
        scope.set("variables", variables(&defined));
        let kind = validate_expression(source, &path, &scope, &[], errors);
        defined.push((name.to_owned(), kind));
    }
    scope.set("variables", variables(&defined));
    scope
}

/// The kind of a policy's parameters.
pub(super) fn validate_param_kind(spec: &Value, errors: &mut Errors) {
    let Some(of) = at(spec, &["paramKind"]) else {
        return;
    };
    let api_version = text(of, &["apiVersion"]);
    let path = "spec.paramKind.apiVersion";
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.required(path, "");
    } else if version.contains('/') {
        let why = format!("unexpected GroupVersion string: {api_version}");
        errors.invalid(path, api_version, &why);
    } else {
        if !group.is_empty() {
            errors.format(path, group, names::dns_subdomain(group));
        }
        if version.is_empty() {
            errors.invalid(path, api_version, "version must be specified");
        } else {
            errors.format(path, version, names::dns_label_1035(version));
        }
    }
    let kind = text(of, &["kind"]);
    if kind.is_empty() {
        errors.required("spec.paramKind.kind", "");
    } else {
        let problems = names::dns_label_1035(&kind.to_lowercase());
        if !problems.is_empty() {
            let why = format!(
                "may have mixed case, but should otherwise match: {}",
                problems.join(",")
            );
            errors.invalid("spec.paramKind.kind", kind, &why);
        }
    }
}

/// What a binding says of its parameters.
pub(super) fn validate_param_ref(spec: &Value, errors: &mut Errors) {
    let Some(of) = at(spec, &["paramRef"]) else {
        return;
    };
    let name = text(of, &["name"]);
    let chosen = at(of, &["selector"]);
    if !name.is_empty() && chosen.is_some() {
        for field in ["name", "selector"] {
            errors.forbidden(
                format!("spec.paramRef.{field}"),
                "name and selector are mutually exclusive",
            );
        }
    }
    if let Some(chosen) = chosen {
        selector::validate(chosen, "spec.paramRef.selector", errors);
    } else if name.is_empty() {
        errors.required("spec.paramRef", "one of name or selector must be specified");
    }
    let path = "spec.paramRef.parameterNotFoundAction";
    match text(of, &["parameterNotFoundAction"]) {
        "" => errors.required(path, ""),
        "Allow" | "Deny" => {}
        other => errors.not_supported(path, other, &["Deny", "Allow"]),
    }
}

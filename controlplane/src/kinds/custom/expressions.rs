//! The Common Expression Language, as rules of custom resources, admission policies and match conditions use it.
//!
//! The library parses and evaluates; what Kubernetes adds is in [`libraries`], and what evaluation may cost in [`cost`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cel::common::ast::SourceInfo;
use cel::parser::Expression;
use cel::{Context, DeclarationError, Env};
use serde_json::Value;

use self::types::{Declared, Type};
use super::structural::{self, Structural};

pub(crate) mod admission;
mod check;
mod cost;
mod declarations;
pub(crate) mod declared;
mod estimate;
mod json;
mod libraries;
mod literals;
mod objects;
mod pairs;
#[cfg(test)]
mod tests;
pub(crate) mod types;
mod unify;

pub(crate) use check::Visible;
pub(crate) use cost::Budget;
pub(crate) use json::to_json;
pub(crate) use libraries::{Access, Authorizer, Question};

/// Standard functions, strings, lists, math, encoders and optionals from the library; the rest is ours.
fn environment() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(cel::extensions::strings)?;
    env.add_extension(cel::extensions::lists)?;
    env.add_extension(cel::extensions::math)?;
    env.add_extension(cel::extensions::encoders)?;
    env.add_extension(cost::library)?;
    env.add_extension(pairs::library)?;
    env.add_extension(libraries::register)?;
    Ok(env)
}

static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(environment().expect("no function is there twice: a test makes it")));

/// Longer expressions are refused.
const MAX_SOURCE: usize = 10 * 1024;
/// What is nested deeper is refused: both the library and we walk the tree by recursion.
const MAX_DEPTH: usize = 250;

#[derive(Debug)]
pub(crate) struct Program {
    tree: cel::parser::Expression,
    source: String,
    is_shallow: bool,
}

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EvaluationError {
    /// This expression alone costs more than one may.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    /// Together with those before it, it costs more than they may.
    #[error(
        "validation failed due to running out of cost budget, no further validation rules will be run"
    )]
    Budget,
    #[error("{0}")]
    Failed(String),
}

/// Stack of a thread that compiles, in bytes: the parser may nest as deep as the longest source can be. Only what is
/// used of it is memory.
const COMPILER_STACK: usize = 256 << 20;
/// Trees that are deeper are evaluated on a stack of their own, of this many bytes.
const SHALLOW: usize = 24;
const EVALUATION_STACK: usize = 32 << 20;

pub(crate) fn compile(source: &str) -> Result<Program, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("the expression is longer than {MAX_SOURCE} bytes"));
    }
    on_stack(COMPILER_STACK, || parse(source))?
}

/// Runs it to its end on a stack of that many bytes.
fn on_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("expression".to_owned())
            .stack_size(bytes)
            .spawn_scoped(scope, work)
            .map_err(|error| format!("no thread for an expression: {error}"))?;
        thread
            .join()
            .map_err(|_| "the expression cannot be handled".to_owned())
    })
}

fn failed(why: &str) -> String {
    format!("compilation failed: {}", why.trim())
}

fn read(source: &str) -> Result<(Expression, SourceInfo), String> {
    let read = ENVIRONMENT.parser().parse_with_source_info(source);
    let (tree, places) = read.map_err(|errors| {
        let shown: Vec<String> = errors
            .errors
            .iter()
            .map(|error| {
                let from_zero = |number: isize| usize::try_from(number - 1).unwrap_or(0);
                let (line, column) = (from_zero(error.pos.0), from_zero(error.pos.1));
                check::pointed(source, line, column, &error.msg)
            })
            .collect();
        failed(&shown.join("\n"))
    })?;
    if cost::depth(&tree) > MAX_DEPTH {
        return Err(failed("the expression is nested too deep"));
    }
    Ok((tree, places))
}

/// What is known of an expression before it is evaluated.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) result: Type,
    /// The variables that it uses.
    pub(crate) used: BTreeSet<String>,
    /// What it may cost at most, in units.
    pub(crate) cost: u64,
}

/// Checks the types of an expression, and says what it may cost where variables are as large as `declared` says.
pub(crate) fn judge(
    source: &str,
    scope: &Visible,
    declared: Option<&Arc<Declared>>,
) -> Result<Judged, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("the expression is longer than {MAX_SOURCE} bytes"));
    }
    on_stack(COMPILER_STACK, || {
        let (tree, places) = read(source)?;
        let checked = check::check(&tree, &places, scope).map_err(|problems| failed(&problems))?;
        let cost = declared.map_or(0, |declared| estimate::most(&tree, &checked, declared));
        Ok(Judged {
            result: checked.result,
            used: checked.used,
            cost,
        })
    })?
}

/// The type of objects that expressions make by this name.
pub(crate) fn made(name: &str) -> Type {
    objects::kind(name).map_or(Type::Dyn, |declared| declared.kind())
}

fn parse(source: &str) -> Result<Program, String> {
    let (tree, _) = read(source)?;
    let tree = objects::as_maps(pairs::lowered(tree));
    let tree = cost::metered(tree, &mut Vec::new());
    Ok(Program {
        is_shallow: cost::depth(&tree) <= SHALLOW,
        tree,
        source: source.to_owned(),
    })
}

/// Expressions of policies and conditions, which are asked for each write.
static COMPILED: LazyLock<Mutex<HashMap<String, Compiled>>> = LazyLock::new(Mutex::default);
type Compiled = Result<Arc<Program>, String>;
/// So many are kept.
const KEPT: usize = 1000;

/// The same as [`compile`], remembered.
pub(crate) fn compiled(source: &str) -> Compiled {
    let lock = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = lock().get(source).cloned();
    if let Some(known) = known {
        return known;
    }
    let program = compile(source).map(Arc::new);
    let mut all = lock();
    if all.len() >= KEPT {
        all.clear();
    }
    all.insert(source.to_owned(), program.clone());
    program
}

impl Program {
    /// Whether the expression uses a variable of this name.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.source.match_indices(name).any(|(at, _)| {
            let before = self.source[..at].chars().next_back();
            let after = self.source[at + name.len()..].chars().next();
            !before.is_some_and(|c| is_part(c) || c == '.') && !after.is_some_and(is_part)
        })
    }

    pub(crate) fn evaluate(
        &self,
        variables: &[(&str, cel::Value)],
        budget: &mut Budget,
    ) -> Result<cel::Value, EvaluationError> {
        let limits = budget.clone();
        let evaluate = || {
            let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
            for (name, value) in variables {
                context.add_variable_from_value(*name, value.clone());
            }
            let meter = cost::Meter::start(&limits);
            let result = cel::Value::resolve(&self.tree, &context);
            (result, meter.finish())
        };
        let (result, spent) = if self.is_shallow {
            evaluate()
        } else {
            on_stack(EVALUATION_STACK, evaluate).map_err(EvaluationError::Failed)?
        };
        budget.take(spent).map_err(|exceeded| match exceeded {
            cost::Exceeded::Call => EvaluationError::Cost,
            cost::Exceeded::Budget => EvaluationError::Budget,
        })?;
        result.map_err(|error| {
            EvaluationError::Failed(match error {
                cel::ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
                cel::ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
                cel::ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
                cel::ExecutionError::Overflow(..) => "integer overflow".to_owned(),
                cel::ExecutionError::IndexOutOfBounds(cel::Value::Int(at)) => {
                    format!("index out of bounds: {at}")
                }
                cel::ExecutionError::FunctionError { message, .. } => message,
                other => other.to_string(),
            })
        })
    }

    pub(crate) fn holds(
        &self,
        variables: &[(&str, cel::Value)],
        budget: &mut Budget,
    ) -> Result<bool, EvaluationError> {
        match self.evaluate(variables, budget)? {
            cel::Value::Bool(holds) => Ok(holds),
            other => Err(EvaluationError::Failed(format!(
                "expected a bool, got {}",
                other.type_of()
            ))),
        }
    }

    pub(crate) fn text(
        &self,
        variables: &[(&str, cel::Value)],
        budget: &mut Budget,
    ) -> Result<String, EvaluationError> {
        match self.evaluate(variables, budget)? {
            cel::Value::String(text) => Ok(text.to_string()),
            other => Err(EvaluationError::Failed(format!(
                "expected a string, got {}",
                other.type_of()
            ))),
        }
    }
}

/// The sentence about an expression of a webhook or a policy that has no value.
pub(crate) fn failure(source: &str, error: &EvaluationError) -> String {
    match error {
        EvaluationError::Budget => error.to_string(),
        _ => format!("expression '{}' resulted in error: {error}", source.trim()),
    }
}

/// JSON of unknown type.
pub(crate) fn plain(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(list) => cel::Value::List(Arc::new(list.iter().map(plain).collect())),
        Value::Object(map) => object(map.iter().map(|(name, value)| (name.clone(), plain(value)))),
    }
}

fn object(members: impl Iterator<Item = (String, cel::Value)>) -> cel::Value {
    let map: HashMap<String, cel::Value> = members.collect();
    map.into()
}

/// A value under its schema: whole numbers of a `number` are doubles, times are times, and properties whose names are
/// no identifiers have their escaped names.
pub(crate) fn from_schema(value: &Value, schema: &Structural) -> cel::Value {
    match (value, schema.kind) {
        (Value::Number(number), structural::Type::Number) => {
            cel::Value::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        (Value::String(text), structural::Type::String) => {
            formatted(text, &schema.format).unwrap_or_else(|| plain(value))
        }
        (Value::Array(list), _) => match &schema.items {
            Some(items) => {
                let entries = list.iter().map(|entry| from_schema(entry, items));
                cel::Value::List(Arc::new(entries.collect()))
            }
            None => plain(value),
        },
        (Value::Object(map), _) => object(map.iter().map(|(name, value)| {
            let is_property = schema.properties.contains_key(name);
            let below = schema.member(name);
            (
                if is_property {
                    escaped(name)
                } else {
                    name.clone()
                },
                below.map_or_else(|| plain(value), |below| from_schema(value, below)),
            )
        })),
        _ => plain(value),
    }
}

/// What a text of this format is to expressions, where it is not a text.
fn formatted(text: &str, format: &str) -> Option<cel::Value> {
    match format {
        "date-time" => chrono::DateTime::parse_from_rfc3339(text)
            .ok()
            .map(cel::Value::Timestamp),
        "date" => chrono::DateTime::parse_from_rfc3339(&format!("{text}T00:00:00Z"))
            .ok()
            .map(cel::Value::Timestamp),
        "duration" => json::duration(text).map(cel::Value::Duration),
        "byte" => STANDARD
            .decode(text)
            .ok()
            .map(|bytes| cel::Value::Bytes(Arc::new(bytes))),
        _ => None,
    }
}

/// `oldSelf`: the value, or an optional of it where the rule asked for one.
pub(super) fn old_value(old: Option<cel::Value>, optional: bool) -> cel::Value {
    match (old, optional) {
        (Some(old), false) => old,
        (None, false) => cel::Value::Null,
        (Some(old), true) => cel::Value::Opaque(Arc::new(cel::objects::OptionalValue::of(old))),
        (None, true) => cel::Value::Opaque(Arc::new(cel::objects::OptionalValue::none())),
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
];

/// The name of a property in expressions.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

/// Any bytes as an expression: it is refused, or it ends within its budget.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok(program) = compile(&String::from_utf8_lossy(bytes)) else {
        return;
    };
    let object =
        serde_json::json!({"a": [1, 2.5, "x", {"b": null}], "c": {"d": "10.0.0.1"}, "e": true});
    let value = plain(&object);
    let mut budget = Budget::of_rules();
    if let Ok(made) = program.evaluate(&[("self", value.clone()), ("object", value)], &mut budget) {
        let _ = to_json(&made);
    }
}

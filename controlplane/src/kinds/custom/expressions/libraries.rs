//! The functions that Kubernetes adds to the expression language, one file per library.

use std::sync::Arc;

use cel::common::types::Type;
use cel::common::value::{CowVal, Val};
use cel::objects::Opaque;
use cel::{DeclarationError, Env, ExecutionError, Value};

mod authorizer;
mod format;
mod lists;
mod net;
mod patch;
mod quantity;
mod semver;
pub(super) mod text;
mod url;

pub(crate) use authorizer::{Access, Authorizer, Question};

pub(super) type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
pub(super) type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;
type Function = for<'b, 'v> fn(Arguments<'b, 'v>) -> Outcome<'b, 'v>;

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    for library in [
        authorizer::library,
        format::library,
        lists::library,
        net::library,
        patch::library,
        quantity::library,
        semver::library,
        text::library,
        url::library,
    ] {
        library(env)?;
    }
    Ok(())
}

fn id(name: &str, types: &[Type]) -> String {
    let names: Vec<&str> = types.iter().map(Type::name).collect();
    format!("waggle.{name}({})", names.join(","))
}

fn global(
    env: &mut Env,
    name: &str,
    types: Vec<Type>,
    function: Function,
) -> Result<(), DeclarationError> {
    env.add_overload(name, &id(name, &types), types, function)
}

fn member(
    env: &mut Env,
    name: &str,
    target: Type,
    types: Vec<Type>,
    function: Function,
) -> Result<(), DeclarationError> {
    let id = format!("{}.{}", target.name(), id(name, &types));
    env.add_member_overload(name, &id, target, types, function)
}

fn failed(function: &str, why: impl std::fmt::Display) -> ExecutionError {
    ExecutionError::function_error(function, why)
}

fn give<'b, 'v>(value: impl Into<Value>) -> Outcome<'b, 'v> {
    let value: Box<dyn Val> = value.into().try_into()?;
    Ok(CowVal::Owned(value))
}

fn give_opaque<'b, 'v>(value: impl Opaque) -> Outcome<'b, 'v> {
    give(Value::Opaque(Arc::new(value)))
}

fn text_at<'a>(arguments: &'a Arguments<'_, '_>, at: usize) -> Result<&'a str, ExecutionError> {
    let found = arguments
        .get(at)
        .and_then(|value| value.downcast_ref::<cel::common::types::CelString<'_>>());
    found
        .map(|text| text.inner())
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

fn whole_at(arguments: &Arguments<'_, '_>, at: usize) -> Result<i64, ExecutionError> {
    let found = arguments
        .get(at)
        .and_then(|value| value.downcast_ref::<cel::common::types::CelInt>());
    found
        .map(|whole| *whole.inner())
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

/// A value of one of the types that are made here.
fn opaque_at<T: Opaque + Clone>(
    arguments: &Arguments<'_, '_>,
    at: usize,
) -> Result<T, ExecutionError> {
    let missing = ExecutionError::missing_argument_or_target;
    let value = Value::try_from(arguments.get(at).ok_or_else(missing)?.as_ref())?;
    match &value {
        Value::Opaque(value) => value.downcast_ref::<T>().cloned().ok_or_else(missing),
        _ => Err(missing()),
    }
}

/// The entries of a list.
pub(super) fn entries_at<'a, 'v>(
    arguments: &'a Arguments<'_, 'v>,
    at: usize,
) -> Result<&'a [Box<dyn Val + 'v>], ExecutionError> {
    arguments
        .get(at)
        .and_then(|value| value.downcast_ref::<cel::common::types::CelList<'v>>())
        .map(|list| list.inner())
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

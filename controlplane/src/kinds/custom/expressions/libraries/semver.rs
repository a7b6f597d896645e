//! Versions by semver.org: `semver("1.2.3").isLessThan(semver("1.3.0"))`.

use std::cmp::Ordering;

use cel::common::types::{BOOL_TYPE, CelBool, STRING_TYPE, Type};
use cel::objects::Opaque;
use cel::{DeclarationError, Env, ExecutionError};
use semver::Version;

use super::{Arguments, failed, give, give_opaque, global, member, opaque_at, text_at};

const NAME: &str = "kubernetes.Semver";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Semver(Version);

impl Opaque for Semver {
    fn runtime_type_name(&self) -> &str {
        NAME
    }
}

fn this() -> Type {
    Type::new_opaque_type(NAME)
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(this())?;
    for types in [vec![STRING_TYPE], vec![STRING_TYPE, BOOL_TYPE]] {
        global(env, "semver", types, |arguments| {
            match parsed(&arguments)? {
                Ok(version) => give_opaque(Semver(version)),
                Err(error) => Err(failed("semver", error)),
            }
        })?;
    }
    for types in [vec![STRING_TYPE], vec![STRING_TYPE, BOOL_TYPE]] {
        global(env, "isSemver", types, |arguments| {
            give(parsed(&arguments)?.is_ok())
        })?;
    }
    member(env, "major", this(), vec![], |arguments| {
        give(part(opaque_at::<Semver>(&arguments, 0)?.0.major))
    })?;
    member(env, "minor", this(), vec![], |arguments| {
        give(part(opaque_at::<Semver>(&arguments, 0)?.0.minor))
    })?;
    member(env, "patch", this(), vec![], |arguments| {
        give(part(opaque_at::<Semver>(&arguments, 0)?.0.patch))
    })?;
    member(env, "compareTo", this(), vec![this()], |arguments| {
        give(match compared(&arguments)? {
            Ordering::Less => -1i64,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        })
    })?;
    member(env, "isLessThan", this(), vec![this()], |arguments| {
        give(compared(&arguments)? == Ordering::Less)
    })?;
    member(env, "isGreaterThan", this(), vec![this()], |arguments| {
        give(compared(&arguments)? == Ordering::Greater)
    })
}

fn part(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is built from says nothing about order.
fn compared(arguments: &Arguments<'_, '_>) -> Result<Ordering, ExecutionError> {
    let (a, b): (Semver, Semver) = (opaque_at(arguments, 0)?, opaque_at(arguments, 1)?);
    Ok(a.0.cmp_precedence(&b.0))
}

fn parsed(arguments: &Arguments<'_, '_>) -> Result<Result<Version, semver::Error>, ExecutionError> {
    let text = text_at(arguments, 0)?;
    let loose = arguments
        .get(1)
        .and_then(|value| value.downcast_ref::<CelBool>())
        .is_some_and(|loose| *loose.inner());
    Ok(if loose {
        Version::parse(&normalized(text))
    } else {
        Version::parse(text)
    })
}

/// `v1.02` as `1.2.0`: without the prefix, with all three parts, without zeros before numbers.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<String> = numbers
        .split('.')
        .map(|part| {
            let short = part.trim_start_matches('0');
            if short.is_empty() && !part.is_empty() {
                "0".to_owned()
            } else {
                short.to_owned()
            }
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    format!("{}{rest}", parts.join("."))
}

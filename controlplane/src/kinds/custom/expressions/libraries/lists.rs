//! What Kubernetes has for lists: `isSorted`, `sum`, `min`, `max`, `indexOf`, `lastIndexOf`; and for lists as sets.

use std::cmp::Ordering;

use cel::common::types::{CelList, CelOptional, DYN_TYPE, LIST_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

use super::super::cost::charge;
use super::{Arguments, Outcome, entries_at, failed, give, global, member};

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    member(env, "isSorted", LIST_TYPE, vec![], is_sorted)?;
    member(env, "sum", LIST_TYPE, vec![], sum)?;
    member(env, "min", LIST_TYPE, vec![], |arguments| {
        extreme("min", &arguments, Ordering::Less)
    })?;
    member(env, "max", LIST_TYPE, vec![], |arguments| {
        extreme("max", &arguments, Ordering::Greater)
    })?;
    member(env, "indexOf", LIST_TYPE, vec![DYN_TYPE], |arguments| {
        let (entries, wanted) = (entries_at(&arguments, 0)?, wanted(&arguments)?);
        index(entries.iter().position(|entry| entry.equals(wanted)))
    })?;
    member(env, "lastIndexOf", LIST_TYPE, vec![DYN_TYPE], |arguments| {
        let (entries, wanted) = (entries_at(&arguments, 0)?, wanted(&arguments)?);
        index(entries.iter().rposition(|entry| entry.equals(wanted)))
    })?;
    member(env, "first", LIST_TYPE, vec![], |arguments| {
        optional(entries_at(&arguments, 0)?.first().map(AsRef::as_ref))
    })?;
    member(env, "last", LIST_TYPE, vec![], |arguments| {
        optional(entries_at(&arguments, 0)?.last().map(AsRef::as_ref))
    })?;
    global(env, "optional.unwrap", vec![LIST_TYPE], unwrapped)?;
    member(env, "unwrapOpt", LIST_TYPE, vec![], unwrapped)?;
    let two = || vec![LIST_TYPE, LIST_TYPE];
    global(env, "sets.contains", two(), |arguments| {
        give(contains(&arguments, 0, 1)?)
    })?;
    global(env, "sets.equivalent", two(), |arguments| {
        give(contains(&arguments, 0, 1)? && contains(&arguments, 1, 0)?)
    })?;
    global(env, "sets.intersects", two(), |arguments| {
        let (some, others) = (entries_at(&arguments, 0)?, entries_at(&arguments, 1)?);
        product(some.len(), others.len())?;
        give(some.iter().any(|entry| has(others, entry.as_ref())))
    })
}

fn optional<'b, 'v>(entry: Option<&(dyn Val + 'v)>) -> Outcome<'b, 'v> {
    Ok(CowVal::owned(match entry {
        Some(entry) => CelOptional::of(entry.clone_as_boxed()),
        None => CelOptional::none(),
    }))
}

/// The values of those optionals that have one.
fn unwrapped<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let mut values: Vec<Box<dyn Val + 'v>> = Vec::new();
    for entry in entries_at(&arguments, 0)? {
        let optional = entry
            .downcast_ref::<CelOptional<'v>>()
            .ok_or_else(|| failed("unwrapOpt", "the list has entries that are no optionals"))?;
        values.extend(optional.option().map(|value| value.clone_as_boxed()));
    }
    Ok(CowVal::owned(CelList::from(values)))
}

fn wanted<'a, 'v>(arguments: &'a Arguments<'_, 'v>) -> Result<&'a (dyn Val + 'v), ExecutionError> {
    arguments
        .get(1)
        .map(|value| value.as_ref())
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

fn index<'b, 'v>(found: Option<usize>) -> Outcome<'b, 'v> {
    give(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
}

fn product(a: usize, b: usize) -> Result<(), ExecutionError> {
    charge(u64::try_from(a.saturating_mul(b)).unwrap_or(u64::MAX))
}

fn has(entries: &[Box<dyn Val + '_>], wanted: &dyn Val) -> bool {
    entries.iter().any(|entry| entry.equals(wanted))
}

/// Whether the list at `all` has every entry of the one at `some`.
fn contains(
    arguments: &Arguments<'_, '_>,
    all: usize,
    some: usize,
) -> Result<bool, ExecutionError> {
    let (all, some) = (entries_at(arguments, all)?, entries_at(arguments, some)?);
    product(all.len(), some.len())?;
    Ok(some.iter().all(|entry| has(all, entry.as_ref())))
}

fn compare(
    function: &str,
    a: &(dyn Val + '_),
    b: &(dyn Val + '_),
) -> Result<Ordering, ExecutionError> {
    let comparer = a
        .as_comparer()
        .ok_or_else(|| failed(function, "the entries cannot be compared"))?;
    comparer.compare(b)
}

fn is_sorted<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    for pair in entries_at(&arguments, 0)?.windows(2) {
        if compare("isSorted", pair[0].as_ref(), pair[1].as_ref())? == Ordering::Greater {
            return give(false);
        }
    }
    give(true)
}

fn extreme<'b, 'v>(
    function: &str,
    arguments: &Arguments<'b, 'v>,
    wanted: Ordering,
) -> Outcome<'b, 'v> {
    let mut entries = entries_at(arguments, 0)?.iter();
    let mut best = entries
        .next()
        .ok_or_else(|| failed(function, format!("{function} called on empty list")))?;
    for entry in entries {
        if compare(function, entry.as_ref(), best.as_ref())? == wanted {
            best = entry;
        }
    }
    Ok(CowVal::Owned(best.clone_as_boxed()))
}

/// Of nothing it is 0, whatever the list could have had.
fn sum<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let mut entries = entries_at(&arguments, 0)?.iter();
    let Some(first) = entries.next() else {
        return give(0i64);
    };
    let mut total: Box<dyn Val + 'v> = first.clone_as_boxed();
    let addable = |value: &dyn Val| {
        matches!(
            value.get_type().kind(),
            cel::common::types::Kind::Int
                | cel::common::types::Kind::UInt
                | cel::common::types::Kind::Double
                | cel::common::types::Kind::Duration
        )
    };
    if !addable(total.as_ref()) {
        return Err(failed("sum", "the entries cannot be added"));
    }
    for entry in entries {
        let adder = total
            .as_adder()
            .ok_or_else(|| failed("sum", "the entries cannot be added"))?;
        let next = adder.add(entry.as_ref())?.into_owned();
        total = next;
    }
    Ok(CowVal::Owned(total))
}

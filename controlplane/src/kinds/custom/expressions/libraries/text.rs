//! Regular expressions, and the functions on texts and lists whose work is a product of sizes, which therefore are
//! ours: they ask for the product.

use cel::common::types::{CelList, CelString, INT_TYPE, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use regex::Regex;

use super::super::cost::{charge, charge_text};
use super::{Arguments, Outcome, entries_at, failed, give, global, member, text_at, whole_at};

/// A compiled expression may take this many bytes.
const COMPILED: usize = 1 << 20;

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    let text = || STRING_TYPE;
    global(env, "@matches", vec![text(), text()], matches)?;
    member(env, "find", text(), vec![text()], find)?;
    member(env, "findAll", text(), vec![text()], find_all)?;
    member(env, "findAll", text(), vec![text(), INT_TYPE], find_all)?;
    global(env, "@replace", vec![text(), text(), text()], replace)?;
    global(
        env,
        "@replace",
        vec![text(), text(), text(), INT_TYPE],
        replace,
    )?;
    global(env, "@join", vec![LIST_TYPE], join)?;
    global(env, "@join", vec![LIST_TYPE, text()], join)?;
    global(env, "@distinct", vec![LIST_TYPE], distinct)
}

fn compiled(function: &str, text: &str, pattern: &str) -> Result<Regex, ExecutionError> {
    // Kubernetes: a tenth for each character of the text, times a quarter of the pattern's.
    charge_text(text.len() + 1, pattern.len() / 4 + 1)?;
    charge_text(pattern.len(), 10)?;
    regex::RegexBuilder::new(pattern)
        .size_limit(COMPILED)
        .build()
        .map_err(|error| {
            let shown = error.to_string();
            let last = shown.lines().last().unwrap_or("").trim().to_owned();
            failed(
                function,
                format!("error parsing regexp: {last}: `{pattern}`"),
            )
        })
}

fn matches<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text_at(&arguments, 0)?, text_at(&arguments, 1)?);
    give(compiled("matches", text, pattern)?.is_match(text))
}

fn find<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text_at(&arguments, 0)?, text_at(&arguments, 1)?);
    let found = compiled("find", text, pattern)?
        .find(text)
        .map(|found| found.as_str());
    give(found.unwrap_or("").to_owned())
}

fn find_all<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let (text, pattern) = (text_at(&arguments, 0)?, text_at(&arguments, 1)?);
    let most = if arguments.len() > 2 {
        usize::try_from(whole_at(&arguments, 2)?).unwrap_or(usize::MAX)
    } else {
        usize::MAX
    };
    let found: Vec<String> = compiled("findAll", text, pattern)?
        .find_iter(text)
        .take(most)
        .map(|found| found.as_str().to_owned())
        .collect();
    charge(u64::try_from(found.len()).unwrap_or(u64::MAX))?;
    give(found)
}

fn replace<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let text = text_at(&arguments, 0)?;
    let (from, to) = (text_at(&arguments, 1)?, text_at(&arguments, 2)?);
    let most = if arguments.len() > 3 {
        // A negative number is all of them.
        usize::try_from(whole_at(&arguments, 3)?).unwrap_or(usize::MAX)
    } else {
        usize::MAX
    };
    let times = text.matches(from).take(most).count();
    charge_text(text.len(), 1)?;
    charge_text(to.len(), times)?;
    give(text.replacen(from, to, most))
}

fn join<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let entries = entries_at(&arguments, 0)?;
    let between = if arguments.len() > 1 {
        text_at(&arguments, 1)?
    } else {
        ""
    };
    charge_text(between.len(), entries.len())?;
    let mut texts = Vec::with_capacity(entries.len());
    for entry in entries {
        let text = entry
            .downcast_ref::<CelString<'_>>()
            .ok_or_else(|| failed("join", "the list has entries that are no strings"))?;
        charge_text(text.inner().len(), 1)?;
        texts.push(text.inner());
    }
    give(texts.join(between))
}

fn distinct<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let mut kept: Vec<Box<dyn Val + 'v>> = Vec::new();
    for entry in entries_at(&arguments, 0)? {
        charge(u64::try_from(kept.len()).unwrap_or(u64::MAX) + 1)?;
        if !kept.iter().any(|known| known.equals(entry.as_ref())) {
            kept.push(entry.clone_as_boxed());
        }
    }
    Ok(CowVal::owned(CelList::from(kept)))
}

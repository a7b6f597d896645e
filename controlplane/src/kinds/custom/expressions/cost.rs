//! What an expression may cost. The library that evaluates has no budget, so a compiled expression is rewritten: where
//! work depends on the size of values (a turn of a loop, a copy, a comparison, a call) it asks [`CHARGE`] first.
//!
//! Costs are counted in tenths of Kubernetes' units, which are about one step of evaluation each. The meter is the
//! thread's: an evaluation neither waits nor moves. Errors inside of an expression may be absorbed (`||`), so whoever
//! evaluates asks the meter at the end ([`Spent`]).

use std::cell::Cell;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, LiteralValue, operators,
};
use cel::common::types::{
    CelBytes, CelInt, CelList, CelMap, CelOptional, CelString, DYN_TYPE, INT_TYPE,
};
use cel::common::value::{CowVal, Val};
use cel::parser::Expression;
use cel::{DeclarationError, Env, ExecutionError};

/// `@charge(value, steps)`: the value, once it and the steps are paid for as something that is looked at.
const CHARGE: &str = "@charge";
/// The same for a value that is kept, in a list for example.
const KEEP: &str = "@keep";
/// What functions are called whose work is a product of sizes; see [`super::libraries::text`].
const REPLACED: &[(&str, &str)] = &[
    ("matches", "@matches"),
    ("replace", "@replace"),
    ("join", "@join"),
    ("distinct", "@distinct"),
];
/// Names before functions: `math.greatest`.
const NAMESPACES: &[&str] = &[
    "base64",
    "format",
    "ip",
    "jsonpatch",
    "lists",
    "math",
    "optional",
    "sets",
    "strings",
];

/// Tenths of a unit.
const UNIT: u64 = 10;
/// Tenths for a part of a value that is looked at, and of one that is kept.
const LOOK: u64 = 1;
/// Bytes of text for a tenth.
const BYTES: u64 = 100;

thread_local! {
    /// Tenths that are left; `None` once they did not do.
    static LEFT: Cell<Option<u64>> = const { Cell::new(Some(0)) };
}

/// What is left for expressions that share a budget, in tenths.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    left: u64,
}

/// No single expression may cost more units, as in Kubernetes.
const PER_CALL: u64 = 1_000_000;

impl Budget {
    /// For the rules that a write is judged by: Kubernetes' `RuntimeCELCostBudget`.
    pub(crate) fn of_rules() -> Self {
        Self {
            left: 10_000_000 * UNIT,
        }
    }

    /// For `matchConditions`: a quarter.
    pub(crate) fn of_conditions() -> Self {
        Self {
            left: 2_500_000 * UNIT,
        }
    }
}

/// Why an expression was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    Call,
    Budget,
}

/// Meters the thread's evaluation until it is finished.
pub(super) struct Meter {
    allowed: u64,
    budget_is_less: bool,
}

/// What an evaluation took, in tenths, and whether that was not enough.
pub(super) struct Spent {
    tenths: u64,
    exceeded: Option<Exceeded>,
}

impl Meter {
    pub(super) fn start(budget: &Budget) -> Self {
        let allowed = budget.left.min(PER_CALL * UNIT);
        LEFT.set(Some(allowed));
        Self {
            allowed,
            budget_is_less: allowed < PER_CALL * UNIT,
        }
    }

    pub(super) fn finish(self) -> Spent {
        let left = LEFT.replace(Some(0));
        Spent {
            tenths: self.allowed - left.unwrap_or(0),
            exceeded: match left {
                Some(_) => None,
                None if self.budget_is_less => Some(Exceeded::Budget),
                None => Some(Exceeded::Call),
            },
        }
    }
}

impl Budget {
    pub(super) fn take(&mut self, spent: Spent) -> Result<(), Exceeded> {
        self.left = self.left.saturating_sub(spent.tenths);
        spent.exceeded.map_or(Ok(()), Err)
    }
}

/// Takes tenths.
fn take(tenths: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().and_then(|left| left.checked_sub(tenths));
    LEFT.set(left);
    match left {
        Some(_) => Ok(()),
        None => Err(ExecutionError::function_error(
            "cost",
            "cost limit exceeded",
        )),
    }
}

/// Takes units.
pub(super) fn charge(units: u64) -> Result<(), ExecutionError> {
    take(units.saturating_mul(UNIT))
}

/// Takes what reading so many bytes of text, so many times, costs: a tenth of a unit for each, as in Kubernetes.
pub(super) fn charge_text(bytes: usize, times: usize) -> Result<(), ExecutionError> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    take(bytes.saturating_mul(u64::try_from(times).unwrap_or(u64::MAX)))
}

/// Takes `each` for all parts of a value; stops looking once nothing is left.
fn charge_value(value: &dyn Val, each: u64) -> Result<(), ExecutionError> {
    let text = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX) / BYTES * each;
    take(each)?;
    if let Some(value) = value.downcast_ref::<CelString<'_>>() {
        return take(text(value.inner().len()));
    }
    if let Some(value) = value.downcast_ref::<CelBytes<'_>>() {
        return take(text(value.inner().len()));
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        for entry in list.inner() {
            charge_value(entry.as_ref(), each)?;
        }
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for (key, value) in map.inner() {
            charge_value(key.inner(), each)?;
            charge_value(value.as_ref(), each)?;
        }
    } else if let Some(optional) = value.downcast_ref::<CelOptional<'_>>()
        && let Some(value) = optional.option()
    {
        charge_value(value, each)?;
    }
    Ok(())
}

fn pay<'b, 'v>(
    mut arguments: Vec<CowVal<'b, 'v>>,
    each: u64,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let steps = arguments
        .get(1)
        .and_then(|steps| steps.downcast_ref::<CelInt>())
        .and_then(|steps| u64::try_from(*steps.inner()).ok());
    charge(steps.unwrap_or(0))?;
    if arguments.is_empty() {
        return Err(ExecutionError::missing_argument_or_target());
    }
    let value = arguments.swap_remove(0);
    charge_value(value.as_ref(), each)?;
    Ok(value)
}

/// The functions that the rewritten expressions call.
pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(
        CHARGE,
        "@charge(dyn,int)",
        vec![DYN_TYPE, INT_TYPE],
        |arguments| pay(arguments, LOOK),
    )?;
    env.add_overload(
        KEEP,
        "@keep(dyn,int)",
        vec![DYN_TYPE, INT_TYPE],
        |arguments| pay(arguments, UNIT),
    )
}

fn wrap(function: &str, expression: Expression, steps: u64) -> Expression {
    let steps = i64::try_from(steps).unwrap_or(i64::MAX);
    Expression {
        id: expression.id,
        expr: Expr::Call(CallExpr {
            func_name: function.to_owned(),
            target: None,
            args: vec![
                expression,
                Expression {
                    id: 0,
                    expr: Expr::Literal(LiteralValue::Int(CelInt::from(steps))),
                },
            ],
        }),
    }
}

/// The size of literals is known, and what macros count with is small.
fn is_free(expression: &Expression) -> bool {
    match &expression.expr {
        Expr::Literal(_) => true,
        Expr::Ident(name) => name.starts_with('@'),
        Expr::List(list) => list.elements.is_empty(),
        _ => false,
    }
}

fn paid(function: &str, expression: Expression) -> Expression {
    if is_free(&expression) {
        expression
    } else {
        wrap(function, expression, 0)
    }
}

/// How deep the tree is: no recursion, because it may be too deep for one.
pub(super) fn depth(root: &Expression) -> usize {
    let mut deepest = 0;
    let mut open = vec![(root, 1)];
    while let Some((expression, depth)) = open.pop() {
        deepest = deepest.max(depth);
        for child in children(expression) {
            open.push((child, depth + 1));
        }
    }
    deepest
}

fn children(expression: &Expression) -> Vec<&Expression> {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect(),
        Expr::Comprehension(of) => vec![
            &of.iter_range,
            &of.accu_init,
            &of.loop_cond,
            &of.loop_step,
            &of.result,
        ],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(of) => entries(&of.entries),
        Expr::Select(select) => vec![&select.operand],
    }
}

fn entries(entries: &[IdedEntryExpr]) -> Vec<&Expression> {
    let mut found = Vec::new();
    for entry in entries {
        match &entry.expr {
            EntryExpr::StructField(field) => found.push(&field.value),
            EntryExpr::MapEntry(entry) => found.extend([&entry.key, &entry.value]),
        }
    }
    found
}

/// Steps of evaluating it once; loops inside count their own.
fn steps(expression: &Expression) -> u64 {
    let below = match &expression.expr {
        Expr::Comprehension(_) => 0,
        _ => children(expression).into_iter().map(steps).sum(),
    };
    1 + below
}

/// The expression with its costs. `bound` are the variables of the loops that it is in.
pub(super) fn metered(expression: Expression, bound: &mut Vec<String>) -> Expression {
    let Expression { id, expr } = expression;
    let at = |expr| Expression { id, expr };
    match expr {
        Expr::Call(call) => metered_call(id, call, bound),
        Expr::Comprehension(of) => at(Expr::Comprehension(Box::new(metered_loop(*of, bound)))),
        Expr::List(mut list) => {
            list.elements = list
                .elements
                .into_iter()
                .map(|element| paid(KEEP, metered(element, bound)))
                .collect();
            at(Expr::List(list))
        }
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = metered(std::mem::take(&mut entry.key), bound);
                    entry.value = paid(KEEP, metered(std::mem::take(&mut entry.value), bound));
                }
            }
            at(Expr::Map(map))
        }
        Expr::Struct(mut of) => {
            for entry in &mut of.entries {
                if let EntryExpr::StructField(field) = &mut entry.expr {
                    field.value = paid(KEEP, metered(std::mem::take(&mut field.value), bound));
                }
            }
            at(Expr::Struct(of))
        }
        Expr::Select(mut select) => {
            *select.operand = metered(*select.operand, bound);
            at(Expr::Select(select))
        }
        other @ (Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_)) => at(other),
    }
}

fn metered_call(id: u64, call: CallExpr, bound: &mut Vec<String>) -> Expression {
    let CallExpr {
        mut func_name,
        target,
        args,
    } = call;
    let is_operator = matches!(
        func_name.as_str(),
        operators::CONDITIONAL
            | operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::NEGATE
            | operators::NOT_STRICTLY_FALSE
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::INDEX
            | operators::OPT_INDEX
            | operators::OPT_SELECT
    );
    let keeps = matches!(
        func_name.as_str(),
        operators::OPT_INDEX | operators::OPT_SELECT
    );
    let how = if func_name == operators::ADD {
        KEEP
    } else {
        CHARGE
    };
    let mut args: Vec<Expression> = args
        .into_iter()
        .map(|argument| {
            let argument = metered(argument, bound);
            if is_operator {
                argument
            } else {
                paid(how, argument)
            }
        })
        .collect();
    let replaced = REPLACED.iter().find(|(name, _)| *name == func_name);
    let target = target.map(|target| {
        if is_namespace(&target, bound) {
            target
        } else {
            Box::new(paid(CHARGE, metered(*target, bound)))
        }
    });
    let target = match (replaced, target) {
        (Some((_, ours)), target) => {
            func_name = (*ours).to_owned();
            if let Some(target) = target {
                args.insert(0, *target);
            }
            None
        }
        (None, target) => target,
    };
    let call = Expression {
        id,
        expr: Expr::Call(CallExpr {
            func_name,
            target,
            args,
        }),
    };
    if keeps { wrap(KEEP, call, 0) } else { call }
}

/// Whether a call's target is a part of the function's name.
fn is_namespace(target: &Expression, bound: &[String]) -> bool {
    let mut expression = target;
    loop {
        match &expression.expr {
            Expr::Ident(name) => {
                return NAMESPACES.contains(&name.as_str()) && !bound.contains(name);
            }
            Expr::Select(select) if !select.test => expression = &select.operand,
            _ => return false,
        }
    }
}

fn metered_loop(of: ComprehensionExpr, bound: &mut Vec<String>) -> ComprehensionExpr {
    let turn = steps(&of.loop_step) + steps(&of.loop_cond);
    let iter_range = wrap(CHARGE, metered(of.iter_range, bound), 1);
    let accu_init = paid(KEEP, metered(of.accu_init, bound));
    let depth = bound.len();
    bound.push(of.iter_var.clone());
    bound.extend(of.iter_var2.clone());
    bound.push(of.accu_var.clone());
    // The evaluator knows `map` and `filter` by their form, which has to stay: they pay in what they append, or in
    // what they filter by. All others pay in their condition, whose errors end the loop.
    let (loop_cond, loop_step) = if matches!(of.loop_cond.expr, Expr::Literal(_)) {
        (of.loop_cond, appending(of.loop_step, turn, bound))
    } else {
        let condition = metered(of.loop_cond, bound);
        (wrap(CHARGE, condition, turn), metered(of.loop_step, bound))
    };
    let result = metered(of.result, bound);
    bound.truncate(depth);
    ComprehensionExpr {
        iter_range,
        accu_init,
        loop_cond,
        loop_step,
        result,
        ..of
    }
}

/// The step of `map` or `filter`: `@result + [x]`, or `condition ? @result + [x] : @result`.
fn appending(step: Expression, turn: u64, bound: &mut Vec<String>) -> Expression {
    let Expression { id, expr } = step;
    match expr {
        Expr::Call(mut call)
            if call.func_name == operators::CONDITIONAL && call.args.len() == 3 =>
        {
            let condition = metered(std::mem::take(&mut call.args[0]), bound);
            call.args[0] = wrap(CHARGE, condition, turn);
            let appended = std::mem::take(&mut call.args[1]);
            call.args[1] = appending(appended, turn, bound);
            Expression {
                id,
                expr: Expr::Call(call),
            }
        }
        Expr::Call(mut call) if call.func_name == operators::ADD && call.args.len() == 2 => {
            if let Expr::List(list) = &mut call.args[1].expr {
                for element in &mut list.elements {
                    let inside = metered(std::mem::take(element), bound);
                    *element = wrap(KEEP, inside, turn);
                }
            }
            Expression {
                id,
                expr: Expr::Call(call),
            }
        }
        other => metered(Expression { id, expr: other }, bound),
    }
}

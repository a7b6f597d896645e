//! Comprehensions of two variables: `list.all(index, entry, …)`, `map.transformMap(key, value, …)`. The library
//! evaluates those of one, so they go over pairs of both; the names of the two are replaced by the parts of a pair.

use std::collections::HashMap;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue, MapExpr,
    operators,
};
use cel::common::types::{CelBool, CelInt, CelList, CelMap, CelMapKey, LIST_TYPE, MAP_TYPE};
use cel::common::value::{CowVal, Val};
use cel::parser::{Expression, Macro, MacroExprHelper, ParseError};
use cel::{DeclarationError, Env, ExecutionError};

use super::cost::charge;

/// `@pairs(range)`: a list of `[index, entry]` or of `[key, value]`.
const PAIRS: &str = "@pairs";
/// `cel.@mapInsert(map, key, value)` or `(map, map)`, until it is lowered.
const INSERT: &str = "cel.@mapInsert";
/// `@mapOf(list)`: the map of a list of pairs or of maps.
const MAP_OF: &str = "@mapOf";
/// What macros gather in; the name is the library's.
const ACCUMULATOR: &str = "@result";

type Expansion = fn(&mut Expanding<'_, '_>, Vec<Expression>) -> Parts;

/// What a macro is besides its range and its variables.
struct Parts {
    start: Expression,
    condition: Expression,
    step: Expression,
    result: Expression,
}

struct Expanding<'a, 'h> {
    helper: &'a mut MacroExprHelper<'h>,
    first: String,
}

impl Expanding<'_, '_> {
    fn at(&mut self, expr: Expr) -> Expression {
        self.helper.next_expr(expr)
    }

    fn gathered(&mut self) -> Expression {
        self.at(Expr::Ident(ACCUMULATOR.to_owned()))
    }

    fn bool(&mut self, value: bool) -> Expression {
        self.at(Expr::Literal(LiteralValue::Boolean(CelBool::from(value))))
    }

    fn whole(&mut self, value: i64) -> Expression {
        self.at(Expr::Literal(LiteralValue::Int(CelInt::from(value))))
    }

    fn call(&mut self, name: &str, args: Vec<Expression>) -> Expression {
        self.at(Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: None,
            args,
        }))
    }

    /// The step, where there is a condition only where it holds.
    fn filtered(&mut self, filter: Option<Expression>, step: Expression) -> Expression {
        match filter {
            None => step,
            Some(filter) => {
                let unchanged = self.gathered();
                self.call(operators::CONDITIONAL, vec![filter, step, unchanged])
            }
        }
    }
}

fn all(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let gathered = make.gathered();
    let condition = make.call(operators::NOT_STRICTLY_FALSE, vec![gathered]);
    let gathered = make.gathered();
    args.insert(0, gathered);
    Parts {
        start: make.bool(true),
        condition,
        step: make.call(operators::LOGICAL_AND, args),
        result: make.gathered(),
    }
}

fn exists(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let gathered = make.gathered();
    let none = make.call(operators::LOGICAL_NOT, vec![gathered]);
    let condition = make.call(operators::NOT_STRICTLY_FALSE, vec![none]);
    let gathered = make.gathered();
    args.insert(0, gathered);
    Parts {
        start: make.bool(false),
        condition,
        step: make.call(operators::LOGICAL_OR, args),
        result: make.gathered(),
    }
}

fn exists_one(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let (gathered, one) = (make.gathered(), make.whole(1));
    let more = make.call(operators::ADD, vec![gathered, one]);
    let filter = args.pop();
    let step = make.filtered(filter, more);
    let (gathered, one) = (make.gathered(), make.whole(1));
    Parts {
        start: make.whole(0),
        condition: make.bool(true),
        step,
        result: make.call(operators::EQUALS, vec![gathered, one]),
    }
}

fn transform_list(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let made = args.pop().unwrap_or_default();
    let (gathered, added) = (
        make.gathered(),
        make.at(Expr::List(ListExpr::new(vec![made]))),
    );
    let step = make.call(operators::ADD, vec![gathered, added]);
    Parts {
        start: make.at(Expr::List(ListExpr::new(Vec::new()))),
        condition: make.bool(true),
        step: make.filtered(args.pop(), step),
        result: make.gathered(),
    }
}

fn transform_map(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let made = args.pop().unwrap_or_default();
    let key = make.at(Expr::Ident(make.first.clone()));
    inserting(make, vec![key, made], args.pop())
}

fn transform_map_entry(make: &mut Expanding<'_, '_>, mut args: Vec<Expression>) -> Parts {
    let made = args.pop().unwrap_or_default();
    inserting(make, vec![made], args.pop())
}

fn inserting(
    make: &mut Expanding<'_, '_>,
    mut what: Vec<Expression>,
    filter: Option<Expression>,
) -> Parts {
    let gathered = make.gathered();
    what.insert(0, gathered);
    let step = make.call(INSERT, what);
    Parts {
        start: make.at(Expr::Map(MapExpr {
            entries: Vec::new(),
        })),
        condition: make.bool(true),
        step: make.filtered(filter, step),
        result: make.gathered(),
    }
}

const MACROS: &[(&str, usize, Expansion)] = &[
    ("all", 3, all),
    ("exists", 3, exists),
    ("existsOne", 3, exists_one),
    ("exists_one", 3, exists_one),
    ("transformList", 3, transform_list),
    ("transformList", 4, transform_list),
    ("transformMap", 3, transform_map),
    ("transformMap", 4, transform_map),
    ("transformMapEntry", 3, transform_map_entry),
    ("transformMapEntry", 4, transform_map_entry),
];

fn expand(
    helper: &mut MacroExprHelper<'_>,
    range: Expression,
    mut args: Vec<Expression>,
    expansion: Expansion,
) -> Result<Option<Expression>, ParseError> {
    let rest = args.split_off(2);
    let mut names = Vec::new();
    for argument in args {
        let Expr::Ident(name) = argument.expr else {
            return Err(helper.new_error(argument.id, "argument must be a simple name"));
        };
        if name == ACCUMULATOR || name == "__result__" {
            let why = "iteration variable overwrites accumulator variable";
            return Err(helper.new_error(argument.id, why));
        }
        if names.contains(&name) {
            return Err(helper.new_error(argument.id, format!("duplicate variable name: {name}")));
        }
        names.push(name);
    }
    let second = names.pop();
    let first = names.pop().unwrap_or_default();
    let mut make = Expanding {
        helper,
        first: first.clone(),
    };
    let parts = expansion(&mut make, rest);
    Ok(Some(helper.next_expr(Expr::Comprehension(Box::new(
        ComprehensionExpr {
            iter_range: range,
            iter_var: first,
            iter_var2: second,
            accu_var: ACCUMULATOR.to_owned(),
            accu_init: parts.start,
            loop_cond: parts.condition,
            loop_step: parts.step,
            result: parts.result,
        },
    )))))
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    for (name, arguments, expansion) in MACROS {
        env.add_macro(Macro::receiver(
            *name,
            *arguments,
            |helper, target, args| match target.take() {
                Some(range) => expand(helper, range, std::mem::take(args), *expansion),
                None => Ok(None),
            },
        ))?;
    }
    env.add_overload(PAIRS, "@pairs(list)", vec![LIST_TYPE], pairs)?;
    env.add_overload(PAIRS, "@pairs(map)", vec![MAP_TYPE], pairs)?;
    env.add_overload(MAP_OF, "@mapOf(list)", vec![LIST_TYPE], map_of)
}

/// The expression with loops of one variable in place of those of two.
pub(super) fn lowered(mut expression: Expression) -> Expression {
    each_part(&mut expression, &mut |part| {
        *part = lowered(std::mem::take(part));
    });
    let Expression { id, expr } = expression;
    let expr = match expr {
        Expr::Comprehension(mut of) => {
            if let Some(second) = of.iter_var2.take() {
                let pair = format!("@pair{id}");
                let names = [std::mem::take(&mut of.iter_var), second];
                for part in [&mut of.loop_cond, &mut of.loop_step] {
                    for (at, name) in names.iter().enumerate() {
                        replace(part, name, &pair, at);
                    }
                }
                of.iter_var = pair;
                of.iter_range = called(PAIRS, vec![of.iter_range]);
            }
            return gathering(id, *of);
        }
        other => other,
    };
    Expression { id, expr }
}

/// A loop that inserts into a map gathers a list, which is made a map in the end.
fn gathering(id: u64, mut of: ComprehensionExpr) -> Expression {
    let inserts = as_appending(&mut of.loop_step);
    if inserts {
        of.accu_init.expr = Expr::List(ListExpr::new(Vec::new()));
    }
    let whole = Expression {
        id,
        expr: Expr::Comprehension(Box::new(of)),
    };
    if inserts {
        called(MAP_OF, vec![whole])
    } else {
        whole
    }
}

fn as_appending(step: &mut Expression) -> bool {
    let Expr::Call(call) = &mut step.expr else {
        return false;
    };
    if call.func_name == operators::CONDITIONAL && call.args.len() == 3 {
        return as_appending(&mut call.args[1]);
    }
    if call.func_name != INSERT {
        return false;
    }
    let entry = call.args.split_off(1);
    let listed = |elements| Expression {
        id: 0,
        expr: Expr::List(ListExpr::new(elements)),
    };
    call.args.push(listed(match entry.len() {
        1 => entry,
        _ => vec![listed(entry)],
    }));
    call.func_name = operators::ADD.to_owned();
    true
}

fn called(function: &str, args: Vec<Expression>) -> Expression {
    Expression {
        id: 0,
        expr: Expr::Call(CallExpr {
            func_name: function.to_owned(),
            target: None,
            args,
        }),
    }
}

/// Puts a part of the pair where its name stands, but for loops that have a variable of that name themselves.
fn replace(expression: &mut Expression, name: &str, pair: &str, at: usize) {
    match &mut expression.expr {
        Expr::Ident(known) if known == name => {
            let number = |at| i64::try_from(at).unwrap_or(0);
            let part = |expr| Expression { id: 0, expr };
            expression.expr = called(
                operators::INDEX,
                vec![
                    part(Expr::Ident(pair.to_owned())),
                    part(Expr::Literal(LiteralValue::Int(CelInt::from(number(at))))),
                ],
            )
            .expr;
        }
        Expr::Comprehension(of) => {
            replace(&mut of.iter_range, name, pair, at);
            replace(&mut of.accu_init, name, pair, at);
            if of.accu_var != name {
                replace(&mut of.result, name, pair, at);
                if of.iter_var != name {
                    replace(&mut of.loop_cond, name, pair, at);
                    replace(&mut of.loop_step, name, pair, at);
                }
            }
        }
        _ => each_part(expression, &mut |part| replace(part, name, pair, at)),
    }
}

fn each_part(expression: &mut Expression, change: &mut dyn FnMut(&mut Expression)) {
    let entries = |entries: &mut Vec<IdedEntryExpr>, change: &mut dyn FnMut(&mut Expression)| {
        for entry in entries {
            match &mut entry.expr {
                EntryExpr::StructField(field) => change(&mut field.value),
                EntryExpr::MapEntry(entry) => {
                    change(&mut entry.key);
                    change(&mut entry.value);
                }
            }
        }
    };
    match &mut expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| change(target));
            call.args.iter_mut().for_each(change);
        }
        Expr::Comprehension(of) => {
            for part in [
                &mut of.iter_range,
                &mut of.accu_init,
                &mut of.loop_cond,
                &mut of.loop_step,
                &mut of.result,
            ] {
                change(part);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(change),
        Expr::Map(map) => entries(&mut map.entries, change),
        Expr::Struct(of) => entries(&mut of.entries, change),
        Expr::Select(select) => change(&mut select.operand),
    }
}

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

fn pairs<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let missing = ExecutionError::missing_argument_or_target;
    let range = arguments.first().ok_or_else(missing)?;
    let mut made: Vec<Box<dyn Val + 'v>> = Vec::new();
    let mut pair = |first: Box<dyn Val + 'v>, second: Box<dyn Val + 'v>| {
        made.push(Box::new(CelList::from(vec![first, second])));
    };
    if let Some(list) = range.downcast_ref::<CelList<'v>>() {
        charge(u64::try_from(list.inner().len()).unwrap_or(u64::MAX))?;
        for (at, entry) in list.inner().iter().enumerate() {
            let at = CelInt::from(i64::try_from(at).unwrap_or(i64::MAX));
            pair(Box::new(at), entry.clone());
        }
    } else if let Some(map) = range.downcast_ref::<CelMap<'v>>() {
        charge(u64::try_from(map.inner().len()).unwrap_or(u64::MAX))?;
        for (key, value) in map.inner() {
            pair(key.inner().clone_as_boxed(), value.clone());
        }
    }
    Ok(CowVal::owned(CelList::from(made)))
}

type Members<'v> = HashMap<CelMapKey<'v>, Box<dyn Val + 'v>>;

fn insert<'v>(
    into: &mut Members<'v>,
    key: &(dyn Val + 'v),
    value: &(dyn Val + 'v),
) -> Result<(), ExecutionError> {
    let shown = format!("{key:?}");
    let before = into.insert(
        CelMapKey::try_from(key.clone_as_boxed())?,
        value.clone_as_boxed(),
    );
    if before.is_some() {
        let why = format!("insert failed: key {shown} already exists");
        return Err(ExecutionError::function_error("transformMapEntry", why));
    }
    Ok(())
}

fn map_of<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let mut made = Members::new();
    for entry in super::libraries::entries_at(&arguments, 0)? {
        if let Some(pair) = entry.downcast_ref::<CelList<'v>>()
            && let [key, value] = pair.inner()
        {
            insert(&mut made, key.as_ref(), value.as_ref())?;
        } else if let Some(map) = entry.downcast_ref::<CelMap<'v>>() {
            for (key, value) in map.inner() {
                insert(&mut made, key.inner(), value.as_ref())?;
            }
        } else {
            let why = "an entry of a map is made by a map";
            return Err(ExecutionError::function_error("transformMapEntry", why));
        }
    }
    Ok(CowVal::owned(CelMap::from(made)))
}

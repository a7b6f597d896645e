//! Whether an expression can have a value: each name is known, each function takes what it is given, each field is
//! there. Kubernetes refuses expressions that cannot when they are written down, in these sentences.

use std::collections::{BTreeSet, HashMap, HashSet};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, ListExpr, LiteralValue,
    SelectExpr, SourceInfo, StructExpr, operators,
};
use cel::parser::Expression;

use super::declarations::{self, DECLARED, Overload};
use super::literals;
use super::types::{Form, Type};
use super::unify::Known;

#[cfg(test)]
mod tests;

/// A type may have so many parts; what is larger is not followed.
const LARGEST: usize = 1000;
/// So many problems of one expression are told.
const MOST: usize = 100;

/// What was found out about an expression that has none of these problems.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) result: Type,
    pub(super) types: HashMap<u64, Type>,
    pub(super) overloads: HashMap<u64, Vec<&'static Overload>>,
    /// Selections that are names of variables: `authorizer.requestResource`.
    pub(super) names: HashSet<u64>,
    /// Calls whose target is a part of the function's name.
    pub(super) namespaced: HashMap<u64, String>,
    /// Variables that it uses.
    pub(crate) used: BTreeSet<String>,
}

/// Types for [`check`]: variables, and objects that are made by their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visible {
    variables: HashMap<String, Type>,
    /// Objects may be made whose fields are not known: `Object` and `JSONPatch`.
    makes_objects: bool,
}

impl Visible {
    pub(crate) fn new<'a>(variables: impl IntoIterator<Item = (&'a str, Type)>) -> Self {
        let named = variables
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), kind));
        Self {
            variables: named.collect(),
            makes_objects: false,
        }
    }

    pub(crate) fn set(&mut self, name: &str, kind: Type) {
        self.variables.insert(name.to_owned(), kind);
    }

    pub(crate) fn without_authorizer(mut self) -> Self {
        self.variables
            .retain(|name, _| !name.starts_with("authorizer"));
        self
    }

    pub(crate) fn making_objects(mut self) -> Self {
        self.makes_objects = true;
        self
    }
}

/// What is wrong, one below the other, with where it stands.
pub(super) fn check(
    expression: &Expression,
    source: &SourceInfo,
    scope: &Visible,
) -> Result<Checked, String> {
    let mut checker = Checker {
        scope,
        locals: Vec::new(),
        known: Known::default(),
        checked: Checked {
            result: Type::Dyn,
            types: HashMap::new(),
            overloads: HashMap::new(),
            names: HashSet::new(),
            namespaced: HashMap::new(),
            used: BTreeSet::new(),
        },
        problems: Vec::new(),
    };
    checker.check(expression);
    let Checker {
        known,
        mut checked,
        problems,
        ..
    } = checker;
    if !problems.is_empty() {
        return Err(told(problems, source));
    }
    for kind in checked.types.values_mut() {
        *kind = known.resolved(kind, true);
    }
    checked.result = checked.types[&expression.id].clone();
    Ok(checked)
}

fn told(problems: Vec<(u64, String)>, source: &SourceInfo) -> String {
    let mut placed: Vec<(usize, String)> = problems
        .into_iter()
        .map(|(id, problem)| {
            let start = source.offset_for(id).map_or(0, |(start, _)| start);
            (usize::try_from(start).unwrap_or(0), problem)
        })
        .collect();
    placed.sort_by_key(|(start, _)| *start);
    placed.truncate(MOST);
    let lines: Vec<String> = placed
        .into_iter()
        .map(|(start, problem)| {
            let (line, column) = place(&source.source, start);
            pointed(&source.source, line, column, &problem)
        })
        .collect();
    lines.join("\n")
}

/// Line and column, from 0, of a character.
fn place(source: &str, at: usize) -> (usize, usize) {
    let before: String = source.chars().take(at).collect();
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or("").chars().count();
    (line, column)
}

/// A problem with the line that it is in, and a mark below its place.
pub(super) fn pointed(source: &str, line: usize, column: usize, problem: &str) -> String {
    let mut said = format!("ERROR: <input>:{}:{}: {problem}", line + 1, column + 1);
    if let Some(shown) = source.split('\n').nth(line) {
        let shown = shown.replace('\t', " ");
        let mark = |c: char, narrow: char, wide: char| if c.is_ascii() { narrow } else { wide };
        let dots: String = shown
            .chars()
            .take(column)
            .map(|c| mark(c, '.', '\u{ff0e}'))
            .collect();
        let end = mark(shown.chars().nth(column).unwrap_or(' '), '^', '\u{ff3e}');
        said.push_str(&format!("\n | {shown}\n | {dots}{end}"));
    }
    said
}

struct Checker<'a> {
    scope: &'a Visible,
    /// Variables of the loops that it is in.
    locals: Vec<(String, Type)>,
    known: Known,
    checked: Checked,
    problems: Vec<(u64, String)>,
}

impl Checker<'_> {
    fn problem(&mut self, id: u64, problem: String) {
        self.problems.push((id, problem));
    }

    fn shown(&self, kind: &Type) -> String {
        self.known.resolved(kind, false).to_string()
    }

    fn mismatch(&mut self, id: u64, wanted: &Type, found: &Type) {
        let (wanted, found) = (self.shown(wanted), self.shown(found));
        self.problem(id, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn undeclared(&mut self, id: u64, name: &str) -> Type {
        self.problem(
            id,
            format!("undeclared reference to '{name}' (in container '')"),
        );
        Type::Error
    }

    fn check(&mut self, expression: &Expression) -> Type {
        let id = expression.id;
        let kind = match &expression.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Bytes(_) => Type::Bytes,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Null => Type::Null,
                LiteralValue::String(_) => Type::String,
                LiteralValue::UInt(_) => Type::Uint,
            },
            Expr::Ident(name) => match self.variable(name) {
                Some(kind) => kind,
                None => self.undeclared(id, name),
            },
            Expr::Select(select) => self.select(id, select),
            Expr::Call(call) => self.call(id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(&map.entries),
            Expr::Struct(of) => self.object(id, of),
            Expr::Comprehension(of) => self.comprehension(of),
        };
        self.checked.types.insert(id, kind.clone());
        kind
    }

    fn variable(&mut self, name: &str) -> Option<Type> {
        let local = self.locals.iter().rev().find(|(known, _)| known == name);
        if let Some((_, kind)) = local {
            return Some(kind.clone());
        }
        if let Some(kind) = self.scope.variables.get(name) {
            self.checked.used.insert(name.to_owned());
            return Some(kind.clone());
        }
        declarations::named(name)
    }

    fn select(&mut self, id: u64, select: &SelectExpr) -> Type {
        if !select.test
            && let Some(name) = qualified(&select.operand.expr, &select.field)
            && let Some(kind) = self.variable(&name)
        {
            self.checked.names.insert(id);
            return kind;
        }
        let kind = self.field(id, &select.operand, &select.field, false);
        if select.test { Type::Bool } else { kind }
    }

    fn field(&mut self, id: u64, operand: &Expression, field: &str, optional: bool) -> Type {
        let of = self.check(operand);
        let of = self.known.resolved(&of, false);
        let (target, was_optional) = of.unwrapped();
        let result = match target {
            Type::Map(_, value) => value.as_ref().clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(declared) => declared.kind(),
                None => {
                    self.problem(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Variable(_) => {
                self.known.goes_with(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let shown = self.shown(other);
                self.problem(
                    id,
                    format!("type '{shown}' does not support field selection"),
                );
                Type::Dyn
            }
        };
        if optional || was_optional {
            Type::Optional(result.into())
        } else {
            result
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Type {
        if call.func_name == operators::OPT_SELECT {
            return match call.args.as_slice() {
                [
                    operand,
                    Expression {
                        expr: Expr::Literal(LiteralValue::String(field)),
                        ..
                    },
                ] => self.field(id, operand, field.inner(), true),
                _ => {
                    self.problem(id, "unsupported optional field selection".to_owned());
                    Type::Error
                }
            };
        }
        let mut arguments: Vec<Type> = call.args.iter().map(|one| self.check(one)).collect();
        let mut name = call.func_name.clone();
        let mut is_member = false;
        if let Some(target) = &call.target {
            let whole = qualified(&target.expr, &name).filter(|whole| {
                let first = whole.split('.').next().unwrap_or("");
                DECLARED.contains_key(whole) && !self.locals.iter().any(|(known, _)| known == first)
            });
            match whole {
                Some(whole) => {
                    self.checked.namespaced.insert(id, whole.clone());
                    name = whole;
                }
                None => {
                    is_member = true;
                    arguments.insert(0, self.check(target));
                }
            }
        }
        let Some(overloads) = DECLARED.get(&name) else {
            return self.undeclared(id, &name);
        };
        if let Some((argument, problem)) = literals::problem(&name, call) {
            self.problem(argument, problem);
        }
        self.resolve(id, &name, overloads, is_member, &arguments)
    }

    fn resolve(
        &mut self,
        id: u64,
        name: &str,
        overloads: &'static [Overload],
        is_member: bool,
        arguments: &[Type],
    ) -> Type {
        let mut found: Vec<&'static Overload> = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|one| one.is_member == is_member) {
            let mut given = HashMap::new();
            let wanted: Vec<Type> = overload
                .arguments
                .iter()
                .map(|kind| self.known.fresh(kind, &mut given))
                .collect();
            if !self.known.all_go_with(arguments, &wanted) {
                continue;
            }
            found.push(overload);
            let made = self.known.fresh(&overload.result, &mut given);
            let made = self.known.resolved(&made, false);
            result = Some(match result {
                None => made,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if before == made => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = arguments
                .iter()
                .map(|kind| self.known.resolved(kind, true).to_string())
                .collect();
            let signature = match shown.split_first() {
                Some((target, rest)) if is_member => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.problem(
                id,
                format!("found no matching overload for '{name}' applied to '{signature}'"),
            );
            return Type::Error;
        };
        self.checked.overloads.insert(id, found);
        result
    }

    /// The type of both; elements of a literal are all of one.
    fn join(&mut self, id: u64, before: Option<Type>, kind: Type) -> Type {
        let Some(before) = before else {
            return kind;
        };
        match self.known.joined(&before, &kind) {
            Some(joined) => joined,
            None => {
                self.mismatch(id, &before, &kind);
                Type::Error
            }
        }
    }

    /// The type inside of what must be an optional.
    fn opened(&mut self, id: u64, kind: Type) -> Type {
        match kind.unwrapped() {
            (inner, true) => inner.clone(),
            (Type::Dyn, _) => Type::Dyn,
            (other, _) => {
                let wanted = Type::Optional(other.clone().into());
                self.mismatch(id, &wanted, &kind);
                kind
            }
        }
    }

    fn list(&mut self, list: &ListExpr) -> Type {
        let mut entries = None;
        for (at, element) in list.elements.iter().enumerate() {
            let mut kind = self.check(element);
            if list.optional_indices.contains(&at) {
                kind = self.opened(element.id, kind);
            }
            entries = Some(self.join(element.id, entries, kind));
        }
        Type::List(entries.unwrap_or_else(|| self.known.variable()).into())
    }

    fn map(&mut self, entries: &[IdedEntryExpr]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else {
                continue;
            };
            let key = self.check(&entry.key);
            keys = Some(self.join(entry.key.id, keys, key));
            let mut value = self.check(&entry.value);
            if entry.optional {
                value = self.opened(entry.value.id, value);
            }
            values = Some(self.join(entry.value.id, values, value));
        }
        let made = Type::Map(
            keys.unwrap_or_else(|| self.known.variable()).into(),
            values.unwrap_or_else(|| self.known.variable()).into(),
        );
        if made.is_larger_than(LARGEST) {
            Type::Dyn
        } else {
            made
        }
    }

    fn object(&mut self, id: u64, of: &StructExpr) -> Type {
        let made = super::objects::kind(&of.type_name).filter(|_| self.scope.makes_objects);
        let Some(made) = made else {
            let whole = declarations::named(&of.type_name);
            if whole.is_some() {
                self.problem(id, format!("'{}' is not a message type", of.type_name));
            } else {
                self.undeclared(id, &of.type_name);
            }
            return Type::Error;
        };
        for entry in &of.entries {
            let EntryExpr::StructField(field) = &entry.expr else {
                continue;
            };
            let mut value = self.check(&field.value);
            if field.optional {
                value = self.opened(field.value.id, value);
            }
            let Form::Object(object) = &made.form else {
                continue;
            };
            // Fields of `Object` are those of whatever is changed, which is not known here.
            match object.fields.get(&field.field).map(|known| known.kind()) {
                Some(wanted) if !self.known.goes_with(&wanted, &value) => {
                    let found = self.shown(&value);
                    self.problem(
                        entry.id,
                        format!(
                            "expected type of field '{}' is '{wanted}' but provided type is '{found}'",
                            field.field
                        ),
                    );
                }
                None if !object.fields.is_empty() => {
                    self.problem(entry.id, format!("undefined field '{}'", field.field));
                }
                _ => {}
            }
        }
        made.kind()
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Type {
        let range = self.check(&of.iter_range);
        let accumulated = self.check(&of.accu_init);
        let range = self.known.resolved(&range, false);
        let (first, second) = match &range {
            Type::List(entries) if of.iter_var2.is_some() => (Type::Int, entries.as_ref().clone()),
            Type::List(entries) => (entries.as_ref().clone(), Type::Dyn),
            Type::Map(key, value) => (key.as_ref().clone(), value.as_ref().clone()),
            Type::Dyn | Type::Error | Type::Variable(_) => {
                self.known.goes_with(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let shown = self.shown(other);
                self.problem(
                    of.iter_range.id,
                    format!(
                        "expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"
                    ),
                );
                (Type::Error, Type::Error)
            }
        };
        let outside = self.locals.len();
        self.locals.push((of.accu_var.clone(), accumulated.clone()));
        let inside = self.locals.len();
        self.locals.push((of.iter_var.clone(), first));
        if let Some(name) = &of.iter_var2 {
            self.locals.push((name.clone(), second));
        }
        for (part, wanted) in [(&of.loop_cond, Type::Bool), (&of.loop_step, accumulated)] {
            let found = self.check(part);
            if !self.known.goes_with(&wanted, &found) {
                self.mismatch(part.id, &wanted, &found);
            }
        }
        self.locals.truncate(inside);
        let result = self.check(&of.result);
        self.locals.truncate(outside);
        self.known.resolved(&result, false)
    }
}

/// `a.b.c` from `a.b` and `c`, where the first is a name.
fn qualified(operand: &Expr, field: &str) -> Option<String> {
    let mut parts = vec![field];
    let mut expression = operand;
    loop {
        match expression {
            Expr::Ident(name) => {
                parts.push(name);
                parts.reverse();
                return Some(parts.join("."));
            }
            Expr::Select(select) if !select.test => {
                parts.push(&select.field);
                expression = &select.operand.expr;
            }
            _ => return None,
        }
    }
}

//! What an expression may cost at most, by how large its schema lets values be. Kubernetes refuses rules that may cost
//! too much when they are written down; so that the same rules are refused here, costs are put together as there,
//! with what is odd about it.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use cel::parser::Expression;

use super::check::Checked;
use super::types::{Declared, Form, Type};

mod calls;
#[cfg(test)]
mod tests;

const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;
const STEP: Bounds = Bounds::exactly(1);
const LIST: Bounds = Bounds::exactly(10);
const MAP: Bounds = Bounds::exactly(30);
const OBJECT: Bounds = Bounds::exactly(40);

/// A size or a cost: at least and at most so much. `u64::MAX` is as good as without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    least: u64,
    most: u64,
}

impl Bounds {
    const NONE: Self = Self::exactly(0);
    const UNKNOWN: Self = Self {
        least: 0,
        most: u64::MAX,
    };

    const fn exactly(size: u64) -> Self {
        Self {
            least: size,
            most: size,
        }
    }

    const fn up_to(most: u64) -> Self {
        Self { least: 0, most }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            least: self.least.saturating_add(other.least),
            most: self.most.saturating_add(other.most),
        }
    }

    fn times(self, other: Self) -> Self {
        Self {
            least: self.least.saturating_mul(other.least),
            most: self.most.saturating_mul(other.most),
        }
    }

    fn scaled(self, factor: f64) -> Self {
        Self {
            least: scaled(self.least, factor),
            most: scaled(self.most, factor),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

/// Rounded up; what is too large for a number is the largest.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

/// Where in the schema a value stands; `Some(None)` is a place that the schema does not have.
type Place = Option<Option<Arc<Declared>>>;

/// Sizes of what a list or map has.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Bounds,
    value: Bounds,
}

/// A variable of a loop.
#[derive(Debug, Clone)]
struct Local {
    place: Place,
    size: Option<Bounds>,
    entries: Option<Entries>,
}

/// A value that a function is given.
struct Given<'e> {
    place: Place,
    kind: Type,
    expression: &'e Expression,
    size: Option<Bounds>,
}

/// What a call costs, and the size of what it makes where that is known.
struct Called {
    cost: Bounds,
    size: Option<Bounds>,
}

/// The most that evaluating the expression may cost, where variables are as declared.
pub(super) fn most(expression: &Expression, checked: &Checked, variables: &Arc<Declared>) -> u64 {
    let mut estimator = Estimator {
        checked,
        root: Arc::clone(variables),
        places: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: HashMap::new(),
    };
    estimator.cost(expression).most
}

struct Estimator<'a> {
    checked: &'a Checked,
    root: Arc<Declared>,
    places: HashMap<u64, Place>,
    sizes: HashMap<u64, Bounds>,
    entries: HashMap<u64, Entries>,
    locals: HashMap<String, Vec<Local>>,
}

impl Estimator<'_> {
    fn kind(&self, expression: &Expression) -> Type {
        let known = self.checked.types.get(&expression.id);
        known.cloned().unwrap_or(Type::Dyn)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name)?.last()
    }

    fn push(&mut self, name: &str, local: Local) {
        self.locals.entry(name.to_owned()).or_default().push(local);
    }

    fn pop(&mut self, name: &str) {
        if let Some(stack) = self.locals.get_mut(name) {
            stack.pop();
        }
    }

    fn place(&self, expression: &Expression) -> Place {
        if let Expr::Ident(name) = &expression.expr
            && let Some(local) = self.local(name)
        {
            return local.place.clone();
        }
        self.places.get(&expression.id).cloned().flatten()
    }

    /// One step down. What has no place is taken to begin at the root.
    fn below(&self, place: Place, step: &str) -> Place {
        let Some(at) = place else {
            return Some(Some(Arc::clone(&self.root)));
        };
        Some(at.and_then(|declared| match (&declared.form, step) {
            (Form::List(entries), "@items" | "@values") => Some(Arc::clone(entries)),
            (Form::Map(values), "@items" | "@values") => Some(Arc::clone(values)),
            (Form::Map(_), "@keys") => Some(Declared::limited(Type::String, 0, 2)),
            (Form::Object(object), field) => object.fields.get(field).cloned(),
            _ => None,
        }))
    }

    fn declared(place: &Place) -> Option<Bounds> {
        let declared = place.as_ref()?.as_ref()?;
        Some(Bounds::up_to(declared.most))
    }

    fn size(&mut self, expression: &Expression) -> Option<Bounds> {
        if let Some(known) = self.sizes.get(&expression.id) {
            return Some(*known);
        }
        if let Some(said) = said_size(expression) {
            return Some(said);
        }
        if let Some(declared) = Self::declared(&self.place(expression)) {
            self.sizes.insert(expression.id, declared);
            return Some(declared);
        }
        if is_scalar(&self.kind(expression)) {
            return Some(Bounds::exactly(1));
        }
        match &expression.expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expression: &Expression) -> Bounds {
        self.size(expression).unwrap_or(Bounds::UNKNOWN)
    }

    fn entries(&self, expression: &Expression) -> Option<Entries> {
        if let Some(known) = self.entries.get(&expression.id) {
            return Some(*known);
        }
        match &expression.expr {
            Expr::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn cost(&mut self, expression: &Expression) -> Bounds {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Bounds::NONE,
            Expr::Ident(name) => {
                let place = match self.local(name) {
                    Some(local) => local.place.clone(),
                    None => Some(Some(Arc::clone(&self.root))),
                };
                self.places.insert(expression.id, place);
                STEP
            }
            Expr::Select(_) if self.checked.names.contains(&expression.id) => {
                let root = Some(Some(Arc::clone(&self.root)));
                self.places.insert(expression.id, root);
                STEP
            }
            Expr::Select(select) => {
                let mut sum = self.cost(&select.operand);
                if select.test {
                    return sum;
                }
                if matches!(
                    self.kind(&select.operand),
                    Type::Map(..) | Type::Object(_) | Type::Variable(_)
                ) {
                    sum = sum.plus(STEP);
                }
                let place = self.below(self.place(&select.operand), &select.field);
                self.places.insert(expression.id, place);
                sum
            }
            Expr::Call(call) => self.call(expression, call),
            Expr::List(list) => {
                let mut sum = LIST;
                let mut each: Option<Bounds> = None;
                for element in &list.elements {
                    sum = sum.plus(self.cost(element));
                    let size = self.size_or_unknown(element);
                    each = Some(each.map_or(size, |each| each.or(size)));
                }
                let made = Entries {
                    is_list: true,
                    key: Bounds::exactly(1),
                    value: each.unwrap_or(Bounds::NONE),
                };
                self.entries.insert(expression.id, made);
                sum
            }
            Expr::Map(map) => {
                let mut sum = MAP;
                let (mut keys, mut values): (Option<Bounds>, Option<Bounds>) = (None, None);
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        continue;
                    };
                    sum = sum
                        .plus(self.cost(&entry.key))
                        .plus(self.cost(&entry.value));
                    let size = self.size_or_unknown(&entry.key);
                    keys = Some(keys.map_or(size, |all| all.or(size)));
                    let size = self.size_or_unknown(&entry.value);
                    values = Some(values.map_or(size, |all| all.or(size)));
                }
                let made = Entries {
                    is_list: false,
                    key: keys.unwrap_or(Bounds::NONE),
                    value: values.unwrap_or(Bounds::NONE),
                };
                self.entries.insert(expression.id, made);
                sum
            }
            Expr::Struct(of) => {
                let mut sum = OBJECT;
                for entry in &of.entries {
                    if let EntryExpr::StructField(field) = &entry.expr {
                        sum = sum.plus(self.cost(&field.value));
                    }
                }
                sum
            }
            Expr::Comprehension(of) if is_binding(of) => self.binding(expression, of),
            Expr::Comprehension(of) => self.comprehension(expression, of),
        }
    }

    fn given<'e>(&mut self, expression: &'e Expression) -> Given<'e> {
        Given {
            place: self.place(expression),
            kind: self.kind(expression),
            size: self.size(expression),
            expression,
        }
    }

    fn call(&mut self, expression: &Expression, call: &CallExpr) -> Bounds {
        let id = expression.id;
        if call.func_name == "dyn"
            && let [inner] = call.args.as_slice()
        {
            let cost = self.cost(inner);
            self.copy_sizes(id, inner);
            return cost.plus(STEP);
        }
        let mut costs = Vec::new();
        let mut given = Vec::new();
        for argument in &call.args {
            costs.push(self.cost(argument));
            given.push(self.given(argument));
        }
        if call.func_name == operators::OPT_SELECT {
            return costs.iter().fold(STEP, |sum, cost| sum.plus(*cost));
        }
        let Some(overloads) = self.checked.overloads.get(&id).cloned() else {
            return Bounds::NONE;
        };
        let mut sum = Bounds::NONE;
        let mut target = None;
        let name = self.checked.namespaced.get(&id);
        if let (Some(on), None) = (&call.target, name) {
            sum = self.cost(on);
            target = Some(self.given(on));
        }
        let name = name.cloned().unwrap_or_else(|| call.func_name.clone());
        let mut cost: Option<Bounds> = None;
        let mut size: Option<Bounds> = None;
        for overload in &overloads {
            let called = self.called(
                expression,
                &name,
                &overload.id,
                target.as_ref(),
                &given,
                &costs,
            );
            cost = Some(cost.map_or(called.cost, |known| known.or(called.cost)));
            if let Some(made) = called.size {
                size = Some(size.map_or(made, |known| known.or(made)));
            }
            if let ("index_list" | "index_map", Some(of)) =
                (overload.id.as_str(), call.args.first())
            {
                size = self.entries(of).map(|entries| entries.value);
                let step = if overload.id == "index_list" {
                    "@items"
                } else {
                    "@values"
                };
                let place = self.below(self.place(of), step);
                self.places.insert(id, place);
            }
            if size.is_none() {
                size = self.size(expression);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        sum.plus(cost.unwrap_or(Bounds::NONE))
    }

    fn copy_sizes(&mut self, to: u64, from: &Expression) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(to, size);
        }
        if let Some(entries) = self.entries(from) {
            self.entries.insert(to, entries);
        }
    }

    fn push_bound(&mut self, name: &str, to: &Expression) {
        let local = Local {
            place: self.place(to),
            size: self.size(to),
            entries: self.entries(to),
        };
        self.push(name, local);
    }

    fn binding(&mut self, expression: &Expression, of: &ComprehensionExpr) -> Bounds {
        let sum = self.cost(&of.iter_range).plus(self.cost(&of.accu_init));
        self.push_bound(&of.accu_var, &of.accu_init);
        let sum = sum.plus(self.cost(&of.result));
        self.pop(&of.accu_var);
        self.copy_sizes(expression.id, &of.result);
        sum
    }

    fn comprehension(&mut self, expression: &Expression, of: &ComprehensionExpr) -> Bounds {
        let mut sum = self.cost(&of.iter_range).plus(self.cost(&of.accu_init));
        self.push_bound(&of.accu_var, &of.accu_init);
        let range = self.entries(&of.iter_range);
        let is_list = match range {
            Some(range) => range.is_list,
            None => matches!(self.kind(&of.iter_range), Type::List(_)),
        };
        let place = self.place(&of.iter_range);
        let local = |place, size| Local {
            place,
            size,
            entries: None,
        };
        let key = range.map(|range| range.key);
        let value = range.map(|range| range.value);
        match &of.iter_var2 {
            Some(second) => {
                let (keys, values) = if is_list {
                    ("@indices", "@items")
                } else {
                    ("@keys", "@values")
                };
                let first = local(self.below(place.clone(), keys), key);
                self.push(&of.iter_var, first);
                let other = local(self.below(place, values), value);
                self.push(second, other);
            }
            None => {
                let (step, size) = if is_list {
                    ("@items", value)
                } else {
                    ("@keys", key)
                };
                let only = local(self.below(place, step), size);
                self.push(&of.iter_var, only);
            }
        }
        let each = self.cost(&of.loop_cond).plus(self.cost(&of.loop_step));
        self.pop(&of.iter_var);
        if let Some(second) = &of.iter_var2 {
            self.pop(second);
        }
        sum = sum.plus(self.cost(&of.result));
        self.pop(&of.accu_var);
        let count = self.size_or_unknown(&of.iter_range);
        sum = sum.plus(count.times(each));
        match &of.accu_init.expr {
            Expr::Literal(_) => {
                if let Some(size) = self.size(&of.accu_init) {
                    self.sizes.insert(expression.id, size);
                }
            }
            Expr::List(_) | Expr::Map(_) => {
                self.sizes.insert(expression.id, count);
                if let Some(entries) = self.entries(&of.loop_step) {
                    self.entries.insert(expression.id, entries);
                }
            }
            _ => {}
        }
        sum
    }
}

fn is_binding(of: &ComprehensionExpr) -> bool {
    matches!(&of.iter_range.expr, Expr::List(list) if list.elements.is_empty())
        && matches!(&of.loop_cond.expr, Expr::Literal(LiteralValue::Boolean(holds)) if !*holds.inner())
        && of.accu_var != "@result"
}

/// The size of what stands in the expression itself.
fn said_size(expression: &Expression) -> Option<Bounds> {
    let size = match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().chars().count(),
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len(),
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len(),
        Expr::Map(map) => map.entries.len(),
        _ => return None,
    };
    Some(Bounds::exactly(u64::try_from(size).unwrap_or(u64::MAX)))
}

fn is_scalar(kind: &Type) -> bool {
    match kind {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}

/// Whether it is `&&` or `||`, of whose sides the second may not be evaluated.
fn is_short(function: &str) -> bool {
    matches!(function, operators::LOGICAL_AND | operators::LOGICAL_OR)
}

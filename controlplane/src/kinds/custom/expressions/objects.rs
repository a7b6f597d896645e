//! Objects that expressions make: `Object{spec: Object.spec{replicas: 3}}` and `JSONPatch{op: "add", …}`. Their types
//! are named after where they stand; here they are maps, and what is made of them is checked as the object that it
//! becomes a part of.

use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, LiteralValue, MapEntryExpr, MapExpr};
use cel::common::types::CelString;
use cel::parser::Expression;

use super::types::{Declared, Type};

fn is_made_here(type_name: &str) -> bool {
    matches!(type_name, "Object" | "JSONPatch") || type_name.starts_with("Object.")
}

/// The type of an object that is made by this name. Which fields an `Object` may have depends on what is changed; they
/// are looked at when it is.
pub(super) fn kind(type_name: &str) -> Option<Arc<Declared>> {
    let text = || Declared::plain(Type::String);
    match type_name {
        "JSONPatch" => Some(Declared::object(
            type_name,
            [
                ("op".to_owned(), text()),
                ("path".to_owned(), text()),
                ("from".to_owned(), text()),
                ("value".to_owned(), Declared::plain(Type::Dyn)),
            ],
            2,
        )),
        name if is_made_here(name) => Some(Declared::object(name, [], 2)),
        _ => None,
    }
}

/// The expression with maps in place of the objects that it makes.
pub(super) fn as_maps(expression: Expression) -> Expression {
    let Expression { id, expr } = expression;
    let expr = match expr {
        Expr::Struct(mut of) => {
            let made_here = is_made_here(&of.type_name);
            for entry in &mut of.entries {
                if let EntryExpr::StructField(field) = &mut entry.expr {
                    field.value = as_maps(std::mem::take(&mut field.value));
                    if made_here {
                        let name = CelString::from(std::mem::take(&mut field.field));
                        entry.expr = EntryExpr::MapEntry(MapEntryExpr {
                            key: Expression {
                                id: 0,
                                expr: Expr::Literal(LiteralValue::String(name)),
                            },
                            value: std::mem::take(&mut field.value),
                            optional: field.optional,
                        });
                    }
                }
            }
            if made_here {
                Expr::Map(MapExpr {
                    entries: of.entries,
                })
            } else {
                Expr::Struct(of)
            }
        }
        Expr::Call(mut call) => {
            call.target = call.target.map(|target| Box::new(as_maps(*target)));
            call.args = call.args.into_iter().map(as_maps).collect();
            Expr::Call(call)
        }
        Expr::Comprehension(mut of) => {
            for part in [
                &mut of.iter_range,
                &mut of.accu_init,
                &mut of.loop_cond,
                &mut of.loop_step,
                &mut of.result,
            ] {
                *part = as_maps(std::mem::take(part));
            }
            Expr::Comprehension(of)
        }
        Expr::List(mut list) => {
            list.elements = list.elements.into_iter().map(as_maps).collect();
            Expr::List(list)
        }
        Expr::Map(mut map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    entry.key = as_maps(std::mem::take(&mut entry.key));
                    entry.value = as_maps(std::mem::take(&mut entry.value));
                }
            }
            Expr::Map(map)
        }
        Expr::Select(mut select) => {
            *select.operand = as_maps(std::mem::take(&mut *select.operand));
            Expr::Select(select)
        }
        other @ (Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_)) => other,
    };
    Expression { id, expr }
}

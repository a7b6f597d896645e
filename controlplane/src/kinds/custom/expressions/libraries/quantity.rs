//! Quantities: `quantity("1Gi").isLessThan(quantity("2Gi"))`.

use std::cmp::Ordering;

use cel::common::types::{INT_TYPE, STRING_TYPE, Type};
use cel::objects::Opaque;
use cel::{DeclarationError, Env};

use super::{
    Arguments, Outcome, failed, give, give_opaque, global, member, opaque_at, text_at, whole_at,
};
use crate::kinds::quantity::Quantity;

const NAME: &str = "kubernetes.Quantity";

impl Opaque for Quantity {
    fn runtime_type_name(&self) -> &str {
        NAME
    }
}

fn this() -> Type {
    Type::new_opaque_type(NAME)
}

pub(super) fn library(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(this())?;
    global(env, "quantity", vec![STRING_TYPE], |arguments| {
        let text = text_at(&arguments, 0)?;
        match text.parse::<Quantity>() {
            Ok(quantity) => give_opaque(quantity),
            Err(error) => Err(failed("quantity", error)),
        }
    })?;
    global(env, "isQuantity", vec![STRING_TYPE], |arguments| {
        give(text_at(&arguments, 0)?.parse::<Quantity>().is_ok())
    })?;
    member(env, "isInteger", this(), vec![], |arguments| {
        give(opaque_at::<Quantity>(&arguments, 0)?.as_whole().is_some())
    })?;
    member(
        env,
        "asInteger",
        this(),
        vec![],
        |arguments| match opaque_at::<Quantity>(&arguments, 0)?.as_whole() {
            Some(whole) => give(whole),
            None => Err(failed("asInteger", "cannot convert value to integer")),
        },
    )?;
    member(env, "asApproximateFloat", this(), vec![], |arguments| {
        give(opaque_at::<Quantity>(&arguments, 0)?.approximate())
    })?;
    // Documented as the first, declared as the second.
    member(env, "sign", this(), vec![], sign)?;
    global(env, "sign", vec![this()], sign)?;
    member(env, "compareTo", this(), vec![this()], |arguments| {
        let (a, b) = two(&arguments)?;
        give(compared(&a, &b))
    })?;
    member(env, "isLessThan", this(), vec![this()], |arguments| {
        let (a, b) = two(&arguments)?;
        give(a < b)
    })?;
    member(env, "isGreaterThan", this(), vec![this()], |arguments| {
        let (a, b) = two(&arguments)?;
        give(a > b)
    })?;
    member(env, "add", this(), vec![this()], |arguments| {
        let (a, b) = two(&arguments)?;
        give_opaque(a + b)
    })?;
    member(env, "add", this(), vec![INT_TYPE], |arguments| {
        more(&arguments, |a, b| a + b)
    })?;
    member(env, "sub", this(), vec![this()], |arguments| {
        let (a, b) = two(&arguments)?;
        give_opaque(a - b)
    })?;
    member(env, "sub", this(), vec![INT_TYPE], |arguments| {
        more(&arguments, |a, b| a - b)
    })
}

fn sign<'b, 'v>(arguments: Arguments<'b, 'v>) -> Outcome<'b, 'v> {
    let quantity = opaque_at::<Quantity>(&arguments, 0)?;
    give(compared(&quantity, &Quantity::from_whole(0)))
}

fn two(arguments: &Arguments<'_, '_>) -> Result<(Quantity, Quantity), cel::ExecutionError> {
    Ok((opaque_at(arguments, 0)?, opaque_at(arguments, 1)?))
}

fn more<'b, 'v>(
    arguments: &Arguments<'b, 'v>,
    how: fn(Quantity, Quantity) -> Quantity,
) -> Outcome<'b, 'v> {
    let quantity = opaque_at(arguments, 0)?;
    give_opaque(how(quantity, Quantity::from_whole(whole_at(arguments, 1)?)))
}

fn compared(a: &Quantity, b: &Quantity) -> i64 {
    match a.cmp(b) {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

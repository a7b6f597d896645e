//! Which types go with which: variables stand for types that are not known yet, and get to know them.

use std::collections::HashMap;

use super::types::Type;

/// What variables stand for.
#[derive(Debug, Default)]
pub(super) struct Known {
    types: Vec<Option<Type>>,
    /// What was there before, to be taken back.
    changes: Vec<(usize, Option<Type>)>,
}

impl Known {
    pub(super) fn variable(&mut self) -> Type {
        self.types.push(None);
        Type::Variable(self.types.len() - 1)
    }

    /// A signature with variables of its own in place of its parameters.
    pub(super) fn fresh(&mut self, of: &Type, given: &mut HashMap<char, Type>) -> Type {
        match of {
            Type::Parameter(letter) => given
                .entry(*letter)
                .or_insert_with(|| self.variable())
                .clone(),
            other => other.with(|inner| self.fresh(inner, given)),
        }
    }

    fn stands_for(&self, of: &Type) -> Option<&Type> {
        match of {
            Type::Variable(number) => self.types.get(*number)?.as_ref(),
            _ => None,
        }
    }

    fn learn(&mut self, variable: &Type, of: Type) {
        if let Type::Variable(number) = variable {
            let before = self.types[*number].replace(of);
            self.changes.push((*number, before));
        }
    }

    /// The type with all that is known of it; what is not is `dyn` where that is asked for.
    pub(super) fn resolved(&self, of: &Type, open_is_dyn: bool) -> Type {
        if let Some(known) = self.stands_for(of) {
            return self.resolved(known, open_is_dyn);
        }
        match of {
            Type::Variable(_) if open_is_dyn => Type::Dyn,
            other => other.with(|inner| self.resolved(inner, open_is_dyn)),
        }
    }

    /// Whether all of these go with those; nothing is learnt where they do not.
    pub(super) fn all_go_with(&mut self, these: &[Type], those: &[Type]) -> bool {
        let before = self.changes.len();
        let fits =
            these.len() == those.len() && these.iter().zip(those).all(|(a, b)| self.goes(a, b));
        if !fits {
            for (number, was) in self.changes.drain(before..).rev() {
                self.types[number] = was;
            }
        }
        fits
    }

    pub(super) fn goes_with(&mut self, a: &Type, b: &Type) -> bool {
        self.all_go_with(std::slice::from_ref(a), std::slice::from_ref(b))
    }

    fn goes(&mut self, a: &Type, b: &Type) -> bool {
        if matches!(b, Type::Variable(_)) {
            let (valid, known) = self.stands(a, b);
            if valid || known {
                return valid;
            }
        }
        if matches!(a, Type::Variable(_)) {
            return self.stands(b, a).0;
        }
        if a.is_open() || b.is_open() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Optional(_)
                    | Type::Opaque(_)
                    | Type::Object(_)
                    | Type::Timestamp
                    | Type::Duration
            ),
            (Type::Kind(_), Type::Kind(_)) => true,
            (Type::List(_), Type::List(_))
            | (Type::Map(..), Type::Map(..))
            | (Type::Optional(_), Type::Optional(_)) => {
                let pairs = a.parameters().into_iter().zip(b.parameters());
                pairs.into_iter().all(|(a, b)| self.goes(a, b))
            }
            _ => a == b,
        }
    }

    /// Whether the variable can stand for the type, and whether it was known what it stands for.
    fn stands(&mut self, of: &Type, variable: &Type) -> (bool, bool) {
        if of == variable {
            return (true, true);
        }
        if let Some(known) = self.stands_for(variable).cloned() {
            if *of == known {
                return (true, true);
            }
            if self.goes(of, &known) {
                let general = if is_less_specific(of, &known) {
                    of.clone()
                } else {
                    known
                };
                if self.is_free_of(variable, &general) {
                    self.learn(variable, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.is_free_of(variable, of) {
            self.learn(variable, of.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether the variable does not stand inside of the type.
    fn is_free_of(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return false;
        }
        match self.stands_for(within) {
            Some(known) => self.is_free_of(variable, known),
            None => within
                .parameters()
                .into_iter()
                .all(|inner| self.is_free_of(variable, inner)),
        }
    }

    /// The more general of two types that go together.
    pub(super) fn joined(&mut self, a: &Type, b: &Type) -> Option<Type> {
        if !self.goes_with(a, b) {
            return None;
        }
        Some(if is_less_specific(a, b) {
            a.clone()
        } else {
            b.clone()
        })
    }
}

/// Whether the first says no more than the second.
fn is_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Variable(_), _) => true,
        (_, Type::Dyn | Type::Variable(_)) => false,
        (Type::List(_), Type::List(_))
        | (Type::Map(..), Type::Map(..))
        | (Type::Optional(_), Type::Optional(_)) => {
            let mut pairs = a.parameters().into_iter().zip(b.parameters());
            pairs.all(|(a, b)| is_less_specific(a, b))
        }
        (Type::Kind(_), Type::Kind(_)) => true,
        _ => a == b,
    }
}

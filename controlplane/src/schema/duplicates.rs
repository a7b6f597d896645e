//! Finds object keys that a JSON text has twice. A parsed value no longer shows them, so the text is read
//! again; nothing but the paths is kept.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::path::Path;
use super::{FieldProblem, ProblemKind};

/// Reported at most, so that a body full of one key stays cheap.
const MOST: usize = 100;

pub(super) fn find(json: &[u8]) -> Vec<FieldProblem> {
    let mut found = Vec::new();
    let walk = Walk {
        path: &Path::At(""),
        found: &mut found,
    };
    // What is not JSON is refused elsewhere.
    let _ = walk.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found
}

struct Walk<'a> {
    path: &'a Path<'a>,
    found: &'a mut Vec<FieldProblem>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for at in 0.. {
            let entry = Walk {
                path: &Path::Entry(self.path, at),
                found: &mut *self.found,
            };
            if list.next_element_seed(entry)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Field(self.path, &key);
            if seen.contains(&key) && self.found.len() < MOST {
                self.found.push(FieldProblem {
                    path: path.to_string(),
                    kind: ProblemKind::Duplicate,
                });
            }
            map.next_value_seed(Walk {
                path: &path,
                found: &mut *self.found,
            })?;
            seen.insert(key);
        }
        Ok(())
    }
}

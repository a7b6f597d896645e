//! Paths to fields below a value that rules may blame: `.spec.names['a.b']`.

use super::structural::{Additional, Structural};

/// The path as errors show it.
///
/// # Errors
/// It is no path, or the schema does not have the field.
pub(crate) fn normalized(path: &str, schema: &Structural) -> Result<String, String> {
    let (mut schema, mut shown, mut rest) = (schema, String::new(), path);
    while !rest.is_empty() {
        let (name, left) = step(rest)?;
        rest = left;
        let unknown = || "does not refer to a valid field".to_owned();
        if schema.properties.is_empty() {
            let Additional::Schema(values) = &schema.additional else {
                return Err(unknown());
            };
            shown.push_str(&format!("[{name}]"));
            schema = values;
        } else {
            schema = schema.properties.get(&name).ok_or_else(unknown)?;
            shown.push_str(&format!(".{name}"));
        }
    }
    Ok(shown)
}

/// The name that a path begins with, and what is left of the path.
fn step(path: &str) -> Result<(String, &str), String> {
    let ended = || "unexpected end of JSON path".to_owned();
    if let Some(quoted) = path.strip_prefix("['") {
        let mut name = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '\'' => {
                    let rest = quoted[at + 1..].strip_prefix(']');
                    return rest.map(|rest| (name, rest)).ok_or_else(ended);
                }
                '\\' => name.push(match characters.next().map(|(_, c)| c) {
                    Some('a') => '\x07',
                    Some('b') => '\x08',
                    Some('f') => '\x0c',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('v') => '\x0b',
                    Some(same @ ('\'' | '\\')) => same,
                    _ => return Err("invalid string literal: invalid escape char".to_owned()),
                }),
                c => name.push(c),
            }
        }
        return Err(ended());
    }
    let Some(after) = path.strip_prefix('.') else {
        return Err(format!("expected [ or . but got: {path}"));
    };
    let end = after.find(['.', '[', ']']).unwrap_or(after.len());
    if end == 0 {
        return Err(ended());
    }
    Ok((after[..end].to_owned(), &after[end..]))
}

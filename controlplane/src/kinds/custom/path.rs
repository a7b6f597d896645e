//! The JSONPath that definitions may use: fields, indices, wildcards, slices, filters on equality and recursive
//! descent, as `additionalPrinterColumns` and `selectableFields` have them.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Every,
    Descend(String),
    /// `?(@.type=="Ready")`
    Filter(Vec<String>, Compare, Value),
    /// `?(@.type)`
    Has(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// The longest operator first.
const OPERATORS: &[(&str, Compare)] = &[
    ("==", Compare::Equal),
    ("!=", Compare::NotEqual),
    ("<=", Compare::LessEqual),
    (">=", Compare::GreaterEqual),
    ("<", Compare::Less),
    (">", Compare::Greater),
];

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

impl JsonPath {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, left) = step(rest)?;
            steps.extend(step);
            rest = left;
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Field names from the root, if the path is nothing else.
    pub(crate) fn fields(&self) -> Option<Vec<&str>> {
        let name = |step: &'_ Step| match step {
            Step::Field(_) => true,
            _ => false,
        };
        self.steps.iter().all(name).then(|| {
            self.steps
                .iter()
                .filter_map(|step| match step {
                    Step::Field(name) => Some(name.as_str()),
                    _ => None,
                })
                .collect()
        })
    }

    pub(crate) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            found = found
                .into_iter()
                .flat_map(|value| below(step, value))
                .collect();
        }
        found
    }
}

fn step(rest: &str) -> Result<(Option<Step>, &str), String> {
    if let Some(rest) = rest.strip_prefix("..") {
        let (name, left) = name(rest)?;
        return Ok((Some(Step::Descend(name)), left));
    }
    if let Some(rest) = rest.strip_prefix('.') {
        if rest.is_empty() || rest.starts_with('[') {
            return Ok((None, rest));
        }
        if let Some(left) = rest.strip_prefix('*') {
            return Ok((Some(Step::Every), left));
        }
        let (name, left) = name(rest)?;
        return Ok((Some(Step::Field(name)), left));
    }
    let Some(inside) = rest.strip_prefix('[') else {
        return Err(format!("unexpected {rest:?}"));
    };
    let end = closing(inside).ok_or("unterminated array")?;
    let (inside, left) = (&inside[..end], &inside[end + 1..]);
    Ok((Some(bracket(inside.trim())?), left))
}

/// Where the bracket closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name(rest: &str) -> Result<(String, &str), String> {
    let mut out = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' if !out.is_empty() => return Ok((out, &rest[at..])),
            '.' | '[' | ']' | '{' | '}' => return Err(format!("unexpected {rest:?}")),
            c => out.push(c),
        }
    }
    if out.is_empty() {
        return Err("unexpected end".to_owned());
    }
    Ok((out, ""))
}

fn unquoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text.strip_prefix(quote)?.strip_suffix(quote)
}

fn bracket(inside: &str) -> Result<Step, String> {
    if inside == "*" {
        return Ok(Step::Every);
    }
    if let Some(name) = unquoted(inside) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(filter) = inside
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return self::filter(filter.trim());
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| format!("invalid array index {text}")),
    };
    match inside.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(inside)?
            .map(Step::Index)
            .ok_or_else(|| "empty brackets".to_owned()),
    }
}

fn filter(text: &str) -> Result<Step, String> {
    let found = OPERATORS
        .iter()
        .filter_map(|(operator, compare)| text.find(operator).map(|at| (at, *operator, *compare)))
        .min_by_key(|(at, operator, _)| (*at, std::cmp::Reverse(operator.len())));
    let Some((at, operator, compare)) = found else {
        return Ok(Step::Has(relative(text)?));
    };
    let (left, right) = (&text[..at], text[at + operator.len()..].trim());
    let value = match unquoted(right) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(right).map_err(|_| format!("unrecognized literal {right}"))?,
    };
    Ok(Step::Filter(relative(left)?, compare, value))
}

/// `@.a.b`
fn relative(text: &str) -> Result<Vec<String>, String> {
    let text = text
        .trim()
        .strip_prefix('@')
        .ok_or_else(|| format!("unexpected {text:?}"))?;
    let names = text.split('.').filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}

fn within<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn below<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let entries = || value.as_array().map_or(&[][..], Vec::as_slice);
    let position = |at: i64| {
        let length = i64::try_from(entries().len()).unwrap_or(i64::MAX);
        usize::try_from(if at < 0 { at + length } else { at }.clamp(0, length)).unwrap_or(0)
    };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(at) if *at < 0 && at.unsigned_abs() > entries().len() as u64 => Vec::new(),
        Step::Index(at) => entries().get(position(*at)).into_iter().collect(),
        Step::Slice(from, to) => {
            let (from, to) = (
                position(from.unwrap_or(0)),
                to.map_or(entries().len(), position),
            );
            entries().get(from..to).unwrap_or_default().iter().collect()
        }
        Step::Every => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Descend(name) => {
            let mut out = Vec::new();
            descend(value, name, &mut out);
            out
        }
        Step::Has(path) => {
            let has = |entry: &&Value| within(entry, path).is_some();
            entries().iter().filter(has).collect()
        }
        Step::Filter(path, compare, wanted) => {
            let holds = |entry: &&Value| {
                within(entry, path).is_some_and(|found| compares(found, *compare, wanted))
            };
            entries().iter().filter(holds).collect()
        }
    }
}

fn descend<'a>(value: &'a Value, name: &str, out: &mut Vec<&'a Value>) {
    out.extend(value.get(name));
    match value {
        Value::Object(map) => map.values().for_each(|value| descend(value, name, out)),
        Value::Array(list) => list.iter().for_each(|value| descend(value, name, out)),
        _ => {}
    }
}

fn compares(found: &Value, compare: Compare, wanted: &Value) -> bool {
    let order = match (
        found.as_f64(),
        wanted.as_f64(),
        found.as_str(),
        wanted.as_str(),
    ) {
        (Some(a), Some(b), ..) => a.partial_cmp(&b),
        (_, _, Some(a), Some(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match compare {
        Compare::Equal => found == wanted || order.is_some_and(std::cmp::Ordering::is_eq),
        Compare::NotEqual => found != wanted,
        Compare::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Compare::LessEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Compare::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Compare::GreaterEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

/// The field names of a path that has nothing else (`.spec.replicas`).
pub(crate) fn simple(text: &str) -> Option<Vec<String>> {
    let path = JsonPath::parse(text.strip_prefix('.').map(|_| text)?).ok()?;
    let fields = path.fields()?;
    (!fields.is_empty()).then(|| fields.into_iter().map(str::to_owned).collect())
}

//! Tests of what expressions may cost, with the figures of Kubernetes.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use crate::kinds::custom::expressions::{Visible, declared, judge};
use crate::kinds::custom::structural::Structural;

fn cost(schema: &Value, source: &str) -> u64 {
    let schema = Structural::read(schema).unwrap();
    let declared = declared::declared(&schema, false).unwrap();
    let visible = Visible::new([("self", declared.kind()), ("oldSelf", declared.kind())]);
    match judge(source, &visible, Some(&declared)) {
        Ok(judged) => judged.cost,
        Err(problem) => panic!("{source}: {problem}"),
    }
}

/// A list of entries, a map of values, or a text, with as many as are given.
fn limited(schema: &Value, most: Option<u64>) -> Value {
    let mut schema = schema.clone();
    let field = match schema["type"].as_str().unwrap() {
        "array" => "maxItems",
        "object" => "maxProperties",
        _ => "maxLength",
    };
    if let Some(most) = most {
        schema[field] = most.into();
    }
    schema
}

/// The figures are what Kubernetes 1.36 says of the same.
#[test]
fn costs_follow_from_limits() {
    let list = |kind: &str| json!({"type": "array", "items": {"type": kind}});
    let times =
        |format: &str| json!({"type": "array", "items": {"type": "string", "format": format}});
    let map = |kind: &str| json!({"type": "object", "additionalProperties": {"type": kind}});
    let text = || json!({"type": "string"});
    let lists = json!({"type": "array", "items": list("number")});
    let maps = json!({"type": "array", "items": map("number")});
    for (schema, source, unlimited, most, cost_of_most) in [
        (list("number"), "self.all(x, true)", 4_718_591, 10, 32),
        (list("string"), "self.all(x, true)", 3_145_727, 20, 62),
        (list("boolean"), "self.all(x, true)", 1_887_437, 5, 17),
        (lists.clone(), "self.all(x, true)", 3_145_727, 100, 302),
        (times("duration"), "self.all(x, true)", 2_359_295, 5, 17),
        (times("date"), "self.all(x, true)", 725_936, 15, 47),
        (times("date-time"), "self.all(x, true)", 428_963, 25, 77),
        (map("number"), "self.all(x, true)", 1_348_169, 10, 32),
        (map("string"), "self.all(x, true)", 1_179_647, 3, 11),
        (map("boolean"), "self.all(x, true)", 943_718, 100, 302),
        (text(), "self.contains('test')", 314_574, 10, 5),
        (text(), "self.startsWith('test')", 2, 15, 2),
        (
            text(),
            "size(self + 'hello') > size('hello')",
            314_578,
            4,
            7,
        ),
        (text(), "self.matches('x')", 314_574, 50, 22),
        (text(), "self == 'x'", 2, 0, 1),
        (text(), "self.lowerAscii() == 'lower!'", 314_575, 10, 6),
        (list("number"), "self[1] == 0.0", 2, 5000, 2),
        (list("string"), "self[1] == self[1]", 314_577, 8, 314_577),
        (lists, "self[0][0] == -1.0", 3, 51, 3),
        (
            list("number"),
            "self.all(x, x == 0.0)",
            6_291_454,
            3 << 21,
            25_165_826,
        ),
        (maps.clone(), "self.all(x, x.y == 25.2)", 6_291_452, 12, 74),
        (maps, "self[0].x > 2.0", 4, 3000, 4),
        (times("duration"), "self[0].getHours() == 2", 4, 525, 4),
        (map("integer"), "oldSelf.size() == self.size()", 5, 10, 5),
    ] {
        let costs = [None, Some(most)].map(|most| cost(&limited(&schema, most), source));
        assert_eq!(costs, [unlimited, cost_of_most], "{schema} {source}");
    }
    let any = json!({"x-kubernetes-int-or-string": true, "maxLength": 20});
    assert_eq!(cost(&any, "isQuantity(self)"), 9);
    let named = json!({"type": "string", "enum": ["A", "LongValue"]});
    assert_eq!(cost(&named, "self.contains('A')"), 2);
    let numbers = limited(&list("number"), Some(10));
    assert_eq!(cost(&numbers, "self.all(x, self.all(y, true))"), 352);
    assert_eq!(
        cost(&numbers, "self.all(x, self.all(y, self.all(z, true)))"),
        3552
    );
    let object = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}});
    assert_eq!(cost(&object, "has(self.a) && has(self.b)"), 2);
}

#[test]
fn loops_in_loops_without_limits_are_dear() {
    let list = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}});
    let source = "self.all(x, x.all(y, self.exists(z, y in z)))";
    assert!(cost(&list, source) > 1_000_000_000_000);
    let limited = json!({
        "type": "array", "maxItems": 3,
        "items": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 3}},
    });
    assert!(cost(&limited, source) < 1000);
}

#[test]
fn sizes_follow_what_functions_make() {
    let schema = json!({"type": "string", "maxLength": 100});
    let short = cost(&schema, "self.substring(1).contains('a')");
    let long = cost(&schema, "(self + self).contains('a')");
    assert!(short < long, "{short} {long}");
    let list =
        json!({"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 5}});
    assert!(cost(&list, "self.distinct().size() > 0") > 20_000);
    assert!(cost(&list, "sets.contains(self, self)") > 10_000);
    assert!(cost(&list, "self.transformList(i, v, v).size() > 0") < 5_000);
}

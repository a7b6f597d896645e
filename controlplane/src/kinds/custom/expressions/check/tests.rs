//! Tests of what is refused before it is evaluated.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kinds::custom::expressions::admission::{About, scope};
use crate::kinds::custom::expressions::{declared, judge};
use crate::kinds::custom::structural::Structural;
use serde_json::json;

fn rule() -> Visible {
    let schema = json!({
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer"},
            "ratio": {"type": "number"},
            "name": {"type": "string", "maxLength": 10},
            "since": {"type": "string", "format": "date-time"},
            "span": {"type": "string", "format": "duration"},
            "data": {"type": "string", "format": "byte"},
            "any": {"x-kubernetes-int-or-string": true},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
            "a-b": {"type": "string"},
            "list": {"type": "array", "maxItems": 5, "items": {"type": "integer"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    });
    let schema = Structural::read(&schema).unwrap();
    let kind = declared::declared(&schema, true).unwrap().kind();
    Visible::new([("self", kind.clone()), ("oldSelf", kind)])
}

#[test]
fn what_can_have_a_value_has_a_type() {
    let scope = rule();
    for (source, wanted) in [
        ("self.size > 1 && self.size < 1.5", "bool"),
        ("self.ratio * 2.0", "double"),
        ("self.since - oldSelf.since", "duration"),
        ("self.span > duration('1h30m')", "bool"),
        ("size(self.data) + self.name.size()", "int"),
        (
            "type(self.any) == int ? self.any < 5 : self.any.startsWith('x')",
            "bool",
        ),
        (
            "has(self.a__dash__b) ? [self.a__dash__b] : []",
            "list(string)",
        ),
        ("self.labels.all(k, self.labels[k] != '')", "bool"),
        (
            "self.labels.transformMap(k, v, size(v))",
            "map(string, int)",
        ),
        (
            "self.labels.transformMapEntry(k, v, {v: k})",
            "map(string, string)",
        ),
        (
            "self.list.transformList(i, v, i < 2, double(v))",
            "list(double)",
        ),
        ("self.list.exists(i, v, i == v)", "bool"),
        ("self.?name.orValue('x')", "string"),
        (
            "self.?labels[?'x'].optMap(x, size(x))",
            "optional_type(int)",
        ),
        ("self.list.sortBy(x, -x).first()", "optional_type(int)"),
        (
            "optional.unwrap([optional.of(1), optional.none()])",
            "list(int)",
        ),
        ("[1, 2].map(x, [x, x])", "list(list(int))"),
        ("[].sum() + 1", "int"),
        ("self.metadata.name + self.kind", "string"),
        ("quantity('1').add(3).isLessThan(quantity('5'))", "bool"),
        ("ip('::1') == cidr('::/0').ip()", "bool"),
        ("url('http://x').getQuery()['a'][0]", "string"),
        (
            "format.dns1123Label().validate('a')",
            "optional_type(list(string))",
        ),
        (
            "format.named('uri').value().validate('a').orValue([]).join()",
            "string",
        ),
        ("sign(quantity('1')) + quantity('2').sign()", "int"),
        (
            "semver('1.2.3').major() == 1 && isSemver('v1', true)",
            "bool",
        ),
        ("sets.contains([1], [dyn('x')])", "bool"),
        ("'%s'.format([1])", "string"),
        ("'abc'.find('b') + 'a,b'.split(',')[0]", "string"),
        ("self.since.getHours('Europe/Paris')", "int"),
        ("type(1) == int", "bool"),
        ("null == self.metadata", "bool"),
        ("1 in [1, 2] || 'a' in {'a': 1}", "bool"),
    ] {
        match judge(source, &scope, None) {
            Ok(judged) => assert_eq!(judged.result.to_string(), wanted, "{source}"),
            Err(problem) => panic!("{source}: {problem}"),
        }
    }
}

#[test]
fn what_cannot_is_refused_where_it_stands() {
    let scope = rule();
    for (source, wanted) in [
        (
            "self.nope > 1",
            "compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^",
        ),
        (
            "self.size + 'a' == 'b'",
            "1:11: found no matching overload for '_+_' applied to '(int, string)'\n | self.size + 'a' == 'b'\n | ..........^",
        ),
        (
            "other == 1",
            "undeclared reference to 'other' (in container '')",
        ),
        (
            "self.name.nope()",
            "undeclared reference to 'nope' (in container '')",
        ),
        ("math.abs(1) == 1", "undeclared reference to"),
        (
            "self.size.foo",
            "type 'int' does not support field selection",
        ),
        (
            "self.name == null",
            "found no matching overload for '_==_' applied to '(string, null)'",
        ),
        (
            "self.name.startsWith(1)",
            "'startsWith' applied to 'string.(int)'",
        ),
        (
            "[1, 'a'].size() > 0",
            "expected type 'int' but found 'string'",
        ),
        (
            "self.size.all(x, true)",
            "expression of type 'int' cannot be range of a comprehension",
        ),
        (
            "self.list.all(x, x)",
            "found no matching overload for '_&&_'",
        ),
        ("self.list.all(x, x, true)", "duplicate variable name: x"),
        (
            "self.list.exists(i, v, v == 'a')",
            "'_==_' applied to '(int, string)'",
        ),
        ("self.free.x", "undefined field 'free'"),
        ("'a'.matches('(')", "invalid matches argument"),
        (
            "self.span > duration('1 hour')",
            "invalid duration argument",
        ),
        (
            "timestamp('today') > self.since",
            "invalid timestamp argument",
        ),
        ("Object{}", "undeclared reference to 'Object'"),
        ("int{}", "'int' is not a message type"),
        (
            "self.a == 1 &&\n  self.b == 2",
            "ERROR: <input>:1:5: undefined field 'a'\n | self.a == 1 &&\n | ....^\nERROR: <input>:2:7: undefined field 'b'\n |   self.b == 2\n | ......^",
        ),
    ] {
        let problem = judge(source, &scope, None).unwrap_err();
        assert!(problem.contains(wanted), "{source}: {problem}");
    }
}

#[test]
fn expressions_about_writes_see_requests_and_make_objects() {
    let about = About {
        params: Some(Type::Dyn),
        ..About::default()
    };
    let visible = scope(&about);
    for source in [
        "request.userInfo.extra['x'][0] == object.spec.x && params.y",
        "authorizer.requestResource.fieldSelector('a=b').check('get').allowed()",
        "authorizer.serviceAccount('a', 'b').group('').resource('pods').labelSelector('a').check('get').errored()",
        "namespaceObject.metadata.creationTimestamp < timestamp('2026-01-01T00:00:00Z')",
        "jsonpatch.escapeKey('a/b') == 'a~1b' && request.options.anything",
    ] {
        let judged = judge(source, &visible, None);
        assert_eq!(
            judged.map(|judged| judged.result),
            Ok(Type::Bool),
            "{source}"
        );
    }
    let problem = judge("request.nope", &visible, None).unwrap_err();
    assert!(problem.contains("undefined field 'nope'"), "{problem}");
    let making = visible.clone().making_objects();
    let patches = judge(
        "[JSONPatch{op: 'add', path: '/a', value: 1}]",
        &making,
        None,
    );
    assert_eq!(patches.unwrap().result.to_string(), "list(JSONPatch)");
    let made = judge(
        "Object{spec: Object.spec{?x: optional.of(1)}}",
        &making,
        None,
    );
    assert_eq!(made.unwrap().result.to_string(), "Object");
    for (source, wanted) in [
        (
            "[JSONPatch{op: 1}]",
            "expected type of field 'op' is 'string' but provided type is 'int'",
        ),
        ("[JSONPatch{oops: 'add'}]", "undefined field 'oops'"),
        (
            "Object{?spec: 1}",
            "expected type 'optional_type(int)' but found 'int'",
        ),
    ] {
        let problem = judge(source, &making, None).unwrap_err();
        assert!(problem.contains(wanted), "{source}: {problem}");
    }
}

/// Types that are made of themselves would double each time.
#[test]
fn types_do_not_grow_without_end() {
    let mut source = "optional.of(1)".to_owned();
    for _ in 0..60 {
        source.push_str(".optMap(a, {a: a})");
    }
    let _ = judge(&source, &rule(), None);
}

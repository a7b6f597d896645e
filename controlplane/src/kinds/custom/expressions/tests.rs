//! Tests of `kinds::custom::expressions`.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::json;

use super::*;

fn evaluated(source: &str, object: &Value) -> Result<Value, String> {
    let value = plain(object);
    let made = compile(source)?
        .evaluate(
            &[("self", value.clone()), ("object", value)],
            &mut Budget::of_rules(),
        )
        .map_err(|error| error.to_string())?;
    to_json(&made)
}

fn value(source: &str) -> Value {
    let object = json!({"name": "a", "list": [3, 1, 2], "map": {"k": "v"}});
    evaluated(source, &object).unwrap_or_else(|problem| panic!("{source}: {problem}"))
}

fn problem(source: &str) -> String {
    evaluated(source, &json!({})).unwrap_err()
}

#[test]
fn no_function_is_there_twice() {
    assert!(environment().is_ok());
}

#[test]
fn what_is_metered_means_the_same() {
    for (source, wanted) in [
        ("self.list.all(x, x > 0)", json!(true)),
        ("self.list.exists(x, x == 2)", json!(true)),
        ("self.list.exists_one(x, x > 1)", json!(false)),
        ("self.list.map(x, x * 2)", json!([6, 2, 4])),
        ("self.list.filter(x, x > 1)", json!([3, 2])),
        ("self.list.map(x, x > 1, x + 1)", json!([4, 3])),
        (
            "self.list.map(x, self.list.map(y, x * y))",
            json!([[9, 3, 6], [3, 1, 2], [6, 2, 4]]),
        ),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("'a' + self.name", json!("aa")),
        ("self.map.map(k, k + self.map[k])", json!(["kv"])),
        ("has(self.map.k) && !has(self.map.z)", json!(true)),
        ("self.?map.?z.orValue('none')", json!("none")),
        ("self.?map.?k.orValue('none')", json!("v")),
        ("optional.of(self.name).hasValue()", json!(true)),
        ("math.greatest(1, 2)", json!(2)),
        ("self.list.sort()", json!([1, 2, 3])),
        ("self.list.sortBy(x, -x)", json!([3, 2, 1])),
        ("lists.range(3)", json!([0, 1, 2])),
        ("[1, 1, 2].distinct()", json!([1, 2])),
        ("['a', 'b'].join('-') + ['c', 'd'].join()", json!("a-bcd")),
        (
            "'aXbX'.replace('X', 'y') + 'aXbX'.replace('X', 'y', 1)",
            json!("aybyaybX"),
        ),
        ("'a,b'.split(',')", json!(["a", "b"])),
        ("'%s-%d'.format(['a', 1])", json!("a-1")),
        ("'abc'.matches('^a.c$') && matches('abc', 'b')", json!(true)),
        // A variable that is called as functions' names begin.
        ("['abc'].all(ip, ip.matches('b'))", json!(true)),
        ("['abc'].all(format, format.startsWith('a'))", json!(true)),
        ("{'a': 1}.all(k, k == 'a')", json!(true)),
        ("self.name in ['a', 'b']", json!(true)),
        ("1 / 0 == 1 || true", json!(true)),
        ("[0, 1].exists(x, 1 / x == 1)", json!(true)),
        (
            "timestamp('2026-01-01T00:00:00Z').getFullYear()",
            json!(2026),
        ),
        ("string(1) + string(true)", json!("1true")),
        ("base64.encode(b'hello')", json!("aGVsbG8=")),
    ] {
        assert_eq!(value(source), wanted, "{source}");
    }
}

#[test]
fn the_functions_of_kubernetes_are_there() {
    for (source, wanted) in [
        ("'abc 123 def 456'.find('[0-9]+')", json!("123")),
        ("'abc'.find('[0-9]+')", json!("")),
        ("'123 abc 456'.findAll('[0-9]+')", json!(["123", "456"])),
        ("'123 abc 456'.findAll('[0-9]+', 1)", json!(["123"])),
        ("'123'.findAll('[0-9]', -1)", json!(["1", "2", "3"])),
        ("[1, 2, 2].isSorted() && ![2, 1].isSorted()", json!(true)),
        ("[1, 3].sum() + [].sum()", json!(4)),
        ("[1.5, 2.5].sum()", json!(4.0)),
        ("[1, 3, 2].max() - [3, 1, 2].min()", json!(2)),
        ("['a', 'c', 'b'].max()", json!("c")),
        ("[1, 2, 2].indexOf(2)", json!(1)),
        ("[1, 2, 2].lastIndexOf(2)", json!(2)),
        ("[1].indexOf(7)", json!(-1)),
        ("'abc'.indexOf('c')", json!(2)),
        ("sets.contains([1, 2, 3], [2, 3])", json!(true)),
        ("sets.equivalent([1, 2], [2, 1, 1])", json!(true)),
        ("sets.intersects([1], [2])", json!(false)),
        ("quantity('1Gi').isGreaterThan(quantity('1G'))", json!(true)),
        (
            "quantity('500m').add(quantity('1500m')) == quantity('2')",
            json!(true),
        ),
        ("quantity('50k').sub(20000) == quantity('30k')", json!(true)),
        ("quantity('1.5Ki').compareTo(quantity('1536'))", json!(0)),
        ("quantity('-1').sign() + quantity('5').sign()", json!(0)),
        ("quantity('50k').asInteger()", json!(50000)),
        ("quantity('1500m').isInteger()", json!(false)),
        ("quantity('1500m').asApproximateFloat()", json!(1.5)),
        ("isQuantity('1.3Gi') && !isQuantity('1.3GiB')", json!(true)),
        (
            "ip('::1').isLoopback() && ip('10.0.0.1').family() == 4",
            json!(true),
        ),
        ("ip('fe80::1').isLinkLocalUnicast()", json!(true)),
        ("ip('255.255.255.255').isGlobalUnicast()", json!(false)),
        ("ip.isCanonical('2001:DB8::1')", json!(false)),
        ("string(ip('2001:DB8::1'))", json!("2001:db8::1")),
        ("isIP('10.0.0.01') || isIP('::ffff:1.2.3.4')", json!(false)),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3')", json!(true)),
        (
            "cidr('10.0.0.0/8').containsIP(ip('11.0.0.0'))",
            json!(false),
        ),
        (
            "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
            json!(true),
        ),
        (
            "cidr('10.0.0.0/8').containsCIDR(cidr('0.0.0.0/0'))",
            json!(false),
        ),
        (
            "string(cidr('10.1.2.3/8').masked()) + string(cidr('10.1.2.3/8').ip())",
            json!("10.0.0.0/810.1.2.3"),
        ),
        ("cidr('::/64').prefixLength()", json!(64)),
        ("isCIDR('10.0.0.0/33')", json!(false)),
        (
            "url('https://user@Example.com:80/path with spaces/?a=b#c').getHost()",
            json!("Example.com:80"),
        ),
        (
            "url('https://example.com:80/path with spaces/').getEscapedPath()",
            json!("/path%20with%20spaces/"),
        ),
        (
            "url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getPort()",
            json!("::180"),
        ),
        (
            "url('https://example.com').getPort() + url('/p').getHost() + url('/p').getScheme()",
            json!(""),
        ),
        (
            "url('https://example.com/?a=b&a=c').getQuery()",
            json!({"a": ["b", "c"]}),
        ),
        (
            "isURL('https://a:b:c/') || isURL('../relative-path') || isURL('')",
            json!(false),
        ),
        (
            "isURL('/absolute-path') && isURL('https://user:pass@example.com:80/path?query=val#fragment')",
            json!(true),
        ),
        (
            "semver('1.2.3-rc.1').isLessThan(semver('1.2.3'))",
            json!(true),
        ),
        ("semver('1.2.3+a').compareTo(semver('1.2.3+b'))", json!(0)),
        ("semver('v01.02', true).minor()", json!(2)),
        ("isSemver('v1.0') || isSemver('1.0.0.0')", json!(false)),
        (
            "format.dns1123Label().validate('a.b').hasValue()",
            json!(true),
        ),
        (
            "format.named('uuid').value().validate('nope').hasValue()",
            json!(true),
        ),
        (
            "!format.dns1123Label().validate('a').hasValue() && !format.named('nope').hasValue()",
            json!(true),
        ),
        ("jsonpatch.escapeKey('a/b~c')", json!("a~1b~0c")),
        ("[1, 2].first().value() + [1, 2].last().value()", json!(3)),
        (
            "[].first().hasValue() || [].last().hasValue()",
            json!(false),
        ),
        (
            "optional.unwrap([optional.of(1), optional.none()]) + [optional.of(2)].unwrapOpt()",
            json!([1, 2]),
        ),
        ("sign(quantity('-3'))", json!(-1)),
        ("strings.quote('a\"b')", json!("\"a\\\"b\"")),
    ] {
        assert_eq!(value(source), wanted, "{source}");
    }
    assert!(problem("quantity('x')").contains("quantities must match"));
    assert!(problem("ip('x')").contains("parse error"));
    assert!(problem("'a'.find('(')").contains("error parsing regexp"));
    assert_eq!(problem("[].min()"), "min called on empty list");
}

#[test]
fn loops_may_have_two_variables() {
    for (source, wanted) in [
        ("[5, 6].all(i, v, v == i + 5)", json!(true)),
        ("[5, 6].exists(i, v, i == 1 && v == 6)", json!(true)),
        ("[5, 6].existsOne(i, v, v > 4)", json!(false)),
        (
            "{'a': 1, 'b': 2}.exists(k, v, k == 'b' && v == 2)",
            json!(true),
        ),
        ("[5, 6].transformList(i, v, i * v)", json!([0, 6])),
        ("[5, 6, 7].transformList(i, v, i > 0, v)", json!([6, 7])),
        ("{'a': 1}.transformList(k, v, k + string(v))", json!(["a1"])),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v * 2)",
            json!({"a": 2, "b": 4}),
        ),
        (
            "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, k)",
            json!({"b": "b"}),
        ),
        (
            "{'a': 'x'}.transformMapEntry(k, v, {v: k})",
            json!({"x": "a"}),
        ),
        (
            "['a', 'b'].transformMapEntry(i, v, i > 0, {v: i})",
            json!({"b": 1}),
        ),
        // Loops in loops, and variables of the same name inside.
        (
            "[1, 2].transformList(i, v, [3, 4].transformList(j, w, v * w + i * j))",
            json!([[3, 4], [6, 9]]),
        ),
        (
            "[1, 2].transformList(i, v, [7].map(v, v + i))",
            json!([[7], [8]]),
        ),
        (
            "[1, 2].transformList(i, v, optional.of(v).optMap(i, i * 10).value())",
            json!([10, 20]),
        ),
        ("[[1], [2]].all(i, v, v.all(v, i + 1 == v))", json!(true)),
    ] {
        assert_eq!(value(source), wanted, "{source}");
    }
    let twice = problem("['a', 'a'].transformMapEntry(i, v, {v: i})");
    assert!(twice.contains("already exists"), "{twice}");
    assert!(problem("[1].all(i, i, true)").contains("duplicate variable name: i"));
}

#[test]
fn objects_are_made_by_name() {
    assert_eq!(
        value("Object{spec: Object.spec{replicas: 3, names: ['a'], ?z: optional.none()}}"),
        json!({"spec": {"replicas": 3, "names": ["a"]}})
    );
    assert_eq!(
        value("[JSONPatch{op: 'add', path: '/a', value: Object.metadata{name: self.name}}]"),
        json!([{"op": "add", "path": "/a", "value": {"name": "a"}}])
    );
    assert!(problem("Nonsense{a: 1}").contains("Nonsense"));
    assert!(problem("{1: 2}").contains("must be a string"));
    assert!(problem("quantity('1')").contains("no form in JSON"));
}

#[derive(Debug)]
struct OnlyPods;

impl Access for OnlyPods {
    fn check(&self, question: &Question) -> (bool, String) {
        let path = question.path.as_deref() == Some("/healthz");
        let pods = question.resource == "pods" && question.namespace == "n";
        (
            question.user == "bob" && question.verb == "get" && (path || pods),
            "because".to_owned(),
        )
    }
}

#[test]
fn expressions_ask_what_the_requester_may_do() {
    let user = Question {
        user: "bob".to_owned(),
        ..Question::default()
    };
    let pods = Question {
        resource: "pods".to_owned(),
        namespace: "n".to_owned(),
        ..user.clone()
    };
    let access: Arc<dyn Access> = Arc::new(OnlyPods);
    let about = Authorizer::of_request(Arc::clone(&access), pods);
    let variables = [
        (
            "authorizer",
            cel::Value::Opaque(Arc::new(Authorizer::new(access, user))),
        ),
        (
            "authorizer.requestResource",
            cel::Value::Opaque(Arc::new(about)),
        ),
    ];
    for (source, wanted) in [
        (
            "authorizer.group('').resource('pods').namespace('n').check('get').allowed()",
            true,
        ),
        (
            "authorizer.group('').resource('pods').namespace('m').check('get').allowed()",
            false,
        ),
        ("authorizer.path('/healthz').check('get').allowed()", true),
        (
            "authorizer.serviceAccount('a', 'b').path('/healthz').check('get').allowed()",
            false,
        ),
        ("authorizer.requestResource.check('get').allowed()", true),
        (
            "authorizer.requestResource.name('x').check('delete').allowed()",
            false,
        ),
        (
            "authorizer.requestResource.check('get').reason() == 'because'",
            true,
        ),
        ("authorizer.requestResource.check('get').errored()", false),
    ] {
        let holds = compile(source)
            .unwrap()
            .holds(&variables, &mut Budget::of_rules());
        assert_eq!(holds, Ok(wanted), "{source}");
    }
    // Each is dear: three are more than an expression may cost.
    let one = "authorizer.path('/healthz').check('get').allowed()";
    let many = [one; 3].join(" && ");
    let held = compile(&many)
        .unwrap()
        .holds(&variables, &mut Budget::of_rules());
    assert_eq!(held, Err(EvaluationError::Cost));
}

/// Each would take hours or all memory.
#[test]
fn no_expression_takes_longer_than_it_may() {
    let text = "a".repeat(100_000);
    let object = json!({
        "list": (0..10_000).collect::<Vec<_>>(),
        "texts": vec!["x"; 10_000],
        "text": text,
        "deep": {"list": (0..100_000).collect::<Vec<_>>()},
    });
    for source in [
        "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))",
        "self.list.map(a, self.list.map(b, self.list.map(c, 1))).size() > 0",
        "self.list.filter(a, self.list.exists(b, self.list.exists_one(c, b == c))).size() > 0",
        "self.list.all(a, self.deep == self.deep)",
        "self.list.all(a, !(a + 200000 in self.deep.list))",
        "self.list.all(a, [self.deep, self.deep, self.deep].size() == 3)",
        "self.list.all(a, self.?deep.hasValue())",
        "self.list.all(a, self.text.matches('(a|b|ab)*c(d|e)*f?$') || true)",
        "self.list.all(a, self.text.contains('b') || true)",
        "['x'].all(ip, self.list.all(a, self.text.contains('b') || true))",
        "self.text.replace('', self.text).size() > 0",
        "self.texts.join(self.text).size() > 0",
        "self.deep.list.distinct().size() > 0",
        "sets.intersects(self.deep.list, self.deep.list.map(x, -1 - x))",
        "self.list.map(a, lists.range(1000000)).size() > 0",
        "self.list.all(a, self.text < self.text || true)",
        "self.list.map(a, self.text + self.text).size() > 0",
        "self.list.all(i, a, self.list.all(j, b, self.list.all(k, c, a + b + c >= 0)))",
        "self.list.transformList(i, a, self.list.transformList(j, b, i + j)).size() > 0",
        "self.deep.list.transformMapEntry(i, a, self.list.size() > 0, {string(i): self.deep}).size() > 0",
    ] {
        let value = plain(&object);
        let program = compile(source).unwrap();
        let mut budget = Budget::of_rules();
        let ended = program.evaluate(&[("self", value)], &mut budget);
        assert_eq!(ended.err(), Some(EvaluationError::Cost), "{source}");
    }
}

#[test]
fn expressions_share_a_budget() {
    let object = json!({"list": (0..200).collect::<Vec<_>>()});
    let variables = [("self", plain(&object))];
    let program = compile("self.list.all(a, self.list.all(b, a + b >= 0))").unwrap();
    let mut budget = Budget::of_conditions();
    let mut held = 0;
    let ended = loop {
        match program.holds(&variables, &mut budget) {
            Ok(true) => held += 1,
            other => break other,
        }
    };
    assert_eq!(ended, Err(EvaluationError::Budget));
    assert!((1..20).contains(&held), "{held}");
}

#[test]
fn what_is_too_deep_or_too_long_is_refused() {
    let refused = |source: &str| compile(source).unwrap_err();
    for source in [
        vec!["1"; 2000].join("+"),
        vec!["a[0]"; 2000].join("<"),
        format!("self{}", ".a".repeat(3000)),
        format!("'a'{}", ".trim()".repeat(1000)),
        format!("a{}", "[0]".repeat(2000)),
    ] {
        assert!(refused(&source).contains("nested too deep"), "{source}");
    }
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("f(", ")"),
        ("[1].all(x,", ")"),
        ("{1:", "}"),
    ] {
        let source = format!("{}1{}", open.repeat(400), close.repeat(400));
        assert!(refused(&source).contains("Recursion limit"), "{source}");
    }
    assert!(refused(&"a ? b : ".repeat(1000)).contains("Recursion limit"));
    assert!(refused(&"!".repeat(9000)).contains("Syntax error"));
    assert!(refused(&"a".repeat(MAX_SOURCE + 1)).contains("longer"));
    // What people write is not.
    let rules = vec!["has(self.a)"; 100].join(" && ");
    assert!(compile(&rules).is_ok());
    let sum = vec!["1"; 200].join("+");
    assert_eq!(value(&sum), json!(200));
}

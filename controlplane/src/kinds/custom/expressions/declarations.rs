//! What functions there are for the checker: their signatures, as Kubernetes declares them. Those of the standard
//! library and of its extensions; which of them cost what is in [`super::estimate`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::Type;

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    /// The name that costs are looked up by.
    pub(super) id: String,
    /// Called on its first argument.
    pub(super) is_member: bool,
    pub(super) arguments: Vec<Type>,
    pub(super) result: Type,
}

/// Name, identity and signature: `string.(int) bool` is called on a string, `(int) bool` is not.
const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("_?_:_", "conditional", "(bool, A, A) A"),
    ("_&&_", "logical_and", "(bool, bool) bool"),
    ("_||_", "logical_or", "(bool, bool) bool"),
    ("!_", "logical_not", "(bool) bool"),
    ("@not_strictly_false", "not_strictly_false", "(bool) bool"),
    ("_==_", "equals", "(A, A) bool"),
    ("_!=_", "not_equals", "(A, A) bool"),
    ("_+_", "add_bytes", "(bytes, bytes) bytes"),
    ("_+_", "add_double", "(double, double) double"),
    (
        "_+_",
        "add_duration_duration",
        "(duration, duration) duration",
    ),
    (
        "_+_",
        "add_duration_timestamp",
        "(duration, timestamp) timestamp",
    ),
    (
        "_+_",
        "add_timestamp_duration",
        "(timestamp, duration) timestamp",
    ),
    ("_+_", "add_int64", "(int, int) int"),
    ("_+_", "add_list", "(list<A>, list<A>) list<A>"),
    ("_+_", "add_string", "(string, string) string"),
    ("_+_", "add_uint64", "(uint, uint) uint"),
    ("_-_", "subtract_double", "(double, double) double"),
    (
        "_-_",
        "subtract_duration_duration",
        "(duration, duration) duration",
    ),
    ("_-_", "subtract_int64", "(int, int) int"),
    (
        "_-_",
        "subtract_timestamp_duration",
        "(timestamp, duration) timestamp",
    ),
    (
        "_-_",
        "subtract_timestamp_timestamp",
        "(timestamp, timestamp) duration",
    ),
    ("_-_", "subtract_uint64", "(uint, uint) uint"),
    ("_*_", "multiply_double", "(double, double) double"),
    ("_*_", "multiply_int64", "(int, int) int"),
    ("_*_", "multiply_uint64", "(uint, uint) uint"),
    ("_/_", "divide_double", "(double, double) double"),
    ("_/_", "divide_int64", "(int, int) int"),
    ("_/_", "divide_uint64", "(uint, uint) uint"),
    ("_%_", "modulo_int64", "(int, int) int"),
    ("_%_", "modulo_uint64", "(uint, uint) uint"),
    ("-_", "negate_double", "(double) double"),
    ("-_", "negate_int64", "(int) int"),
    ("_[_]", "index_list", "(list<A>, int) A"),
    ("_[_]", "index_map", "(map<A,B>, A) B"),
    (
        "_[_]",
        "optional_list_index_int",
        "(opt<list<A>>, int) opt<A>",
    ),
    (
        "_[_]",
        "optional_map_index_value",
        "(opt<map<A,B>>, A) opt<B>",
    ),
    (
        "_[?_]",
        "list_optindex_optional_int",
        "(list<A>, int) opt<A>",
    ),
    (
        "_[?_]",
        "optional_list_optindex_optional_int",
        "(opt<list<A>>, int) opt<A>",
    ),
    (
        "_[?_]",
        "map_optindex_optional_value",
        "(map<A,B>, A) opt<B>",
    ),
    (
        "_[?_]",
        "optional_map_optindex_optional_value",
        "(opt<map<A,B>>, A) opt<B>",
    ),
    ("@in", "in_list", "(A, list<A>) bool"),
    ("@in", "in_map", "(A, map<A,B>) bool"),
    ("size", "size_bytes", "(bytes) int"),
    ("size", "bytes_size", "bytes.() int"),
    ("size", "size_list", "(list<A>) int"),
    ("size", "list_size", "list<A>.() int"),
    ("size", "size_map", "(map<A,B>) int"),
    ("size", "map_size", "map<A,B>.() int"),
    ("size", "size_string", "(string) int"),
    ("size", "string_size", "string.() int"),
    ("type", "type", "(A) type<A>"),
    ("dyn", "to_dyn", "(A) dyn"),
    ("bool", "bool_to_bool", "(bool) bool"),
    ("bool", "string_to_bool", "(string) bool"),
    ("bytes", "bytes_to_bytes", "(bytes) bytes"),
    ("bytes", "string_to_bytes", "(string) bytes"),
    ("double", "double_to_double", "(double) double"),
    ("double", "int64_to_double", "(int) double"),
    ("double", "string_to_double", "(string) double"),
    ("double", "uint64_to_double", "(uint) double"),
    ("duration", "duration_to_duration", "(duration) duration"),
    ("duration", "int64_to_duration", "(int) duration"),
    ("duration", "string_to_duration", "(string) duration"),
    ("int", "int64_to_int64", "(int) int"),
    ("int", "double_to_int64", "(double) int"),
    ("int", "duration_to_int64", "(duration) int"),
    ("int", "string_to_int64", "(string) int"),
    ("int", "timestamp_to_int64", "(timestamp) int"),
    ("int", "uint64_to_int64", "(uint) int"),
    ("string", "string_to_string", "(string) string"),
    ("string", "bool_to_string", "(bool) string"),
    ("string", "bytes_to_string", "(bytes) string"),
    ("string", "double_to_string", "(double) string"),
    ("string", "duration_to_string", "(duration) string"),
    ("string", "int64_to_string", "(int) string"),
    ("string", "timestamp_to_string", "(timestamp) string"),
    ("string", "uint64_to_string", "(uint) string"),
    (
        "timestamp",
        "timestamp_to_timestamp",
        "(timestamp) timestamp",
    ),
    ("timestamp", "int64_to_timestamp", "(int) timestamp"),
    ("timestamp", "string_to_timestamp", "(string) timestamp"),
    ("uint", "uint64_to_uint64", "(uint) uint"),
    ("uint", "double_to_uint64", "(double) uint"),
    ("uint", "int64_to_uint64", "(int) uint"),
    ("uint", "string_to_uint64", "(string) uint"),
    ("matches", "matches", "(string, string) bool"),
    ("matches", "matches_string", "string.(string) bool"),
    ("contains", "contains_string", "string.(string) bool"),
    ("endsWith", "ends_with_string", "string.(string) bool"),
    ("startsWith", "starts_with_string", "string.(string) bool"),
    ("getHours", "duration_to_hours", "duration.() int"),
    ("getMinutes", "duration_to_minutes", "duration.() int"),
    ("getSeconds", "duration_to_seconds", "duration.() int"),
    (
        "getMilliseconds",
        "duration_to_milliseconds",
        "duration.() int",
    ),
    // Strings.
    ("charAt", "string_char_at_int", "string.(int) string"),
    ("indexOf", "string_index_of_string", "string.(string) int"),
    (
        "indexOf",
        "string_index_of_string_int",
        "string.(string, int) int",
    ),
    (
        "lastIndexOf",
        "string_last_index_of_string",
        "string.(string) int",
    ),
    (
        "lastIndexOf",
        "string_last_index_of_string_int",
        "string.(string, int) int",
    ),
    ("lowerAscii", "string_lower_ascii", "string.() string"),
    ("upperAscii", "string_upper_ascii", "string.() string"),
    (
        "replace",
        "string_replace_string_string",
        "string.(string, string) string",
    ),
    (
        "replace",
        "string_replace_string_string_int",
        "string.(string, string, int) string",
    ),
    (
        "split",
        "string_split_string",
        "string.(string) list<string>",
    ),
    (
        "split",
        "string_split_string_int",
        "string.(string, int) list<string>",
    ),
    ("substring", "string_substring_int", "string.(int) string"),
    (
        "substring",
        "string_substring_int_int",
        "string.(int, int) string",
    ),
    ("trim", "string_trim", "string.() string"),
    ("format", "string_format", "string.(list<dyn>) string"),
    ("strings.quote", "strings_quote", "(string) string"),
    ("join", "list_join", "list<string>.() string"),
    ("join", "list_join_string", "list<string>.(string) string"),
    ("find", "string_find_string", "string.(string) string"),
    (
        "findAll",
        "string_find_all_string",
        "string.(string) list<string>",
    ),
    (
        "findAll",
        "string_find_all_string_int",
        "string.(string, int) list<string>",
    ),
    // Lists.
    ("indexOf", "list_a_index_of_int", "list<A>.(A) int"),
    ("lastIndexOf", "list_a_last_index_of_int", "list<A>.(A) int"),
    ("slice", "list_slice", "list<A>.(int, int) list<A>"),
    ("flatten", "list_flatten", "list<list<A>>.() list<A>"),
    ("flatten", "list_flatten_int", "list<dyn>.(int) list<dyn>"),
    ("reverse", "list_reverse", "list<A>.() list<A>"),
    ("distinct", "list_distinct", "list<A>.() list<A>"),
    ("lists.range", "lists_range", "(int) list<int>"),
    (
        "sets.contains",
        "list_sets_contains_list",
        "(list<A>, list<A>) bool",
    ),
    (
        "sets.equivalent",
        "list_sets_equivalent_list",
        "(list<A>, list<A>) bool",
    ),
    (
        "sets.intersects",
        "list_sets_intersects_list",
        "(list<A>, list<A>) bool",
    ),
    // Optionals.
    ("optional.of", "optional_of", "(A) opt<A>"),
    (
        "optional.ofNonZeroValue",
        "optional_ofNonZeroValue",
        "(A) opt<A>",
    ),
    ("optional.none", "optional_none", "() opt<A>"),
    (
        "optional.unwrap",
        "optional_unwrap",
        "(list<opt<A>>) list<A>",
    ),
    ("unwrapOpt", "optional_unwrapOpt", "list<opt<A>>.() list<A>"),
    ("value", "optional_value", "opt<A>.() A"),
    ("hasValue", "optional_hasValue", "opt<A>.() bool"),
    ("or", "optional_or_optional", "opt<A>.(opt<A>) opt<A>"),
    ("orValue", "optional_orValue_value", "opt<A>.(A) A"),
    ("first", "list_first", "list<A>.() opt<A>"),
    ("last", "list_last", "list<A>.() opt<A>"),
    // What comprehensions of two variables make.
    (
        "cel.@mapInsert",
        "@mapInsert_map_key_value",
        "(map<A,B>, A, B) map<A,B>",
    ),
    (
        "cel.@mapInsert",
        "@mapInsert_map_map",
        "(map<A,B>, map<A,B>) map<A,B>",
    ),
    // URLs.
    ("url", "string_to_url", "(string) kubernetes.URL"),
    ("isURL", "is_url_string", "(string) bool"),
    ("getScheme", "url_get_scheme", "kubernetes.URL.() string"),
    ("getHost", "url_get_host", "kubernetes.URL.() string"),
    (
        "getHostname",
        "url_get_hostname",
        "kubernetes.URL.() string",
    ),
    ("getPort", "url_get_port", "kubernetes.URL.() string"),
    (
        "getEscapedPath",
        "url_get_escaped_path",
        "kubernetes.URL.() string",
    ),
    (
        "getQuery",
        "url_get_query",
        "kubernetes.URL.() map<string,list<string>>",
    ),
    // Quantities.
    (
        "quantity",
        "string_to_quantity",
        "(string) kubernetes.Quantity",
    ),
    ("isQuantity", "is_quantity_string", "(string) bool"),
    ("sign", "quantity_sign", "(kubernetes.Quantity) int"),
    ("sign", "quantity_sign_member", "kubernetes.Quantity.() int"),
    (
        "isGreaterThan",
        "quantity_is_greater_than",
        "kubernetes.Quantity.(kubernetes.Quantity) bool",
    ),
    (
        "isLessThan",
        "quantity_is_less_than",
        "kubernetes.Quantity.(kubernetes.Quantity) bool",
    ),
    (
        "compareTo",
        "quantity_compare_to",
        "kubernetes.Quantity.(kubernetes.Quantity) int",
    ),
    (
        "asApproximateFloat",
        "quantity_get_float",
        "kubernetes.Quantity.() double",
    ),
    (
        "asInteger",
        "quantity_get_int",
        "kubernetes.Quantity.() int",
    ),
    (
        "isInteger",
        "quantity_is_integer",
        "kubernetes.Quantity.() bool",
    ),
    (
        "add",
        "quantity_add",
        "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity",
    ),
    (
        "add",
        "quantity_add_int",
        "kubernetes.Quantity.(int) kubernetes.Quantity",
    ),
    (
        "sub",
        "quantity_sub",
        "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity",
    ),
    (
        "sub",
        "quantity_sub_int",
        "kubernetes.Quantity.(int) kubernetes.Quantity",
    ),
    // Addresses.
    ("ip", "string_to_ip", "(string) net.IP"),
    ("isIP", "is_ip", "(string) bool"),
    ("ip.isCanonical", "ip_is_canonical", "(string) bool"),
    ("family", "ip_family", "net.IP.() int"),
    ("isUnspecified", "ip_is_unspecified", "net.IP.() bool"),
    ("isLoopback", "ip_is_loopback", "net.IP.() bool"),
    (
        "isLinkLocalMulticast",
        "ip_is_link_local_multicast",
        "net.IP.() bool",
    ),
    (
        "isLinkLocalUnicast",
        "ip_is_link_local_unicast",
        "net.IP.() bool",
    ),
    ("isGlobalUnicast", "ip_is_global_unicast", "net.IP.() bool"),
    ("string", "ip_to_string", "(net.IP) string"),
    ("cidr", "string_to_cidr", "(string) net.CIDR"),
    ("isCIDR", "is_cidr", "(string) bool"),
    (
        "containsIP",
        "cidr_contains_ip_string",
        "net.CIDR.(string) bool",
    ),
    (
        "containsIP",
        "cidr_contains_ip_ip",
        "net.CIDR.(net.IP) bool",
    ),
    (
        "containsCIDR",
        "cidr_contains_cidr_string",
        "net.CIDR.(string) bool",
    ),
    (
        "containsCIDR",
        "cidr_contains_cidr",
        "net.CIDR.(net.CIDR) bool",
    ),
    ("ip", "cidr_ip", "net.CIDR.() net.IP"),
    ("prefixLength", "cidr_prefix_length", "net.CIDR.() int"),
    ("masked", "cidr_masked", "net.CIDR.() net.CIDR"),
    ("string", "cidr_to_string", "(net.CIDR) string"),
    // Formats.
    (
        "format.named",
        "format-named",
        "(string) opt<kubernetes.NamedFormat>",
    ),
    (
        "validate",
        "format-validate",
        "kubernetes.NamedFormat.(string) opt<list<string>>",
    ),
    // Versions.
    ("semver", "string_to_semver", "(string) kubernetes.Semver"),
    (
        "semver",
        "string_bool_to_semver",
        "(string, bool) kubernetes.Semver",
    ),
    ("isSemver", "is_semver_string", "(string) bool"),
    ("isSemver", "is_semver_string_bool", "(string, bool) bool"),
    (
        "isGreaterThan",
        "semver_is_greater_than",
        "kubernetes.Semver.(kubernetes.Semver) bool",
    ),
    (
        "isLessThan",
        "semver_is_less_than",
        "kubernetes.Semver.(kubernetes.Semver) bool",
    ),
    (
        "compareTo",
        "semver_compare_to",
        "kubernetes.Semver.(kubernetes.Semver) int",
    ),
    ("major", "semver_major", "kubernetes.Semver.() int"),
    ("minor", "semver_minor", "kubernetes.Semver.() int"),
    ("patch", "semver_patch", "kubernetes.Semver.() int"),
    // The authorizer.
    (
        "path",
        "authorizer_path",
        "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.PathCheck",
    ),
    (
        "group",
        "authorizer_group",
        "kubernetes.authorization.Authorizer.(string) kubernetes.authorization.GroupCheck",
    ),
    (
        "serviceAccount",
        "authorizer_serviceaccount",
        "kubernetes.authorization.Authorizer.(string, string) kubernetes.authorization.Authorizer",
    ),
    (
        "resource",
        "groupcheck_resource",
        "kubernetes.authorization.GroupCheck.(string) kubernetes.authorization.ResourceCheck",
    ),
    (
        "check",
        "pathcheck_check",
        "kubernetes.authorization.PathCheck.(string) kubernetes.authorization.Decision",
    ),
    (
        "check",
        "resourcecheck_check",
        "kubernetes.authorization.ResourceCheck.(string) kubernetes.authorization.Decision",
    ),
    (
        "errored",
        "decision_errored",
        "kubernetes.authorization.Decision.() bool",
    ),
    (
        "error",
        "decision_error",
        "kubernetes.authorization.Decision.() string",
    ),
    (
        "allowed",
        "decision_allowed",
        "kubernetes.authorization.Decision.() bool",
    ),
    (
        "reason",
        "decision_reason",
        "kubernetes.authorization.Decision.() string",
    ),
    // Patches.
    (
        "jsonpatch.escapeKey",
        "string_jsonpatch_escapeKey_string",
        "(string) string",
    ),
];

const TIMES: &[&str] = &[
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];
const FORMATS: &[&str] = &[
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];
const NARROWED: &[&str] = &[
    "subresource",
    "namespace",
    "name",
    "fieldSelector",
    "labelSelector",
];
const COMPARED: &[&str] = &[
    "int",
    "uint",
    "double",
    "bool",
    "duration",
    "timestamp",
    "string",
    "bytes",
];
const SUMMED: &[&str] = &["int", "uint", "double", "duration"];
const NUMBERS: &[&str] = &["int", "uint", "double"];

/// All functions by name.
pub(super) static DECLARED: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut all: HashMap<String, Vec<Overload>> = HashMap::new();
    let mut add = |name: &str, id: &str, signature: &str| {
        let overload = overload(id, signature).expect("signatures can be read: a test reads them");
        all.entry(name.to_owned()).or_default().push(overload);
    };
    for (name, id, signature) in FUNCTIONS {
        add(name, id, signature);
    }
    for (operator, word) in [
        ("_<_", "less"),
        ("_<=_", "less_equals"),
        ("_>_", "greater"),
        ("_>=_", "greater_equals"),
    ] {
        for kind in COMPARED {
            add(
                operator,
                &format!("{word}_{kind}"),
                &format!("({kind}, {kind}) bool"),
            );
        }
        for a in NUMBERS {
            for b in NUMBERS.iter().filter(|b| *b != a) {
                add(
                    operator,
                    &format!("{word}_{a}_{b}"),
                    &format!("({a}, {b}) bool"),
                );
            }
        }
    }
    for name in TIMES {
        add(name, name, "timestamp.() int");
        add(name, &format!("{name}_with_tz"), "timestamp.(string) int");
    }
    for name in FORMATS {
        add(&format!("format.{name}"), name, "() kubernetes.NamedFormat");
    }
    for name in NARROWED {
        let this = "kubernetes.authorization.ResourceCheck";
        add(name, name, &format!("{this}.(string) {this}"));
    }
    for kind in COMPARED {
        add(
            "isSorted",
            "list_is_sorted",
            &format!("list<{kind}>.() bool"),
        );
        add("max", "list_max", &format!("list<{kind}>.() {kind}"));
        add("min", "list_min", &format!("list<{kind}>.() {kind}"));
        add(
            "sort",
            &format!("list_{kind}_sort"),
            &format!("list<{kind}>.() list<{kind}>"),
        );
        add(
            "@sortByAssociatedKeys",
            &format!("list_{kind}_sortByAssociatedKeys"),
            &format!("list<A>.(list<{kind}>) list<A>"),
        );
    }
    for kind in SUMMED {
        add("sum", "list_sum", &format!("list<{kind}>.() {kind}"));
    }
    all
});

/// Types by the names that expressions have for them.
pub(super) fn named(name: &str) -> Option<Type> {
    let of = match name {
        "type" => return Some(Type::Kind(Some(Arc::new(Type::Kind(None))))),
        "list" => Type::List(Arc::new(Type::Dyn)),
        "map" => Type::Map(Arc::new(Type::Dyn), Arc::new(Type::Dyn)),
        "null_type" => Type::Null,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "optional_type" => Type::Optional(Arc::new(Type::Dyn)),
        "bool" | "int" | "uint" | "double" | "string" | "bytes" => kind(name)?,
        _ => Type::Opaque(OPAQUE.iter().find(|known| **known == name)?),
    };
    Some(Type::Kind(Some(Arc::new(of))))
}

const OPAQUE: &[&str] = &[
    "kubernetes.NamedFormat",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.URL",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.Decision",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.ResourceCheck",
    "net.CIDR",
    "net.IP",
];

fn overload(id: &str, signature: &str) -> Option<Overload> {
    let (before, after) = signature.split_once('(')?;
    let (inside, result) = after.split_once(") ")?;
    let target = before.strip_suffix('.');
    let mut arguments: Vec<Type> = Vec::new();
    arguments.extend(target.map(kind).into_iter().collect::<Option<Vec<_>>>()?);
    let listed = inside.split(", ").filter(|one| !one.is_empty());
    arguments.extend(listed.map(kind).collect::<Option<Vec<_>>>()?);
    Some(Overload {
        id: id.to_owned(),
        is_member: target.is_some(),
        arguments,
        result: kind(result)?,
    })
}

fn kind(text: &str) -> Option<Type> {
    let inside = |name: &str| {
        text.strip_prefix(name)?
            .strip_prefix('<')?
            .strip_suffix('>')
    };
    if let Some(of) = inside("list") {
        return Some(Type::List(Arc::new(kind(of)?)));
    }
    if let Some(of) = inside("opt") {
        return Some(Type::Optional(Arc::new(kind(of)?)));
    }
    if let Some(of) = inside("type") {
        return Some(Type::Kind(Some(Arc::new(kind(of)?))));
    }
    if let Some(of) = inside("map") {
        let (key, value) = of.split_once(',')?;
        return Some(Type::Map(Arc::new(kind(key)?), Arc::new(kind(value)?)));
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Parameter('A'),
        "B" => Type::Parameter('B'),
        _ => Type::Opaque(OPAQUE.iter().find(|known| **known == text)?),
    })
}

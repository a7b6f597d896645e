//! Event (core/v1), and the same events as `events.k8s.io/v1` shows them. Which of the two forms is stored
//! is the registry's choice; [`to_events`] and [`to_core`] turn one into the other.

use serde_json::{Map, Value};

use super::access::{at, integer, text};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, time};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Event",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Event {
        about: "involvedObject",
    },
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Event>();
    },
};

pub(super) static EVENTS_KIND: Kind = Kind {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.events.v1.Event",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Event { about: "regarding" },
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::events::v1::Event>();
    },
};

/// Fields with different names: (core/v1, events.k8s.io/v1).
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("source", "deprecatedSource"),
];

/// Fields, as core/v1 has them, that events of the other group leave alone.
const DEPRECATED: &[&str] = &["firstTimestamp", "lastTimestamp", "count", "source"];

/// A core/v1 event as events.k8s.io/v1 shows it.
pub(crate) fn to_events(event: &Value) -> Value {
    renamed(event, "events.k8s.io/v1", |from, (core, events)| {
        (from == *core).then_some(events)
    })
}

/// An events.k8s.io/v1 event as core/v1 shows it.
pub(crate) fn to_core(event: &Value) -> Value {
    renamed(event, "v1", |from, (core, events)| {
        (from == *events).then_some(core)
    })
}

fn renamed(
    event: &Value,
    api_version: &str,
    rename: impl Fn(&str, &(&'static str, &'static str)) -> Option<&'static str>,
) -> Value {
    let mut out = Map::new();
    for (name, value) in event.as_object().into_iter().flatten() {
        let name = RENAMED
            .iter()
            .find_map(|pair| rename(name, pair))
            .unwrap_or(name);
        out.insert(name.to_owned(), value.clone());
    }
    out.insert("apiVersion".into(), api_version.into());
    Value::Object(out)
}

#[derive(Debug)]
struct Event {
    /// The field that names the object the event is about.
    about: &'static str,
}

impl Event {
    fn is_core(&self) -> bool {
        self.about == "involvedObject"
    }

    /// The core/v1 name of a field, or the other group's.
    fn field(&self, core: &'static str) -> &'static str {
        if self.is_core() {
            return core;
        }
        RENAMED
            .iter()
            .find(|(from, _)| *from == core)
            .map_or(core, |(_, to)| to)
    }
}

impl Strategy for Event {
    fn default(&self, _object: &mut Value) {}

    fn stored(&self) -> Option<&'static Kind<'static>> {
        (!self.is_core()).then_some(&KIND)
    }

    fn to_stored(&self, object: Value) -> Value {
        if self.is_core() {
            object
        } else {
            to_core(&object)
        }
    }

    fn to_served(&self, object: Value) -> Value {
        if self.is_core() {
            object
        } else {
            to_events(&object)
        }
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if self.is_core() {
            common(object, "reportingComponent", &mut errors);
            return errors.into_vec();
        }
        common(&to_core(object), "reportingController", &mut errors);
        match old {
            None => strict(object, &mut errors),
            Some(old) => {
                if object.get("series") != old.get("series") {
                    series(object, &mut errors);
                }
                settled(object, old, &mut errors);
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const NAME: Column = Column {
            priority: 1,
            ..table::NAME
        };
        const COLUMNS: &[Column] = &[
            table::column("Last Seen", "string", "Time since it was last seen."),
            table::column("Type", "string", "Normal or Warning."),
            table::column("Reason", "string", "Why, in one word."),
            table::column("Object", "string", "What the event is about."),
            table::wide("Subobject", "string", "Which part of the object."),
            table::wide("Source", "string", "Who reported it."),
            table::column("Message", "string", "What happened."),
            table::wide("First Seen", "string", "Time since it was first seen."),
            table::wide("Count", "string", "How often it was seen."),
            NAME,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let since = |path: &[&str]| match text(object, path) {
            "" => None,
            then => Some(time::age(then, now)),
        };
        let first = since(&[self.field("firstTimestamp")])
            .or_else(|| since(&["eventTime"]))
            .unwrap_or_else(|| "<unknown>".into());
        let mut last = since(&[self.field("lastTimestamp")]).unwrap_or_else(|| first.clone());
        let mut count = match integer(object, &[self.field("count")]) {
            None | Some(0) => 1,
            Some(count) => count,
        };
        if at(object, &["series"]).is_some() {
            last = since(&["series", "lastObservedTime"]).unwrap_or_else(|| "<unknown>".into());
            count = integer(object, &["series", "count"]).unwrap_or(0);
        }
        let kind = text(object, &[self.about, "kind"]).to_lowercase();
        let target = match text(object, &[self.about, "name"]) {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        let mut source = text(object, &[self.field("source"), "component"]);
        let mut host = text(object, &[self.field("source"), "host"]);
        if source.is_empty() {
            source = text(object, &[self.field("reportingComponent")]);
            host = text(object, &["reportingInstance"]);
        }
        let source = if host.is_empty() {
            source.to_owned()
        } else {
            format!("{source}, {host}")
        };
        vec![
            last.into(),
            text(object, &["type"]).into(),
            text(object, &["reason"]).into(),
            target.into(),
            text(object, &[self.about, "fieldPath"]).into(),
            source.into(),
            text(object, &[self.field("message")]).trim().into(),
            first.into(),
            count.into(),
            table::name(object),
        ]
    }

    fn stored_field(&self, field: &str) -> Option<String> {
        if self.is_core() {
            return Some(field.to_owned());
        }
        match field {
            "reason" | "type" | "metadata.name" | "metadata.namespace" => Some(field.to_owned()),
            "reportingController" => Some("reportingComponent".to_owned()),
            _ => field
                .strip_prefix("regarding.")
                .map(|below| format!("involvedObject.{below}")),
        }
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let about = |field: &str| text(object, &[self.about, field]).to_owned();
        let mut source = text(object, &[self.field("source"), "component"]);
        if source.is_empty() {
            source = text(object, &[self.field("reportingComponent")]);
        }
        let mut fields = vec![
            ("reason", text(object, &["reason"]).to_owned()),
            (
                self.field("reportingComponent"),
                text(object, &[self.field("reportingComponent")]).to_owned(),
            ),
            ("source", source.to_owned()),
            ("type", text(object, &["type"]).to_owned()),
        ];
        let names: [&'static str; 7] = if self.is_core() {
            [
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
            ]
        } else {
            [
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "regarding.apiVersion",
                "regarding.resourceVersion",
                "regarding.fieldPath",
            ]
        };
        fields.extend(names.map(|name| {
            let field = name.rsplit('.').next().unwrap_or(name);
            (name, about(field))
        }));
        fields
    }
}

/// What is asked of events of both groups. Complaints have the names of core/v1, but for who has reported it.
fn common(core: &Value, controller: &str, errors: &mut Errors) {
    let namespace = text(core, &["metadata", "namespace"]);
    let about = text(core, &["involvedObject", "namespace"]);
    // Events about things outside namespaces live in `default`.
    let right = if about.is_empty() {
        namespace.is_empty() || namespace == "default" || namespace == "kube-system"
    } else {
        about == namespace
    };
    if !right {
        let why = "does not match event.namespace";
        errors.invalid("involvedObject.namespace", about, why);
    }
    if !text(core, &["eventTime"]).is_empty() {
        new_style(core, controller, errors);
    }
}

/// What events that have an `eventTime` say.
fn new_style(object: &Value, controller: &str, errors: &mut Errors) {
    let required = |field: &str, value: &str, errors: &mut Errors| {
        if value.is_empty() {
            errors.required(field, "");
        }
    };
    let name = text(object, &["reportingComponent"]);
    required(controller, name, errors);
    errors.format(controller, name, names::qualified_name(name));
    for field in ["reportingInstance", "action", "reason"] {
        let value = text(object, &[field]);
        required(field, value, errors);
        if value.len() > 128 {
            errors.invalid(field, "", "can have at most 128 characters");
        }
    }
    if text(object, &["message"]).len() > 1024 {
        errors.invalid("message", "", "can have at most 1024 characters");
    }
}

/// What `events.k8s.io/v1` asks for beyond core/v1; fields have their names in core/v1 in complaints.
fn strict(object: &Value, errors: &mut Errors) {
    series(object, errors);
    if text(object, &["eventTime"]).is_empty() {
        errors.required("eventTime", "");
    }
    let kind = text(object, &["type"]);
    if kind != "Normal" && kind != "Warning" {
        errors.invalid("type", "", &format!("has invalid value: {kind}"));
    }
    for (core, events) in RENAMED.iter().filter(|(core, _)| DEPRECATED.contains(core)) {
        let given = at(object, &[events]);
        let source = ["component", "host"].iter().any(|part| {
            let part = given.and_then(|given| given.get(*part));
            part.and_then(Value::as_str)
                .is_some_and(|part| !part.is_empty())
        });
        let set = match *core {
            "source" => source,
            "count" => given.and_then(Value::as_i64).unwrap_or(0) != 0,
            _ => given.is_some(),
        };
        if set {
            errors.invalid(*core, "", "needs to be unset");
        }
    }
}

fn series(object: &Value, errors: &mut Errors) {
    if at(object, &["series"]).is_none() {
        return;
    }
    if integer(object, &["series", "count"]).unwrap_or(0) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if text(object, &["series", "lastObservedTime"]).is_empty() {
        errors.required("series.lastObservedTime", "");
    }
}

/// What an event of the other group cannot change: all but its series.
fn settled(object: &Value, old: &Value, errors: &mut Errors) {
    for core in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingController",
        "reportingInstance",
    ] {
        let renamed = RENAMED.iter().find(|(from, _)| *from == core);
        let field = renamed.map_or(core, |(_, to)| to);
        errors.immutable(core, at(object, &[field]), at(old, &[field]));
    }
}

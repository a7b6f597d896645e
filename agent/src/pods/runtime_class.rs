//! Which OCI runtime runs a pod: its RuntimeClass names a handler, the node's table has the program. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::objects::{Lookup, Objects};
use crate::runtime::OciRuntime;

/// The handler of pods that name no class.
pub(crate) const DEFAULT_HANDLER: &str = "runc";

pub(crate) type Handlers = BTreeMap<String, OciRuntime>;

/// The runtime for a pod, or why there is none (yet).
pub(super) fn runtime(
    pod: &Pod,
    objects: &Objects,
    handlers: &Handlers,
) -> Result<OciRuntime, String> {
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.runtime_class_name.as_deref())
        .unwrap_or_default();
    let handler = match class {
        "" => DEFAULT_HANDLER.to_owned(),
        class => match objects.runtime_class(class) {
            Lookup::Found(found) => found.handler.clone(),
            Lookup::Absent => {
                return Err(format!(
                    "failed to get runtime handler: RuntimeClass.node.k8s.io {class:?} not found"
                ));
            }
            Lookup::Unknown => {
                return Err(format!(
                    "failed to get runtime handler: RuntimeClass {class:?} is not known yet"
                ));
            }
        },
    };
    handlers.get(&handler).cloned().ok_or_else(|| {
        format!("failed to get sandbox runtime: no runtime for {handler:?} is configured")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cluster::ObjectName;

    #[test]
    fn a_class_names_a_handler_that_the_node_has_or_not() {
        let objects = Objects::default();
        let class = |name: &str, handler: Option<&str>| {
            let key = ObjectName {
                namespace: String::new(),
                name: name.to_owned(),
            };
            let object = handler.map(|handler| {
                serde_json::from_value(serde_json::json!(
                    {"metadata": {"name": name}, "handler": handler}))
                .unwrap()
            });
            objects.set_runtime_class(key, object);
        };
        class("fast", Some("crun"));
        class("odd", Some("kata"));
        class("gone", None);
        let handlers = Handlers::from([
            (DEFAULT_HANDLER.to_owned(), OciRuntime::default()),
            (
                "crun".to_owned(),
                OciRuntime {
                    program: "/usr/bin/crun".into(),
                    ..OciRuntime::default()
                },
            ),
        ]);
        let of = |class: Option<&str>| {
            let pod: Pod = serde_json::from_value(serde_json::json!(
                {"spec": {"containers": [], "runtimeClassName": class}}))
            .unwrap();
            runtime(&pod, &objects, &handlers).map(|it| it.program.display().to_string())
        };
        assert_eq!(of(None).unwrap(), "runc");
        assert_eq!(of(Some("")).unwrap(), "runc");
        assert_eq!(of(Some("fast")).unwrap(), "/usr/bin/crun");
        for (class, why) in [
            ("odd", "no runtime for \"kata\" is configured"),
            ("gone", "RuntimeClass.node.k8s.io \"gone\" not found"),
            ("new", "not known yet"),
        ] {
            let error = of(Some(class)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

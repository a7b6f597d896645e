//! Metrics that other servers measure and serve as APIs of their own: `custom.metrics.k8s.io` of pods and objects,
//! `external.metrics.k8s.io` of what is outside. What is asked and what an answer says is pure; [`Sources`] asks.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerSpec, MetricIdentifier};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

use super::metric::Source;
use super::plan::Said;
use crate::cache::{Cache, ObjectKey};
use crate::extension::{self, Extensions};
use crate::kinds::quantity::Quantity;
use crate::registry::{Registry, scale};

/// A group of such an API, as messages call it, and its versions, the best first.
struct Group {
    name: &'static str,
    title: &'static str,
    versions: &'static [&'static str],
}

const CUSTOM: Group = Group {
    name: "custom.metrics.k8s.io",
    title: "custom metrics API",
    versions: &["v1beta2", "v1beta1"],
};
const EXTERNAL: Group = Group {
    name: "external.metrics.k8s.io",
    title: "external metrics API",
    versions: &["v1beta1"],
};

/// What is asked for one metric.
struct Question {
    group: &'static Group,
    /// Below the namespace.
    path: String,
    query: Vec<(&'static str, String)>,
}

/// A segment of a path: all but letters, digits and `-._~` is escaped (RFC 3986, 2.3).
fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn selector_of(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref();
    let value = selector.and_then(|selector| serde_json::to_value(selector).ok());
    value.map_or(String::new(), |value| scale::selector_text(&value))
}

/// `None` for what is measured here. `pods` selects the workload's; `resource` names the resource of a kind of an API
/// version.
fn question(
    source: &Source<'_>,
    pods: &str,
    resource: impl Fn(&str, &str) -> Option<String>,
) -> Option<Result<Question, String>> {
    let (group, path, mut query, metric) = match source {
        Source::Resource(..) => return None,
        Source::Pods(metric, _) => {
            let path = format!("pods/*/{}", segment(&metric.name));
            (
                &CUSTOM,
                path,
                vec![("labelSelector", pods.to_owned())],
                metric,
            )
        }
        Source::Object(metric, object, _) => {
            let version = object.api_version.as_deref().unwrap_or("v1");
            let name = segment(&metric.name);
            // Of a namespace it is always the autoscaler's own.
            let path = if (version, object.kind.as_str()) == ("v1", "Namespace") {
                format!("metrics/{name}")
            } else {
                let Some(resource) = resource(version, &object.kind) else {
                    let (group, _) = version.split_once('/').unwrap_or(("", version));
                    return Some(Err(format!(
                        "unable to fetch metrics from custom metrics API: no matches for kind {:?} in group {group:?}",
                        object.kind
                    )));
                };
                format!("{resource}/{}/{name}", segment(&object.name))
            };
            (&CUSTOM, path, Vec::new(), metric)
        }
        Source::External(metric, _) => (&EXTERNAL, segment(&metric.name), Vec::new(), metric),
    };
    let name = match source {
        Source::External(..) => "labelSelector",
        _ => "metricLabelSelector",
    };
    query.push((name, selector_of(metric)));
    query.retain(|(_, value)| !value.is_empty());
    Some(Ok(Question { group, path, query }))
}

fn url(question: &Question, version: &str, namespace: &str) -> String {
    let group = question.group.name;
    let path = &question.path;
    let mut url = format!("/apis/{group}/{version}/namespaces/{namespace}/{path}");
    if !question.query.is_empty() {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&question.query);
        url.push('?');
        url.push_str(&query.finish());
    }
    url
}

/// Thousandths of a quantity.
fn milli(value: &Value) -> Result<i64, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let quantity: Quantity = text
        .parse()
        .map_err(|error| format!("value {text:?}: {error}"))?;
    Ok(quantity.millis())
}

/// What a list of values says of the metric.
fn answer(source: &Source<'_>, list: &Value) -> Result<Said, String> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    match source {
        Source::External(..) if items.is_empty() => {
            Err("no metrics returned from external metrics API".to_owned())
        }
        Source::External(..) => {
            let mut sum: i64 = 0;
            for item in items {
                sum = sum.saturating_add(milli(&item["value"])?);
            }
            Ok(Said::Whole(sum))
        }
        Source::Object(..) => match items {
            [one] => Ok(Said::Whole(milli(&one["value"])?)),
            others => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results \
                 when we asked for exactly one",
                others.len()
            )),
        },
        _ if items.is_empty() => Err("no metrics returned from custom metrics API".to_owned()),
        _ => items
            .iter()
            .map(|item| {
                let name = item["describedObject"]["name"].as_str().unwrap_or_default();
                Ok((name.to_owned(), milli(&item["value"])?))
            })
            .collect::<Result<_, String>>()
            .map(Said::Pods),
    }
}

/// Asks; `None` where there is nobody to be asked.
pub(super) struct Sources {
    pub(super) cache: Cache,
    pub(super) extensions: Option<Extensions>,
}

impl Sources {
    /// By place in the spec, of the metrics that are not measured here. `pods` selects the workload's.
    pub(super) async fn ask(
        &self,
        registry: &Registry,
        namespace: &str,
        spec: &HorizontalPodAutoscalerSpec,
        pods: &str,
    ) -> HashMap<usize, Result<Said, String>> {
        let resource = |version: &str, kind: &str| {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let kind = registry.kind_named(group, version, kind)?;
            let plural = kind.get().plural.to_owned();
            Some(if group.is_empty() {
                plural
            } else {
                format!("{plural}.{group}")
            })
        };
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        let asked = metrics.iter().enumerate().filter_map(|(index, metric)| {
            let source = Source::of(metric).ok()?;
            let question = question(&source, pods, resource)?;
            Some(async move {
                let said = match question {
                    Ok(question) => self.one(&source, &question, namespace).await,
                    Err(why) => Err(why),
                };
                (index, said)
            })
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    async fn one(
        &self,
        source: &Source<'_>,
        question: &Question,
        namespace: &str,
    ) -> Result<Said, String> {
        let Group { name, title, .. } = question.group;
        let failed = |why: String| format!("unable to fetch metrics from {title}: {why}");
        let found = self.extensions.as_ref().zip(self.served_by(question.group));
        let Some((extensions, (version, api))) = found else {
            return Err(failed(format!("no {title} ({name}) registered")));
        };
        let url = url(question, version, namespace);
        let list = extensions.get(&api, &url).await;
        answer(source, &list.map_err(|error| failed(error.to_string()))?)
    }

    /// The best version that is available, else the best that is there.
    fn served_by(&self, group: &Group) -> Option<(&'static str, Arc<APIService>)> {
        let known = group.versions.iter().filter_map(|version| {
            let key = ObjectKey::cluster(&format!("{version}.{}", group.name));
            let api = self.cache.api_services.get_key(&key)?;
            extension::service(&api)?;
            Some((*version, api))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|(_, api)| !extension::is_available(api));
        known.into_iter().next()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::autoscaling::v2::MetricSpec;
    use serde_json::json;

    use super::*;

    fn metric(value: Value) -> MetricSpec {
        serde_json::from_value(value).unwrap()
    }

    fn asked(spec: &MetricSpec) -> Result<String, String> {
        let source = Source::of(spec).unwrap();
        let resource = |version: &str, kind: &str| match (version, kind) {
            ("networking.k8s.io/v1", "Ingress") => Some("ingresses.networking.k8s.io".to_owned()),
            _ => None,
        };
        let question = question(&source, "app=web,tier in (a,b)", resource).unwrap()?;
        Ok(url(&question, question.group.versions[0], "ns"))
    }

    fn pods() -> MetricSpec {
        metric(
            json!({"type": "Pods", "pods": {"metric": {"name": "requests per/s"},
            "target": {"type": "AverageValue", "averageValue": "10"}}}),
        )
    }

    fn object(kind: &str, version: &str) -> MetricSpec {
        metric(
            json!({"type": "Object", "object": {"metric": {"name": "hits",
                "selector": {"matchLabels": {"verb": "GET"}}},
            "describedObject": {"apiVersion": version, "kind": kind, "name": "front"},
            "target": {"type": "Value", "value": "2k"}}}),
        )
    }

    fn external() -> MetricSpec {
        metric(
            json!({"type": "External", "external": {"metric": {"name": "s0|queue",
                "selector": {"matchLabels": {"queue": "a"},
                    "matchExpressions": [{"key": "x", "operator": "Exists"}]}},
            "target": {"type": "AverageValue", "averageValue": "5"}}}),
        )
    }

    #[test]
    fn servers_are_asked_where_they_serve_a_metric() {
        assert_eq!(
            asked(&pods()).unwrap(),
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/*/requests%20per%2Fs\
             ?labelSelector=app%3Dweb%2Ctier+in+%28a%2Cb%29"
        );
        assert_eq!(
            asked(&object("Ingress", "networking.k8s.io/v1")).unwrap(),
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/ingresses.networking.k8s.io/front/hits\
             ?metricLabelSelector=verb%3DGET"
        );
        assert_eq!(
            asked(&object("Namespace", "v1")).unwrap(),
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/metrics/hits?metricLabelSelector=verb%3DGET"
        );
        assert_eq!(
            asked(&external()).unwrap(),
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/s0%7Cqueue?labelSelector=queue%3Da%2Cx"
        );
        let unknown = asked(&object("Ghost", "example.com/v1")).unwrap_err();
        assert!(unknown.ends_with("no matches for kind \"Ghost\" in group \"example.com\""));
    }

    #[test]
    fn answers_are_read_in_thousandths() {
        let read = |spec: &MetricSpec, items: Value| {
            answer(&Source::of(spec).unwrap(), &json!({ "items": items }))
        };
        let values = json!([{"value": "1500m"}, {"value": "2k"}]);
        assert_eq!(
            read(&external(), values.clone()),
            Ok(Said::Whole(2_001_500))
        );
        assert_eq!(
            read(&external(), json!([])).unwrap_err(),
            "no metrics returned from external metrics API"
        );
        let of = |name: &str, value: &str| json!({"describedObject": {"kind": "Pod", "name": name}, "value": value});
        assert_eq!(
            read(&pods(), json!([of("a", "3"), of("b", "250m")])),
            Ok(Said::Pods([("a".into(), 3_000), ("b".into(), 250)].into()))
        );
        let object = object("Ingress", "networking.k8s.io/v1");
        assert_eq!(
            read(&object, json!([of("front", "7")])),
            Ok(Said::Whole(7_000))
        );
        assert!(
            read(&object, values)
                .unwrap_err()
                .ends_with("returned 2 results when we asked for exactly one")
        );
        assert!(
            read(&pods(), json!([of("a", "x")]))
                .unwrap_err()
                .contains("\"x\"")
        );
    }
}

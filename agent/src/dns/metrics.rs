//! What DNS counts.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    /// Where the answer came from: `cluster` or `upstream`.
    zone: &'static str,
    r#type: &'static str,
    rcode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    zone: &'static str,
}

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    queries: Family<QueryLabels, Counter>,
    seconds: Family<ZoneLabels, Histogram>,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) forward_failures: Counter,
    /// Refused because too much is under way.
    pub(crate) overloaded: Counter,
    pub(crate) malformed: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            queries: Family::default(),
            // 16 us to about 8 s.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
                    0.000_016, 2.0, 20,
                ))
            }),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            forward_failures: Counter::default(),
            overloaded: Counter::default(),
            malformed: Counter::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("waggle_dns");
        registry.register("queries", "Queries answered", self.queries.clone());
        registry.register("response_seconds", "Time to answer", self.seconds.clone());
        let hits = "Questions to upstream resolvers answered from the cache";
        registry.register("cache_hits", hits, self.cache_hits.clone());
        let misses = "Questions to upstream resolvers that were not in the cache";
        registry.register("cache_misses", misses, self.cache_misses.clone());
        let failures = "Questions that no upstream resolver answered";
        registry.register("forward_failures", failures, self.forward_failures.clone());
        let overloaded = "Questions and connections refused because too many were under way";
        registry.register("overloaded", overloaded, self.overloaded.clone());
        registry.register(
            "malformed",
            "Packets that are no query",
            self.malformed.clone(),
        );
    }

    pub(crate) fn answered(
        &self,
        zone: &'static str,
        kind: RecordType,
        code: ResponseCode,
        took: Duration,
    ) {
        let labels = QueryLabels {
            zone,
            r#type: type_label(kind),
            rcode: code_label(code),
        };
        self.queries.get_or_create(&labels).inc();
        self.seconds
            .get_or_create(&ZoneLabels { zone })
            .observe(took.as_secs_f64());
    }
}

/// A bounded set: clients choose the type.
fn type_label(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        RecordType::ANY => "ANY",
        RecordType::HTTPS => "HTTPS",
        _ => "other",
    }
}

fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        _ => "other",
    }
}

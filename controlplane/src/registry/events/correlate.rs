//! Which reports are one series, which are told together, and which are not told: what client-go's correlator does
//! with its default numbers. Pure.
//!
//! Reports that differ in their message only are told as one series once there are many of them; whoever reports
//! very much about one object is not heard until a while later. Source of the numbers: the documentation of
//! `k8s.io/client-go/tools/record` (`CorrelatorOptions`).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};

use super::{EventType, Report};

/// Series, objects and the like that are remembered: about so many of each.
const REMEMBERED: usize = 4096;
/// More than so many messages in so long are told as one.
const MOST_ALIKE: usize = 10;
const ALIKE_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// So many reports about an object at once, and one more in so long.
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_secs(300);
const COMBINED: &str = "(combined from similar events): ";

/// What makes two reports the same series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    about: [String; 5],
    event_type: EventType,
    reason: String,
    /// Empty: of reports whose messages differ.
    message: String,
    source: (String, String),
}

impl SeriesKey {
    pub(super) fn of(report: &Report) -> Self {
        Self {
            message: report.message.clone(),
            ..Self::alike(report)
        }
    }

    fn alike(report: &Report) -> Self {
        let about = &report.about;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            about: [
                text(&about.kind),
                text(&about.namespace),
                text(&about.name),
                text(&about.uid),
                text(&about.field_path),
            ],
            event_type: report.event_type,
            reason: report.reason.clone(),
            message: String::new(),
            source: (report.component.clone(), report.host.clone()),
        }
    }

    /// Whoever reports about which object, whatever it is.
    fn source_and_object(&self) -> ((String, String), [String; 4]) {
        let [kind, namespace, name, uid, _] = self.about.clone();
        (self.source.clone(), [kind, namespace, name, uid])
    }
}

/// A map that forgets what was not asked for while about as many others were.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq + Clone, V> Recent<K, V> {
    fn new() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    fn entry(&mut self, key: &K, new: impl FnOnce() -> V) -> &mut V {
        let known = self.old.remove(key);
        if self.young.len() >= REMEMBERED / 2 && !self.young.contains_key(key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young
            .entry(key.clone())
            .or_insert_with(|| known.unwrap_or_else(new))
    }
}

#[derive(Debug)]
struct Alike {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Correlator {
    alike: Recent<SeriesKey, Alike>,
    buckets: Recent<((String, String), [String; 4]), Bucket>,
    /// Name of the Event of each series, in the namespace it is in.
    names: Recent<SeriesKey, Option<(String, String)>>,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self {
            alike: Recent::new(),
            buckets: Recent::new(),
            names: Recent::new(),
        }
    }

    /// The series that a report belongs to, as it is to be told; `None` when too much is said of the object.
    pub(super) fn series(&mut self, report: &mut Report, now: Timestamp) -> Option<SeriesKey> {
        let alike = SeriesKey::alike(report);
        if !self.may_say(&alike, now) {
            return None;
        }
        let known = self.alike.entry(&alike, || Alike {
            messages: HashSet::new(),
            last: now,
        });
        if now.duration_since(known.last) > ALIKE_WITHIN {
            known.messages.clear();
        }
        known.last = now;
        if known.messages.len() <= MOST_ALIKE {
            known.messages.insert(report.message.clone());
        }
        if known.messages.len() > MOST_ALIKE {
            report.message.insert_str(0, COMBINED);
            return Some(alike);
        }
        Some(SeriesKey::of(report))
    }

    #[allow(clippy::cast_precision_loss)]
    fn may_say(&mut self, alike: &SeriesKey, now: Timestamp) -> bool {
        let key = alike.source_and_object();
        let bucket = self.buckets.entry(&key, || Bucket {
            left: BURST,
            at: now,
        });
        let passed = now.duration_since(bucket.at).as_millis().max(0) as f64;
        let more = passed / REFILL.as_millis() as f64;
        bucket.left = (bucket.left + more).min(BURST);
        bucket.at = now;
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Namespace and name of the series' Event, if it is known.
    pub(super) fn name(&mut self, series: &SeriesKey) -> &mut Option<(String, String)> {
        self.names.entry(series, || None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn report(object: &str, message: &str) -> Report {
        Report {
            about: ObjectReference {
                name: Some(object.to_owned()),
                ..ObjectReference::default()
            },
            event_type: EventType::Normal,
            reason: "R".to_owned(),
            message: message.to_owned(),
            component: "c".to_owned(),
            host: String::new(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn who_says_much_about_one_object_is_not_heard_for_a_while() {
        let mut correlator = Correlator::new();
        let mut heard = |object: &str, seconds: i64| {
            let mut report = report(object, "same");
            correlator.series(&mut report, at(seconds)).is_some()
        };
        let first = (0..40).filter(|_| heard("a", 0)).count();
        assert_eq!(first, 25);
        assert!(heard("b", 0));
        assert!(!heard("a", 299));
        assert!(heard("a", 301));
        assert!(!heard("a", 302));
    }

    #[test]
    fn many_messages_that_are_alike_become_one_series() {
        let mut correlator = Correlator::new();
        let mut keys = HashSet::new();
        for number in 0..20 {
            let mut report = report("a", &format!("message {number}"));
            keys.insert(correlator.series(&mut report, at(number)).unwrap());
            assert_eq!(report.message.starts_with(COMBINED), number >= 10);
        }
        assert_eq!(keys.len(), 11);
        // After a quiet time they are told one by one again.
        let mut later = report("a", "message 3");
        let key = correlator.series(&mut later, at(10_000)).unwrap();
        assert_eq!(later.message, "message 3");
        assert_eq!(key, SeriesKey::of(&later));
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_what_is_used_stays() {
        let mut recent = Recent::new();
        for number in 0..REMEMBERED * 4 {
            *recent.entry(&number, || 0) = number;
            recent.entry(&0, || panic!("forgotten"));
        }
        assert!(recent.young.len() + recent.old.len() <= REMEMBERED);
        assert_eq!(*recent.entry(&1, || 7), 7);
    }
}

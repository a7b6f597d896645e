//! Times as Kubernetes writes them, and ages as `kubectl get` prints them. No clock: `now` is always given.

use jiff::Timestamp;

/// How messages name the accepted form of a Time.
pub(crate) const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// The same for a MicroTime.
pub(crate) const LAYOUT_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

fn parse(text: &str) -> Option<Timestamp> {
    // The parser also takes forms that RFC 3339 does not have: a blank between date and time, or brackets.
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !matches!(bytes.get(10), Some(b'T')) || text.contains('[') {
        return None;
    }
    text.parse().ok()
}

/// Seconds since the epoch of an RFC 3339 time.
pub(crate) fn seconds(text: &str) -> Option<i64> {
    parse(text).map(|at| at.as_second())
}

pub(crate) fn microseconds(text: &str) -> Option<i64> {
    parse(text).map(|at| at.as_microsecond())
}

/// `2026-01-02T03:04:05Z`
pub(crate) fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}

/// `2026-01-02T03:04:05.000006Z`
pub(crate) fn rfc3339_micro(microseconds: i64) -> String {
    Timestamp::from_microsecond(microseconds).map_or_else(
        |_| "1970-01-01T00:00:00.000000Z".to_owned(),
        |at| format!("{at:.6}"),
    )
}

/// The message for a text that is not a time.
pub(crate) fn error(text: &str, layout: &str) -> String {
    format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
}

/// A duration in the two or three significant figures that `kubectl get` shows: `5s`, `3m20s`, `4d2h`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let pair = |whole: i64, unit: &str, rest: i64, rest_unit: &str| {
        if rest == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{rest}{rest_unit}")
        }
    };
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let days = hours / 24;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        pair(days, "d", hours % 24, "h")
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        pair(days / 365, "y", days % 365, "d")
    } else {
        format!("{}y", days / 365)
    }
}

/// Time from `since` to `now`; `<unknown>` when there is no such time.
pub(crate) fn age(since: &str, now: i64) -> String {
    seconds(since).map_or_else(
        || "<unknown>".to_owned(),
        |then| human_duration(now.saturating_sub(then)),
    )
}

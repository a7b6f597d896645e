//! The formats of strings that schemas may name; others are not checked.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::time;

/// Whether a text is of the format.
pub(crate) fn is(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => time::seconds(text).is_some(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => is_mac(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(format, text),
        "email" => text.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace)
        }),
        "hostname" => {
            !text.is_empty() && super::super::names::dns_subdomain(&text.to_lowercase()).is_empty()
        }
        "uri" => text
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some() || text.starts_with('/')),
        "duration" => is_duration(text),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        }
        "hexcolor" => text.strip_prefix('#').is_some_and(|hex| {
            matches!(hex.len(), 3 | 6) && hex.bytes().all(|b| b.is_ascii_hexdigit())
        }),
        _ => true,
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8)
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(format: &str, text: &str) -> bool {
    let Ok(uuid) = uuid::Uuid::parse_str(text) else {
        return false;
    };
    match format {
        "uuid3" => uuid.get_version_num() == 3,
        "uuid4" => uuid.get_version_num() == 4,
        "uuid5" => uuid.get_version_num() == 5,
        _ => true,
    }
}

/// `1h30m`, `10 ns`, `2 days`: as Go and its schema library read it.
fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "nanoseconds",
        "nanosecond",
        "nanos",
        "nano",
        "ns",
        "microseconds",
        "microsecond",
        "micros",
        "micro",
        "us",
        "µs",
        "milliseconds",
        "millisecond",
        "millis",
        "milli",
        "ms",
        "seconds",
        "second",
        "secs",
        "sec",
        "s",
        "minutes",
        "minute",
        "mins",
        "min",
        "m",
        "hours",
        "hour",
        "hrs",
        "hr",
        "h",
        "days",
        "day",
        "d",
        "weeks",
        "week",
        "wks",
        "wk",
        "w",
    ];
    let mut rest = text.trim().trim_start_matches(['-', '+']);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        if digits == 0 {
            return false;
        }
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len());
        if !UNITS.contains(&&rest[..letters]) {
            return false;
        }
        rest = rest[letters..].trim_start();
        any = true;
    }
    any
}

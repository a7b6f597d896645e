//! Quantities (`100m`, `1.5Gi`, `2e3`): parsed exactly, compared exactly, written in the canonical form.
//!
//! The value is kept in units of 10^-9, which is the precision that Kubernetes keeps; more is rounded up.

use std::fmt;
use std::str::FromStr;

/// Which family of suffixes the value was written with, and is written with again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    BinarySi,
    DecimalSi,
    DecimalExponent,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// 2^63 - 1 whole units: what is larger is capped.
const CAP: i128 = (i64::MAX as i128) * NANO;

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    /// In the form of the first, unless that is nothing.
    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format: if self.is_zero() {
                other.format
            } else {
                self.format
            },
        }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format,
        }
    }
}

impl Quantity {
    pub(crate) fn from_whole(units: i64) -> Self {
        Self {
            nanos: i128::from(units) * NANO,
            format: Format::DecimalSi,
        }
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    #[cfg(test)]
    /// Whole units, rounded up (bytes, counts).
    pub(crate) fn value(self) -> i64 {
        clamp(ceil_div(self.nanos, NANO))
    }

    /// Thousandths, rounded up (CPU).
    pub(crate) fn millis(self) -> i64 {
        clamp(ceil_div(self.nanos, NANO / 1000))
    }

    /// The units, where they are a whole number that fits.
    pub(crate) fn as_whole(self) -> Option<i64> {
        self.is_whole()
            .then_some(self.nanos / NANO)
            .and_then(|units| i64::try_from(units).ok())
    }

    /// The units, to the precision of floating point.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn approximate(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is a whole number of units.
    pub(crate) fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Division that rounds away from zero, as "rounded up" is meant for quantities.
fn ceil_div(value: i128, by: i128) -> i128 {
    let whole = value / by;
    if value % by == 0 {
        whole
    } else if value < 0 {
        whole - 1
    } else {
        whole + 1
    }
}

/// (format, power of ten or two, exponent)
enum Scale {
    Ten(i32),
    Two(u32),
}

fn suffix(text: &str) -> Result<(Format, Scale), QuantityError> {
    let decimal = |exponent| Ok((Format::DecimalSi, Scale::Ten(exponent)));
    let binary = |exponent| Ok((Format::BinarySi, Scale::Two(exponent)));
    match text {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = text
                .strip_prefix(['e', 'E'])
                .filter(|digits| digits.len() <= 5)
                .and_then(|digits| digits.parse::<i32>().ok())
                .ok_or(QuantityError::Suffix)?;
            Ok((Format::DecimalExponent, Scale::Ten(exponent)))
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, rest) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        if !rest
            .chars()
            .all(|c| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit())
        {
            return Err(QuantityError::Format);
        }
        let (format, scale) = suffix(rest)?;
        let magnitude = scaled(whole, fraction, &scale);
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
            format,
        })
    }
}

/// The magnitude in nanos, rounded up and capped.
fn scaled(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    // More digits than these are beyond the cap whatever the suffix, or below the precision.
    let (exponent, multiplier) = match scale {
        Scale::Ten(exponent) => (*exponent, 1i128),
        Scale::Two(exponent) => (0, 1i128 << exponent),
    };
    // value = digits x 10^(exponent - len(fraction)); in nanos x 10^9.
    let mut digits: i128 = 0;
    let mut dropped = false;
    let mut kept_fraction = 0i32;
    for c in whole.bytes() {
        digits = digits
            .saturating_mul(10)
            .saturating_add(i128::from(c - b'0'));
        if digits > i128::from(u64::MAX) * NANO {
            return if exponent < -18 { 1 } else { CAP };
        }
    }
    for c in fraction.bytes() {
        if kept_fraction >= 18 || digits > i128::from(u64::MAX) * NANO {
            dropped |= c != b'0';
            continue;
        }
        digits = digits * 10 + i128::from(c - b'0');
        kept_fraction += 1;
    }
    if digits == 0 {
        return i128::from(dropped);
    }
    let power = exponent.saturating_add(9).saturating_sub(kept_fraction);
    let Some(multiplied) = digits.checked_mul(multiplier) else {
        return CAP;
    };
    let nanos = if power >= 0 {
        u32::try_from(power)
            .ok()
            .and_then(|power| 10i128.checked_pow(power))
            .and_then(|factor| multiplied.checked_mul(factor))
            .unwrap_or(CAP)
    } else {
        match u32::try_from(-power)
            .ok()
            .and_then(|power| 10i128.checked_pow(power))
        {
            Some(divisor) => {
                let rounded = ceil_div(multiplied, divisor);
                rounded + i128::from(dropped && multiplied % divisor == 0)
            }
            // Below the precision: rounded up to the smallest there is.
            None => 1,
        }
    };
    nanos.min(CAP)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let sign = if self.nanos < 0 { "-" } else { "" };
        let magnitude = self.nanos.abs();
        // Binary suffixes are for whole values from 1024 on; what is smaller or fractional is decimal.
        if self.format == Format::BinarySi && magnitude % NANO == 0 && magnitude / NANO >= 1024 {
            let units = magnitude / NANO;
            let power = (units.trailing_zeros() / 10).min(6);
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power as usize];
            return write!(f, "{sign}{}{suffix}", units >> (power * 10));
        }
        let mut digits = magnitude;
        let mut exponent = -9;
        while digits % 1000 == 0 && exponent < 18 {
            digits /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 {
                write!(f, "{sign}{digits}")
            } else {
                write!(f, "{sign}{digits}e{exponent}")
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{sign}{digits}{suffix}")
    }
}

//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`) as numbers.
//!
//! Only reading and the two roundings that the node needs; the API server has validated what comes from it,
//! so what cannot be read counts as absent.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths, rounded up: how CPU is counted.
pub(crate) fn millis(quantity: &Quantity) -> Option<u64> {
    scaled(&quantity.0, 1_000)
}

/// Whole units, rounded up: how bytes are counted.
pub(crate) fn whole(quantity: &Quantity) -> Option<u64> {
    scaled(&quantity.0, 1)
}

/// Whole units of a text that is not a field of its own, such as a part of a name.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    scaled(text, 1)
}

/// The value times `scale`, rounded up; `None` for what is no quantity, negative or too large.
fn scaled(text: &str, scale: u128) -> Option<u64> {
    let text = text.trim();
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '+')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (integer.is_empty() && fraction.is_empty()) || fraction.contains(['.', '+']) {
        return None;
    }
    if integer.len() > 20 || fraction.len() > 12 {
        return None;
    }
    let mut numerator: u128 = format!("{integer}{fraction}").parse().ok()?;
    let mut denominator: u128 = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (up, down) = multiplier(suffix)?;
    numerator = numerator.checked_mul(up)?.checked_mul(scale)?;
    denominator = denominator.checked_mul(down)?;
    u64::try_from(numerator.div_ceil(denominator)).ok()
}

/// A suffix as a fraction.
fn multiplier(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?;
            let exponent: i32 = exponent.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs().min(30))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_read_as_kubernetes_writes_them() {
        for (text, milli, unit) in [
            ("100m", 100, 1),
            ("1", 1_000, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("2e3", 2_000_000, 2_000),
            ("5E-1", 500, 1),
            ("1k", 1_000_000, 1_000),
            ("1n", 1, 1),
        ] {
            let quantity = Quantity(text.to_owned());
            assert_eq!(millis(&quantity), Some(milli), "{text}");
            assert_eq!(whole(&quantity), Some(unit), "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_quantity() {
        for text in ["", "m", "-1", "1..2", "1Q", "99999999999999999999999", "1e"] {
            assert_eq!(millis(&Quantity(text.to_owned())), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = millis(&Quantity(text.clone()));
            let _ = whole(&Quantity(text));
        }

        #[test]
        fn integers_survive(n in 0u64..u64::MAX / 1_000) {
            prop_assert_eq!(whole(&Quantity(n.to_string())), Some(n));
            prop_assert_eq!(millis(&Quantity(n.to_string())), Some(n * 1_000));
        }
    }
}

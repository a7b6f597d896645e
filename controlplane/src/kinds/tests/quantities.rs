//! Tests of `kinds`: quantities.

use proptest::prelude::*;

use crate::kinds::quantity::{Quantity, QuantityError};

fn parse(text: &str) -> Quantity {
    text.parse().unwrap()
}

#[test]
fn quantities_are_written_in_canonical_form() {
    for (given, canonical) in [
        ("0", "0"),
        ("0Gi", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("1.", "1"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("100u", "100u"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("512Ki", "512Ki"),
        ("1023Ki", "1023Ki"),
        ("0.5Ki", "512"),
        ("0.5Mi", "512Ki"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("12e6", "12e6"),
        ("1e-3", "1e-3"),
        ("100k", "100k"),
        ("1000k", "1M"),
        ("-1500m", "-1500m"),
        ("+5", "5"),
        ("9E", "9E"),
        ("9223372036854775807", "9223372036854775807"),
        ("100E", "9223372036854775807"),
        ("16Ei", "9223372036854775807"),
        ("007", "7"),
    ] {
        assert_eq!(parse(given).to_string(), canonical, "{given}");
    }
}

#[test]
fn what_is_no_quantity_is_refused() {
    for text in [
        "", "-", "+", ".", "a", "1 ", " 1", "1.2.3", "0x10", "--1", "1Z", "1\u{0}",
    ] {
        assert_eq!(
            text.parse::<Quantity>(),
            Err(QuantityError::Format),
            "{text}"
        );
    }
    for text in [
        "1mm", "1KiB", "1K", "1Ee3", "1e", "1e+", "1e999999", "1.5e1.5",
    ] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
}

#[test]
fn a_binary_quantity_that_no_suffix_fits_is_shown_without_one() {
    assert_eq!(parse("93.75Ki").to_string(), "96000");
    assert_eq!(parse("96000").to_string(), "96k");
    assert_eq!(parse("93Ki").to_string(), "93Ki");
}

#[test]
fn quantities_are_rounded_up() {
    assert_eq!(parse("1500m").value(), 2);
    assert_eq!(parse("100u").millis(), 1);
    assert_eq!(parse("2").millis(), 2000);
    assert_eq!(parse("1Ki").value(), 1024);
    assert_eq!(parse("-1500m").value(), -2);
    assert_eq!(parse("100E").millis(), i64::MAX);
    assert!(parse("1Gi") > parse("1G"));
    assert_eq!(parse("1Gi"), parse("1073741824"));
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>(), digits in "[0-9.eEkKMGTPinum+-]{0,40}") {
        let _ = text.parse::<Quantity>();
        let _ = digits.parse::<Quantity>();
    }

    #[test]
    fn the_canonical_form_is_the_same_quantity(
        text in "-?[0-9]{1,9}(\\.[0-9]{1,6})?(n|u|m|k|M|G|Ki|Mi|Gi|Ti|e[0-9]|)"
    ) {
        let quantity = parse(&text);
        let shown = quantity.to_string();
        prop_assert_eq!(parse(&shown), quantity, "{} is shown as {}", text, &shown);
        let again = parse(&shown).to_string();
        prop_assert_eq!(parse(&again), quantity, "{} is shown again as {}", shown, &again);
        prop_assert_eq!(parse(&again).to_string(), &again[..]);
        // Without its suffix a binary one is read as a decimal one, as in Kubernetes: 93.75Ki, 96000, 96k.
        if !text.ends_with('i') || shown.ends_with('i') {
            prop_assert_eq!(again, shown);
        }
    }

    #[test]
    fn order_is_that_of_numbers(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
        let (x, y) = (parse(&format!("{a}m")), parse(&format!("{b}m")));
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        prop_assert_eq!(x.millis(), a);
    }
}

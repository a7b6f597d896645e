//! Names from `generateName`. What metadata must look like is in `kinds::meta`.

use rand::Rng;

/// Letters and digits that make no words and are not mistaken for each other.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const MAX_GENERATED: usize = 63;

/// A name that begins with `base`.
pub(super) fn generate_name(base: &str) -> String {
    let mut rng = rand::rng();
    let mut name: String = base.chars().take(MAX_GENERATED - SUFFIX_LENGTH).collect();
    for _ in 0..SUFFIX_LENGTH {
        let at = rng.random_range(0..SUFFIX_ALPHABET.len());
        name.push(char::from(SUFFIX_ALPHABET[at]));
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::kinds::NameRule;

    proptest! {
        #[test]
        fn generated_names_keep_the_base_and_are_valid(base in "[a-z]([a-z0-9-]{0,80})") {
            let name = generate_name(&base);
            prop_assert!(name.len() <= MAX_GENERATED);
            prop_assert!(name.starts_with(&base[..base.len().min(58)]));
            prop_assert!(NameRule::DnsLabel.check(&name).is_empty());
        }
    }
}

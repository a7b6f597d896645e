//! `$(NAME)` references in commands, arguments and environment variables.

/// Replaces `$(NAME)` by what `lookup` knows; unknown names stay as they are, `$$` is a plain `$`.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "LONG_NAME" => Some("$(A)".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn table() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(LONG_NAME)", "$(A)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("$()", "$()"),
            ("$($(A))", "$($(A))"),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    /// One character at a time, without any cleverness.
    fn naive(text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        while at < chars.len() {
            if chars[at] == '$' && at + 1 < chars.len() {
                if chars[at + 1] == '$' {
                    out.push('$');
                    at += 2;
                    continue;
                }
                if chars[at + 1] == '('
                    && let Some(close) = (at + 2..chars.len()).find(|&i| chars[i] == ')')
                {
                    let name: String = chars[at + 2..close].iter().collect();
                    out.push_str(&known(&name).unwrap_or_else(|| format!("$({name})")));
                    at = close + 1;
                    continue;
                }
            }
            out.push(chars[at]);
            at += 1;
        }
        out
    }

    proptest! {
        #[test]
        fn same_as_naive(text in "[$()A-BLONG_ME x]{0,30}") {
            prop_assert_eq!(expand(&text, known), naive(&text));
        }
    }
}

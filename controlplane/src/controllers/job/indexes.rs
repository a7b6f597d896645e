//! Sets of completion indexes as a Job's status writes them: `0,3-5,7`. Pure.

use std::collections::BTreeSet;

pub(super) type Indexes = BTreeSet<i32>;

/// What cannot be read, or is not below `completions`, is left out.
pub(super) fn parse(text: &str, completions: i32) -> Indexes {
    let mut all = Indexes::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(completions.saturating_sub(1)));
        }
    }
    all
}

/// Neighbours are joined; two in a row are still written one by one.
pub(super) fn shown(indexes: &Indexes) -> String {
    let mut parts = Vec::new();
    let mut iter = indexes.iter().copied().peekable();
    while let Some(first) = iter.next() {
        let mut last = first;
        while let Some(next) = iter.next_if(|next| *next == last + 1) {
            last = next;
        }
        parts.push(match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        let set = parse("0,2-4,6,7,9", 8);
        assert_eq!(set, [0, 2, 3, 4, 6, 7].into());
        assert_eq!(shown(&set), "0,2-4,6,7");
        assert_eq!(shown(&Indexes::new()), "");
        assert!(parse("", 5).is_empty());
        assert!(parse("x,4-2", 5).is_empty());
    }
}

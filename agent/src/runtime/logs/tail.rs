//! The last lines of a log, for the message of a container's end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Of the file, from its end: far more than is asked for, whatever the times before the lines need.
const WINDOW: u64 = 64 << 10;

/// At most so many lines, and of these the last bytes.
pub(crate) fn tail(path: &Path, lines: usize, bytes: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(from))?;
    let mut content = Vec::new();
    file.take(WINDOW).read_to_end(&mut content)?;
    let text = String::from_utf8_lossy(&content);
    Ok(last(&text, from > 0, lines, bytes))
}

/// `time stream tag text` per record; a record whose tag is `P` is continued by the next.
fn last(text: &str, is_cut: bool, lines: usize, bytes: usize) -> String {
    let records = text.lines().skip(usize::from(is_cut));
    let mut out = String::new();
    for record in records {
        let mut fields = record.splitn(4, ' ');
        let tag = fields.nth(2);
        out.push_str(fields.next().unwrap_or_default());
        if tag != Some("P") {
            out.push('\n');
        }
    }
    let mut starts: Vec<usize> = out.match_indices('\n').map(|(at, _)| at + 1).collect();
    starts.insert(0, 0);
    starts.retain(|at| *at < out.len());
    let start = starts.len().checked_sub(lines).map_or(0, |at| starts[at]);
    let mut start = start.max(out.len().saturating_sub(bytes));
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out[start..].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_lines_are_what_was_written() {
        let log = "t stdout F one\nt stderr P tw\nt stderr F o\nt stdout F \nt stdout F three\n";
        assert_eq!(last(log, false, 80, 2048), "one\ntwo\n\nthree\n");
        assert_eq!(last(log, false, 2, 2048), "\nthree\n");
        assert_eq!(last(log, false, 80, 4), "ree\n");
        assert_eq!(last(log, true, 80, 2048), "two\n\nthree\n");
        assert_eq!(last("", false, 80, 2048), "");
    }
}

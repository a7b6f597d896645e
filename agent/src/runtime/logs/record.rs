//! Log records as bytes, and back (pure).

use std::time::SystemTime;

/// One record; see [`crate::supervisor::logfile`] for how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) time: &'a str,
    pub(super) stderr: bool,
    /// The line ends here; else more of it follows.
    pub(super) ends_line: bool,
    pub(super) text: &'a [u8],
}

/// A record without its line end; `None` for what is none.
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    if !time.as_bytes().first()?.is_ascii_digit() || !time.is_ascii() {
        return None;
    }
    let stderr = match fields.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let ends_line = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Record {
        time,
        stderr,
        ends_line,
        text: fields.next()?,
    })
}

impl Record<'_> {
    /// A time that cannot be read is never before.
    pub(super) fn is_before(&self, since: SystemTime) -> bool {
        let time: Result<jiff::Timestamp, _> = self.time.parse();
        time.is_ok_and(|time| SystemTime::from(time) < since)
    }
}

/// From records to what a reader sees.
#[derive(Debug)]
pub(super) struct Renderer {
    pub(super) timestamps: bool,
    /// Dropped once a record has passed: what follows is later.
    pub(super) since: Option<SystemTime>,
    /// Only errors, or only what is none.
    pub(super) stderr: Option<bool>,
    /// Bytes that may still be given out.
    pub(super) budget: Option<u64>,
    /// The last record did not end its line.
    pub(super) within_line: bool,
}

impl Renderer {
    /// `false` when the budget is used up.
    pub(super) fn render(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(record) = parse(line) else {
            return true;
        };
        if self.since.is_some_and(|since| record.is_before(since)) {
            return true;
        }
        self.since = None;
        if self.stderr.is_some_and(|wanted| wanted != record.stderr) {
            return true;
        }
        let before = out.len();
        if self.timestamps && !self.within_line {
            out.extend_from_slice(record.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.ends_line {
            out.push(b'\n');
        }
        self.within_line = !record.ends_line;
        let Some(budget) = &mut self.budget else {
            return true;
        };
        let written = (out.len() - before) as u64;
        if let Some(left) = budget.checked_sub(written) {
            *budget = left;
            return left > 0;
        }
        let excess = usize::try_from(written - *budget).unwrap_or(usize::MAX);
        out.truncate(out.len().saturating_sub(excess));
        *budget = 0;
        false
    }
}

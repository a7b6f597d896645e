//! The files of a log, read in the order in which they were written, also while they are rotated.
//!
//! A file is known by its open descriptor, not its name: when the current file turns out to have been renamed,
//! it is read to its end, then those that came after it. Nothing is lost or read twice unless the reader is so
//! slow that a file it has not begun is removed.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::LogOptions;
use super::record::{self, Renderer};
use crate::supervisor::logfile::rotated_files;

const BLOCK: usize = 64 << 10;
/// Longer than every record that is written; more without a line end is damage.
const MAX_RECORD: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Progress {
    Chunk(Vec<u8>),
    /// Everything that has been written was given out.
    UpToDate,
    /// There will be no more: the limit is reached, or the log is removed.
    Finished,
}

#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// To be read, in this order; the last is the one being written, as far as is known.
    files: VecDeque<File>,
    /// A record whose end is not there yet.
    carry: Vec<u8>,
    renderer: Renderer,
    /// Goes on to files that are begun later.
    follow: bool,
    finished: bool,
}

impl Reader {
    pub(super) fn open(path: &Path, options: &LogOptions) -> io::Result<Self> {
        let mut files = open_all(path, None)?;
        if files.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(lines) = options.tail_lines {
            seek_to_tail(&mut files, lines)?;
        }
        let renderer = Renderer {
            timestamps: options.timestamps,
            since: options.since,
            stderr: options.stderr,
            budget: options.limit_bytes,
            within_line: false,
        };
        Ok(Self {
            path: path.to_owned(),
            files,
            carry: Vec::new(),
            renderer,
            follow: options.follow,
            finished: options.limit_bytes == Some(0),
        })
    }

    pub(super) fn read(&mut self) -> io::Result<Progress> {
        let mut out = Vec::new();
        while !self.finished && out.len() < BLOCK {
            if self.fill()? {
                self.render(&mut out);
                continue;
            }
            match self.next()? {
                Next::MoreOfThis => {}
                Next::NewerFile => {
                    self.files.pop_front();
                    self.carry.clear();
                }
                Next::Nothing => break,
            }
        }
        if !out.is_empty() {
            return Ok(Progress::Chunk(out));
        }
        Ok(match self.finished {
            true => Progress::Finished,
            false => Progress::UpToDate,
        })
    }

    /// Reads more of the first file; `false` at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.front_mut() else {
            return Ok(false);
        };
        let before = self.carry.len();
        file.take(BLOCK as u64).read_to_end(&mut self.carry)?;
        Ok(self.carry.len() > before)
    }

    fn render(&mut self, out: &mut Vec<u8>) {
        let mut rest = self.carry.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if !self.renderer.render(&rest[..end], out) {
                self.finished = true;
                return;
            }
            rest = &rest[end + 1..];
        }
        let done = self.carry.len() - rest.len();
        self.carry.drain(..done);
        if self.carry.len() > MAX_RECORD {
            self.carry.clear();
        }
    }

    /// What follows the end of the first file; newer files are opened.
    fn next(&mut self) -> io::Result<Next> {
        if self.files.len() > 1 {
            return Ok(Next::NewerFile);
        }
        let Some(file) = self.files.front_mut().filter(|_| self.follow) else {
            return Ok(Next::Nothing);
        };
        let own = file.metadata()?;
        match self.path.metadata() {
            Ok(current) if same(&current, &own) => return Ok(Next::Nothing),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Between two names, or removed for good: then there is no link left.
                self.finished = own.nlink() == 0;
                return Ok(Next::Nothing);
            }
            Err(error) => return Err(error),
        }
        // It may have been written to between the last read and the renaming.
        let position = file.stream_position()?;
        if file.read_at(&mut [0], position)? > 0 {
            return Ok(Next::MoreOfThis);
        }
        let newer = open_all(&self.path, Some(&own))?;
        self.files.extend(newer);
        Ok(match self.files.len() {
            0 | 1 => Next::Nothing,
            _ => Next::NewerFile,
        })
    }
}

enum Next {
    MoreOfThis,
    NewerFile,
    Nothing,
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// The log's files, oldest first; with `after`, only those that came after that one.
fn open_all(path: &Path, after: Option<&Metadata>) -> io::Result<VecDeque<File>> {
    loop {
        let rotated = rotated_files(path)?;
        let mut files = VecDeque::new();
        for name in rotated.iter().map(PathBuf::as_path).chain([path]) {
            match File::open(name) {
                Ok(file) => files.push_back(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Renaming between the listing and the opening would leave one out, or give one twice.
        if rotated_files(path)? != rotated {
            continue;
        }
        if let Some(after) = after {
            let mut seen = None;
            for (index, file) in files.iter().enumerate() {
                if same(&file.metadata()?, after) {
                    seen = Some(index);
                }
            }
            if let Some(index) = seen {
                files.drain(..=index);
            }
        }
        return Ok(files);
    }
}

/// Leaves the files as they have to be to give the last lines.
fn seek_to_tail(files: &mut VecDeque<File>, lines: u64) -> io::Result<()> {
    let mut count = Count {
        wanted: lines,
        seen: 0,
        newest: true,
    };
    for index in (0..files.len()).rev() {
        let start = if lines == 0 {
            Some(files[index].seek(SeekFrom::End(0))?)
        } else {
            tail_start(&files[index], &mut count)?
        };
        if let Some(start) = start {
            files[index].seek(SeekFrom::Start(start))?;
            files.drain(..index);
            return Ok(());
        }
    }
    Ok(())
}

struct Count {
    wanted: u64,
    seen: u64,
    /// Nothing has been looked at yet.
    newest: bool,
}

impl Count {
    /// Goes back by one record; `true` when it is one too many.
    fn back(&mut self, line: &[u8]) -> bool {
        let Some(record) = line.strip_suffix(b"\n").and_then(record::parse) else {
            return false;
        };
        if !record.ends_line {
            // A line that has begun at the very end counts, too.
            self.seen += u64::from(std::mem::take(&mut self.newest));
            return false;
        }
        self.newest = false;
        if self.seen == self.wanted {
            return true;
        }
        self.seen += 1;
        false
    }
}

/// Where in a file the wanted lines begin, looking from its end; `None` when they begin before it.
fn tail_start(file: &File, count: &mut Count) -> io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    // From the end of the block to the end of the first record that was looked at.
    let mut rest = Vec::new();
    while end > 0 {
        let length = end.min(BLOCK as u64);
        let start = end - length;
        let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK)];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut rest);
        let mut stop = block.len();
        while stop > 0 {
            let newline = block[..stop - 1].iter().rposition(|byte| *byte == b'\n');
            let begin = match newline {
                Some(newline) => newline + 1,
                None if start == 0 => 0,
                None => break,
            };
            if count.back(&block[begin..stop]) {
                return Ok(Some(start + stop as u64));
            }
            stop = begin;
        }
        block.truncate(stop);
        rest = block;
        end = start;
    }
    Ok(None)
}

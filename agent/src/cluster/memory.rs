//! What an agent remembers of the cluster, for a start while the control plane is away: a file that is written whole
//! with every full state and grows by what changes after it.
//!
//! A line is a checksum, a key and an event; the last line of a key counts. A line with a revision ends a batch: what
//! follows the last of them, or a line that is damaged, is not taken. Changes are not waited for until they are on the
//! disk: a loss of power may cost the last ones, as it costs the node's connections.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Batch, BatchReceiver, Event};

/// Of everything in this file and the types that are written.
const FORMAT: u32 = 1;
/// Beyond this, and beyond twice what it was when it was written whole, the file is rewritten.
const SLACK: u64 = 1 << 20;
/// No event is longer: a slice has a thousand endpoints at most.
const LONGEST_LINE: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Line<E> {
    Format(u32),
    Event(E),
    Revision(u64),
}

/// What an event is about; what is set and what is removed have the same.
type Key = u64;

fn key(event: &Event) -> Key {
    let (kind, namespace, name) = match event {
        Event::ServiceSet(name, _) | Event::ServiceRemoved(name) => {
            ('s', &name.namespace, &name.name)
        }
        Event::SliceSet(name, _) | Event::SliceRemoved(name) => ('e', &name.namespace, &name.name),
        Event::NodeSet(name, _) | Event::NodeRemoved(name) => ('n', name, name),
    };
    // A name has no slash.
    let digest = Sha256::digest(format!("{kind}/{namespace}/{name}"));
    digest[..8]
        .iter()
        .fold(0, |sum, byte| sum << 8 | Key::from(*byte))
}

const fn is_removal(event: &Event) -> bool {
    matches!(
        event,
        Event::ServiceRemoved(_) | Event::SliceRemoved(_) | Event::NodeRemoved(_)
    )
}

fn write_line<E: Serialize>(to: &mut impl Write, key: Key, line: &Line<E>) -> io::Result<()> {
    let mut text = format!("{key:016x} ").into_bytes();
    serde_json::to_writer(&mut text, line)?;
    writeln!(
        to,
        "{:08x} {}",
        crc32fast::hash(&text),
        String::from_utf8_lossy(&text)
    )
}

fn write_batch(to: &mut impl Write, batch: &Batch) -> io::Result<()> {
    for event in &batch.events {
        write_line(to, key(event), &Line::Event(event))?;
    }
    write_line(to, 0, &Line::Revision::<Event>(batch.revision))
}

/// A line's key and text, if it is sound.
fn sound(line: &[u8]) -> Option<(Key, &[u8])> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, rest) = line.split_at_checked(9)?;
    let number = |text: &[u8]| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    if number(&sum[..8])? != u64::from(crc32fast::hash(rest)) {
        return None;
    }
    let (key, text) = rest.split_at_checked(17)?;
    Some((number(&key[..16])?, text))
}

/// Calls `with` with the place and length, key and content of every line up to the last whole batch's end.
fn each_line(
    file: &mut File,
    mut with: impl FnMut((u64, u64), Key, Line<Event>),
) -> io::Result<()> {
    let end = sound_end(file)?;
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file.take(end));
    let mut line = Vec::new();
    let mut at = 0;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)? as u64;
        let Some((key, text)) = sound(&line) else {
            return Ok(());
        };
        with((at, length), key, serde_json::from_slice(text)?);
        at += length;
    }
}

/// Where the last whole batch ends.
fn sound_end(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let (mut at, mut end) = (0, 0);
    loop {
        line.clear();
        let length = (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)? as u64;
        let Some((_, text)) = sound(&line) else {
            return Ok(end);
        };
        at += length;
        if text.starts_with(b"{\"Revision\"") {
            end = at;
        }
    }
}

/// What is remembered, as one full batch; nothing if there is no file, or none that this version writes.
pub(crate) fn read(path: &Path) -> io::Result<Option<Batch>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut events: HashMap<Key, Event> = HashMap::new();
    let mut format = None;
    each_line(&mut file, |_, key, line| match line {
        Line::Format(number) => format = Some(number),
        Line::Event(event) if is_removal(&event) => drop(events.remove(&key)),
        Line::Event(event) => drop(events.insert(key, event)),
        Line::Revision(_) => {}
    })?;
    if format != Some(FORMAT) {
        return Ok(None);
    }
    Ok(Some(Batch {
        revision: Batch::REMEMBERED,
        full: true,
        events: events.into_values().collect(),
    }))
}

/// The file, open to be added to.
#[derive(Debug)]
struct Memory {
    path: PathBuf,
    file: File,
    length: u64,
    /// When it was written whole.
    first_length: u64,
}

/// Puts a whole file in the place of another.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<Memory> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    let mut writer = BufWriter::new(file);
    write_line(&mut writer, 0, &Line::Format::<Event>(FORMAT))?;
    write(&mut writer)?;
    let mut file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    std::fs::rename(&new, path)?;
    let length = file.stream_position()?;
    Ok(Memory {
        path: path.to_owned(),
        file,
        length,
        first_length: length,
    })
}

impl Memory {
    fn begin(path: &Path, batch: &Batch) -> io::Result<Self> {
        replace(path, |writer| write_batch(writer, batch))
    }

    fn add(&mut self, batch: &Batch) -> io::Result<()> {
        let mut text = Vec::new();
        write_batch(&mut text, batch)?;
        self.file.write_all(&text)?;
        self.length += text.len() as u64;
        if self.length > self.first_length * 2 + SLACK {
            *self = self.rewrite(batch.revision)?;
        }
        Ok(())
    }

    /// Leaves out what a later line says anew.
    fn rewrite(&mut self, revision: u64) -> io::Result<Self> {
        let mut places: HashMap<Key, (u64, u64)> = HashMap::new();
        each_line(&mut self.file, |place, key, line| match line {
            Line::Event(event) if is_removal(&event) => drop(places.remove(&key)),
            Line::Event(_) => drop(places.insert(key, place)),
            Line::Format(_) | Line::Revision(_) => {}
        })?;
        let mut places: Vec<(u64, u64)> = places.into_values().collect();
        places.sort_unstable();
        let file = &mut self.file;
        replace(&self.path, |writer| {
            for (at, length) in places {
                file.seek(SeekFrom::Start(at))?;
                io::copy(&mut (&mut *file).take(length), writer)?;
            }
            write_line(writer, 0, &Line::Revision::<Event>(revision))
        })
    }
}

/// Writes down what comes, until the channel closes. What cannot be written is not remembered at all, rather than in
/// part, until the next full state.
pub(crate) async fn keep(path: PathBuf, mut batches: BatchReceiver) {
    let mut memory: Option<Memory> = None;
    while let Some(batch) = batches.recv().await {
        let known = memory.take();
        let place = path.clone();
        let written = tokio::task::spawn_blocking(move || note(known, &place, &batch)).await;
        match written {
            Ok(Ok(now)) => memory = now,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error,
                    "the cluster's state is not written down: names would not be known after a start without control plane");
                let _ = std::fs::remove_file(&path);
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

fn note(memory: Option<Memory>, path: &Path, batch: &Arc<Batch>) -> io::Result<Option<Memory>> {
    if batch.full {
        return Memory::begin(path, batch).map(Some);
    }
    let Some(mut memory) = memory else {
        return Ok(None);
    };
    memory.add(batch)?;
    Ok(Some(memory))
}

#[cfg(test)]
mod tests;

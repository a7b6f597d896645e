//! Tests of `runtime::logs`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::record::{Record, parse};
use super::*;
use crate::supervisor::logfile::{LogFile, Stream, encode, format_time};
use crate::supervisor::protocol::LogTarget;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn log_file(path: &Path, max_bytes: u64) -> LogFile {
    LogFile::open(LogTarget {
        path: path.to_owned(),
        max_bytes,
        max_files: 1000,
    })
    .unwrap()
}

fn write(file: &mut LogFile, seconds: u64, ends_line: bool, text: &str) {
    let now = at(seconds);
    let time = format_time(now);
    file.record(now, &time, Stream::Stdout, ends_line, text.as_bytes())
        .unwrap();
    file.flush().unwrap();
}

/// All that the reader has now.
fn read(reader: &mut Reader) -> String {
    let mut all = Vec::new();
    while let Progress::Chunk(chunk) = reader.read().unwrap() {
        all.extend(chunk);
    }
    String::from_utf8(all).unwrap()
}

fn read_with(path: &Path, options: &LogOptions) -> String {
    read(&mut Reader::open(path, options).unwrap())
}

proptest! {
    #[test]
    fn parsing_takes_anything(line: Vec<u8>) {
        let _ = parse(&line);
    }

    #[test]
    fn parsing_undoes_writing(text in "[^\n]{0,80}", ends_line: bool, seconds in 0_u64..4_000_000_000) {
        let time = format_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut line = Vec::new();
        encode(&mut line, &time, Stream::Stderr, ends_line, text.as_bytes());
        let record = Record { time: &time, stderr: true, ends_line, text: text.as_bytes() };
        prop_assert_eq!(parse(line.strip_suffix(b"\n").unwrap()), Some(record));
    }

    /// However writing, rotating and reading alternate, every line is read once and in order.
    #[test]
    fn rotation_loses_and_repeats_nothing(
        steps in prop::collection::vec((0_usize..90, any::<bool>(), any::<bool>(), 0_u64..2), 1..120),
        max_bytes in 60_u64..400,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut file = log_file(&path, max_bytes);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut reader = Reader::open(&path, &options).unwrap();
        let (mut expected, mut seen, mut seconds) = (String::new(), String::new(), 0);
        for (number, (length, ends_line, look, pass)) in steps.into_iter().enumerate() {
            seconds += pass;
            let text = format!("{number}{}", "x".repeat(length));
            write(&mut file, seconds, ends_line, &text);
            expected += &text;
            if ends_line {
                expected.push('\n');
            }
            if look {
                seen += &read(&mut reader);
                prop_assert_eq!(&seen, &expected);
            }
        }
        seen += &read(&mut reader);
        prop_assert_eq!(&seen, &expected);
        // A reader that comes later sees the same.
        prop_assert_eq!(&read_with(&path, &LogOptions::default()), &expected);
    }

    #[test]
    fn the_tail_is_the_last_lines(
        lengths in prop::collection::vec(0_usize..5000, 1..60),
        max_bytes in 100_u64..100_000,
        wanted in 0_u64..70,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut file = log_file(&path, max_bytes);
        let mut lines = Vec::new();
        for (number, length) in lengths.into_iter().enumerate() {
            let text = format!("{number}{}", "x".repeat(length));
            write(&mut file, 0, true, &text);
            lines.push(text + "\n");
        }
        let options = LogOptions { tail_lines: Some(wanted), ..LogOptions::default() };
        let skipped = lines.len().saturating_sub(wanted as usize);
        prop_assert_eq!(read_with(&path, &options), lines[skipped..].concat());
    }
}

#[test]
fn options_choose_what_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut file = log_file(&path, 1 << 20);
    write(&mut file, 0, true, "early");
    write(&mut file, 10, false, "la");
    write(&mut file, 11, true, "te");
    write(&mut file, 12, false, "prompt> ");
    let options = LogOptions::default();
    assert_eq!(read_with(&path, &options), "early\nlate\nprompt> ");
    let since = LogOptions {
        since: Some(at(10)),
        ..LogOptions::default()
    };
    assert_eq!(read_with(&path, &since), "late\nprompt> ");
    let timestamps = LogOptions {
        timestamps: true,
        tail_lines: Some(2),
        ..LogOptions::default()
    };
    assert_eq!(
        read_with(&path, &timestamps),
        "2023-11-14T22:13:30.000000000Z late\n2023-11-14T22:13:32.000000000Z prompt> "
    );
    let limited = LogOptions {
        limit_bytes: Some(8),
        ..LogOptions::default()
    };
    assert_eq!(read_with(&path, &limited), "early\nla");
}

#[test]
fn damage_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, b"\xff\xfe nonsense\n\n2023 stdout X no\n").unwrap();
    let mut file = log_file(&path, 1 << 20);
    write(&mut file, 0, true, "good");
    assert_eq!(read_with(&path, &LogOptions::default()), "good\n");
    let tail = LogOptions {
        tail_lines: Some(5),
        ..LogOptions::default()
    };
    assert_eq!(read_with(&path, &tail), "good\n");
}

#[test]
fn a_log_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Reader::open(&dir.path().join("0.log"), &LogOptions::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn following_ends_with_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut file = log_file(&path, 200);
    write(&mut file, 0, true, "zero");
    let (ended, receiver) = signal::channel(false);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut stream = LogStream::open(&path, options, receiver).await.unwrap();
    let mut seen = String::new();
    let mut expected = String::from("zero\n");
    for number in 1..50 {
        // What is written while it waits arrives; a file is full every few lines.
        while seen != expected {
            let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next_chunk());
            let chunk = chunk.await.unwrap().unwrap().unwrap();
            seen += std::str::from_utf8(&chunk).unwrap();
        }
        write(&mut file, number, true, &format!("line {number}"));
        expected += &format!("line {number}\n");
    }
    write(&mut file, 60, true, "last");
    expected += "last\n";
    ended.send(true).unwrap();
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        seen += std::str::from_utf8(&chunk).unwrap();
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_removed_log_ends_following() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    drop(log_file(&path, 200));
    let (_ended, receiver) = signal::channel(false);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut stream = LogStream::open(&path, options, receiver).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.next_chunk());
    assert!(end.await.unwrap().unwrap().is_none());
}

//! The parts of a supervisor that need no process: frames, lines, files, names.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::logfile::{LogFile, Stream, rotated_files, rotated_name};
use super::output::{Lines, MAX_TEXT};
use super::protocol::{
    Answer, Call, Create, Decoder, Failure, LogTarget, MAX_FRAME, Message, Request, encode,
};
use super::{cgroup, config, runc};

fn request(id: u64, name: &str) -> Request {
    Request {
        version: 1,
        id,
        call: Call::Create(Create {
            id: name.to_owned(),
            bundle: "/run/x".into(),
            log: LogTarget {
                path: "/var/log/x".into(),
                max_bytes: 1,
                max_files: 2,
            },
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            oom_events: None,
            stdin: false,
            stdin_once: false,
            terminal: false,
            owner: None,
            start: false,
        }),
    }
}

proptest! {
    /// However the bytes are divided on their way.
    #[test]
    fn frames_come_out_as_they_went_in(
        names in prop::collection::vec(".{0,40}", 0..8),
        piece in 1_usize..50,
    ) {
        let requests: Vec<Request> =
            names.iter().enumerate().map(|(id, name)| request(id as u64, name)).collect();
        let bytes: Vec<u8> = requests.iter().flat_map(|it| encode(it).unwrap()).collect();
        let mut decoder = Decoder::default();
        let mut decoded = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(request) = decoder.take::<Request>().unwrap() {
                decoded.push(request);
            }
        }
        prop_assert_eq!(decoded, requests);
    }

    #[test]
    fn decoding_takes_anything(pieces: Vec<Vec<u8>>) {
        let mut decoder = Decoder::default();
        for piece in pieces {
            decoder.push(&piece);
            while let Ok(Some(_)) = decoder.take::<Request>() {}
            if decoder.take::<Message>().is_err() {
                break;
            }
        }
    }

    #[test]
    fn malformed_bodies_are_errors(body: Vec<u8>) {
        let mut decoder = Decoder::default();
        decoder.push(&u32::try_from(body.len()).unwrap().to_be_bytes());
        decoder.push(&body);
        // Whatever it is, it is not a request by chance.
        prop_assert!(decoder.take::<Request>().is_err());
    }

    #[test]
    fn long_frames_are_refused_before_they_come(length in (MAX_FRAME as u32 + 1)..) {
        let mut decoder = Decoder::default();
        decoder.push(&length.to_be_bytes());
        prop_assert!(decoder.take::<Request>().is_err());
    }

    #[test]
    fn lines_keep_every_byte(
        chunks in prop::collection::vec(prop::collection::vec(0_u8..20, 0..200), 0..20),
    ) {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        let mut emit = |ends_line, text: &[u8]| {
            out.extend_from_slice(text);
            if ends_line {
                out.push(b'\n');
            }
            Ok(())
        };
        for chunk in &chunks {
            lines.push(chunk, &mut emit).unwrap();
        }
        lines.finish(&mut emit).unwrap();
        prop_assert_eq!(out, chunks.concat());
    }

    #[test]
    fn long_lines_come_in_bounded_pieces(
        length in 0..4 * MAX_TEXT,
        chunk in 1..2 * MAX_TEXT,
        ended: bool,
    ) {
        let mut bytes = vec![b'x'; length];
        if ended {
            bytes.push(b'\n');
        }
        let mut pieces = Vec::new();
        let mut lines = Lines::default();
        let mut emit = |ends_line, text: &[u8]| {
            pieces.push((ends_line, text.len()));
            Ok(())
        };
        for chunk in bytes.chunks(chunk) {
            lines.push(chunk, &mut emit).unwrap();
        }
        lines.finish(&mut emit).unwrap();
        prop_assert_eq!(pieces.iter().map(|(_, length)| length).sum::<usize>(), length);
        prop_assert!(pieces.iter().all(|(_, length)| *length <= MAX_TEXT));
        let ends = pieces.iter().filter(|(ends_line, _)| *ends_line).count();
        prop_assert_eq!(ends, usize::from(ended));
    }

    /// Also when the clock stands still or goes back.
    #[test]
    fn rotated_names_only_grow(steps in prop::collection::vec(-5_i64..5, 1..50)) {
        let mut seconds = 1_700_000_000_i64;
        let mut last: Option<String> = None;
        for step in steps {
            seconds += step;
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap());
            let name = rotated_name("0.log", last.as_deref(), now);
            prop_assert!(last.as_ref() < Some(&name), "{last:?} {name}");
            last = Some(name);
        }
    }

    #[test]
    fn error_messages_are_found_in_anything(log: Vec<u8>) {
        let _ = runc::last_error(&log);
    }
}

#[test]
fn answers_keep_their_shape() {
    // What an older supervisor sends must be understood.
    let message = Message::Answer {
        id: 3,
        answer: Answer::Failed(Failure::Runc {
            verb: "create".to_owned(),
            message: "no".to_owned(),
        }),
    };
    let frame = encode(&message).unwrap();
    let text =
        r#"{"answer":{"id":3,"answer":{"failed":{"runc":{"verb":"create","message":"no"}}}}}"#;
    assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), text);
    let hello = r#"{"version":1,"id":1,"call":"hello","unknown":true}"#;
    let hello: Request = serde_json::from_str(hello).unwrap();
    assert_eq!(hello.call, Call::Hello);
}

#[test]
fn full_files_are_renamed_and_the_oldest_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let target = LogTarget {
        path: path.clone(),
        max_bytes: 100,
        max_files: 3,
    };
    let mut file = LogFile::open(target).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_136_214_245);
    for number in 0..9 {
        let time = super::logfile::format_time(now);
        let text = format!("record {number}");
        file.record(now, &time, Stream::Stdout, true, text.as_bytes())
            .unwrap();
    }
    file.flush().unwrap();
    let rotated = rotated_files(&path).unwrap();
    let names: Vec<_> = rotated
        .iter()
        .map(|path| path.file_name().unwrap())
        .collect();
    // Two records fit in a file: the fifth is being written, and of the four full ones two are kept.
    assert_eq!(
        names,
        [
            "0.log.20060102-150405.000002",
            "0.log.20060102-150405.000003"
        ]
    );
    let text = std::fs::read_to_string(&rotated[0]).unwrap();
    assert_eq!(
        text,
        "2006-01-02T15:04:05.000000000Z stdout F record 4\n\
         2006-01-02T15:04:05.000000000Z stdout F record 5\n"
    );
}

/// Whatever stands in the way of a new file, nothing is lost.
#[test]
fn a_file_that_cannot_be_rotated_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let (here, aside) = (dir.path().join("here"), dir.path().join("aside"));
    let path = here.join("0.log");
    let target = LogTarget {
        path: path.clone(),
        max_bytes: 100,
        max_files: 10,
    };
    let mut file = LogFile::open(target).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_136_214_245);
    let time = super::logfile::format_time(now);
    let mut write = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let text = format!("record {number}");
            file.record(now, &time, Stream::Stdout, true, text.as_bytes())
                .unwrap();
        }
        file.flush()
    };
    write(0..2).unwrap();
    std::fs::rename(&here, &aside).unwrap();
    assert!(write(2..5).is_err());
    std::fs::rename(&aside, &here).unwrap();
    write(5..7).unwrap();
    // As if a try had come no further than to the renaming.
    std::fs::rename(&path, here.join("0.log.20060102-150405.000007")).unwrap();
    write(7..9).unwrap();
    let files = rotated_files(&path).unwrap().into_iter().chain([path]);
    let written: String = files
        .map(|it| std::fs::read_to_string(it).unwrap())
        .collect();
    let numbers: Vec<&str> = written.lines().map(|it| &it[it.len() - 1..]).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn runc_says_why() {
    let log = br#"{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"exec: \"x\": not found","time":"t"}
{"level":"warning","msg":"later","time":"t"}
"#;
    assert_eq!(runc::last_error(log).unwrap(), "exec: \"x\": not found");
    assert_eq!(runc::last_error(b"not json"), None);
}

#[test]
fn only_safe_names_are_names() {
    for good in ["a", "3f2a-11_web_0", "A.b"] {
        assert!(config::valid_id(good), "{good}");
    }
    let long = "x".repeat(201);
    for bad in [
        "",
        ".",
        "..",
        "-x",
        "_x",
        "a/b",
        "a b",
        "a\n",
        long.as_str(),
    ] {
        assert!(!config::valid_id(bad), "{bad}");
    }
}

#[test]
fn kills_for_want_of_memory_are_counted() {
    assert_eq!(
        cgroup::oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        3
    );
    assert_eq!(
        cgroup::oom_kills("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
        1
    );
    assert_eq!(cgroup::oom_kills(""), 0);
    assert_eq!(cgroup::oom_kills("oom_kill many"), 0);
}

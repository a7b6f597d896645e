//! HTTP/2 as nobody should speak it: each ends its stream or its connection, and costs the others nothing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::doors::raw;
use super::{Member, member};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A text of HPACK, without Huffman's code.
fn text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut left = text.len();
    if left < 127 {
        out.push(u8::try_from(left).unwrap());
    } else {
        out.push(127);
        left -= 127;
        while left >= 128 {
            out.push(u8::try_from(left % 128).unwrap() | 128);
            left /= 128;
        }
        out.push(u8::try_from(left).unwrap());
    }
    out.extend(text.as_bytes());
    out
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    fields.iter().flat_map(field).collect()
}

const PSEUDO: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/healthz"),
];

/// The usual request with other fields behind it.
fn request(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&PSEUDO, more].concat())
}

async fn opened(member: &Member) -> TlsStream<TcpStream> {
    let mut stream = raw(member).await;
    let hello = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b"")].concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Answered,
    Reset,
    Closed,
}

/// What comes of it.
async fn end(stream: &mut TlsStream<TcpStream>) -> End {
    let looked = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return End::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if stream.read_exact(&mut payload).await.is_err() {
                return End::Closed;
            }
            match head[3] {
                HEADERS => return End::Answered,
                RESET => return End::Reset,
                GOAWAY => return End::Closed,
                _ => {}
            }
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(20), looked).await;
    looked.expect("something comes of it")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_end_their_stream() {
    let member = member().await;
    let without = |name: &str| {
        let fields: Vec<_> = PSEUDO.into_iter().filter(|field| field.0 != name).collect();
        block(&fields)
    };
    let with = |name: &'static str, value: &'static str| {
        let mut fields = PSEUDO;
        for field in &mut fields {
            if field.0 == name {
                field.1 = value;
            }
        }
        block(&fields)
    };
    let mut late = vec![("x-first", "1")];
    late.extend(PSEUDO);
    for headers in [
        without(":method"),
        without(":path"),
        without(":scheme"),
        with(":path", ""),
        with(":path", "no-slash"),
        with(":authority", "a b"),
        request(&[(":path", "/again")]),
        request(&[(":unknown", "x")]),
        request(&[(":status", "200")]),
        request(&[("Upper", "x")]),
        request(&[("connection", "keep-alive")]),
        request(&[("transfer-encoding", "chunked")]),
        request(&[("te", "gzip")]),
        request(&[("line", "a\r\nb: c")]),
        block(&late),
    ] {
        let mut stream = opened(&member).await;
        let flags = END_STREAM | END_HEADERS;
        let sent = frame(HEADERS, flags, 1, &headers);
        stream.write_all(&sent).await.unwrap();
        let shown = String::from_utf8_lossy(&headers).into_owned();
        assert_ne!(end(&mut stream).await, End::Answered, "{shown:?}");
    }
    let mut stream = opened(&member).await;
    let right = frame(HEADERS, END_STREAM | END_HEADERS, 1, &request(&[]));
    stream.write_all(&right).await.unwrap();
    assert_eq!(end(&mut stream).await, End::Answered);
    // Fields that together are too large are answered as such.
    let mut stream = opened(&member).await;
    let large = "x".repeat(15_000);
    let fields = [("x-a", large.as_str()); 6].map(|field| block(&[field]));
    stream
        .write_all(&frame(HEADERS, END_STREAM, 1, &request(&[])))
        .await
        .unwrap();
    for (number, field) in fields.iter().enumerate() {
        let flags = if number == 5 { END_HEADERS } else { 0 };
        let more = frame(CONTINUATION, flags, 1, field);
        stream.write_all(&more).await.unwrap();
    }
    assert_ne!(end(&mut stream).await, End::Closed);
    assert_eq!(member.get("/healthz").await.code, 200);
    member.controller.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules_end_their_connection() {
    let member = member().await;
    let whole = END_STREAM | END_HEADERS;
    let mut huge = frame(DATA, 0, 1, b"");
    huge[..3].copy_from_slice(&[0xff, 0xff, 0xff]);
    for (what, sent) in [
        ("a frame that is too large", huge),
        ("data of no stream", frame(DATA, 0, 0, b"x")),
        (
            "data of a stream that was not opened",
            frame(DATA, 0, 1, b"x"),
        ),
        (
            "a stream of the server's",
            frame(HEADERS, whole, 2, &request(&[])),
        ),
        ("half a setting", frame(SETTINGS, 0, 0, b"abc")),
        ("settings of a stream", frame(SETTINGS, 0, 1, b"")),
        ("a ping that is too short", frame(PING, 0, 0, b"abc")),
        ("no window", frame(WINDOW, 0, 0, &[0, 0, 0, 0])),
        ("a promise", frame(PUSH, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("more of nothing", frame(CONTINUATION, END_HEADERS, 1, b"x")),
        (
            "no HPACK",
            frame(HEADERS, whole, 1, &[0x80, 0xff, 0xff, 0xff]),
        ),
        (
            "something between the parts of a head",
            [
                frame(HEADERS, END_STREAM, 1, &request(&[])),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
    ] {
        let mut stream = opened(&member).await;
        stream.write_all(&sent).await.unwrap();
        assert_eq!(end(&mut stream).await, End::Closed, "{what}");
    }
    assert_eq!(member.get("/healthz").await.code, 200);
    member.controller.shutdown().await;
}

/// Each would go on for as long as the client wants.
#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut_off() {
    let member = member().await;
    let whole = END_STREAM | END_HEADERS;
    let endless = frame(CONTINUATION, 0, 1, &block(&[("x-a", &"x".repeat(8000))]));
    let empty = frame(CONTINUATION, 0, 1, b"").repeat(1000);
    let resets = |from: u32| -> Vec<u8> {
        let streams = (0..500).map(|number| from + 2 * number);
        let each = |stream| {
            let opened = frame(HEADERS, whole, stream, &request(&[]));
            [opened, frame(RESET, 0, stream, &[0, 0, 0, 8])].concat()
        };
        streams.flat_map(each).collect()
    };
    type Flood<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let floods: [(&str, Vec<u8>, Flood<'_>); 3] = [
        (
            "a head without end",
            frame(HEADERS, END_STREAM, 1, &request(&[])),
            Box::new(|_| endless.clone()),
        ),
        (
            "a head of nothing without end",
            frame(HEADERS, END_STREAM, 1, &request(&[])),
            Box::new(|_| empty.clone()),
        ),
        (
            "streams that are taken back",
            Vec::new(),
            Box::new(|turn| resets(1 + 1000 * turn)),
        ),
    ];
    for (what, begin, flood) in floods {
        let stream = opened(&member).await;
        let (mut read, mut write) = tokio::io::split(stream);
        write.write_all(&begin).await.unwrap();
        let sending = async {
            for turn in 0..2000 {
                if write.write_all(&flood(turn)).await.is_err() || write.flush().await.is_err() {
                    return true;
                }
            }
            false
        };
        let ended = async {
            let mut all = vec![0; 64 << 10];
            while read.read(&mut all).await.is_ok_and(|count| count > 0) {}
        };
        let cut = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::select! {
                cut = sending => cut,
                () = ended => true,
            }
        });
        assert_eq!(cut.await, Ok(true), "{what}");
    }
    assert_eq!(member.get("/healthz").await.code, 200);
    member.controller.shutdown().await;
}

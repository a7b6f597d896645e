//! Tests of `spdy`: the framer against itself, any bytes, and sessions over a pipe.
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frame::{self, Decoder, Frame, FrameError};
use super::headers::{self, HeaderError, Packer, Unpacker};
use super::session::{Event, Session, SessionError};
use super::*;

fn frames(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

/// A client's side of the streams.
#[derive(Default)]
pub(crate) struct Client {
    packer: Packer,
    out: BytesMut,
}

impl Client {
    pub(crate) fn open(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) {
        let block = self.packer.write(headers);
        frame::put_open(&mut self.out, stream, fin, &block);
    }

    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        frame::put_data(&mut self.out, stream, fin, bytes);
    }

    pub(crate) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }
}

/// What was said on each stream: the bytes, and whether that was the last.
pub(crate) fn said(bytes: &[u8]) -> std::collections::BTreeMap<u32, (Vec<u8>, bool)> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut all = std::collections::BTreeMap::<u32, (Vec<u8>, bool)>::new();
    for frame in frames(&mut decoder) {
        if let Frame::Data { stream, fin, bytes } = frame {
            let (so_far, ended) = all.entry(stream).or_default();
            so_far.extend_from_slice(&bytes);
            *ended |= fin;
        }
    }
    all
}

#[test]
fn the_dictionary_is_the_one_that_is_agreed_on() {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in headers::dictionary() {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(headers::dictionary().len(), 1423);
    assert_eq!(b << 16 | a, 0xe3c6_a7c2, "its Adler-32, as zlib names it");
}

#[test]
fn header_blocks_are_one_compressed_stream() {
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    for round in 0..3 {
        let id = round.to_string();
        let block = packer.write(&[("StreamType", "data"), ("port", "80"), ("requestid", &id)]);
        let read = unpacker.read(&block).unwrap();
        assert_eq!(read.get("streamtype"), "data");
        assert_eq!((read.get("port"), read.get("requestid")), ("80", &*id));
        assert_eq!(read.get("absent"), "");
    }
    let long = "x".repeat(60 << 10);
    let block = packer.write(&[("long", &long)]);
    assert_eq!(unpacker.read(&block).unwrap().get("long"), long);
}

#[test]
fn a_header_block_that_unpacks_to_too_much_is_refused() {
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    let long = "x".repeat(1 << 20);
    let block = packer.write(&[("long", &long)]);
    assert!(block.len() < frame::MAX_CONTROL, "{}", block.len());
    assert_eq!(unpacker.read(&block), Err(HeaderError::TooLarge));
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    let many = vec![("a", "b"); 1000];
    assert_eq!(
        unpacker.read(&packer.write(&many)),
        Err(HeaderError::TooLarge)
    );
    assert_eq!(
        Unpacker::default().read(b"nonsense"),
        Err(HeaderError::Compression)
    );
}

#[test]
fn a_data_frame_of_any_length_comes_in_pieces() {
    let mut decoder = Decoder::default();
    let mut head = BytesMut::new();
    frame::put_data(&mut head, 1, true, &[]);
    // As if 16 MiB followed.
    head[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    decoder.push(&head);
    let mut length = 0;
    let mut last = frames(&mut decoder);
    let piece = [7; 4096];
    while length < 0xff_ffff {
        let part = piece.len().min(0xff_ffff - length);
        decoder.push(&piece[..part]);
        length += part;
        last = frames(&mut decoder);
        assert!(last.len() == 1);
    }
    assert!(
        matches!(
            &last[0],
            Frame::Data {
                stream: 1,
                fin: true,
                ..
            }
        ),
        "the end is told with the last piece"
    );
}

#[test]
fn control_frames_are_bounded_and_of_version_3() {
    let mut decoder = Decoder::default();
    decoder.push(&[0x80, 3, 0, 1, 0, 0x10, 0, 0]);
    assert_eq!(decoder.next(), Err(FrameError::Length(0x10_0000)));
    let mut decoder = Decoder::default();
    decoder.push(&[0x80, 2, 0, 1, 0, 0, 0, 0]);
    assert_eq!(decoder.next(), Err(FrameError::Version(2)));
    let mut decoder = Decoder::default();
    decoder.push(&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1]);
    assert_eq!(decoder.next(), Err(FrameError::Short(3)));
}

#[test]
fn streams_open_speak_and_close() {
    let (mut client, mut session) = (Client::default(), Session::default());
    client.open(1, &[("streamtype", "error")], true);
    client.open(3, &[("streamtype", "data")], false);
    client.data(3, b"hello", false);
    client.data(3, b"", true);
    let events = session.receive(&client.take()).unwrap();
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Opened { headers, .. } => Some(headers.get("streamtype")),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, ["error", "data"]);
    assert!(matches!(&events[2], Event::Data { stream: 3, bytes, fin: false } if bytes == "hello"));
    assert!(matches!(
        &events[3],
        Event::Data {
            stream: 3,
            fin: true,
            ..
        }
    ));

    session.reply(3);
    session.send(3, b"answer", true);
    // Both have said their last: the stream is no more.
    session.send(3, b"more", false);
    let mut decoder = Decoder::default();
    decoder.push(&session.take_output());
    let said = frames(&mut decoder);
    assert!(matches!(&said[0], Frame::SynReply { stream: 3, .. }));
    assert!(matches!(&said[1], Frame::Data { stream: 3, fin: true, bytes } if bytes == "answer"));
    assert_eq!(said.len(), 2);

    // Said after the end.
    client.data(1, b"late", false);
    let events = session.receive(&client.take()).unwrap();
    assert_eq!(events, [Event::Reset { stream: 1 }]);
    decoder.push(&session.take_output());
    assert_eq!(frames(&mut decoder), [Frame::Reset { stream: 1 }]);
}

#[test]
fn streams_are_begun_in_turn_and_not_without_end() {
    let (mut client, mut session) = (Client::default(), Session::default());
    client.open(3, &[], false);
    client.open(1, &[], false);
    assert_eq!(
        session.receive(&client.take()),
        Err(SessionError::OutOfTurn(1))
    );
    let (mut client, mut session) = (Client::default(), Session::default());
    let mut opened = 0;
    for index in 0..3000 {
        client.open(index * 2 + 1, &[], false);
        opened += session.receive(&client.take()).unwrap().len();
    }
    assert_eq!(opened, 2048);
    let mut decoder = Decoder::default();
    decoder.push(&session.take_output());
    assert_eq!(frames(&mut decoder).len(), 3000 - 2048);
}

#[test]
fn pings_are_answered_and_windows_opened() {
    let (mut client, mut session) = (Client::default(), Session::default());
    frame::put_ping(&mut client.out, 5);
    frame::put_ping(&mut client.out, 4);
    client.open(1, &[], false);
    client.data(1, &[0; 20 << 10], false);
    session.receive(&client.take()).unwrap();
    session.delivered(1);
    let mut decoder = Decoder::default();
    decoder.push(&session.take_output());
    assert_eq!(
        frames(&mut decoder),
        [Frame::Ping(5), Frame::WindowUpdate, Frame::WindowUpdate]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1_usize..40) {
        let mut session = Session::default();
        for part in bytes.chunks(cut) {
            if session.receive(part).is_err() {
                break;
            }
        }
        prop_assert!(session.output().len() < 64 << 10);
    }

    #[test]
    fn how_the_bytes_are_cut_does_not_matter(
        said in prop::collection::vec((0_u32..4, prop::collection::vec(any::<u8>(), 0..50), any::<bool>()), 0..20),
        cut in 1_usize..30,
    ) {
        let mut client = Client::default();
        for stream in 0..4 {
            client.open(stream * 2 + 1, &[("port", "1")], false);
        }
        for (stream, bytes, fin) in &said {
            client.data(stream * 2 + 1, bytes, *fin);
        }
        let all = client.take();
        let heard = |cut: usize| {
            let mut session = Session::default();
            let mut heard: Vec<(u32, Vec<u8>, bool)> = Vec::new();
            for part in all.chunks(cut) {
                for event in session.receive(part).unwrap() {
                    if let Event::Data { stream, bytes, fin } = event {
                        match heard.iter_mut().find(|(known, ..)| *known == stream) {
                            Some((_, so_far, ended)) => {
                                so_far.extend_from_slice(&bytes);
                                *ended |= fin;
                            }
                            None => heard.push((stream, bytes.to_vec(), fin)),
                        }
                    }
                }
            }
            heard
        };
        prop_assert_eq!(heard(cut), heard(all.len().max(1)));
    }

    #[test]
    fn headers_survive(headers in prop::collection::vec(("[a-z]{1,10}", "[ -~]{0,40}"), 0..10)) {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        let said: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        for _ in 0..2 {
            let read = unpacker.read(&packer.write(&said)).unwrap();
            prop_assert_eq!(&read.0, &headers);
        }
    }
}

fn pipe() -> (DuplexStream, Incoming, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(4 << 10);
    let (incoming, driver) = serve(ours);
    (theirs, incoming, tokio::spawn(driver))
}

#[tokio::test]
async fn a_session_ends_when_its_client_hangs_up() {
    let (mut socket, mut incoming, driver) = pipe();
    let mut client = Client::default();
    client.open(1, &[("streamtype", "stdin")], false);
    client.data(1, b"typed", false);
    socket.write_all(&client.take()).await.unwrap();
    let mut stream = incoming.next().await.unwrap();
    assert_eq!(stream.receive().await.unwrap(), "typed");
    drop(socket);
    assert_eq!(stream.receive().await, None);
    assert!(incoming.next().await.is_none());
    assert_eq!(stream.outgoing.finish().await, Err(Ended));
    driver.await.unwrap();
}

#[tokio::test]
async fn what_was_said_is_written_before_the_end() {
    let (mut socket, mut incoming, driver) = pipe();
    let mut client = Client::default();
    client.open(1, &[("streamtype", "stdout")], false);
    socket.write_all(&client.take()).await.unwrap();
    let stream = incoming.next().await.unwrap();
    let sent = tokio::spawn(async move {
        let bytes = Bytes::from(vec![1; 100 << 10]);
        stream.outgoing.send(bytes).await.unwrap();
        stream.outgoing.finish().await.unwrap();
        incoming.end().await;
    });
    let mut all = Vec::new();
    socket.read_to_end(&mut all).await.unwrap();
    sent.await.unwrap();
    drop(socket);
    driver.await.unwrap();
    let mut decoder = Decoder::default();
    decoder.push(&all);
    let frames = frames(&mut decoder);
    let length: usize = frames
        .iter()
        .map(|frame| match frame {
            Frame::Data { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(length, 100 << 10);
    assert_eq!(frames.last(), Some(&Frame::GoAway));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_little() {
    let (mut socket, mut incoming, _driver) = pipe();
    let mut client = Client::default();
    client.open(1, &[("streamtype", "stdin")], false);
    socket.write_all(&client.take()).await.unwrap();
    let _unread = incoming.next().await.unwrap();
    let mut written = 0;
    // The pipe itself holds 4 KiB; the session a few pieces.
    while written < 16 << 20 {
        client.data(1, &[0; 1 << 10], false);
        let bytes = client.take();
        let write = socket.write_all(&bytes);
        if tokio::time::timeout(std::time::Duration::from_millis(200), write)
            .await
            .is_err()
        {
            break;
        }
        written += 1 << 10;
    }
    assert!(written < 256 << 10, "{written} bytes were taken");
}

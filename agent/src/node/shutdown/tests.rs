//! A login manager that is not there, and pods that are not either: what is asked of the one is done to the others.
#![allow(clippy::unwrap_used)]

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use super::logind::Logind;
use super::message::{Kind, Message, Writer};

/// Speaks as a bus with a login manager behind it does, to one client.
struct Bus {
    stream: UnixStream,
    received: Vec<u8>,
    serial: u32,
}

impl Bus {
    fn accept(listener: &UnixListener) -> Self {
        let mut this = Self {
            stream: listener.accept().unwrap().0,
            received: Vec::new(),
            serial: 100,
        };
        for (asked, answer) in [
            ("\0AUTH EXTERNAL ", "OK 1234deadbeef\r\n"),
            ("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD\r\n"),
            ("BEGIN", ""),
        ] {
            let line = this.line();
            assert!(line.starts_with(asked), "{line:?}");
            this.stream.write_all(answer.as_bytes()).unwrap();
        }
        for member in ["Hello", "AddMatch"] {
            let call = this.call(member);
            this.answer(&call, Writer::default());
        }
        this
    }

    fn read(&mut self) {
        let mut buffer = [0; 1024];
        let length = self.stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the client is gone");
        self.received.extend_from_slice(&buffer[..length]);
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return String::from_utf8(line).unwrap();
            }
            self.read();
        }
    }

    fn call(&mut self, member: &str) -> Message {
        loop {
            if let Some((message, length)) = Message::parse(&self.received).unwrap() {
                self.received.drain(..length);
                assert_eq!(
                    (message.kind, message.member.as_str()),
                    (Kind::Call, member)
                );
                return message;
            }
            self.read();
        }
    }

    fn answer(&mut self, call: &Message, body: Writer) {
        self.serial += 1;
        let answer = Message::answer(self.serial, call.serial, body);
        self.stream.write_all(&answer).unwrap();
    }

    fn longest_delay(&mut self, micros: u64) {
        let call = self.call("Get");
        let mut body = Writer::default();
        body.variant(micros);
        self.answer(&call, body);
    }

    /// Gives a lock; it was let go when the other end of it is read to its end.
    fn lock(&mut self) -> UnixStream {
        let call = self.call("Inhibit");
        assert_eq!(call.text().as_deref(), Some("shutdown"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut body = Writer::default();
        body.number('h', 0);
        self.serial += 1;
        let answer = Message::answer(self.serial, call.serial, body);
        let files = [theirs.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&files)];
        let flags = MsgFlags::empty();
        let parts = [IoSlice::new(&answer)];
        let sent = sendmsg::<UnixAddr>(self.stream.as_raw_fd(), &parts, &control, flags, None);
        assert_eq!(sent.unwrap(), answer.len());
        ours
    }

    fn prepare(&mut self, begins: bool) {
        let mut body = Writer::default();
        body.number('b', begins.into());
        self.serial += 1;
        let signal = Message::signal(self.serial, "PrepareForShutdown", body);
        self.stream.write_all(&signal).unwrap();
    }
}

#[test]
fn a_lock_is_taken_and_shutdowns_are_heard_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    let bus = std::thread::spawn(move || {
        let mut bus = Bus::accept(&listener);
        bus.longest_delay(5_000_000);
        // A signal may come before an answer.
        bus.prepare(false);
        let mut lock = bus.lock();
        bus.prepare(true);
        let mut rest = Vec::new();
        lock.read_to_end(&mut rest).unwrap();
    });
    let mut logind = Logind::connect(&path).unwrap();
    assert_eq!(logind.longest_delay().unwrap().as_secs(), 5);
    let lock = logind.inhibit().unwrap();
    assert!(!logind.next().unwrap());
    assert!(logind.next().unwrap());
    drop(lock);
    bus.join().unwrap();
    assert!(logind.next().is_err(), "the bus is gone");
    assert!(Logind::connect(&dir.path().join("none")).is_err());
}

//! Messages of D-Bus as they lie on the wire, as far as a login manager is spoken to: pure.
//! <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol>

use std::io;

/// Nothing that we ask for is longer.
const LONGEST: usize = 1 << 20;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) serial: u32,
    pub(crate) reply_to: Option<u32>,
    pub(crate) member: String,
    pub(crate) error: String,
    pub(crate) signature: String,
    pub(crate) body: Vec<u8>,
}

/// Values one after the other, little-endian, with their signature.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    signature: String,
}

impl Writer {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(0));
        self.bytes.extend(text.bytes().chain([0]));
    }

    fn short(&mut self, signature: &str) {
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(0));
        self.bytes.extend(signature.bytes().chain([0]));
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.signature.push('s');
        self.text(text);
    }

    #[cfg(test)]
    pub(crate) fn number(&mut self, kind: char, value: u32) {
        self.signature.push(kind);
        self.u32(value);
    }

    #[cfg(test)]
    pub(crate) fn variant(&mut self, value: u64) {
        self.signature.push('v');
        self.short("t");
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.bytes.push(code);
        self.short(kind);
        if kind == "g" {
            self.short(text);
        } else {
            self.text(text);
        }
    }
}

impl Message {
    pub(crate) fn call(
        serial: u32,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Writer,
    ) -> Vec<u8> {
        let mut fields = Writer::default();
        fields.field(PATH, "o", path);
        fields.field(INTERFACE, "s", interface);
        fields.field(MEMBER, "s", member);
        fields.field(DESTINATION, "s", destination);
        finished(1, serial, fields, body)
    }

    #[cfg(test)]
    pub(crate) fn answer(serial: u32, reply_to: u32, body: Writer) -> Vec<u8> {
        let mut fields = Writer::default();
        fields.align(8);
        fields.bytes.push(REPLY_SERIAL);
        fields.short("u");
        fields.u32(reply_to);
        finished(2, serial, fields, body)
    }

    #[cfg(test)]
    pub(crate) fn signal(serial: u32, member: &str, body: Writer) -> Vec<u8> {
        let mut fields = Writer::default();
        fields.field(MEMBER, "s", member);
        finished(4, serial, fields, body)
    }

    /// The first message and how long it is; none while some of it is missing.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a message of D-Bus");
        let Some(head) = bytes.get(..16) else {
            return Ok(None);
        };
        if head[0] != b'l' || head[3] != 1 {
            return Err(wrong());
        }
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..at + 4].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes)
        };
        let size = |at| usize::try_from(number(at)).unwrap_or(usize::MAX);
        let (body, fields) = (size(4), size(12));
        if body > LONGEST || fields > LONGEST {
            return Err(wrong());
        }
        let begin = (16 + fields).next_multiple_of(8);
        let Some(whole) = bytes.get(..begin + body) else {
            return Ok(None);
        };
        let mut message = Self {
            kind: match head[1] {
                1 => Kind::Call,
                2 => Kind::Return,
                3 => Kind::Error,
                _ => Kind::Signal,
            },
            serial: number(8),
            reply_to: None,
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            body: whole[begin..].to_vec(),
        };
        let mut reader = Reader {
            bytes: &whole[..16 + fields],
            at: 16,
        };
        while reader.at < reader.bytes.len() {
            message.field(&mut reader).ok_or_else(wrong)?;
        }
        Ok(Some((message, begin + body)))
    }

    fn field(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.align(8)?;
        let code = reader.u8()?;
        let text = match reader.short()?.as_str() {
            "s" | "o" => reader.text()?,
            "g" => reader.short()?,
            "u" => {
                let value = reader.u32()?;
                if code == REPLY_SERIAL {
                    self.reply_to = Some(value);
                }
                return Some(());
            }
            _ => return None,
        };
        match code {
            MEMBER => self.member = text,
            ERROR_NAME => self.error = text,
            SIGNATURE => self.signature = text,
            _ => {}
        }
        Some(())
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            bytes: &self.body,
            at: 0,
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        (self.signature == "b").then_some(())?;
        Some(self.reader().u32()? != 0)
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.signature.starts_with('s').then_some(())?;
        self.reader().text()
    }

    pub(crate) fn variant_u64(&self) -> Option<u64> {
        (self.signature == "v").then_some(())?;
        let mut reader = self.reader();
        (reader.short()? == "t").then_some(())?;
        reader.align(8)?;
        let bytes = reader.take(8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

fn finished(kind: u8, serial: u32, mut fields: Writer, body: Writer) -> Vec<u8> {
    if !body.signature.is_empty() {
        fields.field(SIGNATURE, "g", &body.signature);
    }
    let mut message = Writer {
        bytes: vec![b'l', kind, 0, 1],
        signature: String::new(),
    };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    message.u32(length(&body.bytes));
    message.u32(serial);
    message.u32(length(&fields.bytes));
    message.bytes.extend(fields.bytes);
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.next_multiple_of(to);
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn words(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.words(length)
    }

    fn short(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        self.words(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut body = Writer::default();
        body.string("shutdown");
        body.string("x");
        let call = Message::call(
            7,
            "org.example",
            "/org/example",
            "org.example.A",
            "Do",
            body,
        );
        assert_eq!(Message::parse(&call[..call.len() - 1]).unwrap(), None);
        let (message, length) = Message::parse(&[call.clone(), vec![0; 9]].concat())
            .unwrap()
            .unwrap();
        assert_eq!(length, call.len());
        assert_eq!((message.kind, message.serial), (Kind::Call, 7));
        assert_eq!(
            (message.member.as_str(), message.signature.as_str()),
            ("Do", "ss")
        );
        assert_eq!(message.text().as_deref(), Some("shutdown"));
        let mut body = Writer::default();
        body.variant(5_000_000);
        let (answer, _) = Message::parse(&Message::answer(1, 7, body))
            .unwrap()
            .unwrap();
        assert_eq!(answer.reply_to, Some(7));
        assert_eq!(answer.variant_u64(), Some(5_000_000));
        Message::parse(&[b'B'; 16]).unwrap_err();
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 16..200)) {
            (bytes[0], bytes[3]) = (b'l', 1);
            if let Ok(Some((message, _))) = Message::parse(&bytes) {
                let _ = (message.boolean(), message.text(), message.variant_u64());
            }
        }
    }
}

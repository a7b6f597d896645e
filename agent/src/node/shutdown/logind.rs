//! The machine's login manager, asked over D-Bus to wait with a shutdown until the node's pods have ended: as much of
//! that protocol as this takes (systemd's `org.freedesktop.login1`, inhibitor locks).
//!
//! One connection, read by whoever holds it; blocking.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};

use super::message::{Kind, Message, Writer};

/// Where the system's message bus listens.
pub(crate) const BUS: &str = "/run/dbus/system_bus_socket";

const DESTINATION: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const RULE: &str = "type='signal',sender='org.freedesktop.login1',path='/org/freedesktop/login1',\
                    interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'";

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// While it is open a shutdown waits, for as long as the login manager lets it.
pub(crate) type Lock = File;

#[derive(Debug)]
pub(crate) struct Logind {
    stream: UnixStream,
    serial: u32,
    received: Vec<u8>,
    files: Vec<OwnedFd>,
    /// Signals that came while an answer was waited for.
    notices: Vec<bool>,
}

impl Logind {
    /// Connects, and asks to be told of shutdowns.
    pub(crate) fn connect(bus: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(bus)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user = nix::unistd::getuid().to_string();
        let hex: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut this = Self {
            stream,
            serial: 0,
            received: Vec::new(),
            files: Vec::new(),
            notices: Vec::new(),
        };
        this.agreed("OK")?;
        this.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n")?;
        this.agreed("AGREE_UNIX_FD")?;
        this.stream.write_all(b"BEGIN\r\n")?;
        let bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        this.call(bus, "org.freedesktop.DBus", "Hello", Writer::default())?;
        let mut body = Writer::default();
        body.string(RULE);
        this.call(bus, "org.freedesktop.DBus", "AddMatch", body)?;
        Ok(this)
    }

    /// A line of the handshake.
    fn agreed(&mut self, wanted: &str) -> io::Result<()> {
        loop {
            if let Some(end) = self.received.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 2);
                return if line.split(' ').next() == Some(wanted) {
                    Ok(())
                } else {
                    Err(io::Error::other(format!("the bus answered {line:?}")))
                };
            }
            self.receive()?;
        }
    }

    /// Has shutdowns wait.
    pub(crate) fn inhibit(&mut self) -> io::Result<Lock> {
        let mut body = Writer::default();
        for text in ["shutdown", "waggle", "Pods of this node end first", "delay"] {
            body.string(text);
        }
        self.files.clear();
        self.call((DESTINATION, PATH), MANAGER, "Inhibit", body)?;
        let lock = self.files.pop();
        lock.map(File::from)
            .ok_or_else(|| io::Error::other("the login manager gave no lock"))
    }

    /// How long a shutdown waits at most.
    pub(crate) fn longest_delay(&mut self) -> io::Result<Duration> {
        let mut body = Writer::default();
        body.string(MANAGER);
        body.string("InhibitDelayMaxUSec");
        let properties = "org.freedesktop.DBus.Properties";
        let answer = self.call((DESTINATION, PATH), properties, "Get", body)?;
        let micros = answer.variant_u64();
        micros
            .map(Duration::from_micros)
            .ok_or_else(|| io::Error::other("InhibitDelayMaxUSec is no number"))
    }

    /// Waits until a shutdown begins (`true`) or was called off.
    pub(crate) fn next(&mut self) -> io::Result<bool> {
        self.stream.set_read_timeout(None)?;
        loop {
            if !self.notices.is_empty() {
                self.stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(self.notices.remove(0));
            }
            let message = self.message()?;
            self.note(&message);
        }
    }

    /// Another handle of the connection, with which it can be shut down.
    pub(crate) fn handle(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn note(&mut self, message: &Message) {
        if message.kind == Kind::Signal && message.member == "PrepareForShutdown" {
            self.notices.extend(message.boolean());
        }
    }

    fn call(
        &mut self,
        (destination, path): (&str, &str),
        interface: &str,
        member: &str,
        body: Writer,
    ) -> io::Result<Message> {
        self.serial += 1;
        let call = Message::call(self.serial, destination, path, interface, member, body);
        self.stream.write_all(&call)?;
        loop {
            let message = self.message()?;
            if message.reply_to != Some(self.serial) {
                self.note(&message);
                continue;
            }
            return match message.kind {
                Kind::Error => Err(io::Error::other(format!(
                    "{member}: {} {}",
                    message.error,
                    message.text().unwrap_or_default()
                ))),
                _ => Ok(message),
            };
        }
    }

    fn message(&mut self) -> io::Result<Message> {
        loop {
            if let Some((message, length)) = Message::parse(&self.received)? {
                self.received.drain(..length);
                return Ok(message);
            }
            self.receive()?;
        }
    }

    /// Reads what is there, and files that come with it.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let fd = self.stream.as_raw_fd();
        let received = match recvmsg::<UnixAddr>(fd, &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => return Ok(()),
            received => received?,
        };
        let length = received.bytes;
        for control in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(files) = control {
                // SAFETY: the kernel just gave them to us, and nobody else knows of them.
                let own = files
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                self.files.extend(own);
            }
        }
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer[..length]);
        Ok(())
    }
}

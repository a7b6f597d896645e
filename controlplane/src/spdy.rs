//! SPDY/3.1, the server's side of it: what clients without WebSockets carry exec, attach and port-forward by.
//!
//! ```text
//!   frame        bytes to frames and back                        (pure)
//!   headers      header blocks, compressed against a dictionary  (pure)
//!   session      streams: who may still say what                 (pure)
//!   connection   a session on a socket, streams as channels
//! ```
//! Source: draft-mbelshe-httpbis-spdy-00 and the session window of SPDY/3.1. Deliberately not here: pushing,
//! priorities, credentials, which no client of ours uses; and waiting for the peer's windows: the library that
//! clients use never opens them, so a slow reader is waited for by TCP alone.

mod connection;
mod frame;
mod headers;
mod session;

pub(crate) use connection::{Ended, Incoming, Stream, serve};

#[cfg(test)]
pub(crate) mod tests;

/// Any bytes as what a client sends.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut session = session::Session::default();
    for part in bytes.chunks(7) {
        if session.receive(part).is_err() {
            return;
        }
        session.take_output();
    }
}

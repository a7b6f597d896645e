//! Questions outlive the process that read them.

#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;

use super::*;

fn asked(left: &[(Asked, Option<Held>)]) -> Vec<Asked> {
    let mut asked: Vec<Asked> = left.iter().map(|(asked, _)| asked.clone()).collect();
    asked.sort();
    asked
}

#[test]
fn what_was_taken_and_not_answered_is_found_by_the_next() {
    let questions = Questions::new().unwrap();
    let ledger = questions.open().unwrap();
    assert!(ledger.left().is_empty());
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let (server, client) = (
            UdpSocket::bind(listen).unwrap(),
            UdpSocket::bind(listen).unwrap(),
        );
        let from = client.local_addr().unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut desk = ledger.desk(1);
        let none = desk.receive(server.as_raw_fd()).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        assert!(desk.content().is_none());
        client.send(b"first").unwrap();
        desk.receive(server.as_raw_fd()).unwrap();
        assert_eq!(desk.content().unwrap(), (&b"first"[..], from));
        // One waits, one is answered, and the last is just taken.
        let waiting = ledger.hold(b"first", from).unwrap();
        client.send(b"answered").unwrap();
        desk.receive(server.as_raw_fd()).unwrap();
        drop(ledger.hold(b"answered", from).unwrap());
        desk.clear();
        client.send(b"taken").unwrap();
        desk.receive(server.as_raw_fd()).unwrap();

        // A kill runs no destructor: what it leaves is what is in the memory now.
        let next = Questions::adopt(questions.try_clone().unwrap().into()).unwrap();
        let next = next.open().unwrap();
        let left = next.left();
        assert_eq!(
            asked(&left),
            [(b"first".to_vec(), from), (b"taken".to_vec(), from)]
        );
        assert!(left.iter().all(|(_, held)| held.is_some()));
        next.desk(1);
        drop(left);
        assert!(next.left().is_empty());
        std::mem::forget(waiting);
        *ledger.0.free() = next.0.free().clone();
    }
}

#[test]
fn slots_are_bounded_and_given_back() {
    let ledger = Questions::new().unwrap().open().unwrap();
    let from: SocketAddr = "192.0.2.1:53".parse().unwrap();
    assert!(ledger.hold(&[0; SLOT_BYTES + 1], from).is_none());
    let all: Vec<Held> = (0..SLOTS)
        .map(|_| ledger.hold(b"q", from).unwrap())
        .collect();
    assert!(ledger.hold(b"q", from).is_none());
    drop(all);
    assert!(ledger.hold(b"q", from).is_some());
}

#[test]
fn memory_of_another_kind_is_begun_anew() {
    let questions = Questions::new().unwrap();
    let ledger = questions.open().unwrap();
    let from: SocketAddr = "[2001:db8::1]:53".parse().unwrap();
    std::mem::forget(ledger.hold(b"q", from).unwrap());
    assert_eq!(questions.open().unwrap().left().len(), 1);
    std::mem::forget(ledger.hold(b"q", from).unwrap());
    // SAFETY: within the mapping.
    unsafe { (&raw mut (*ledger.0.shared.as_ptr()).format).write_volatile(1) };
    assert!(questions.open().unwrap().left().is_empty());
    let small = std::fs::File::open("/dev/null").unwrap();
    assert!(Questions::adopt(small.into()).is_none());
}

//! Tests of `keeper`; the keeper is a thread here.

#![allow(clippy::unwrap_used)]
use super::*;

fn start(directory: &Path, patience: Duration) -> (DnsSockets, std::thread::JoinHandle<()>) {
    let sockets = DnsSockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let own = sockets.try_clone().unwrap();
    let listener = UnixListener::bind(directory.join(SOCKET)).unwrap();
    let thread = std::thread::spawn(move || {
        let kept = [own.udp.into(), own.tcp.into(), own.questions.into()];
        keep(&listener, &kept, patience).unwrap();
    });
    (sockets, thread)
}

#[test]
fn what_comes_while_no_agent_is_there_waits_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (sockets, thread) = start(directory.path(), PATIENCE);
    let at = sockets.address().unwrap();
    let (first, adopted, is_whole) = Keeper::adopt(directory.path()).unwrap().unwrap();
    assert_eq!((adopted.address().unwrap(), is_whole), (at, true));
    let asked = (b"waits".to_vec(), at);
    let ledger = adopted.questions.open().unwrap();
    std::mem::forget(ledger.hold(&asked.0, asked.1).unwrap());
    // That agent ends, and nobody but the keeper has the sockets.
    drop((sockets, first, adopted));
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(at).unwrap();
    client.send(b"question").unwrap();
    let stream = std::net::TcpStream::connect(at).unwrap();

    let (second, adopted, _) = Keeper::adopt(directory.path()).unwrap().unwrap();
    let left = adopted.questions.open().unwrap().left();
    assert_eq!((left.len(), &left[0].0), (1, &asked));
    let mut bytes = [0; 16];
    adopted.udp.set_nonblocking(false).unwrap();
    let (length, from) = adopted.udp.recv_from(&mut bytes).unwrap();
    assert_eq!(
        (&bytes[..length], from),
        (&b"question"[..], client.local_addr().unwrap())
    );
    adopted.tcp.set_nonblocking(false).unwrap();
    assert_eq!(
        adopted.tcp.accept().unwrap().1,
        stream.local_addr().unwrap()
    );
    second.end();
    thread.join().unwrap();
    drop(adopted);
    let _ = client.send(b"question");
    assert!(
        client.recv(&mut bytes).is_err(),
        "refused once all have let go"
    );
}

#[test]
fn without_an_agent_it_ends_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (_sockets, thread) = start(directory.path(), Duration::from_millis(50));
    thread.join().unwrap();
    assert!(Keeper::adopt(directory.path()).unwrap().is_none());
    let empty = tempfile::tempdir().unwrap();
    assert!(Keeper::adopt(empty.path()).unwrap().is_none());
}

#[test]
fn connections_that_are_kept_outlive_their_agent_and_no_others_do() {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    let directory = tempfile::tempdir().unwrap();
    let (sockets, thread) = start(directory.path(), PATIENCE);
    let at = sockets.address().unwrap();
    let (first, adopted, _) = Keeper::adopt(directory.path()).unwrap().unwrap();
    let custody = adopted.custody.clone().unwrap();
    assert!(custody.accept().unwrap().is_none(), "none waits");
    let connect = || {
        let client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(Some(READY)).unwrap();
        client
    };
    let mut left = connect();
    let its = custody.accept().unwrap().unwrap();
    custody.kept(its.as_fd()).unwrap().leave();
    let mut done = connect();
    let other = custody.accept().unwrap().unwrap();
    drop(custody.kept(other.as_fd()).unwrap());
    let mut unknown = connect();
    let third = adopted.tcp.accept().unwrap().0;
    left.write_all(b"question").unwrap();
    // That agent is killed.
    drop((its, other, third, custody, sockets, first, adopted));
    for client in [&mut done, &mut unknown] {
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "it ends with the agent");
    }

    let (second, adopted, is_whole) = Keeper::adopt(directory.path()).unwrap().unwrap();
    assert!(is_whole);
    let mut kept: Vec<TcpStream> = adopted.connections;
    assert_eq!(kept.len(), 1);
    let mut bytes = [0; 8];
    kept[0].read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"question");
    kept[0].write_all(b"answer").unwrap();
    left.read_exact(&mut bytes[..6]).unwrap();
    assert_eq!(&bytes[..6], b"answer");
    // It is the same to the keeper when the next agent lets go of it.
    drop(adopted.custody.unwrap().kept(kept[0].as_fd()).unwrap());
    kept[0].shutdown(Shutdown::Both).unwrap();
    drop(kept);
    let (third, adopted, _) = Keeper::adopt(directory.path()).unwrap().unwrap();
    assert!(adopted.connections.is_empty());
    third.end();
    thread.join().unwrap();
    drop(second);
}

#[test]
fn one_that_an_agent_asked_for_and_did_not_live_to_get_is_the_next_ones() {
    use std::net::TcpStream;
    let directory = tempfile::tempdir().unwrap();
    let (sockets, thread) = start(directory.path(), PATIENCE);
    let (mut first, adopted, _) = Keeper::adopt(directory.path()).unwrap().unwrap();
    let client = TcpStream::connect(sockets.address().unwrap()).unwrap();
    first.connection.write_all(b"a\0\0\0\0\0\0\0\0").unwrap();
    drop((first, adopted));

    let (second, adopted, _) = Keeper::adopt(directory.path()).unwrap().unwrap();
    let [kept] = &adopted.connections[..] else {
        panic!("{:?}", adopted.connections);
    };
    assert_eq!(kept.peer_addr().unwrap(), client.local_addr().unwrap());
    second.end();
    thread.join().unwrap();
}

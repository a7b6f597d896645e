//! Ends what still talks to a backend that is gone: UDP state, connected UDP sockets, and TCP sockets where the
//! backend exists no more. Only of sockets that went through the Service: one that a program connected to the pod's
//! own address, or through another Service, lives on. Unconnected UDP sockets pick anew by themselves.
//!
//! This comes before a revision is reported as applied, but does not hold it up for long. A second look, a moment
//! later, finds sockets that had picked the backend just before and were not connected yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use agent_ebpf::address::Address;
use agent_ebpf::counter::EventKind;
use agent_ebpf::layout::{
    FLOW_KIND_DSR_LOCAL, FLOW_KIND_MASQUERADE, FLOW_KIND_POD_SERVICE, FlowKey, FlowValue,
    ORIGIN_PLACES, OriginPlace, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_INSIDE, SCOPE_LOCAL,
    SCOPE_OUTSIDE, ServiceKey, ServiceValue, SocketOrigin,
};

use tokio::sync::mpsc::UnboundedReceiver;

use super::Inner;
use super::mapped::Mapped;
use super::namespaces::Namespace;
use super::objects::Objects;
use super::plan::{Gone, GoneState};
use super::sockdiag::{CONNECTED, LIVE, SockDiag, Socket};
use super::syscall::{Scan, map_lookup};
use super::wire::Wire;
use crate::cluster::AppliedSender;

/// How long a revision waits for its sockets to be closed; the rest is done all the same.
const LIMIT: Duration = Duration::from_millis(500);
/// Until sockets are looked for once more.
const AGAIN: Duration = Duration::from_secs(1);

/// The node's own namespace; pods' are by the host side of their veth.
const HOST: u32 = 0;

/// Whose sockets are closed, and how many were.
#[derive(Debug)]
pub(crate) struct Closing {
    namespaces: Mutex<BTreeMap<u32, Arc<Namespace>>>,
    /// For the second look, which is on its way if there is anything.
    again: Mutex<Vec<Gone>>,
    /// One at a time: a list is the answer to one request.
    turn: Mutex<()>,
    pub(crate) counts: Counts,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    closed_tcp: AtomicU64,
    closed_udp: AtomicU64,
    unsupported: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
}

impl Counts {
    /// Names and values for `/metrics`.
    pub(crate) fn list(&self) -> [(&'static str, u64); 5] {
        [
            ("tcp_closed", &self.closed_tcp),
            ("udp_closed", &self.closed_udp),
            ("unsupported_by_kernel", &self.unsupported),
            ("failed", &self.failed),
            ("revision_did_not_wait", &self.late),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

impl Closing {
    pub(crate) fn new(host: Namespace) -> Self {
        Self {
            namespaces: Mutex::new(BTreeMap::from([(HOST, Arc::new(host))])),
            again: Mutex::default(),
            turn: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// A pod's namespace, by the host side of its veth.
    pub(crate) fn add(&self, ifindex: u32, namespace: Namespace) {
        lock(&self.namespaces).insert(ifindex, Arc::new(namespace));
    }

    /// Returns its cookie.
    pub(crate) fn remove(&self, ifindex: u32) -> Option<u64> {
        let namespace = lock(&self.namespaces).remove(&ifindex)?;
        Some(namespace.cookie)
    }

    /// The cookie of a pod's namespace.
    pub(crate) fn cookie(&self, ifindex: u32) -> Option<u64> {
        Some(lock(&self.namespaces).get(&ifindex)?.cookie)
    }
}

/// What became of a batch: the backends that are gone with it, and the revision, if all of it is in force.
pub(crate) type Done = (Vec<Gone>, Option<u64>);

/// Reports revisions in their order, each when the sockets of what is gone with it are closed. The next batches do not
/// wait for that; what is gone with them meanwhile is closed together.
pub(crate) async fn report(
    inner: Arc<Inner>,
    mut done: UnboundedReceiver<Done>,
    applied: AppliedSender,
) {
    while let Some((mut gone, mut revision)) = done.recv().await {
        while let Ok((more, later)) = done.try_recv() {
            gone.extend(more);
            revision = later.or(revision);
        }
        close(&inner, gone).await;
        if let Some(revision) = revision {
            applied.send_replace(revision);
        }
    }
}

/// Closes what talks to backends that are gone, now and once more a moment later.
pub(crate) async fn close(inner: &Arc<Inner>, gone: Vec<Gone>) {
    if gone.is_empty() {
        return;
    }
    let (plane, now) = (Arc::clone(inner), gone.clone());
    let work = tokio::task::spawn_blocking(move || pass(&plane, &now));
    if tokio::time::timeout(LIMIT, work).await.is_err() {
        count(&inner.closing.counts.late);
    }
    let mut again = lock(&inner.closing.again);
    if again.is_empty() {
        tokio::spawn(second_look(Arc::downgrade(inner)));
    }
    again.extend(gone);
}

/// Sockets that had picked a backend just before it went may not have been connected at the first look.
async fn second_look(inner: Weak<Inner>) {
    tokio::time::sleep(AGAIN).await;
    let Some(inner) = inner.upgrade() else { return };
    let gone = std::mem::take(&mut *lock(&inner.closing.again));
    // Not to finish is to be shutting down.
    let _ = tokio::task::spawn_blocking(move || {
        // Each under the lock alone: changes do not wait for all of them. Come back meanwhile: not gone.
        let still = |gone: &Gone| !inner.state().tables.planner().has(&gone.key, &gone.backend);
        let gone: Vec<_> = gone.into_iter().filter(still).collect();
        pass(&inner, &gone);
    })
    .await;
}

/// What is gone of one protocol, by where sockets would be connected to (port in network order).
#[derive(Debug, Default)]
struct Wanted(HashMap<(Address, u16), Vec<ServiceKey>>);

impl Wanted {
    fn of(protocol: u8, gone: &[Gone]) -> Self {
        let mut wanted = Self::default();
        for gone in gone {
            // A connection lives on as long as the backend does; UDP has no connection that could.
            let ends = protocol == PROTOCOL_UDP || gone.state == GoneState::Removed;
            if ends && gone.key.protocol == protocol && gone.key.scope == SCOPE_INSIDE {
                let at = (gone.backend.address, gone.backend.port.to_be());
                wanted.0.entry(at).or_default().push(gone.key);
            }
        }
        wanted
    }

    fn peers(&self, v6_sockets: bool) -> Vec<(Address, u16)> {
        // An IPv6 socket may be connected to an IPv4 address.
        let peers = self
            .0
            .keys()
            .filter(|(address, _)| v6_sockets || address.is_v4());
        peers.copied().collect()
    }

    /// Whether a socket that is connected to `peer` got there through a Service that has it no more.
    fn concerns(
        &self,
        peer: (Address, u16),
        origin: &SocketOrigin,
        protocol: u8,
        is_own: impl Fn(&ServiceKey) -> bool,
    ) -> bool {
        if origin.service_port == 0 || (origin.backend, origin.backend_port) != peer {
            return false;
        }
        let asked_for = ServiceKey {
            address: origin.service,
            port: origin.service_port,
            protocol,
            scope: SCOPE_INSIDE,
        };
        is_among(self.0.get(&peer), &asked_for, is_own)
    }
}

/// The scope of the key by which a translated flow's packets found their Service.
fn scope(flow: &FlowValue) -> u8 {
    match flow.kind {
        FLOW_KIND_POD_SERVICE => SCOPE_INSIDE,
        FLOW_KIND_DSR_LOCAL => SCOPE_LOCAL,
        _ => SCOPE_OUTSIDE,
    }
}

/// Whether a translated flow, by its forward entry, leads through a Service's key to a backend that it has no more.
fn is_gone(
    gone: &HashMap<(Address, u16), Vec<ServiceKey>>,
    from: &FlowKey,
    flow: &FlowValue,
    is_own: impl Fn(&ServiceKey) -> bool,
) -> bool {
    if flow.is_reverse() || flow.kind == FLOW_KIND_MASQUERADE {
        return false;
    }
    let asked_for = ServiceKey {
        address: from.destination,
        port: from.destination_port,
        protocol: from.protocol,
        scope: scope(flow),
    };
    let to = (flow.to.destination, flow.to.destination_port);
    is_among(gone.get(&to), &asked_for, is_own)
}

/// Whether a key is among these; one of the node's every address stands for those that are no Service's own
/// (`is_own` says so).
fn is_among(
    keys: Option<&Vec<ServiceKey>>,
    asked_for: &ServiceKey,
    is_own: impl Fn(&ServiceKey) -> bool,
) -> bool {
    let any = if asked_for.address.is_v4() {
        Address::ANY_V4
    } else {
        Address::ANY_V6
    };
    let every = ServiceKey {
        address: any,
        ..*asked_for
    };
    keys.into_iter()
        .flatten()
        .any(|key| key == asked_for || (*key == every && !is_own(asked_for)))
}

/// Forgets flows that are translated to gone backends: a UDP flow's next packet picks another; a TCP connection to a
/// backend that exists no more is reset by the next one.
fn forget_flows(inner: &Inner, gone: &[Gone]) {
    let mut backends: HashMap<(Address, u16), Vec<ServiceKey>> = HashMap::new();
    for gone in gone {
        // A connection lives on as long as the backend does; UDP has no connection that could.
        if gone.key.protocol == PROTOCOL_UDP || gone.state == GoneState::Removed {
            let at = (gone.backend.address, gone.backend.port.to_be());
            backends.entry(at).or_default().push(gone.key);
        }
    }
    if backends.is_empty() {
        return;
    }
    let flows = Arc::clone(&inner.state().objects.flows);
    flows.forget_if(|key, value| {
        is_gone(&backends, key, value, |own| {
            inner.state().objects.services.get(&Wire(*own), 0).is_ok()
        })
    });
}

fn pass(inner: &Inner, gone: &[Gone]) {
    forget_flows(inner, gone);
    let protocols = [(PROTOCOL_UDP, CONNECTED), (PROTOCOL_TCP, LIVE)]
        .map(|(protocol, states)| (protocol, states, Wanted::of(protocol, gone)));
    if protocols.iter().all(|(.., wanted)| wanted.0.is_empty()) {
        return;
    }
    let closing = &inner.closing;
    let _turn = lock(&closing.turn);
    let mut known = candidates(
        inner,
        &protocols
            .each_ref()
            .map(|(protocol, _, wanted)| (*protocol, wanted)),
    );
    let namespaces: Vec<_> = lock(&closing.namespaces).values().cloned().collect();
    let storage = match inner.state().objects.origins_fd.try_clone() {
        Ok(storage) => storage,
        Err(error) => {
            count(&closing.counts.failed);
            tracing::warn!(%error, "sockets of gone backends not closed");
            return;
        }
    };
    for namespace in namespaces {
        if known.as_ref().is_some_and(HashSet::is_empty) {
            // Most often at once: listing the sockets of a namespace takes a millisecond.
            return;
        }
        let Some(sockets) = &namespace.sockets else {
            count(&closing.counts.unsupported);
            continue;
        };
        for (protocol, states, wanted) in &protocols {
            if wanted.0.is_empty() {
                continue;
            }
            for family in [libc::AF_INET, libc::AF_INET6] {
                let done = in_family(
                    inner,
                    sockets,
                    (family as u8, *protocol, *states),
                    wanted,
                    &storage,
                    &mut known,
                );
                if let Err(error) = done {
                    count(&closing.counts.failed);
                    tracing::warn!(%error, family, protocol, "sockets cannot be listed");
                }
            }
        }
    }
}

/// Cookies of the sockets that are concerned, wherever they are; nothing if that cannot be known because some sockets
/// have storages, which only listing them shows.
fn candidates(inner: &Inner, wanted: &[(u8, &Wanted)]) -> Option<HashSet<u64>> {
    let (places, services) = {
        let state = inner.state();
        let stored = state
            .objects
            .events
            .get(&(EventKind::OriginStored as u32), 0);
        if !stored.is_ok_and(|counts| counts.iter().all(|count| *count == 0)) {
            return None;
        }
        (
            state.objects.places_fd.try_clone().ok()?,
            state.objects.services_fd.try_clone().ok()?,
        )
    };
    let is_own = |key: &ServiceKey| {
        map_lookup::<_, ServiceValue>(services.as_fd(), key).is_ok_and(|found| found.is_some())
    };
    let mut cookies = HashSet::new();
    let mut look = |place: OriginPlace| {
        let peer = (place.origin.backend, place.origin.backend_port);
        let concerns = |(protocol, wanted): &(u8, &Wanted)| {
            wanted.concerns(peer, &place.origin, *protocol, is_own)
        };
        if place.owners != 0 && wanted.iter().any(concerns) {
            cookies.insert(place.cookie);
        }
    };
    match Mapped::<OriginPlace>::new(places.as_fd(), ORIGIN_PLACES) {
        Ok(mapped) => mapped.values().for_each(look),
        // An older binary's array, which the programs go on using.
        Err(_) => Scan::array::<OriginPlace>(places.as_fd())
            .for_each_value(&mut look)
            .ok()?,
    }
    Some(cookies)
}

fn in_family(
    inner: &Inner,
    diag: &SockDiag,
    (family, protocol, states): (u8, u8, u32),
    wanted: &Wanted,
    storage: &OwnedFd,
    known: &mut Option<HashSet<u64>>,
) -> io::Result<()> {
    let peers = wanted.peers(i32::from(family) == libc::AF_INET6);
    if peers.is_empty() {
        return Ok(());
    }
    for socket in diag.list(family, protocol, states, &peers, storage.as_fd())? {
        let concerned = {
            let state = inner.state();
            origin(&state.objects, &socket).is_some_and(|origin| {
                wanted.concerns((socket.peer, socket.peer_port), &origin, protocol, |key| {
                    state.objects.services.get(&Wire(*key), 0).is_ok()
                })
            })
        };
        if let Some(known) = known {
            known.remove(&socket.cookie);
        }
        if concerned {
            end(inner, diag, protocol, &socket);
        }
    }
    Ok(())
}

/// What the socket's program asked for, wherever the connect hook put it.
fn origin(objects: &Objects, socket: &Socket) -> Option<SocketOrigin> {
    let index = OriginPlace::index(socket.cookie);
    match objects.origin_places.get(&index, 0) {
        Ok(Wire(place)) if place.cookie == socket.cookie => Some(place.origin),
        _ => socket.origin,
    }
}

fn end(inner: &Inner, diag: &SockDiag, protocol: u8, socket: &Socket) {
    let counts = &inner.closing.counts;
    match diag.destroy(protocol, socket) {
        Ok(()) if protocol == PROTOCOL_TCP => {
            count(&counts.closed_tcp);
        }
        Ok(()) => {
            count(&counts.closed_udp);
        }
        // Closed by its program, or connected to somewhere else, in between.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            if count(&counts.unsupported) == 0 {
                tracing::warn!(
                    "the kernel cannot close sockets (INET_DIAG_DESTROY): connections to removed backends live \
                     on until they time out"
                );
            }
        }
        Err(error) => {
            count(&counts.failed);
            tracing::warn!(%error, protocol, "a socket to a gone backend was not closed");
        }
    }
}

#[cfg(test)]
mod tests;

//! The eBPF object in the kernel: maps (pinned, shared with the run before) and programs (always new).

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_ebpf::address::Address;
use agent_ebpf::counter::{EventKind, Traffic};
use agent_ebpf::layout::{
    AffinityKey, AffinityValue, Config, DROP_REASONS, EVENT_KINDS, FORWARD_KINDS, FlowKey,
    FlowValue, FragmentKey, FragmentValue, LAYOUT, Link, MAX_AFFINITIES, MAX_FLOWS, MAX_FRAGMENTS,
    MAX_LINKS, MAX_LOCALS, MAX_MAGLEV_BLOCKS, MAX_OPTED_OUT, MAX_PODS, MAX_REMOTES, MAX_SERVICES,
    MAX_SLOTS, MAX_SOURCE_RANGES, MaglevBlock, MaglevKey, ORIGIN_PLACES, OriginPlace, Pod,
    PodSource, Remote, ServiceKey, ServiceValue, Slot, SocketOrigin, SourceRange, UdpFlows,
};
use aya::maps::lpm_trie;
use aya::maps::{Array, HashMap, LpmTrie, MapData, MapInfo, MapType, PerCpuArray, PerCpuValues};
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use super::affinities::AffinityTable;
use super::error::DataPlaneError;
use super::flows::FlowTable;
use super::migrate::Migration;
use super::syscall::{AttachType, object_get};
use super::wire::Wire;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/waggle-ebpf"));

/// The socket hooks, by program name. The one that makes room is there before those that take it.
pub(crate) const SOCKET_HOOKS: [(&str, AttachType); 9] = [
    ("sock_release", AttachType::SockRelease),
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
    ("sendmsg4", AttachType::SendMsg4),
    ("sendmsg6", AttachType::SendMsg6),
    ("recvmsg4", AttachType::RecvMsg4),
    ("recvmsg6", AttachType::RecvMsg6),
    ("getpeername4", AttachType::GetPeerName4),
    ("getpeername6", AttachType::GetPeerName6),
];

pub(crate) const POD_HOOKS: [(&str, AttachType); 2] = [
    ("pod_ingress", AttachType::TcxIngress),
    ("pod_egress", AttachType::TcxEgress),
];

pub(crate) const UPLINK_HOOKS: [(&str, AttachType); 2] = [
    ("uplink_ingress", AttachType::TcxIngress),
    ("uplink_egress", AttachType::TcxEgress),
];

pub(crate) const XDP_HOOK: (&str, AttachType) = ("xdp_uplink", AttachType::Xdp);

pub(crate) const OVERLAY_HOOKS: [(&str, AttachType); 2] = [
    ("overlay_ingress", AttachType::TcxIngress),
    ("overlay_egress", AttachType::TcxEgress),
];

/// What a pinned map must look like to be taken over.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: usize,
}

impl Shape {
    pub(crate) fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.max_entries() as usize == self.entries
    }
}

const fn shape<K, V>(name: &'static str, kind: MapType, entries: usize) -> Shape {
    Shape {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

pub(crate) const SHAPES: [Shape; 21] = [
    shape::<u32, Config>("CONFIG", MapType::Array, 1),
    shape::<ServiceKey, ServiceValue>("SERVICES", MapType::Hash, MAX_SERVICES),
    shape::<u32, Slot>("SLOTS", MapType::Array, MAX_SLOTS),
    shape::<Address, Pod>("PODS", MapType::Hash, MAX_PODS),
    shape::<u32, PodSource>("SOURCES", MapType::Hash, MAX_PODS),
    shape::<Prefix<Address>, Remote>("REMOTES", MapType::LpmTrie, MAX_REMOTES),
    shape::<u32, Link>("LINKS", MapType::Hash, MAX_LINKS),
    shape::<Address, u32>("LOCALS", MapType::Hash, MAX_LOCALS),
    shape::<MaglevKey, MaglevBlock>("MAGLEV", MapType::Hash, MAX_MAGLEV_BLOCKS),
    shape::<Prefix<SourceRange>, u32>("SOURCE_RANGES", MapType::LpmTrie, MAX_SOURCE_RANGES),
    shape::<AffinityKey, AffinityValue>("AFFINITIES", MapType::Hash, MAX_AFFINITIES),
    shape::<FragmentKey, FragmentValue>("FRAGMENTS", MapType::LruHash, MAX_FRAGMENTS),
    shape::<u64, u32>("OPTED_OUT", MapType::Hash, MAX_OPTED_OUT),
    shape::<u64, PodSource>("NAMESPACES", MapType::Hash, MAX_PODS),
    shape::<u32, OriginPlace>("ORIGIN_PLACES", MapType::Array, ORIGIN_PLACES),
    shape::<u32, SocketOrigin>("ORIGINS", MapType::SkStorage, 0),
    shape::<u32, UdpFlows>("UDP_STATE", MapType::SkStorage, 0),
    shape::<FlowKey, FlowValue>("FLOWS", MapType::Hash, MAX_FLOWS),
    shape::<u32, u64>("DROPS", MapType::PerCpuArray, DROP_REASONS),
    shape::<u32, Traffic>("FORWARDS", MapType::PerCpuArray, FORWARD_KINDS),
    shape::<u32, u64>("EVENTS", MapType::PerCpuArray, EVENT_KINDS),
];

/// Key of a longest-prefix match table: the prefix's length in bits, then what it is of.
type Prefix<K> = lpm_trie::Key<Wire<K>>;
pub(crate) type Trie<K, V> = LpmTrie<MapData, Wire<K>, V>;
pub(crate) type Table<K, V> = HashMap<MapData, Wire<K>, Wire<V>>;

/// A table whose entries only the kernel can count.
#[derive(Debug)]
pub(crate) struct Counted {
    /// As in `/metrics`.
    pub(crate) table: &'static str,
    pub(crate) map: OwnedFd,
    /// Bytes.
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) entries: usize,
}

const COUNTED: [(&str, &str); 3] = [
    ("AFFINITIES", "affinities"),
    ("REMOTES", "remotes"),
    ("FRAGMENTS", "fragments"),
];

pub(crate) struct Objects {
    programs: Ebpf,
    /// To be finished once the programs are attached.
    pub(crate) migration: Migration,
    pub(crate) config: Array<MapData, Wire<Config>>,
    pub(crate) services: Table<ServiceKey, ServiceValue>,
    pub(crate) services_fd: OwnedFd,
    pub(crate) slots_fd: OwnedFd,
    pub(crate) pods: HashMap<MapData, [u8; 16], Wire<Pod>>,
    pub(crate) sources: HashMap<MapData, u32, Wire<PodSource>>,
    pub(crate) remotes: Trie<Address, Wire<Remote>>,
    pub(crate) links: HashMap<MapData, u32, Wire<Link>>,
    pub(crate) locals: HashMap<MapData, [u8; 16], u32>,
    pub(crate) maglev: Table<MaglevKey, MaglevBlock>,
    pub(crate) maglev_fd: OwnedFd,
    pub(crate) source_ranges: Trie<SourceRange, u32>,
    pub(crate) affinities: Arc<AffinityTable>,
    pub(crate) opted_out: HashMap<MapData, u64, u32>,
    pub(crate) namespaces: HashMap<MapData, u64, Wire<PodSource>>,
    pub(crate) origin_places: Array<MapData, Wire<OriginPlace>>,
    pub(crate) places_fd: OwnedFd,
    pub(crate) origins_fd: OwnedFd,
    pub(crate) flows: Arc<FlowTable>,
    pub(crate) drops: PerCpuArray<MapData, u64>,
    pub(crate) forwards: PerCpuArray<MapData, Wire<Traffic>>,
    pub(crate) events: PerCpuArray<MapData, u64>,
    pub(crate) counted: Vec<Counted>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// Maps are pinned below a directory that names their layout: another layout's are another's.
pub(crate) fn map_directory(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("v{LAYOUT}"))
}

/// Pinned maps that are not what their name says (an older or foreign program's) are unpinned: keeping them
/// would keep everything from loading.
fn evict_misfits(directory: &Path) -> Result<(), DataPlaneError> {
    for shape in &SHAPES {
        let path = directory.join(shape.name);
        if !path.exists() {
            continue;
        }
        let fits = MapInfo::from_pin(&path).is_ok_and(|info| shape.fits(&info));
        if !fits {
            tracing::warn!(map = shape.name, path = %path.display(), "pinned map has another layout: replaced");
            std::fs::remove_file(&path).map_err(DataPlaneError::file("unpin", &path))?;
        }
    }
    Ok(())
}

/// The verifier stops for a signal, whatever signal it is, with EAGAIN (`do_check` in `kernel/bpf/verifier.c`): it is
/// asked again, as often as libbpf does.
fn verify(name: &'static str, program: &mut Program) -> Result<(), DataPlaneError> {
    const ATTEMPTS: u32 = 5;
    let mut attempt = 1;
    loop {
        let loaded = match program {
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
            Program::CgroupSock(program) => CgroupSock::load(program),
            Program::SchedClassifier(program) => SchedClassifier::load(program),
            Program::Xdp(program) => Xdp::load(program),
            _ => return Err(DataPlaneError::Missing(name)),
        };
        match loaded {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            loaded => {
                return loaded.map_err(|source| DataPlaneError::Program {
                    program: name,
                    source: Box::new(source),
                });
            }
        }
    }
}

impl Objects {
    /// Loads the object; maps that are pinned below `pin_dir` are used again, also those of an older layout.
    pub(crate) fn load(pin_dir: &Path) -> Result<Self, DataPlaneError> {
        let migration = Migration::prepare(pin_dir)?;
        let directory = map_directory(pin_dir);
        std::fs::create_dir_all(&directory).map_err(DataPlaneError::file("create", &directory))?;
        evict_misfits(&directory)?;
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        for shape in &SHAPES {
            loader.map_pin_path(shape.name, directory.join(shape.name));
        }
        let mut programs = loader
            .load(OBJECT)
            .map_err(|error| DataPlaneError::Object(Box::new(error)))?;
        let hooks = SOCKET_HOOKS.iter().chain(&POD_HOOKS).chain(&UPLINK_HOOKS);
        for (name, _) in hooks.chain(&OVERLAY_HOOKS).chain([&XDP_HOOK]) {
            let program = programs
                .program_mut(name)
                .ok_or(DataPlaneError::Missing(name))?;
            verify(name, program)?;
        }
        migration.fill();
        let fd = |name: &'static str| {
            let path = directory.join(name);
            object_get(&path).map_err(DataPlaneError::file("open", path))
        };
        let mut counted = Vec::new();
        for shape in &SHAPES {
            if let Some((name, table)) = COUNTED.iter().find(|(name, _)| *name == shape.name) {
                counted.push(Counted {
                    table,
                    map: fd(name)?,
                    key: shape.key,
                    value: shape.value,
                    entries: shape.entries,
                });
            }
        }
        Ok(Self {
            migration,
            counted,
            config: take(&mut programs, "CONFIG")?,
            services: take(&mut programs, "SERVICES")?,
            services_fd: fd("SERVICES")?,
            slots_fd: fd("SLOTS")?,
            pods: take(&mut programs, "PODS")?,
            sources: take(&mut programs, "SOURCES")?,
            remotes: take(&mut programs, "REMOTES")?,
            links: take(&mut programs, "LINKS")?,
            locals: take(&mut programs, "LOCALS")?,
            maglev: take(&mut programs, "MAGLEV")?,
            maglev_fd: fd("MAGLEV")?,
            source_ranges: take(&mut programs, "SOURCE_RANGES")?,
            affinities: Arc::new(AffinityTable::open(&directory.join("AFFINITIES"))?),
            opted_out: take(&mut programs, "OPTED_OUT")?,
            namespaces: take(&mut programs, "NAMESPACES")?,
            origin_places: take(&mut programs, "ORIGIN_PLACES")?,
            places_fd: fd("ORIGIN_PLACES")?,
            origins_fd: fd("ORIGINS")?,
            flows: Arc::new(FlowTable::open(&directory.join("FLOWS"))?),
            drops: take(&mut programs, "DROPS")?,
            forwards: take(&mut programs, "FORWARDS")?,
            events: take(&mut programs, "EVENTS")?,
            programs,
        })
    }

    /// Sockets of an older layout have their origins in storages; so it is noted as for today's that get one.
    pub(crate) fn note_stored_origins(&mut self) {
        let kind = EventKind::OriginStored as u32;
        let noted = self.events.get(&kind, 0).and_then(|counts| {
            let counts = counts.iter().map(|count| count + 1).collect::<Vec<u64>>();
            self.events.set(kind, PerCpuValues::try_from(counts)?, 0)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "sockets of before the update may outlive their backends");
        }
    }

    /// Calls `with` with the program's descriptor.
    pub(crate) fn with_program<T>(
        &self,
        name: &'static str,
        with: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, DataPlaneError> {
        use std::os::fd::AsFd as _;
        let program = self
            .programs
            .program(name)
            .ok_or(DataPlaneError::Missing(name))?;
        let fd = program.fd().map_err(|source| DataPlaneError::Program {
            program: name,
            source: Box::new(source),
        })?;
        Ok(with(fd.as_fd()))
    }

    pub(crate) fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DataPlaneError> {
        match self.programs.program_mut(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(DataPlaneError::Missing(name)),
        }
    }

    pub(crate) fn program_infos(
        &self,
    ) -> impl Iterator<Item = (&str, aya::programs::ProgramInfo)> + '_ {
        self.programs
            .programs()
            .filter_map(|(name, program)| Some((name, program.info().ok()?)))
    }
}

fn take<M>(programs: &mut Ebpf, name: &'static str) -> Result<M, DataPlaneError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = programs
        .take_map(name)
        .ok_or(DataPlaneError::Missing(name))?;
    M::try_from(map).map_err(DataPlaneError::map(name))
}

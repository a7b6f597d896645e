//! Where programs are attached: links that are pinned by name, whose program can be replaced without a
//! moment in between; clsact filters with fixed handles where the kernel has no tcx (before 6.6).
//!
//! Programs of pods begin as filters on every kernel, and become links where there is tcx when no pod begins or ends
//! (`settle`): for each that is attached or detached by tcx the kernel waits for a grace period of RCU and holds RTNL
//! meanwhile (`tcx_entry_sync`, 8 to 12 ms), so that pods that begin together would wait for each other.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::config::Xdp;
use super::error::DataPlaneError;
use super::objects::{OVERLAY_HOOKS, Objects, POD_HOOKS, SOCKET_HOOKS, UPLINK_HOOKS, XDP_HOOK};
use super::syscall::{AttachType, link_create, link_update, object_get, object_pin};
use super::{Attachment, probe};

/// Priority and handle of our filters where clsact is used: what finds them again after a restart.
const PRIORITY: u16 = 0x5747;
const HANDLE: TcHandle = TcHandle::new(0, 1);

#[derive(Debug)]
pub(crate) struct Attachments {
    directory: PathBuf,
    tcx: bool,
    list: Vec<(String, Attachment)>,
    /// Filters that become links: by interface, and index in [`POD_HOOKS`].
    filters: BTreeSet<(u32, usize)>,
    /// When a pod began or ended last.
    touched: Instant,
}

/// The programs of a pod that goes. To detach one the kernel takes a grace period: nothing that others wait for may be held
/// meanwhile.
#[derive(Debug)]
pub(crate) struct Departing {
    directory: PathBuf,
    index: u32,
}

impl Departing {
    pub(crate) fn detach(&self) {
        for (program, attach_type) in POD_HOOKS {
            let path = self.directory.join(format!("{program}_{}", self.index));
            if path.exists() {
                remove(&path);
            } else if let Some(name) = interface_name(self.index) {
                detach_filter(&name, attach_type, program);
            }
        }
    }
}

/// An interface by both its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
}

pub(crate) fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()
        .map(|name| name.to_string_lossy().into_owned())
        // What nix 0.31 says of an index that nobody has.
        .filter(|name| !name.is_empty())
}

impl Attachments {
    pub(crate) fn open(pin_dir: &Path) -> Result<Self, DataPlaneError> {
        let directory = pin_dir.join("links");
        std::fs::create_dir_all(&directory).map_err(DataPlaneError::file("create", &directory))?;
        Ok(Self {
            directory,
            tcx: probe::has_tcx(),
            list: Vec::new(),
            filters: BTreeSet::new(),
            touched: Instant::now(),
        })
    }

    #[cfg(test)]
    pub(crate) fn without_tcx(mut self) -> Self {
        self.tcx = false;
        self
    }

    pub(crate) fn list(&self) -> Vec<Attachment> {
        self.list.iter().map(|(_, entry)| entry.clone()).collect()
    }

    fn record(&mut self, pin: String, program: &str, hook: String) {
        self.list.retain(|(other, _)| *other != pin);
        let program = program.to_owned();
        self.list.push((pin, Attachment { program, hook }));
    }

    pub(crate) fn sockets(
        &mut self,
        objects: &Objects,
        cgroup: &Path,
    ) -> Result<(), DataPlaneError> {
        let directory = File::open(cgroup).map_err(DataPlaneError::file("open", cgroup))?;
        let hook = format!("cgroup:{}", cgroup.display());
        let inode = directory
            .metadata()
            .map_err(DataPlaneError::file("look at", cgroup))?
            .ino();
        for (program, attach_type) in SOCKET_HOOKS {
            let pin = format!("{program}_{inode}");
            let target = directory.as_fd().as_raw_fd() as u32;
            objects
                .with_program(program, |fd| self.put(&pin, fd, target, attach_type))?
                .map_err(|source| DataPlaneError::Attach {
                    program,
                    hook: hook.clone(),
                    source,
                })?;
            self.remove_others(program, std::slice::from_ref(&pin));
            self.record(pin, program, hook.clone());
        }
        Ok(())
    }

    /// At these interfaces and at no others; those that take no program are left out of what is returned. The uplink's
    /// must.
    pub(crate) fn links<'a>(
        &mut self,
        objects: &mut Objects,
        interfaces: impl Iterator<Item = &'a Interface>,
        uplink: Option<&Interface>,
    ) -> Result<Vec<&'a Interface>, DataPlaneError> {
        let mut attached = Vec::new();
        for interface in interfaces {
            match self.link(objects, interface) {
                Ok(()) => attached.push(interface),
                Err(error) if Some(interface) == uplink => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        interface = interface.name,
                        error = &error as &dyn std::error::Error,
                        "pods do not get out by this interface"
                    );
                }
            }
        }
        for (program, attach_type) in UPLINK_HOOKS {
            let pins: Vec<String> = attached
                .iter()
                .map(|interface| pin(program, interface))
                .collect();
            if !self.tcx {
                self.detach_filters(program, attach_type, &pins);
            }
            self.remove_others(program, &pins);
            self.list
                .retain(|(other, entry)| entry.program != program || pins.contains(other));
        }
        Ok(attached)
    }

    fn link(&mut self, objects: &mut Objects, interface: &Interface) -> Result<(), DataPlaneError> {
        for (program, attach_type) in UPLINK_HOOKS {
            self.traffic(
                objects,
                program,
                pin(program, interface),
                interface,
                attach_type,
            )?;
        }
        Ok(())
    }

    /// Of a program, where it is attached by filter and is not to be any more.
    fn detach_filters(&self, program: &str, attach_type: AttachType, keep: &[String]) {
        let others = self
            .list
            .iter()
            .filter(|(pin, entry)| entry.program == program && !keep.contains(pin));
        for (pin, _) in others {
            let index = pin.rsplit('_').next().and_then(|index| index.parse().ok());
            if let Some(name) = index.and_then(interface_name) {
                detach_filter(&name, attach_type, program);
            }
        }
    }

    /// XDP at the uplink, or none. Where the driver has no place for it, tc goes on alone.
    pub(crate) fn xdp(
        &mut self,
        objects: &Objects,
        interface: &Interface,
        wanted: Xdp,
    ) -> Result<(), DataPlaneError> {
        let (program, attach_type) = XDP_HOOK;
        let pin = format!("{program}_{}", interface.index);
        let keep = if wanted == Xdp::On {
            std::slice::from_ref(&pin)
        } else {
            &[]
        };
        self.remove_others(program, keep);
        self.list.retain(|(_, entry)| entry.program != program);
        if wanted == Xdp::Off {
            return Ok(());
        }
        let attached = objects.with_program(program, |fd| {
            self.put(&pin, fd, interface.index, attach_type)
        })?;
        match attached {
            Ok(()) => {
                allow_lookups();
                self.record(pin, program, format!("xdp {}", interface.name));
            }
            Err(error) => tracing::warn!(
                interface = interface.name, %error,
                "the driver takes no XDP program: Services are balanced at tc only"
            ),
        }
        Ok(())
    }

    pub(crate) fn overlay(
        &mut self,
        objects: &mut Objects,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        self.only(objects, interface, OVERLAY_HOOKS)
    }

    /// Attaches programs to this interface and to no other.
    fn only(
        &mut self,
        objects: &mut Objects,
        interface: &Interface,
        hooks: [(&'static str, AttachType); 2],
    ) -> Result<(), DataPlaneError> {
        for (program, attach_type) in hooks {
            let pin = format!("{program}_{}", interface.index);
            self.remove_others(program, std::slice::from_ref(&pin));
            self.list
                .retain(|(other, entry)| entry.program != program || *other == pin);
            self.traffic(objects, program, pin, interface, attach_type)?;
        }
        Ok(())
    }

    pub(crate) fn pod(
        &mut self,
        objects: &mut Objects,
        interface: &Interface,
    ) -> Result<(), DataPlaneError> {
        self.touched = Instant::now();
        for (number, (program, attach_type)) in POD_HOOKS.into_iter().enumerate() {
            let pin = pin(program, interface);
            if self.tcx && self.directory.join(&pin).exists() {
                self.traffic(objects, program, pin, interface, attach_type)?;
                continue;
            }
            match self.filter(objects, program, &pin, interface, attach_type) {
                Ok(()) if self.tcx => {
                    self.filters.insert((interface.index, number));
                }
                // A kernel may lack what filters need.
                Err(error) if self.tcx => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no filter");
                    self.traffic(objects, program, pin, interface, attach_type)?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Since when pods have begun and ended, if there is a filter that is to become a link.
    pub(crate) fn unsettled_since(&self) -> Option<Instant> {
        (!self.filters.is_empty()).then_some(self.touched)
    }

    /// Makes one filter a link. The link comes first: of the two only one program sees what comes from a pod, since that
    /// one decides. To the pod, what the first has rewritten is nothing that the second would rewrite.
    pub(crate) fn settle_one(&mut self, objects: &mut Objects) {
        let Some((index, number)) = self.filters.pop_first() else {
            return;
        };
        let (program, attach_type) = POD_HOOKS[number];
        let Some(name) = interface_name(index) else {
            return;
        };
        let interface = Interface { index, name };
        let pin = pin(program, &interface);
        match self.traffic(objects, program, pin, &interface, attach_type) {
            Ok(()) => detach_filter(&interface.name, attach_type, program),
            Err(error) => {
                // Perhaps it goes now.
                let (interface, error) = (interface.name, &error as &dyn std::error::Error);
                tracing::warn!(interface, program, error, "its filter stays");
            }
        }
    }

    /// Puts this load's programs at the interfaces of pods that an earlier run attached.
    pub(crate) fn adopt_pods(&mut self, objects: &mut Objects) -> Result<(), DataPlaneError> {
        self.adopt_links(objects)?;
        let indices: Vec<u32> = objects.sources.keys().flatten().collect();
        for index in indices {
            // Else it went while no agent was there.
            let Some(name) = interface_name(index) else {
                continue;
            };
            let interface = Interface { index, name };
            if let Err(error) = self.pod(objects, &interface) {
                // Perhaps it goes now. The earlier run's programs stay until its pod is added again.
                let (interface, error) = (interface.name, &error as &dyn std::error::Error);
                tracing::warn!(interface, error, "not adopted");
            }
        }
        Ok(())
    }

    fn adopt_links(&mut self, objects: &Objects) -> Result<(), DataPlaneError> {
        let entries = std::fs::read_dir(&self.directory)
            .map_err(DataPlaneError::file("read", &self.directory))?;
        for entry in entries.flatten() {
            let pin = entry.file_name().to_string_lossy().into_owned();
            let Some((program, attach_type, index)) = pod_hook(&pin) else {
                continue;
            };
            let replaced = objects.with_program(program, |fd| {
                object_get(&entry.path()).and_then(|link| link_update(link.as_fd(), fd))
            })?;
            match (replaced, interface_name(index)) {
                (Ok(()), Some(name)) => {
                    // It is there if the run before ended between the two.
                    detach_filter(&name, attach_type, program);
                    self.record(pin, program, traffic_hook(attach_type, true, &name));
                }
                // Its interface is gone, and with it the attachment.
                _ => remove(&entry.path()),
            }
        }
        Ok(())
    }

    fn traffic(
        &mut self,
        objects: &mut Objects,
        program: &'static str,
        pin: String,
        interface: &Interface,
        attach_type: AttachType,
    ) -> Result<(), DataPlaneError> {
        if !self.tcx {
            return self.filter(objects, program, &pin, interface, attach_type);
        }
        let hook = traffic_hook(attach_type, true, &interface.name);
        objects
            .with_program(program, |fd| {
                self.put(&pin, fd, interface.index, attach_type)
            })?
            .map_err(|source| DataPlaneError::Attach {
                program,
                hook: hook.clone(),
                source,
            })?;
        self.record(pin, program, hook);
        Ok(())
    }

    /// `pin`: the name that a link would have.
    fn filter(
        &mut self,
        objects: &mut Objects,
        program: &'static str,
        pin: &str,
        interface: &Interface,
        attach_type: AttachType,
    ) -> Result<(), DataPlaneError> {
        let hook = traffic_hook(attach_type, false, &interface.name);
        attach_filter(objects.classifier(program)?, &interface.name, attach_type).map_err(
            |source| DataPlaneError::Classifier {
                program,
                hook: hook.clone(),
                source: Box::new(source),
            },
        )?;
        self.record(pin.to_owned(), program, hook);
        Ok(())
    }

    /// Replaces the program of the pinned link, or makes the link if there is none that still works.
    fn put(
        &self,
        pin: &str,
        program: BorrowedFd<'_>,
        target: u32,
        attach_type: AttachType,
    ) -> io::Result<()> {
        let path = self.directory.join(pin);
        match object_get(&path) {
            Ok(link) => match link_update(link.as_fd(), program) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // ENOLINK: what it was attached to is gone.
                    tracing::debug!(pin, %error, "link cannot be updated: made anew");
                    std::fs::remove_file(&path)?;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let link = link_create(program, target, attach_type)?;
        object_pin(link.as_fd(), &path)
    }

    /// Detaches a program from where an earlier run with another configuration attached it.
    fn remove_others(&self, program: &str, keep: &[String]) {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let same = name
                .strip_prefix(program)
                .is_some_and(|rest| rest.starts_with('_'));
            if same && !keep.contains(&name) {
                remove(&entry.path());
            }
        }
    }

    /// Forgets the programs of a pod, which [`Departing::detach`] then takes away.
    pub(crate) fn forget_pod(&mut self, index: u32) -> Departing {
        self.touched = Instant::now();
        self.filters.retain(|(other, _)| *other != index);
        let pins = POD_HOOKS.map(|(program, _)| format!("{program}_{index}"));
        self.list.retain(|(other, _)| !pins.contains(other));
        Departing {
            directory: self.directory.clone(),
            index,
        }
    }

    /// Detaches everything, also what an earlier run attached.
    pub(crate) fn remove_all(&mut self) {
        if let Ok(entries) = std::fs::read_dir(&self.directory) {
            for entry in entries.flatten() {
                remove(&entry.path());
            }
        }
        if !self.tcx {
            for (program, attach_type) in UPLINK_HOOKS.into_iter().chain(OVERLAY_HOOKS) {
                self.detach_filters(program, attach_type, &[]);
            }
        }
        let pins = self.list.iter();
        let pods: BTreeSet<u32> = pins
            .filter_map(|(pin, _)| pod_hook(pin))
            .map(|at| at.2)
            .collect();
        for index in pods {
            self.forget_pod(index).detach();
        }
        self.list.clear();
        self.filters.clear();
    }
}

fn pin(program: &str, interface: &Interface) -> String {
    format!("{program}_{}", interface.index)
}

/// Routes are looked up for packets from outside as if they came from `lo`, which never forwards any: only there has
/// forwarding to be on.
pub(crate) fn allow_lookups() {
    for path in ["ipv4/conf/lo/forwarding", "ipv6/conf/lo/forwarding"] {
        let path = Path::new("/proc/sys/net").join(path);
        if let Err(error) = std::fs::write(&path, "1") {
            tracing::warn!(path = %path.display(), %error, "routes for packets from outside cannot be looked up: they leave by the uplink, past XDP");
        }
    }
}

/// Program, hook and interface index of a pod's pin, by its name.
fn pod_hook(pin: &str) -> Option<(&'static str, AttachType, u32)> {
    POD_HOOKS.iter().find_map(|(program, at)| {
        let index = pin.strip_prefix(program)?.strip_prefix('_')?;
        Some((*program, *at, index.parse().ok()?))
    })
}

/// No filter there, or no interface: as wanted.
fn detach_filter(interface: &str, attach_type: AttachType, program: &str) {
    let direction = direction(attach_type);
    let _ = aya::programs::tc::qdisc_detach_program(interface, direction, program);
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot unpin");
    }
}

fn direction(attach_type: AttachType) -> TcAttachType {
    if attach_type == AttachType::TcxEgress {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

fn traffic_hook(attach_type: AttachType, tcx: bool, interface: &str) -> String {
    let kind = if tcx { "tcx" } else { "tc" };
    match direction(attach_type) {
        TcAttachType::Egress => format!("{kind} egress {interface}"),
        _ => format!("{kind} ingress {interface}"),
    }
}

fn attach_filter(
    program: &mut SchedClassifier,
    interface: &str,
    attach_type: AttachType,
) -> Result<(), ProgramError> {
    // There already: fine; not possible: the filter's error says so.
    let _ = qdisc_add_clsact(interface);
    let direction = direction(attach_type);
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let link = match program.attach_with_options(
        interface,
        direction,
        TcAttachOptions::Netlink(options),
    ) {
        Ok(link) => link,
        // An earlier run's: replaced in place.
        Err(_) => {
            let link = SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)
                .map_err(|error| ProgramError::IOError(io::Error::other(error)))?;
            program.attach_to_link(link)?
        }
    };
    // The filter stays when this process ends.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

//! The fabric's side of a node whose uplink has an XDP program. A veth pair takes a packet that a program sends back from
//! one end only if there is a program at the other end too; and what an end leaves to its card to compute, a checksum,
//! nobody computes there. Cards need none of this.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::netns;

/// `XDP_FLAGS_DRV_MODE`
const IN_THE_DRIVER: u32 = 1 << 2;

/// Prepares an interface in a namespace.
pub(super) fn accept_returned(netns: &Path, interface: &str) -> anyhow::Result<()> {
    netns::on_own_thread(|| {
        let namespace = netns::open(netns)?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", netns.display()))?;
        compute_checksums(interface)
            .with_context(|| format!("switch off checksum offload of {interface}"))?;
        let program = pass_everything().context("load an XDP program")?;
        let index = nix::net::if_::if_nametoindex(interface)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime
            .block_on(attach(index, &program))
            .with_context(|| format!("attach an XDP program to {interface}"))
    })
}

/// It stays as long as the interface.
async fn attach(index: u32, program: &OwnedFd) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let attributes = vec![
        LinkXdp::Fd(program.as_raw_fd()),
        LinkXdp::Flags(IN_THE_DRIVER),
    ];
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .append_extra_attribute(LinkAttribute::Xdp(attributes))
        .build();
    let set = handle.link().set(message).execute().await;
    driver.abort();
    Ok(set?)
}

/// `ethtool -K <interface> tx off`
fn compute_checksums(interface: &str) -> std::io::Result<()> {
    const SIOCETHTOOL: u64 = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut [u32; 2],
        rest: [u64; 2],
    }
    let mut setting = [ETHTOOL_STXCSUM, 0];
    let mut request = Request {
        name: [0; 16],
        data: &raw mut setting,
        rest: [0; 2],
    };
    let name = interface.as_bytes();
    let name = &name[..name.len().min(15)];
    request.name[..name.len()].copy_from_slice(name);
    let any = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a request of the size that the kernel reads (`struct ifreq`), whose data outlives the call.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn pass_everything() -> std::io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    /// r0 = XDP_PASS; exit
    const CODE: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        rest: [u64; 13],
    }
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        count: CODE.len() as u32,
        code: CODE.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 13],
    };
    let size = size_of::<Load>() as libc::c_long;
    // SAFETY: attributes of the size that is passed, whose pointers outlive the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size) };
    if program < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(program as i32) })
}

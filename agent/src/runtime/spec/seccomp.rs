//! `RuntimeDefault`: the system calls that containers may make everywhere else, and what capabilities add to them.
//! The names are those of the profile that containerd and Docker use; what is not named fails with EPERM.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// By what they are about. Names that the machine's libseccomp does not know are passed over by the runtime.
const ALLOWED: &[&str] = &[
    // Files and directories.
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
     fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
     fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 \
     fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch \
     inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listmount listxattr \
     listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat \
     name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead \
     readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr \
     setxattrat splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee \
     truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev",
    // Waiting for events and on other threads.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake io_cancel io_destroy io_getevents \
     io_pgetevents io_pgetevents_time64 io_setup io_submit membarrier _newselect pause pipe pipe2 poll ppoll \
     ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4",
    // Sockets; which families, is asked of `socket` itself.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // Messages, semaphores, shared memory.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // Memory.
    "brk cachestat madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 \
     mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes, users, limits, signals.
    "capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 \
     getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 \
     getrlimit get_robust_list getrusage getsid get_thread_area gettid getuid getuid32 ioprio_get ioprio_set kill \
     landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 \
     process_mrelease process_vm_readv process_vm_writev ptrace restart_syscall riscv_hwprobe rseq rt_sigaction \
     rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
     rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min \
     sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
     sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
     setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 \
     setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address setuid setuid32 sigaltstack \
     sigprocmask sigreturn sysinfo tgkill tkill ugetrlimit uname uretprobe vfork wait4 waitid waitpid",
    // Time and chance.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer getrandom gettimeofday nanosleep setitimer time timer_create \
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
     timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times",
];

/// What comes with a capability.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module init_module finit_module",
    ),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (
        Capability::SysTime,
        "settimeofday stime clock_settime clock_settime64",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Flags of `clone` that make namespaces: mount, cgroup, UTS, IPC, user, process id, network.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Kernel cryptography and sockets between virtual machines: outside of every namespace.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// Linux, 32-bit Linux, both with every address below 3 GiB… and asking which one it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub(super) fn runtime_default(
    capabilities: &std::collections::HashSet<Capability>,
) -> LinuxSeccomp {
    let mut names: BTreeSet<&str> = ALLOWED
        .iter()
        .flat_map(|it| it.split_whitespace())
        .collect();
    names.extend(of_architecture().split_whitespace());
    for (capability, with) in WITH {
        if capabilities.contains(capability) {
            names.extend(with.split_whitespace());
        }
    }
    let mut syscalls = vec![rule(names.into_iter(), &[])];
    syscalls.extend(sockets());
    syscalls.extend(PERSONALITIES.map(|value| {
        rule(
            ["personality"].into_iter(),
            &[compare(LinuxSeccompOperator::ScmpCmpEq, value, None)],
        )
    }));
    if !capabilities.contains(&Capability::SysAdmin) {
        // Without flags for namespaces. `clone3` has its flags in memory, where no filter sees them: programs that
        // are told that there is none fall back to `clone`.
        let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;
        syscalls.push(rule(
            ["clone"].into_iter(),
            &[compare(masked, CLONE_NAMESPACES, Some(0))],
        ));
        let mut clone3 = rule(["clone3"].into_iter(), &[]);
        clone3
            .set_action(LinuxSeccompAction::ScmpActErrno)
            .set_errno_ret(Some(ENOSYS));
        syscalls.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(syscalls));
    profile
}

fn sockets() -> Vec<LinuxSyscall> {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt};
    [
        (ScmpCmpLt, AF_ALG),
        (ScmpCmpEq, AF_ALG + 1),
        (ScmpCmpGt, AF_VSOCK),
    ]
    .map(|(operator, family)| rule(["socket"].into_iter(), &[compare(operator, family, None)]))
    .into()
}

fn rule<'a>(names: impl Iterator<Item = &'a str>, arguments: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args((!arguments.is_empty()).then(|| arguments.to_vec()));
    rule
}

/// Of the first argument.
fn compare(operator: LinuxSeccompOperator, value: u64, masked: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .op(operator);
    let argument = match masked {
        Some(masked) => argument.value_two(masked),
        None => argument,
    };
    argument.build().expect("every field has a default")
}

fn of_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "arch_prctl modify_ldt",
        "x86" => "modify_ldt",
        "aarch64" | "arm" => {
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
        }
        "riscv64" => "riscv_flush_icache",
        "powerpc64" => "sync_file_range2 swapcontext",
        "s390x" => "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
        _ => "",
    }
}

/// With those whose programs the kernel also runs.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;

    fn rules_of<'a>(profile: &'a Value, name: &str) -> Vec<&'a Value> {
        let rules = profile["syscalls"].as_array().unwrap().iter();
        rules
            .filter(|rule| rule["names"].as_array().unwrap().contains(&json!(name)))
            .collect()
    }

    #[test]
    fn capabilities_bring_their_system_calls() {
        let plain = serde_json::to_value(runtime_default(&HashSet::new())).unwrap();
        assert_eq!(plain["defaultAction"], "SCMP_ACT_ERRNO");
        for (name, rules) in [
            ("openat", 1),
            ("mount", 0),
            ("clone", 1),
            ("io_uring_setup", 0),
        ] {
            assert_eq!(rules_of(&plain, name).len(), rules, "{name}");
        }
        assert_eq!(rules_of(&plain, "clone3")[0]["errnoRet"], ENOSYS);
        let clone = &rules_of(&plain, "clone")[0]["args"][0];
        assert_eq!(clone["value"], 2_114_060_288_u64);
        assert_eq!(clone["op"], "SCMP_CMP_MASKED_EQ");
        let admin = HashSet::from([Capability::SysAdmin]);
        let admin = serde_json::to_value(runtime_default(&admin)).unwrap();
        for name in ["mount", "clone", "clone3", "setns"] {
            let rules = rules_of(&admin, name);
            assert_eq!(rules.len(), 1, "{name}");
            assert_eq!(rules[0]["action"], "SCMP_ACT_ALLOW");
        }
    }
}

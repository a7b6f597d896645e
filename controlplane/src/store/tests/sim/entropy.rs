//! Makes the randomness of a thread a seed's: the standard library, tokio and openraft all ask the C library
//! for it, so it is answered here. Threads that have not asked for that get the kernel's.

use std::cell::Cell;

thread_local! {
    /// 0: not simulated. No destructor, so that it can be read at any time.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// From now on, in this thread. It must not have used any randomness yet.
pub(super) fn seed(seed: u64) {
    STATE.set(seed.wrapping_mul(2).wrapping_add(1));
}

/// splitmix64
fn next(state: u64) -> (u64, u64) {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (state, z ^ (z >> 31))
}

/// Takes the place of the C library's function of this name in the test program.
///
/// # Safety
/// As for the original: `buffer` has room for `length` bytes.
// SAFETY: the name and the signature are those of getrandom(3), and so is what it does.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if STATE.get() == 0 {
        // SAFETY: the arguments are passed on as they came.
        let got = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return got as libc::ssize_t;
    }
    // SAFETY: the caller says that there is room for `length` bytes.
    unsafe { fill(buffer.cast(), length) };
    length as libc::ssize_t
}

/// # Safety
/// `buffer` has room for `length` bytes.
unsafe fn fill(buffer: *mut u8, length: usize) {
    let mut state = STATE.get();
    for at in 0..length {
        let (after, value) = next(state);
        // Never 0, which means something else.
        state = after.max(1);
        // SAFETY: the caller says that there is room.
        unsafe { buffer.add(at).write(value as u8) };
    }
    STATE.set(state);
}

/// Takes the place of the C library's function of this name in the test program: some libraries (the one that
/// draws election timeouts) ask the kernel for randomness through it. Everything else is passed on.
///
/// # Safety
/// As for the original. Its variable arguments are passed as six fixed ones are.
// SAFETY: the name and the calling convention are those of syscall(2), and so is what it does.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: libc::c_long,
    a: libc::c_long,
    b: libc::c_long,
    c: libc::c_long,
    d: libc::c_long,
    e: libc::c_long,
    f: libc::c_long,
) -> libc::c_long {
    if number == libc::SYS_getrandom && STATE.get() != 0 {
        // SAFETY: the caller says that there are `b` bytes at `a`.
        unsafe { fill(a as *mut u8, b as usize) };
        return b;
    }
    let result: libc::c_long;
    // SAFETY: the kernel gets what the caller gave; it changes rcx and r11, and memory that it was told of.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
        if (-4095..0).contains(&result) {
            *libc::__errno_location() = -result as libc::c_int;
            return -1;
        }
    }
    result
}

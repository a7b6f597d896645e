//! Keeping a supervisor small: there is one per pod, and each is the whole program.

use std::ffi::{c_int, c_void};

/// Gives back the pages of code and constants that have been used; for when there is nothing to do. What is needed
/// again comes from the page cache, where it is shared with the agent anyway; but a resident page, and its page
/// table, counts for every process that maps it.
pub(crate) fn drop_code() {
    // SAFETY: the callback has the type that is asked for, and takes no data.
    unsafe { libc::dl_iterate_phdr(Some(drop_object), std::ptr::null_mut()) };
}

/// What the program header says of a part of a file in memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    start: usize,
    length: usize,
}

/// The whole pages of a segment that is the file's own contents and nothing else: loaded, and never written to. What is
/// written to while the program is linked (and protected afterwards) is in segments that say so.
fn unchanged(segment: Segment, page: usize) -> Option<(usize, usize)> {
    if segment.kind != libc::PT_LOAD || segment.flags & libc::PF_W != 0 {
        return None;
    }
    let end = segment.start.checked_add(segment.length)? / page * page;
    let start = segment.start.next_multiple_of(page);
    let length = end.checked_sub(start)?;
    (length > 0).then_some((start, length))
}

/// For one object of the program: itself, a library, or what the kernel maps.
unsafe extern "C" fn drop_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: the C library gives a valid pointer for the time of the call.
    let info = unsafe { &*info };
    // SAFETY: sysconf has no precondition.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).unwrap_or(4096).max(1);
    for number in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: there are so many headers.
        let header = unsafe { &*info.dlpi_phdr.add(number) };
        let segment = Segment {
            kind: header.p_type,
            flags: header.p_flags,
            start: (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize),
            length: header.p_filesz as usize,
        };
        if let Some((start, length)) = unchanged(segment, page) {
            // SAFETY: the mapping is of a file, private and never written to, so that each page is read again from the
            // file, the same as before. The kernel's own object refuses, and stays.
            unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_of_what_is_never_written_are_dropped() {
        let segment = |kind, flags, start, length| Segment {
            kind,
            flags,
            start,
            length,
        };
        let (load, read) = (libc::PT_LOAD, libc::PF_R);
        let of = |segment| unchanged(segment, 0x1000);
        let code = read | libc::PF_X;
        assert_eq!(
            of(segment(load, code, 0x1880, 0x3000)),
            Some((0x2000, 0x2000))
        );
        assert_eq!(
            of(segment(load, read, 0x1000, 0x1fff)),
            Some((0x1000, 0x1000))
        );
        for other in [
            segment(load, read | libc::PF_W, 0x1000, 0x2000),
            segment(libc::PT_GNU_RELRO, read, 0x1000, 0x2000),
            segment(load, read, 0x1000, 0xfff),
            segment(load, read, 0x1800, 0x900),
            segment(load, read, usize::MAX - 8, 0x1000),
        ] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[test]
    fn code_and_constants_are_the_same_afterwards() {
        static WORDS: [&str; 3] = ["one", "two", "three"];
        drop_code();
        assert_eq!(std::hint::black_box(&WORDS).concat(), "onetwothree");
        // One that was never in memory before.
        assert_eq!("still".to_uppercase(), "STILL");
    }
}

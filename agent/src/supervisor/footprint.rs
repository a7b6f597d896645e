//! Keeping a supervisor small: there is one per pod, and each is the whole program.

/// Gives back the pages of code that have been run; for when there is nothing to do. What is needed again
/// comes from the page cache, where it is shared with the agent anyway; but a resident page, and its page
/// table, counts for every process that maps it.
pub(crate) fn drop_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: the mapping is of a file, private and never written to (it is not writable, and code has
        // no relocations), so that each page is read again from the file, the same as before.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of a mapping of code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()? == "r-xp";
    let is_file = fields.nth(3)?.starts_with('/');
    if !is_code || !is_file {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_dropped() {
        let line = "55e0-55f2 r-xp 00001000 fe:00 1234   /usr/bin/waggle";
        assert_eq!(code(line), Some((0x55e0, 0x12)));
        for other in [
            "55e0-55f2 r--p 00001000 fe:00 1234   /usr/bin/waggle",
            "55e0-55f2 rwxp 00001000 fe:00 1234   /usr/bin/waggle",
            "7fff-8fff r-xp 00000000 00:00 0      [vdso]",
            "7fff-8fff r-xp 00000000 00:00 0",
            "8fff-7fff r-xp 00000000 00:00 0      /x",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn code_still_runs_afterwards() {
        drop_code();
        assert_eq!("still".len(), 5);
    }
}

//! Makes forks inherit what this process has mapped of its program and its libraries.
//!
//! Invariant: no byte of memory changes, and nothing depends on whether it worked.
//!
//! # Why
//! A fork copies the page tables of an area only if the area was written to; those of code and constants are left out,
//! and each job would find its way to them again by some hundred page faults. One byte of each area, written over with
//! itself, makes the kernel copy its tables, too. Kernels that do not let a process write to its own read-only memory
//! (`proc_mem.force_override`) leave it at the page faults.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Most areas that are written to; a program with its libraries has some twenty.
const MAX_AREAS: usize = 64;

/// Writes a byte of each read-only area of a file over with itself. Call this while the process may open files, and
/// before anything hostile is near.
///
/// # Errors
/// That of `/proc`; areas that were written to before it stay so.
pub(super) fn inherit_file_mappings() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let memory = File::options().read(true).write(true).open("/proc/self/mem")?;
    for start in maps.lines().filter_map(read_only_file_area).take(MAX_AREAS) {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, start)?;
        memory.write_all_at(&byte, start)?;
    }
    Ok(())
}

/// Where an area starts, if the line of `/proc/self/maps` is about a private, read-only area of a file.
fn read_only_file_area(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    let (start, _) = range.split_once('-')?;
    let wanted = rights.starts_with("r-") && rights.ends_with('p') && path.starts_with('/');
    if wanted { u64::from_str_radix(start, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_private_and_read_only_areas_of_files_are_written_to() {
        for (line, expected) in [
            (
                "5589120000-5589130000 r-xp 00b87000 fe:00 15551908   /usr/bin/wm analyzer",
                Some(0x55_8912_0000),
            ),
            ("5589120000-5589130000 r--p 00000000 fe:00 15551908   /usr/lib/libc.so.6", Some(0x55_8912_0000)),
            ("5589120000-5589130000 rw-p 00000000 fe:00 15551908   /usr/lib/libc.so.6", None),
            ("5589120000-5589130000 ---p 00000000 fe:00 15551908   /usr/lib/libc.so.6", None),
            ("5589120000-5589130000 r--s 00000000 fe:00 15551908   /usr/share/shared", None),
            ("7ffdb05e1000-7ffdb0602000 r-xp 00000000 00:00 0       [vdso]", None),
            ("7ffdb05e1000-7ffdb0602000 r--p 00000000 00:00 0", None),
            ("", None),
        ] {
            assert_eq!(read_only_file_area(line), expected, "{line}");
        }
    }

    #[test]
    fn a_process_goes_on_after_its_code_was_written_over_with_itself() {
        let _ = inherit_file_mappings();
        assert_eq!(read_only_file_area("1000-2000 r-xp 0 fe:00 1 /x"), Some(0x1000));
    }
}

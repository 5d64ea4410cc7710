//! Whether the page cache has bytes of a file.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The number of cachestat(2), of Linux 6.5 and later.
const SYS_CACHESTAT: libc::c_long = 451;

/// Whether the page cache has all of these bytes of a file. It reads nothing; a read that does not wait (`RWF_NOWAIT`) has the kernel read what it
/// misses, and much behind it.
///
/// # Errors
/// The kernel's error, or a container's, where it does not say.
pub fn is_cached(file: &File, offset: u64, len: usize) -> io::Result<bool> {
    let page = rustix::param::page_size();
    let before = (offset % page as u64) as usize;
    let len = before.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    if len == before {
        return Ok(true);
    }
    let start = offset - before as u64;
    match cached_pages(file, start, len) {
        Ok(pages) => Ok(pages >= len.div_ceil(page) as u64),
        Err(_) => is_mapped_cached(file, start, len),
    }
}

/// The pages in the page cache of whole pages of a file.
///
/// # Errors
/// The kernel's error: it is older, its file system does not tell, or the process may not write the file.
fn cached_pages(file: &File, start: u64, len: usize) -> io::Result<u64> {
    let range = [start, len as u64];
    // Cached, dirty, on their way to the disk, evicted and recently evicted.
    let mut pages = [0_u64; 5];
    // SAFETY: the kernel reads the range and writes five numbers.
    let told =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0) };
    if told == 0 { Ok(pages[0]) } else { Err(io::Error::last_os_error()) }
}

/// The same by mincore(2), in three calls, for kernels that have no other.
fn is_mapped_cached(file: &File, start: u64, len: usize) -> io::Result<bool> {
    let page = rustix::param::page_size();
    let mut pages = vec![0_u8; len.div_ceil(page)];
    // SAFETY: the kernel chooses where the bytes are mapped, and they may be neither read nor written there.
    let mapped =
        unsafe { mmap(ptr::null_mut(), len, ProtFlags::empty(), MapFlags::SHARED, file.as_fd(), start) }?;
    let mut are_cached = |len: usize| {
        // SAFETY: the range was mapped above and is this long, and `pages` has a byte for each of its pages.
        match unsafe { libc::mincore(mapped, len, pages.as_mut_ptr()) } {
            0 => Ok(pages[..len.div_ceil(page)].iter().all(|page| page & 1 == 1)),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // The first page alone, then all of them: the kernel looks for each, and of bytes that were not read lately it has none.
    let told = are_cached(len.min(page)).and_then(|first| Ok(first && are_cached(len)?));
    // SAFETY: the range was mapped above, and nothing refers to it.
    unsafe { munmap(mapped, len) }?;
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Advice, fadvise};
    use std::io::{Read, Write};

    #[test]
    fn bytes_that_were_written_are_cached_and_those_that_were_given_up_are_not_but_where_the_file_system_is_memory()
     {
        // Whatever this kernel has, both ways say the same.
        let is_cached = |file: &File, offset: u64, len: usize| {
            let told = is_cached(file, offset, len).unwrap();
            let start = offset & !4095;
            let whole = len + (offset - start) as usize;
            let mapped = len == 0 || is_mapped_cached(file, start, whole).unwrap();
            assert_eq!(mapped, told, "{len} bytes from {offset} on");
            if let Ok(pages) = cached_pages(file, start, whole) {
                assert_eq!(pages == whole.div_ceil(4096) as u64, told || len == 0);
            }
            told
        };
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let mut file = File::open(&path).unwrap();
        assert!(is_cached(&file, 0, 1 << 20));
        assert!(is_cached(&file, 5000, 9000) && is_cached(&file, 5000, 0));
        assert!(!is_cached(&file, 1 << 20, 1), "behind its end there are none");
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let is_memory = is_cached(&file, 0, 1 << 20);
        // To ask has read nothing.
        assert_eq!(is_cached(&file, 0, 1 << 20), is_memory);
        file.read_exact(&mut [0; 4096]).unwrap();
        assert!(is_cached(&file, 0, 4096));
        let end = 200 << 12;
        fadvise(&file, end, None, Advice::DontNeed).unwrap();
        assert_eq!(is_cached(&file, 0, 1 << 20), is_memory, "the first page tells of no other");
    }
}

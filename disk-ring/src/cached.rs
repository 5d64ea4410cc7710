//! Whether the page cache has bytes of a file.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

unsafe extern "C" {
    /// mincore(2)
    fn mincore(start: *mut c_void, len: usize, pages: *mut u8) -> i32;
}

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
    let mut pages = vec![0_u8; len.div_ceil(page)];
    let start = offset - before as u64;
    // SAFETY: the kernel chooses where the bytes are mapped, and they may be neither read nor written there.
    let mapped =
        unsafe { mmap(ptr::null_mut(), len, ProtFlags::empty(), MapFlags::SHARED, file.as_fd(), start) }?;
    let mut are_cached = |len: usize| {
        // SAFETY: the range was mapped above and is this long, and `pages` has a byte for each of its pages.
        match unsafe { mincore(mapped, len, pages.as_mut_ptr()) } {
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
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("file");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let mut file = File::open(&path).unwrap();
        assert!(is_cached(&file, 0, 1 << 20).unwrap());
        assert!(is_cached(&file, 5000, 9000).unwrap() && is_cached(&file, 5000, 0).unwrap());
        assert!(!is_cached(&file, 1 << 20, 1).unwrap(), "behind its end there are none");
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let is_memory = is_cached(&file, 0, 1 << 20).unwrap();
        // To ask has read nothing.
        assert_eq!(is_cached(&file, 0, 1 << 20).unwrap(), is_memory);
        file.read_exact(&mut [0; 4096]).unwrap();
        assert!(is_cached(&file, 0, 4096).unwrap());
        let end = 200 << 12;
        fadvise(&file, end, None, Advice::DontNeed).unwrap();
        assert_eq!(is_cached(&file, 0, 1 << 20).unwrap(), is_memory, "the first page tells of no other");
    }
}

//! Bytes of a file on their way to the disk before anything waits for them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Linux's flag that begins to write, and waits for nothing but room in the device's queue.
const SYNC_FILE_RANGE_WRITE: u32 = 2;

unsafe extern "C" {
    /// sync_file_range(2)
    safe fn sync_file_range(fd: i32, offset: i64, len: i64, flags: u32) -> i32;
}

/// Has the kernel write bytes of a file that only its page cache has. It makes nothing durable: that is what a sync does, which then finds less to write.
///
/// # Errors
/// The kernel's error, or a container's.
pub fn begin_write_back(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let [offset, len] = [offset, len].map(i64::try_from);
    let (Ok(offset), Ok(len)) = (offset, len) else { return Err(io::ErrorKind::InvalidInput.into()) };
    match sync_file_range(file.as_raw_fd(), offset, len, SYNC_FILE_RANGE_WRITE) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_written_back_and_what_is_none_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        begin_write_back(&file, 0, 100_000).unwrap();
        begin_write_back(&file, 1 << 40, 1).unwrap();
        let error = begin_write_back(&file, u64::MAX, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let null = File::options().write(true).open("/dev/null").unwrap();
        begin_write_back(&null, 0, 1).unwrap_err();
    }
}

//! Reads a file from its start to its end, past the page cache, with DEPTH blocks on their way: `read FILE DEPTH`. Writes bytes and seconds to
//! the standard error, to be compared with `fio --rw=read --direct=1 --ioengine=io_uring --bs=2m --iodepth=DEPTH`.

use disk_ring::{Ring, RingRead, Slabs};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Instant;

const BLOCK: usize = 2 << 20;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(Ok(depth))) = (arguments.next(), arguments.next().map(|depth| depth.parse()))
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "give a file and a depth"));
    };
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file: Arc<File> = Arc::new(OpenOptions::new().read(true).custom_flags(flags).open(path)?);
    let (length, slabs, mut ring) =
        (file.metadata()?.len(), Slabs::of_heap(depth, BLOCK), Ring::new(depth as u16)?);
    let (mut offset, mut read, mut done, begun) = (0, 0, Vec::new(), Instant::now());
    while read < length {
        while offset < length
            && let Some(memory) = slabs.take(BLOCK)
        {
            let next = RingRead {
                file: file.clone(),
                offset,
                len: BLOCK,
                memory,
                at: 0,
                cached_only: false,
                tag: (),
            };
            ring.push(next).map_err(|_| io::ErrorKind::ResourceBusy)?;
            offset += BLOCK as u64;
        }
        ring.wait(&mut done)?;
        for (_, result) in done.drain(..) {
            read += result? as u64;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    writeln!(io::stderr(), "{read} bytes in {seconds:.3} s, {:.3} Gbit/s", read as f64 * 8.0 / seconds / 1e9)
}

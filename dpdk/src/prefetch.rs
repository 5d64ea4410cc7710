//! Memory that is about to be written, asked for before it is needed.

use std::mem::MaybeUninit;

/// What a processor's caches move at once, bytes.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Has the processor bring this memory into its caches while it does something else. Nothing on processors other than x86-64.
#[inline]
pub fn prefetch(memory: &mut [MaybeUninit<u8>]) {
    #[cfg(target_arch = "x86_64")]
    for line in memory.chunks(LINE_BYTES) {
        // SAFETY: the instruction is a hint, and part of every x86-64 processor; it reads and writes nothing that a program can see.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = memory;
}

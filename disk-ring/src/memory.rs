//! Memory that stays where it is.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;

/// The alignment of slots, and the unit of their sizes, bytes: reads past the page cache ask for it.
pub const PAGE_BYTES: usize = 4096;

/// Memory with one owner.
///
/// # Safety
/// [`Memory::len`] bytes from [`Memory::start`] on can be read and written, stay there and belong to this value alone as long as it lives. Both
/// methods give the same each time.
pub unsafe trait Memory: fmt::Debug + Send + Sync + 'static {
    /// The first byte.
    fn start(&self) -> NonNull<u8>;

    /// The number of bytes.
    fn len(&self) -> usize;

    /// Whether it is in huge pages, which stay in memory as long as it lives.
    fn is_huge(&self) -> bool {
        false
    }

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory of the heap that begins at a page.
#[derive(Debug)]
pub struct HeapMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for HeapMemory {}
// SAFETY: shared access gives a pointer; who writes by it owns the bytes.
unsafe impl Sync for HeapMemory {}

impl HeapMemory {
    /// Zeroed memory of `bytes`, at least one.
    ///
    /// # Panics
    /// If there cannot be that much memory.
    pub fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes.max(1), PAGE_BYTES).expect("memory of this size can be addressed");
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

// SAFETY: one allocation, which only the drop frees.
unsafe impl Memory for HeapMemory {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for HeapMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

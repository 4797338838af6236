//! Where everything is allocated: in memory of the program's own, which comes and goes without a system call.
//!
//! Reading the options takes many times the memory of what is kept of them, and every container has two processes that
//! would keep it for as long as they run.

use super::Word;
use nix::libc;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, UnsafeCell},
    mem::MaybeUninit,
    ptr,
};

/// A page where they are small. Where they are larger, nothing is given back: madvise(2) wants whole ones.
const PAGE: usize = 4096;

/// The bytes of a region. Untouched they cost nothing, and what does not fit is the C library's to allocate.
const REGION: usize = 128 * PAGE;

/// Those of the stack, of which some kilobytes are used.
const STACK: usize = 8 * PAGE;

/// All of it.
const BYTES: usize = 2 * REGION + STACK;

/// Two regions, in which blocks lie one behind the other, and above them a stack. The memory of a block is taken again if
/// the block was the last one, or if none is left in its region.
#[repr(C, align(4096))]
pub(super) struct Heap {
    memory: UnsafeCell<MaybeUninit<[u8; BYTES]>>,
    regions: [Region; 2],
    /// Whether new blocks go to the second region.
    second: Cell<bool>,
}

struct Region {
    /// Bytes that are taken.
    used: Cell<usize>,
    blocks: Cell<usize>,
}

// SAFETY: ns-spawn has one thread, and a process that shares its memory runs only while it stands still.
unsafe impl Sync for Heap {}

impl Heap {
    pub(super) const fn new() -> Self {
        Self {
            memory: UnsafeCell::new(MaybeUninit::uninit()),
            regions: [const { Region { used: Cell::new(0), blocks: Cell::new(0) } }; 2],
            second: Cell::new(false),
        }
    }

    /// The upper end of the stack, which grows downwards.
    pub(super) fn top_of_stack(&self) -> *mut Word {
        self.at(BYTES).cast()
    }

    /// Allocate in the second region from now on, a copy of `value` first, and give the first one back if without `value`
    /// nothing is left in it.
    pub(super) fn move_out<T: Clone>(&self, value: T) -> T {
        self.second.set(true);
        let copy = value.clone();
        drop(value);
        let left = self.regions[0].blocks.get();
        debug_assert_eq!(
            left, 0,
            "somebody keeps what was made before: a default_value_t, for example"
        );
        if left == 0 {
            self.give_back(REGION);
        }
        copy
    }

    /// Give all of it back. Nothing on it may be used any more, nor anything be allocated.
    pub(super) fn give_up(&self) {
        self.give_back(BYTES);
    }

    /// Give the first `bytes` back.
    fn give_back(&self, bytes: usize) {
        // SAFETY: the memory is there and holds nothing: that is for the callers.
        unsafe { libc::madvise(self.at(0).cast(), bytes, libc::MADV_DONTNEED) };
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.memory.get().cast::<u8>().wrapping_add(offset)
    }

    /// The region of `block`, and where in it that begins.
    fn place(&self, block: *mut u8) -> Option<(&Region, usize)> {
        let offset = block.addr().wrapping_sub(self.at(0).addr());
        Some((self.regions.get(offset / REGION)?, offset % REGION))
    }
}

// SAFETY: blocks are as large as is asked for and aligned, lie in the memory, and none on another: a region gives what is above
// all that is taken, and takes back what is not above a block that is there.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)] // as the others: else they stand in thousands of places
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = usize::from(self.second.get());
        let region = &self.regions[at];
        let start = region.used.get().next_multiple_of(layout.align());
        let end = start.saturating_add(layout.size());
        if end > REGION || layout.align() > PAGE {
            // SAFETY: the same contract.
            return unsafe { System.alloc(layout) };
        }
        region.used.set(end);
        region.blocks.set(region.blocks.get() + 1);
        self.at(at * REGION + start)
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((region, start)) = self.place(block) else {
            // SAFETY: it is from there, and the same contract.
            return unsafe { System.dealloc(block, layout) };
        };
        let left = region.blocks.get() - 1;
        region.blocks.set(left);
        if left == 0 {
            region.used.set(0);
        } else if start + layout.size() == region.used.get() {
            region.used.set(start);
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some((region, start)) = self.place(block) else {
            // SAFETY: it is from there, and the same contract.
            return unsafe { System.realloc(block, layout, size) };
        };
        if start + layout.size() == region.used.get() && size <= REGION - start {
            region.used.set(start + size);
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the caller's layout is valid, and `size` is for one of its alignment.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the same contract.
        let copy = unsafe { self.alloc(larger) };
        if !copy.is_null() {
            // SAFETY: both are that large, and they are two.
            unsafe { ptr::copy_nonoverlapping(block, copy, layout.size()) };
            // SAFETY: the same contract.
            unsafe { self.dealloc(block, layout) };
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// What is done with a block, with its alignment as a power of two and its size.
    #[derive(Debug, Clone)]
    enum Deed {
        Take(u32, usize),
        Resize(usize, usize),
        Free(usize),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let size = || prop_oneof![20 => 1_usize..200, 1 => 1..REGION];
        prop_oneof![
            (0_u32..14, size()).prop_map(|(align, size)| Deed::Take(align, size)),
            (any::<usize>(), size()).prop_map(|(which, size)| Deed::Resize(which, size)),
            any::<usize>().prop_map(Deed::Free),
        ]
    }

    struct Block {
        start: *mut u8,
        layout: Layout,
        content: u8,
    }

    impl Block {
        fn fill(self) -> Self {
            // SAFETY: the block is that large.
            unsafe { ptr::write_bytes(self.start, self.content, self.layout.size()) };
            self
        }

        fn has(&self, bytes: usize) -> bool {
            // SAFETY: the block is that large and was filled.
            let held =
                unsafe { std::slice::from_raw_parts(self.start, self.layout.size().min(bytes)) };
            held.iter().all(|byte| *byte == self.content)
        }
    }

    /// One that was never on the stack, for which it is too large.
    fn fresh() -> Box<Heap> {
        // SAFETY: its size is not 0.
        let heap = unsafe { System.alloc_zeroed(Layout::new::<Heap>()) };
        // SAFETY: allocated for it, with the same allocator as all in a test; zero is a valid value of every field.
        unsafe { Box::from_raw(heap.cast()) }
    }

    proptest! {
        /// Whatever is done, nobody's bytes change, and in the end all of the memory is there again.
        #[test]
        fn no_block_lies_on_another(deeds in vec(deed(), 1..100), turn in 0_usize..100) {
            let heap = fresh();
            let mut blocks: Vec<Block> = Vec::new();
            for (at, deed) in deeds.into_iter().enumerate() {
                heap.second.set(at >= turn);
                let content = u8::try_from(at).unwrap();
                match deed {
                    Deed::Take(align, size) => {
                        let layout = Layout::from_size_align(size, 1 << align).unwrap();
                        // SAFETY: its size is not 0.
                        let start = unsafe { heap.alloc(layout) };
                        prop_assert!(start.addr().is_multiple_of(1 << align));
                        blocks.push(Block { start, layout, content }.fill());
                    }
                    Deed::Resize(which, size) if !blocks.is_empty() => {
                        let at = which % blocks.len();
                        let old = blocks.swap_remove(at);
                        // SAFETY: it is there with this layout.
                        let start = unsafe { heap.realloc(old.start, old.layout, size) };
                        let layout = Layout::from_size_align(size, old.layout.align()).unwrap();
                        let new = Block { start, layout, content: old.content };
                        prop_assert!(start.addr().is_multiple_of(layout.align()));
                        prop_assert!(new.has(old.layout.size()));
                        blocks.push(Block { content, ..new }.fill());
                    }
                    Deed::Free(which) if !blocks.is_empty() => {
                        let at = which % blocks.len();
                        let block = blocks.swap_remove(at);
                        // SAFETY: it is there with this layout.
                        unsafe { heap.dealloc(block.start, block.layout) };
                    }
                    Deed::Resize(..) | Deed::Free(_) => {}
                }
                prop_assert!(blocks.iter().all(|block| block.has(usize::MAX)));
            }
            for block in blocks {
                // SAFETY: it is there with this layout.
                unsafe { heap.dealloc(block.start, block.layout) };
            }
            prop_assert!(heap.regions.iter().all(|it| (it.used.get(), it.blocks.get()) == (0, 0)));
        }
    }
}

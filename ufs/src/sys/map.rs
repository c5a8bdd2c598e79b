//! Read-only maps of files that may be cut short, or whose medium may fail, while they are mapped.
//!
//! ```text
//! read of a page that is not there ──► SIGBUS ──► in one of our maps? ──► zero page put there, map marked as poisoned
//!                                                       └── no ──► whoever handled the signal before
//! ```
//!
//! Invariants:
//! - touching a byte of a map never ends the process; after a fault the bytes of that page read as zero and
//!   [`Map::poisoned`] is true from then on, so ask it after reading and before believing what was read;
//! - the handler only touches atomics and makes system calls, as a signal handler must.
//!
//! Slots, one per map, are never freed but used again: the handler may walk their list at any time.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Once, OnceLock};

/// A file mapped for reading.
#[derive(Debug)]
pub(crate) struct Map {
    map: memmap2::Mmap,
    slot: &'static Slot,
}

/// Where a map lies, for the signal handler.
#[derive(Debug)]
struct Slot {
    used: AtomicBool,
    start: AtomicUsize,
    /// 0 while the slot covers nothing.
    end: AtomicUsize,
    poisoned: AtomicBool,
    next: AtomicPtr<Slot>,
}

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
static EARLIER: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);
static INSTALL: Once = Once::new();

impl Map {
    /// Maps the whole of a file as long as it is now.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        install();
        // SAFETY: nobody writes to files of the store in place, so the bytes stay what they are. Should somebody do so
        // all the same, every use of them is bounds-checked, and a page that vanishes is caught by the handler.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        let slot = Slot::take();
        let start = map.as_ptr() as usize;
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(start + map.len(), Ordering::Release);
        Ok(Self { map, slot })
    }

    /// Whether a page of it could not be read at some time: what was read may have been zeros.
    pub(crate) fn poisoned(&self) -> bool {
        // the handler runs in the thread that reads, between the read and this line
        compiler_fence(Ordering::SeqCst);
        self.slot.poisoned.load(Ordering::Relaxed)
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.slot.end.store(0, Ordering::Release);
        self.slot.used.store(false, Ordering::Release);
        // the map itself goes after this
    }
}

impl Slot {
    /// A slot nobody uses, or a new one.
    fn take() -> &'static Self {
        let mut next = SLOTS.load(Ordering::Acquire);
        // SAFETY: slots are leaked boxes: once in the list they stay valid for ever.
        while let Some(slot) = unsafe { next.as_ref() } {
            let free = slot
                .used
                .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                slot.poisoned.store(false, Ordering::Relaxed);
                return slot;
            }
            next = slot.next.load(Ordering::Acquire);
        }
        let slot: &'static Self = Box::leak(Box::new(Self {
            used: AtomicBool::new(true),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            next: AtomicPtr::new(ptr::null_mut()),
        }));
        let mut head = SLOTS.load(Ordering::Acquire);
        loop {
            slot.next.store(head, Ordering::Release);
            let new = ptr::from_ref(slot).cast_mut();
            match SLOTS.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return slot,
                Err(now) => head = now,
            }
        }
    }

    /// The slot of the map that an address lies in.
    fn of(address: usize) -> Option<&'static Self> {
        let mut next = SLOTS.load(Ordering::Acquire);
        // SAFETY: as in `take`.
        while let Some(slot) = unsafe { next.as_ref() } {
            let end = slot.end.load(Ordering::Acquire);
            if address < end && slot.start.load(Ordering::Relaxed) <= address {
                return Some(slot);
            }
            next = slot.next.load(Ordering::Acquire);
        }
        None
    }
}

/// Sets the handler, once in the life of the process.
fn install() {
    INSTALL.call_once(|| {
        let mut new = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        let mut earlier = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all-zero is a valid `sigaction`; both structures live during the calls; `handler` has the signature
        // that SA_SIGINFO asks for and does only what a signal handler may.
        unsafe {
            if let Ok(bytes) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
                PAGE_BYTES.store(bytes, Ordering::Relaxed);
            }
            libc::sigaction(libc::SIGBUS, ptr::null(), earlier.as_mut_ptr());
            let _ = EARLIER.set(earlier.assume_init());
            let action = new.as_mut_ptr();
            (*action).sa_sigaction = handler as *const () as libc::sighandler_t;
            (*action).sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut (*action).sa_mask);
            libc::sigaction(libc::SIGBUS, action, ptr::null_mut());
        }
    });
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`; `si_addr` is only believed for faults (`si_code` above 0).
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0
        && let Some(slot) = Slot::of(address)
    {
        // Before the zeros can be read: another thread may read the same page, without a fault of its own.
        slot.poisoned.store(true, Ordering::SeqCst);
        if put_zero_page(address) {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Maps a page of zeros over the page of an address.
fn put_zero_page(address: usize) -> bool {
    let page = PAGE_BYTES.load(Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: errno is this thread's own; the page belongs to a live map of ours (a slot covers it, and it is being
    // read), so nothing else is replaced, and a readable page stays a readable page.
    unsafe {
        let errno = *libc::__errno_location();
        let start = (address & !(page - 1)) as *mut libc::c_void;
        let mapped = libc::mmap(start, page, libc::PROT_READ, flags, -1, 0);
        *libc::__errno_location() = errno;
        mapped != libc::MAP_FAILED
    }
}

/// Leaves a signal that is not ours to who handled it before.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let earlier = EARLIER.get();
    match earlier.map_or(libc::SIG_DFL, |earlier| earlier.sa_sigaction) {
        libc::SIG_IGN => {}
        libc::SIG_DFL => {
            // SAFETY: both calls are allowed in a signal handler. The signal is blocked until this handler returns and
            // then ends the process as if the handler had never been.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
        function => {
            let with_info = earlier.is_some_and(|earlier| earlier.sa_flags & libc::SA_SIGINFO != 0);
            // SAFETY: the kernel would have called this function with these arguments; the flag tells its signature.
            unsafe {
                if with_info {
                    let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(function);
                    call(signal, info, context);
                } else {
                    let call: extern "C" fn(libc::c_int) = std::mem::transmute(function);
                    call(signal);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_cut_short_reads_as_zeros_and_is_noticed() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 3 * 65536]).unwrap();
        let map = Map::new(&file).unwrap();
        let other = Map::new(&file).unwrap();
        assert_eq!((map[2 * 65536], map.poisoned()), (7, false));
        file.set_len(65536).unwrap();
        assert_eq!((map[65535], map.poisoned()), (7, false));
        assert_eq!((map[65536], map.poisoned()), (0, true));
        assert_eq!((map[3 * 65536 - 1], map.poisoned()), (0, true));
        assert!(!other.poisoned(), "the other map was not read");
    }

    #[test]
    fn slots_are_used_again_without_their_poison() {
        for _ in 0..3 {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[1; 8192]).unwrap();
            let map = Map::new(&file).unwrap();
            assert!(!map.poisoned());
            file.set_len(0).unwrap();
            assert_eq!((map[0], map.poisoned()), (0, true));
        }
    }

    #[test]
    fn maps_come_and_go_in_many_threads() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut file = tempfile::tempfile().unwrap();
                        file.write_all(&[1; 8192]).unwrap();
                        let map = Map::new(&file).unwrap();
                        assert_eq!((map[0], map.poisoned()), (1, false));
                        file.set_len(0).unwrap();
                        assert_eq!((map[4096], map.poisoned()), (0, true));
                    }
                });
            }
        });
    }
}

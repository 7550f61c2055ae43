//! After a context's first call nothing is allocated, on any thread.
//!
//! One test, alone in its program: the count is of the whole process.

mod data;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use data::load;
use infer_embed::{Model, model};

#[model("tests/data/convnet.onnx")]
struct Convnet;

#[model("tests/data/transformer.onnx", dims(batch = 2, seq = 16))]
struct Transformer;

#[model("tests/data/shapes.onnx")]
struct Shapes;

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::SeqCst)
}

/// Waits until threads that have just been started have allocated what they are made of.
fn settle() {
    let (mut before, mut quiet) = (allocations(), 0);
    while quiet < 5 {
        thread::sleep(Duration::from_millis(20));
        let now = allocations();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

macro_rules! allocates_once {
    ($net:ty, $case:literal, ($($input:ident),*)) => {{
        let mut position = 0..;
        $(let $input = load($case, "input", position.next().unwrap());)*
        for threads in [1, 2] {
            let net = <$net>::builder().threads(threads).build().unwrap();
            let expected = net.infer($(&*$input),*).unwrap();
            let mut outputs = <<$net as Model>::Outputs>::zeroed();
            // The pool's memory is taken, so that this context has to make its own.
            let held = net.context();
            let mut context = net.context();

            let start = allocations();
            context.infer_into($(&*$input,)* &mut outputs).unwrap();
            assert!(allocations() > start, "{}: the first call makes the memory", stringify!($net));

            settle();
            let start = allocations();
            for _ in 0..20 {
                context.infer_into($(&*$input,)* &mut outputs).unwrap();
            }
            let allocated = allocations() - start;
            assert_eq!(allocated, 0, "{} at {threads} threads", stringify!($net));
            assert_eq!(outputs, expected);
            drop(held);
        }
    }};
}

#[test]
fn calls_after_the_first_allocate_nothing() {
    allocates_once!(Convnet, "convnet", (input));
    allocates_once!(Transformer, "transformer_2", (input_ids, attention_mask));
    allocates_once!(Shapes, "shapes", (x, flags, ids, doubles, halves, scale));
}

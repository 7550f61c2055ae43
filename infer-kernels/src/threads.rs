//! The process's one pool of worker threads.
//!
//! A run hands out the numbers `0..chunks`. The caller publishes the task behind a gate, takes chunks like everyone
//! else, closes the gate when none is left and waits for the workers that passed it. Workers that come late find
//! the gate closed and touch nothing, so a run never waits for a thread that the system has not scheduled yet;
//! where nobody comes, the caller does everything. There is one gate: who finds it taken (by a concurrent caller, or
//! by the run it is itself a chunk of) runs its chunks alone.
//!
//! Each thread begins with a share of its own, the same neighbouring chunks in every run, and helps with the others' when
//! it is done. So what one run leaves in the cache of a core is mostly read there by the next, and not fetched from
//! another core, which takes several times as long.
//!
//! Workers spin for a short while after each run, since the next one mostly follows at once, then sleep. Waking or
//! starting one takes longer than many a run: only runs that are worth it do so, or many in a row.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cpu::share;

/// The most threads that `INFER_THREADS` and [`run`] take.
pub const MAX_THREADS: usize = 1024;

/// Kernels keep their scratch below 32 KiB; the rest is for what the platform adds and for an unoptimised program,
/// where the frames of a kernel and its tiles together take some 300 KiB.
const STACK_BYTES: usize = 1 << 20;

/// How long a worker watches the gate without giving up its core, and after that with yielding.
const SPIN: Duration = Duration::from_micros(20);
const SPIN_AND_YIELD: Duration = Duration::from_micros(60);

/// Looks at the gate between two looks at the clock.
const LOOKS: u32 = 64;

/// How many microseconds of work are worth waking a thread that sleeps, or starting one: the system call takes some
/// microseconds here, and it takes tens until that thread runs.
pub(crate) const WORTH_WAKING: usize = 32;

/// How long runs that are worth less may follow each other before they are worth it together, and the longest time
/// between two of them.
const WAKE_AFTER: Duration = Duration::from_micros(WORTH_WAKING as u64);
const FOLLOWS: Duration = SPIN_AND_YIELD;

/// The number of threads to use: the environment variable `INFER_THREADS`, or else as many as the system offers.
/// Decided once.
///
/// # Errors
///
/// If `INFER_THREADS` is no number from 1 to [`MAX_THREADS`].
pub fn available() -> Result<usize, ThreadsError> {
    static AVAILABLE: OnceLock<Result<usize, ThreadsError>> = OnceLock::new();
    AVAILABLE.get_or_init(|| choose(std::env::var_os("INFER_THREADS"))).clone()
}

fn choose(wanted: Option<std::ffi::OsString>) -> Result<usize, ThreadsError> {
    let Some(wanted) = wanted else {
        return Ok(std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS));
    };
    let wanted = wanted.to_string_lossy();
    match wanted.parse() {
        Ok(threads) if (1..=MAX_THREADS).contains(&threads) => Ok(threads),
        _ => Err(ThreadsError(wanted.into_owned())),
    }
}

/// An `INFER_THREADS` that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsError(String);

impl fmt::Display for ThreadsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "INFER_THREADS is {:?}, but must be a number from 1 to {MAX_THREADS}", self.0)
    }
}

impl std::error::Error for ThreadsError {}

/// Calls `task(i)` once for each `i` in `0..chunks`, on at most `threads` threads including this one, and returns
/// when all have returned. Allocates only when the pool grows.
///
/// # Panics
///
/// If a task panics, after every chunk that was begun has ended; chunks not begun are left out.
pub fn run(threads: usize, chunks: usize, task: &(dyn Fn(usize) + Sync)) {
    run_if_awake(threads, chunks, || true, task);
}

/// [`run`], which wakes or starts threads only where it `is_worth_waking` them, or such runs have followed each other
/// for a while.
///
/// # Panics
///
/// As [`run`] does.
pub(crate) fn run_if_awake(
    threads: usize,
    chunks: usize,
    is_worth_waking: impl FnOnce() -> bool,
    task: &(dyn Fn(usize) + Sync),
) {
    let seats = threads.min(chunks).min(MAX_THREADS).saturating_sub(1);
    if seats == 0 || !POOL.try_lead() {
        (0..chunks).for_each(task);
        return;
    }
    let mut lead = Lead { workers_panicked: false, open: false };
    let awake = POOL.awake();
    let wakes = awake < seats && (is_worth_waking() || POOL.is_kept_waiting());
    if wakes {
        POOL.grow(seats);
    } else if awake == 0 {
        drop(lead);
        (0..chunks).for_each(task);
        return;
    }
    let shares = (seats + 1).min(SHARES);
    POOL.open(seats, chunks, shares, task, wakes);
    lead.open = true;
    POOL.work(0, chunks, shares, task);
    lead.finish();
    let failed = lead.workers_panicked;
    drop(lead);
    assert!(!failed, "a task panicked on a worker thread");
}

/// The gate's bits: the workers that passed it, whether it is open, how many may pass, and the run's number.
const PASSED: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const SEATS_SHIFT: u32 = 17;
const SEATS: u64 = 0x7fff;
const RUN_SHIFT: u32 = 32;

/// The most shares that the chunks of a run are cut into; more threads than that begin with one together.
const SHARES: usize = 64;

/// Keeps what different threads write at the same time on different cache lines (and pairs of lines).
#[repr(align(128))]
struct Apart<T>(T);

struct Pool {
    /// Whether some caller leads a run.
    led: Apart<AtomicBool>,
    entrance: Apart<Entrance>,
    /// The next chunk to take of each share.
    next: [Apart<AtomicUsize>; SHARES],
    /// The workers that passed the gate and are done.
    left: Apart<AtomicUsize>,
    /// Since when, and until when, runs followed each other that were not worth waking workers.
    waiting: UnsafeCell<Option<[Instant; 2]>>,
    panicked: AtomicBool,
    workers: AtomicUsize,
    /// How many workers the system let us have.
    limit: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

/// What a worker needs to begin, in one cache line.
struct Entrance {
    gate: AtomicU64,
    job: UnsafeCell<Option<Job>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    chunks: usize,
    shares: usize,
}

// SAFETY: `job` is written only by the leader while the gate is closed and nobody is inside, and read only by
// workers that passed the gate, which the leader waits for before the task's borrow ends. `waiting` is the leader's alone.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool {
    led: Apart(AtomicBool::new(false)),
    entrance: Apart(Entrance { gate: AtomicU64::new(0), job: UnsafeCell::new(None) }),
    next: [const { Apart(AtomicUsize::new(0)) }; SHARES],
    left: Apart(AtomicUsize::new(0)),
    waiting: UnsafeCell::new(None),
    panicked: AtomicBool::new(false),
    workers: AtomicUsize::new(0),
    limit: AtomicUsize::new(MAX_THREADS),
    asleep: AtomicUsize::new(0),
    bed: Mutex::new(()),
    wake: Condvar::new(),
};

/// The leadership of one run, which ends it also when the leader's own chunk panics.
struct Lead {
    workers_panicked: bool,
    /// Whether workers were let in.
    open: bool,
}

impl Lead {
    /// Closes the gate and waits for everyone inside.
    fn finish(&mut self) {
        let passed = (POOL.entrance.0.gate.fetch_and(!OPEN, Ordering::AcqRel) & PASSED) as usize;
        let mut start = None;
        'inside: loop {
            for _ in 0..LOOKS {
                if POOL.left.0.load(Ordering::Acquire) == passed {
                    break 'inside;
                }
                std::hint::spin_loop();
            }
            // A worker that lost its core needs ours.
            if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
                std::thread::yield_now();
            }
        }
        self.workers_panicked |= POOL.panicked.swap(false, Ordering::Relaxed);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.open && std::thread::panicking() {
            POOL.leave_out();
            self.finish();
        }
        POOL.led.0.store(false, Ordering::Release);
    }
}

/// A worker inside the gate; leaving counts, by return or by panic.
struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            POOL.panicked.store(true, Ordering::Relaxed);
            POOL.leave_out();
            // This thread ends; a later run grows the pool again.
            POOL.workers.fetch_sub(1, Ordering::Relaxed);
        }
        POOL.left.0.fetch_add(1, Ordering::Release);
    }
}

impl Pool {
    fn try_lead(&self) -> bool {
        self.led.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// How many workers do not sleep.
    fn awake(&self) -> usize {
        self.workers.load(Ordering::Relaxed).saturating_sub(self.asleep.load(Ordering::Relaxed))
    }

    /// Whether runs that the workers are missed in have followed each other for long enough; for the leader alone.
    fn is_kept_waiting(&self) -> bool {
        let now = Instant::now();
        // SAFETY: there is one leader at a time, which publishes what it wrote by giving up `led`.
        let waiting = unsafe { &mut *self.waiting.get() };
        let since = match *waiting {
            Some([since, last]) if now.saturating_duration_since(last) < FOLLOWS => since,
            _ => now,
        };
        *waiting = Some([since, now]);
        now.saturating_duration_since(since) > WAKE_AFTER
    }

    /// Starts workers until there are `wanted`, as far as the system gives them.
    fn grow(&self, wanted: usize) {
        let wanted = wanted.min(self.limit.load(Ordering::Relaxed));
        let mut workers = self.workers.load(Ordering::Relaxed);
        // A worker that dies in a panic lowers the count, so it is kept by additions only.
        while workers < wanted {
            let builder = std::thread::Builder::new().name("infer-worker".into()).stack_size(STACK_BYTES);
            if builder.spawn(move || POOL.serve(workers + 1)).is_err() {
                self.limit.store(workers, Ordering::Relaxed);
                return;
            }
            workers = self.workers.fetch_add(1, Ordering::Relaxed) + 1;
        }
    }

    /// Publishes a task and lets in `seats` workers; `wakes` those that sleep, where the others are too few.
    fn open(&self, seats: usize, chunks: usize, shares: usize, task: &(dyn Fn(usize) + Sync), wakes: bool) {
        let task: *const (dyn Fn(usize) + Sync + '_) = task;
        // SAFETY: only the lifetime changes; `Lead` ends the use before the borrow ends.
        let task: *const (dyn Fn(usize) + Sync + 'static) = unsafe { std::mem::transmute(task) };
        // SAFETY: this thread leads and the gate is closed with nobody inside (`Lead::finish`).
        unsafe { *self.entrance.0.job.get() = Some(Job { task, chunks, shares }) };
        for (i, next) in self.next[..shares].iter().enumerate() {
            next.0.store(share(chunks, i, shares).start, Ordering::Relaxed);
        }
        self.left.0.store(0, Ordering::Relaxed);
        let run = (self.entrance.0.gate.load(Ordering::Relaxed) >> RUN_SHIFT).wrapping_add(1);
        let gate = (run << RUN_SHIFT) | ((seats as u64) << SEATS_SHIFT) | OPEN;
        // Sequentially consistent with `sleep`: either the worker sees the gate open, or we see it asleep.
        self.entrance.0.gate.store(gate, Ordering::SeqCst);
        let asleep = if wakes { self.asleep.load(Ordering::SeqCst) } else { 0 };
        let awake = self.workers.load(Ordering::Relaxed).saturating_sub(asleep);
        if asleep > 0 && awake < seats {
            // Whoever counted itself asleep holds the lock until it waits.
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            for _ in 0..asleep.min(seats - awake) {
                self.wake.notify_one();
            }
        }
    }

    /// Runs the chunks that nobody has taken of share `first` and then of the others.
    fn work(&self, first: usize, chunks: usize, shares: usize, task: &(dyn Fn(usize) + Sync)) {
        for i in 0..shares {
            let number = (first + i) % shares;
            let (end, next) = (share(chunks, number, shares).end, &self.next[number].0);
            while next.load(Ordering::Relaxed) < end {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                if chunk < end {
                    task(chunk);
                }
            }
        }
    }

    /// Leaves out the chunks that nobody has taken.
    fn leave_out(&self) {
        for next in &self.next {
            next.0.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }

    /// The life of a worker, which begins with share `home`.
    fn serve(&self, home: usize) {
        let mut seen = u64::MAX;
        loop {
            let gate = self.await_run(seen);
            seen = gate >> RUN_SHIFT;
            if self.pass(gate) {
                let inside = Inside;
                // SAFETY: inside the gate, `job` and the task it points at stay as they are.
                let (task, chunks, shares) = unsafe {
                    match *self.entrance.0.job.get() {
                        Some(job) => (&*job.task, job.chunks, job.shares),
                        None => unreachable!("an open gate without a job"),
                    }
                };
                self.work(home % shares, chunks, shares, task);
                drop(inside);
            }
        }
    }

    /// Passes the gate if it is still that run's, open, and has a seat left.
    fn pass(&self, mut gate: u64) -> bool {
        let run = gate >> RUN_SHIFT;
        while gate >> RUN_SHIFT == run && gate & OPEN != 0 && gate & PASSED < (gate >> SEATS_SHIFT) & SEATS {
            match self.entrance.0.gate.compare_exchange_weak(
                gate,
                gate + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
        false
    }

    /// Waits until the gate is open for another run than `seen`.
    fn await_run(&self, seen: u64) -> u64 {
        let new = |gate: u64| gate & OPEN != 0 && gate >> RUN_SHIFT != seen;
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                let gate = self.entrance.0.gate.load(Ordering::Relaxed);
                if new(gate) {
                    return gate;
                }
                std::hint::spin_loop();
            }
            let waited = start.elapsed();
            if waited > SPIN_AND_YIELD {
                break;
            }
            if waited > SPIN {
                std::thread::yield_now();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let gate = loop {
            let gate = self.entrance.0.gate.load(Ordering::SeqCst);
            if new(gate) {
                break gate;
            }
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        gate
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Runs with a counter for each chunk and checks that each ran once.
    fn check(threads: usize, chunks: usize) {
        let counts: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
        run(threads, chunks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{threads} {chunks}");
    }

    #[test]
    fn every_chunk_runs_once() {
        for round in 0..20_000 {
            check(1 + round % 5, round % 7);
        }
    }

    #[test]
    fn writes_of_the_tasks_are_visible_afterwards() {
        let mut values = vec![0_usize; 64];
        for round in 0..2_000 {
            let base = values.as_mut_ptr() as usize;
            // SAFETY: each chunk writes its own element.
            run(4, 64, &|i| unsafe { *(base as *mut usize).add(i) = round + i });
            assert!(values.iter().enumerate().all(|(i, &value)| value == round + i));
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        for _ in 0..20 {
            std::thread::sleep(SPIN_AND_YIELD * 5);
            check(3, 16);
        }
    }

    #[test]
    fn runs_that_are_worth_no_waking_are_complete() {
        for round in 0..3_000 {
            if round % 500 == 0 {
                std::thread::sleep(SPIN_AND_YIELD * 5);
            }
            let sum = AtomicUsize::new(0);
            run_if_awake(3, 8, || round % 97 == 0, &|i| {
                sum.fetch_add(i + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 36);
        }
    }

    #[test]
    fn concurrent_callers_all_finish() {
        std::thread::scope(|scope| {
            for caller in 0..8 {
                scope.spawn(move || {
                    for round in 0..2_000 {
                        check(1 + (caller + round) % 4, 1 + round % 9);
                    }
                });
            }
        });
    }

    #[test]
    fn a_run_inside_a_task_runs_alone() {
        let sum = AtomicUsize::new(0);
        run(4, 16, &|outer| {
            run(4, 16, &|inner| {
                sum.fetch_add(outer * 16 + inner, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), (0..256).sum());
    }

    #[test]
    fn more_threads_than_cores_are_fine() {
        for _ in 0..100 {
            check(40, 100);
        }
    }

    #[test]
    fn threads_are_capped() {
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        check(8, 64);
        for _ in 0..50 {
            run(3, 24, &|_| {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for round in 0..50 {
            let begun = AtomicUsize::new(0);
            let ended = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                run(4, 32, &|i| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    if i == round % 32 {
                        // Without the message that panic! would print fifty times.
                        std::panic::resume_unwind(Box::new("expected"));
                    }
                    std::thread::yield_now();
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }));
            assert!(result.is_err());
            assert_eq!(begun.into_inner(), ended.into_inner() + 1);
            check(4, 32);
        }
    }

    #[test]
    fn the_variable_decides_and_nonsense_is_refused() {
        assert_eq!(choose(Some("3".into())), Ok(3));
        assert!(choose(None).unwrap() >= 1);
        for bad in ["0", "-1", "two", "", "1025", "99999999999999999999"] {
            let error = choose(Some(bad.into())).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("1024"), "{error}");
        }
    }
}

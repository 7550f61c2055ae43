//! Progress, shown where something takes more than a second and a person watches.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner needs no bar.
const DELAY: Duration = Duration::from_secs(1);

/// Does `work`; once it takes long, what is being done is shown with the time it has taken.
pub fn while_working<R>(what: &'static str, work: impl FnOnce() -> R) -> R {
    thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(DELAY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            // Hidden where standard error is no terminal.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{spinner} {msg} {elapsed}"));
            bar.set_message(what);
            bar.set_elapsed(DELAY);
            while wait.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}

/// How many of many things are done.
pub struct Counter {
    bar: ProgressBar,
    start: Instant,
    is_shown: bool,
}

impl Counter {
    /// Nothing of `total` is done.
    pub fn new(total: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        bar.set_style(style("{bar:40} {pos} of {len}, {msg} failed, {eta} left"));
        bar.set_message("0");
        Counter { bar, start: Instant::now(), is_shown: false }
    }

    /// One more is done; `failed` in all have failed.
    pub fn advance(&mut self, failed: usize) {
        if !self.is_shown && self.start.elapsed() > DELAY {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.is_shown = true;
        }
        self.bar.set_message(failed.to_string());
        self.bar.inc(1);
    }

    /// All is done.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// How much of a span of time is over.
pub struct Timer {
    bar: ProgressBar,
    shown: Duration,
}

impl Timer {
    /// Nothing of `duration` is over.
    pub fn new(what: &'static str, duration: Duration) -> Self {
        let length = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        bar.set_style(style("{msg} {bar:40} {elapsed}"));
        bar.set_message(what);
        Timer { bar, shown: Duration::ZERO }
    }

    /// So much is over. Draws rarely, so that it costs what is measured nothing.
    pub fn show(&mut self, over: Duration) {
        if over.saturating_sub(self.shown) < Duration::from_millis(200) {
            return;
        }
        if self.bar.is_hidden() && over > DELAY {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.shown = over;
        self.bar.set_position(u64::try_from(over.as_millis()).unwrap_or(u64::MAX));
    }

    /// All is over.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

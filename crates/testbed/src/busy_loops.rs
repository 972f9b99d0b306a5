//! Busy neighbours: loops that take what CPU they get, until they are dropped.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

/// Loops that keep this machine busy, each of the same priority as this process.
#[derive(Debug)]
pub struct BusyLoops {
    over: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    /// Starts so many loops for each CPU of this machine.
    pub fn start(per_cpu: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let run = |over: Arc<AtomicBool>| {
            while !over.load(Relaxed) {
                spin_loop();
            }
        };
        let start = |_| {
            std::thread::spawn({
                let over = Arc::clone(&over);
                move || run(over)
            })
        };
        let loops = (0..per_cpu * cpus).map(start).collect();
        Self { over, loops }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        self.loops.drain(..).for_each(|one| drop(one.join()));
    }
}

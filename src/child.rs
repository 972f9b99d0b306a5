//! What a sandboxed child runs: `wm_analysis` on the task from the sandbox.

use crate::analysis;
use crate::sandbox::{self, Product, Task};

/// Replies to a task; see [`analysis::child::answer`].
pub fn run(task: Task) -> Product {
    let (answer, attachment) = analysis::child::answer(&task.options, task.a, task.b, sandbox::set_phase);
    Product { answer, attachment }
}

/// Runs the analysis once on built-in pages, before a fork server's first job; see [`analysis::warm_up`].
pub fn warm_up() {
    analysis::warm_up();
}

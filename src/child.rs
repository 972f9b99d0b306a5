//! The work of a sandboxed child: `wm_analysis` on what the sandbox hands over.

use crate::analysis;
use crate::sandbox::{self, Task};

/// Answers the task's order; see [`analysis::child::answer`].
pub fn run(task: Task) -> Vec<u8> {
    analysis::child::answer(&task.options, task.a, task.b, task.soft_deadline, sandbox::set_phase)
}

//! Entry point of a sandboxed child: runs `wm_analysis` on the task from the sandbox.

use crate::analysis;
use crate::sandbox::{self, Task};

/// Replies to a task; see [`analysis::child::answer`].
pub fn run(task: Task) -> Vec<u8> {
    analysis::child::answer(&task.options, task.a, task.b, task.soft_deadline, sandbox::set_phase)
}

//! The tasks that serve all jobs at once: heartbeat, intake, upkeep, load.
//!
//! Invariant: none of them ends while the worker runs. If one does, by a panic or a bug, the worker notices
//! at once: without its heartbeat it would silently lose every lease.

use std::future::Future;

use tokio::task::{Id, JoinSet};

/// The running background tasks; dropping this aborts them.
#[derive(Default)]
pub(super) struct Background {
    tasks: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

/// A task that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TaskExit {
    pub(super) task: &'static str,
    /// How it ended, for the log.
    pub(super) why: String,
}

impl Background {
    /// Starts a task that must not end.
    pub(super) fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(feature = "test-hooks")]
        let task = hooks::exits_on_file(name, task);
        self.names.push((self.tasks.spawn(task).id(), name));
    }

    /// Waits for the first task to end; normally never returns.
    pub(super) async fn exited_task(&mut self) -> TaskExit {
        let (id, why) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "it returned".to_owned()),
            Some(Err(e)) => (e.id(), e.to_string()),
            None => std::future::pending().await,
        };
        let task = self.names.iter().find(|(known, _)| *known == id).map_or("unknown", |(_, name)| name);
        TaskExit { task, why }
    }

    /// Aborts all tasks and waits until they have ended.
    pub(super) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Lets a test make a background task fail.
#[cfg(feature = "test-hooks")]
mod hooks {
    use std::future::Future;
    use std::path::Path;
    use std::time::Duration;

    use tokio::time::sleep;

    /// Runs the task and panics once the file named by `WM_TEST_EXITS_<name>` exists.
    pub(super) async fn exits_on_file(name: &'static str, task: impl Future<Output = ()>) {
        let Some(file) = std::env::var_os(format!("WM_TEST_EXITS_{name}")) else { return task.await };
        let told = async {
            while !Path::new(&file).exists() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = task => {}
            () = told => panic!("on purpose"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_what_it_said() {
        let mut background = Background::default();
        background.start("lives", std::future::pending());
        background.start("falls", async { panic!("no way on") });
        let TaskExit { task, why } = background.exited_task().await;
        assert_eq!(task, "falls");
        assert!(why.contains("no way on"), "{why}");
        background.shutdown().await;
    }

    #[tokio::test]
    async fn a_task_that_returns_is_named_too() {
        let mut background = Background::default();
        background.start("lives", std::future::pending());
        background.start("ends", async {});
        let exited_task = background.exited_task().await;
        assert_eq!(exited_task, TaskExit { task: "ends", why: "it returned".to_owned() });
    }
}

//! The tasks that work for all jobs at once: the beat, the inbox, the upkeep.
//!
//! Invariant: none of them ends while the worker lives. One that does, by a panic or by a mistake, is noticed at once:
//! a worker that goes on without its beat would lose every lease in silence.

use std::future::Future;

use tokio::task::{Id, JoinSet};

/// Those that run; dropped, they are aborted.
#[derive(Default)]
pub(super) struct Background {
    tasks: JoinSet<()>,
    names: Vec<(Id, &'static str)>,
}

/// One that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TaskExit {
    /// Which.
    pub(super) task: &'static str,
    /// How, for people.
    pub(super) why: String,
}

impl Background {
    /// Starts one that must not end.
    pub(super) fn start(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        #[cfg(feature = "test-hooks")]
        let task = hooks::exits_on_file(name, task);
        self.names.push((self.tasks.spawn(task).id(), name));
    }

    /// Waits for the first that ends all the same; for ever, as it should be.
    pub(super) async fn exited_task(&mut self) -> TaskExit {
        let (id, why) = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "it returned".to_owned()),
            Some(Err(e)) => (e.id(), e.to_string()),
            None => std::future::pending().await,
        };
        let task = self.names.iter().find(|(known, _)| *known == id).map_or("unknown", |(_, name)| name);
        TaskExit { task, why }
    }

    /// Ends all of them.
    pub(super) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// How a test has one of them fall.
#[cfg(feature = "test-hooks")]
mod hooks {
    use std::future::Future;
    use std::path::Path;
    use std::time::Duration;

    use tokio::time::sleep;

    /// The task, which panics once the file exists that `WM_TEST_EXITS_<name>` names.
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

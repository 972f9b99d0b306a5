//! From values to parts: what `work`, `diff` and the demo are built of, built in one place and one order.
//!
//! It opens nothing that its caller did not ask for: `diff` needs no Redis, `status` no children.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use super::Config;
use crate::api::{self, Api, PostMode};
use crate::fetch::Fetcher;
use crate::job::failure::Failure;
use crate::pipeline::Pipeline;
use crate::policy::admission::{self, MemoryBudget};
use crate::queue::{WorkerHandle, WorkerId};
use crate::results::ResultStore;
use crate::sandbox::{ANSWER_MAX_BYTES, Limits, Pool, machine};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sentry::Alerts;
use crate::worker::Worker;
use crate::worker::shutdown::Phases;

/// The executable that children are made of: this very file, also after an upgrade has replaced it on disk.
pub fn executable() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// This build, as reports, dead letters and alerts name it.
pub fn build() -> String {
    format!("wm-analyzer@{}", env!("CARGO_PKG_VERSION"))
}

/// The version of this build, with its commit and that commit's date as far as the build knew them.
pub const VERSION: &str = env!("WM_VERSION");

/// The commit that this build was made from, or `unknown`.
const COMMIT: &str = env!("WM_COMMIT");

/// This build as Sentry's releases name it: with the commit, where the build named it.
pub fn release() -> String {
    match COMMIT {
        "" | "unknown" => build(),
        commit => format!("{}+{}", build(), commit.chars().take(12).collect::<String>()),
    }
}

impl Config {
    /// The sizes that admission reckons with, and where the memory limit was read.
    pub fn sizes(&self) -> (MemoryBudget, &'static str) {
        let (memory, origin) = match self.worker.memory_limit.as_u64() {
            0 => machine::memory(),
            limit => (limit, "worker.memory_limit"),
        };
        let limits = Limits::from_config(&self.sandbox);
        // Both bodies; the whole result; the summary, and what reading it takes (tests/replies.rs).
        let buffers = 2 * self.fetch.max_body.as_u64() + limits.reply_bytes + 3 * ANSWER_MAX_BYTES;
        let (fetch, results) = (self.fetch.memory_bytes(), self.results.memory_bytes());
        let address_space_limit = limits.address_space_limit_bytes();
        (MemoryBudget { memory, fetch, results, address_space_limit, buffers }, origin)
    }

    /// Raises this process' limit on open files as far as it may go.
    ///
    /// # Errors
    /// What does not fit and what to change, where that is less than `slots` jobs and all fetches need.
    pub fn raise_open_files(&self, slots: u32) -> Result<(), String> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(error = %e, "the limit on open files cannot be raised");
        }
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.check_open_files(slots, allowed)
    }

    fn check_open_files(&self, slots: u32, allowed: u64) -> Result<(), String> {
        let needed = admission::open_files(self.fetch.connections_max(), slots);
        if needed <= allowed {
            return Ok(());
        }
        Err(format!(
            "fetch.in_flight_max = {} and {slots} slots need {needed} open files, and this process may open {allowed}: \
             raise its hard limit (ulimit -Hn, LimitNOFILE=), or lower fetch.in_flight_max by {} or more",
            self.fetch.in_flight_max,
            (needed - allowed).div_ceil(2)
        ))
    }

    /// How many jobs at once.
    ///
    /// # Errors
    /// The arithmetic, where the configured number does not fit the memory.
    pub fn slots(&self) -> Result<u32, String> {
        admission::slot_count(NonZeroU32::new(self.sandbox.slots), machine::cpus(), &self.sizes().0)
    }

    /// The children.
    ///
    /// # Errors
    /// `cannot_spawn`, where no child can be started, or not with the isolation that is asked for.
    pub async fn pool(&self, slots: u32, executable: PathBuf) -> Result<Pool, Failure> {
        let room = self.sizes().0.children_limit_bytes(slots);
        Pool::start_with_memory(&self.sandbox, slots as usize, room, executable).await
    }

    /// The way of one job.
    ///
    /// # Errors
    /// What is wrong with the settings of the fetcher, the API or the results store.
    pub fn pipeline(&self) -> Result<Pipeline, String> {
        let results = ResultStore::open(&self.results).map_err(|e| e.to_string())?;
        let max_result_bytes = results.as_ref().map_or(0, ResultStore::max_bytes);
        Ok(Pipeline { results, max_result_bytes, ..self.pipeline_with(self.api.post)? })
    }

    /// The way of one pair that a person looks at.
    ///
    /// # Errors
    /// What is wrong with the fetcher's or the API's settings.
    pub(crate) fn pipeline_for_diff(&self) -> Result<Pipeline, String> {
        // It must resolve as the worker does, and post nothing.
        self.pipeline_with(match self.api.post {
            PostMode::Post | PostMode::DryRun => PostMode::DryRun,
            PostMode::Off => PostMode::Off,
        })
    }

    fn pipeline_with(&self, post: PostMode) -> Result<Pipeline, String> {
        let api = api::Config { post, ..self.api.clone() };
        Ok(Pipeline {
            api: Api::new(&api).map_err(|e| e.to_string())?.map(Arc::new),
            results: None,
            filter: self.filter.clone(),
            fetcher: Fetcher::new(&self.fetch).map_err(|e| e.to_string())?,
            limits: Limits::from_config(&self.sandbox),
            ceiling: Limits::ceiling(&self.sandbox),
            max_decoded_bytes: self.sandbox.max_decoded.as_u64(),
            max_result_bytes: 0,
            deliveries: Arc::new(Semaphore::new(self.api.max_concurrent.clamp(1, Semaphore::MAX_PERMITS))),
        })
    }

    /// Where results go besides Redis. A pair that is done for Redis alone is not done for a db app that
    /// wants the annotation.
    pub fn sink(&self) -> &str {
        match &self.api.url {
            Some(app) if self.api.post == PostMode::Post => app.as_str(),
            Some(_) | None => "redis",
        }
    }

    /// A worker, ready to run: starts its children and makes its metrics.
    ///
    /// # Errors
    /// What could not be built, and whether the configuration is the reason.
    pub async fn worker(&self, parts: WorkerParts) -> Result<Worker, AssembleError> {
        let slots = self.slots().map_err(AssembleError::Config)?;
        let pipeline = self.pipeline().map_err(AssembleError::Config)?;
        let pool = self.pool(slots, parts.executable).await;
        let pool = pool.map_err(|failure| AssembleError::Failed(failure.to_string()))?;
        let metrics = Metrics::new(parts.queue.name(), env!("CARGO_PKG_VERSION"), COMMIT);
        pool.isolation_layers().for_each(|(name, in_force)| metrics.isolation(&name, in_force));
        let missing = pool.isolation_layers().filter(|(_, in_force)| !in_force).map(|(name, _)| name);
        let missing = missing.collect::<Vec<_>>().join(" ");
        if !missing.is_empty() {
            tracing::warn!(
                missing,
                "isolation layers are missing: the kernel or sandbox.isolation does without them"
            );
        }
        Ok(Worker {
            config: self.worker.clone(),
            policy: self.policy.clone(),
            pipeline,
            queue: parts.queue,
            pool,
            metrics,
            alerts: parts.alerts,
            phases: parts.phases,
            id: WorkerId::fresh(&rustix::system::uname().nodename().to_string_lossy()),
            build: build(),
            redis: Arc::default(),
            in_flight_max: self.fetch.in_flight_max.get() as usize,
            until_empty: parts.until_empty,
        })
    }
}

/// What a worker is made of besides its configuration.
pub struct WorkerParts {
    /// Where jobs come from.
    pub queue: WorkerHandle,
    /// Where alerts go.
    pub alerts: Alerts,
    /// Shared with what follows the signals.
    pub phases: Phases,
    /// What children are started from; see [`executable`].
    pub executable: PathBuf,
    /// Leave when nothing is left to do.
    pub until_empty: bool,
}

impl WorkerParts {
    /// Parts for a worker on this queue, of this executable, without alerts, that works until it is stopped.
    pub fn new(queue: WorkerHandle) -> Self {
        let (alerts, phases) = (Alerts::off(), Phases::default());
        Self { queue, alerts, phases, executable: executable(), until_empty: false }
    }
}

/// Why a worker cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The configuration does not fit this machine, or cannot be put into force.
    #[error("{0}")]
    Config(String),
    /// Children cannot be started, or not with the isolation that is asked for.
    #[error("{0}")]
    Failed(String),
}

//! `work`: a worker with everything around it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::run::{CommandFailure, config_failure, failure, queue_failure};
use crate::config::Config;
use crate::config::assemble::{AssembleError, WorkerParts, build, release};
use crate::ops::Exit;
use crate::queue::{self, Queue, WorkerHandle};
use crate::telemetry::logs;
use crate::telemetry::sentry::{AlertSource, Alerts};
use crate::web::health::{self, Probe, Probes};
use crate::web::pulse::Pulse;
use crate::worker::shutdown::{Phase, Phases};
use crate::worker::{RedisState, Worker};

/// A worker whose tasks do not run for this long is not alive. They never block their threads for as long as a
/// second; a machine that is too busy to run any of them for half a minute still keeps the leases of 90 s.
const MAX_PULSE_AGE: Duration = Duration::from_secs(30);

/// What the alerts of this process say of its queue.
fn alert_source(config: &Config) -> AlertSource {
    let queue = config.queue.name.as_str();
    AlertSource {
        queue: queue.to_owned(),
        look_closer: queue::command(queue, &config.queue.command_flags, "doctor"),
    }
}

/// A worker with everything around it: alerts, health, signals; returns when it has let go of everything.
pub(super) async fn work(config: &Config, until_empty: bool) -> Result<Exit, CommandFailure> {
    logs::init(&config.log).map_err(config_failure)?;
    // From here on, a TERM during start-up must end the worker in order, not kill it with its first jobs in flight.
    let phases = Phases::default();
    let following = phases.clone().follow_signals().map_err(failure)?;
    let signals = tokio::spawn(following);
    let (alerts, guard) =
        Alerts::start(&config.sentry, &release(), alert_source(config)).map_err(config_failure)?;
    let slots = config.slots().map_err(config_failure)?;
    config.raise_open_files(slots).map_err(config_failure)?;
    let queue = WorkerHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
    preflight(&queue).await?;
    let parts = WorkerParts { alerts, phases: phases.clone(), until_empty, ..WorkerParts::new(queue) };
    let worker = config.worker(parts).await.map_err(|e| match e {
        AssembleError::Config(what) => config_failure(what),
        AssembleError::Failed(what) => failure(what),
    })?;
    let stopped = CancellationToken::new();
    serve(config, &worker, stopped.clone()).await?;
    tracing::info!(worker = %worker.id, slots, queue = worker.queue.name(), build = build(), "working");

    let ended = worker.run().await;

    phases.advance(Phase::Stopped);
    signals.abort();
    stopped.cancel();
    let counts = tokio::task::spawn_blocking(|| guard.close()).await;
    let pending = counts.map(|counts| counts.pending).unwrap_or_default();
    tracing::info!(released = ended.released, alerts_pending = pending, "stopped");
    match ended.exited_task {
        None => Ok(Exit::Ok),
        Some(task) => Err(failure(format!("this worker's {task} has ended, see the log: start it anew"))),
    }
}

/// Redis must be one that keeps what it is given. One that cannot be reached yet is waited for, not refused.
async fn preflight(queue: &Queue) -> Result<(), CommandFailure> {
    match queue.preflight().await {
        Ok(server) => {
            server.fit_for_work().map_err(config_failure)?;
            if !server.aof {
                tracing::warn!(
                    "Redis has no append-only file: a restart of it loses jobs (set appendonly yes)"
                );
            }
            Ok(())
        }
        Err(e) if e.is_transient() => {
            tracing::warn!(error = %e, "Redis does not answer yet: going on, it will be asked again");
            Ok(())
        }
        Err(e) => Err(queue_failure(e)),
    }
}

async fn serve(config: &Config, worker: &Worker, stopped: CancellationToken) -> Result<(), CommandFailure> {
    let bound = health::bind(&config.web).await;
    let Some(health) = bound.map_err(|e| config_failure(format!("web.bind: {e}")))? else { return Ok(()) };
    let (phases, redis) = (worker.phases.clone(), Arc::clone(&worker.redis));
    let metrics = Arc::clone(&worker.metrics);
    let pulse = Pulse::start();
    let probes = Probes {
        live: Arc::new(move || liveness(pulse.age())),
        ready: Arc::new(move || readiness(phases.now(), &redis)),
        metrics: Arc::new(move || metrics.render()),
    };
    tracing::info!(address = %health.address(), "health and metrics");
    health.start(probes, stopped).map_err(failure)
}

/// The probes have a thread of their own: the pulse shows whether the runtime of the jobs still works.
fn liveness(pulse_age: Duration) -> Probe {
    match pulse_age <= MAX_PULSE_AGE {
        true => Probe::Ok("alive".to_owned()),
        false => Probe::Failing(format!("the worker's tasks have not run for {} s", pulse_age.as_secs())),
    }
}

fn readiness(phase: Phase, redis: &RedisState) -> Probe {
    match (phase, redis.answers(), redis.refusal()) {
        (Phase::Running, true, None) => Probe::Ok("claiming".to_owned()),
        (Phase::Running, true, Some(refusal)) => Probe::Failing(refusal),
        (Phase::Running, false, _) => Probe::Failing("Redis does not answer".to_owned()),
        (phase @ (Phase::Quiet | Phase::Draining | Phase::Stopped), _, _) => {
            Probe::Failing(phase.as_str().to_owned())
        }
    }
}

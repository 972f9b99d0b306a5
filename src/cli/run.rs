//! What was typed, carried out: configuration first, then one command, then its exit code.
//!
//! A table of contents: each arm builds the parts that its command needs and hands them over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::{Cli, Command, ConfigCommand, OutputFormat};
use crate::api::Api;
use crate::config::assemble::{AssembleError, WorkerParts, build, executable};
use crate::config::{Config, ConfigSources, LoadedConfig};
use crate::demo;
use crate::job::failure::Failure;
use crate::ops::{self, Exit, render};
use crate::queue::{self, OperatorHandle, ProducerHandle, Queue, WorkerHandle};
use crate::sandbox::Limits;
use crate::telemetry::logs;
use crate::telemetry::sentry::Alerts;
use crate::web::health::{self, Probe, Probes};
use crate::worker::Worker;
use crate::worker::shutdown::{Phase, Phases};

/// Runs the command.
pub fn run(cli: Cli) -> Exit {
    if let Command::Config(ConfigCommand::Schema { of }) = &cli.command {
        render::text(of.text());
        return Exit::Ok;
    }
    let load = match &cli.command {
        Command::Work(_) | Command::Config(ConfigCommand::Check) => LoadedConfig::load_for_work,
        _ => LoadedConfig::load,
    };
    let loaded = match load(&sources(&cli)) {
        Ok(loaded) => loaded,
        Err(errors) => return print_config_errors(&errors, cli.output),
    };
    if let Command::Config(what) = &cli.command {
        return show_config(what, &loaded, cli.output);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report_exit(Err((Exit::Failed, format!("no runtime: {e}")))),
    };
    let exit = runtime.block_on(command(cli, loaded.config));
    // A name lookup that hangs in the C library must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    exit
}

fn sources(cli: &Cli) -> ConfigSources {
    let mut flags = Vec::new();
    let mut flag =
        |key: &str, value: Option<String>| flags.extend(value.map(|value| (key.to_owned(), value)));
    flag("queue.url", cli.redis.clone());
    flag("queue.name", cli.queue.clone());
    if let Command::Work(work) = &cli.command {
        flag("sandbox.slots", work.slots.map(|slots| slots.to_string()));
    }
    ConfigSources::from_process(cli.config.clone(), flags)
}

async fn command(cli: Cli, config: Config) -> Exit {
    let json = cli.output == OutputFormat::Json;
    match cli.command {
        Command::Diff(args) => diff(&args.options(&config, json), &config).await,
        Command::Work(args) => report_exit(work(&config, args.until_empty).await),
        Command::Demo(args) => demo::scenario::run(args.pairs, json).await,
        Command::Enqueue(args) => enqueue(&args.options(), &config, json).await,
        Command::Backfill(args) => backfill(&args.options(), &config, json).await,
        Command::Status => match Queue::connect(&config.queue, config.sink()).await {
            Ok(queue) => exit_of_result(ops::status::run(&queue, json).await),
            Err(e) => exit_of_result(Err(e)),
        },
        Command::Queue(args) => match OperatorHandle::connect(&config.queue, config.sink()).await {
            Ok(queue) => exit_of_result(ops::queue::run(&queue, args.action(), json).await),
            Err(e) => exit_of_result(Err(e)),
        },
        Command::Dead(args) => match args.action(&config) {
            Ok(action) => dead(action, &config, json).await,
            Err(what) => report_exit(Err((Exit::Usage, what))),
        },
        Command::Worker(_) => ops::worker::quiet(),
        Command::Health(args) => health(&config, args.path()).await,
        Command::Doctor => doctor(&config, json).await,
        Command::Config(_) => Exit::Ok,
    }
}

fn show_config(what: &ConfigCommand, loaded: &LoadedConfig, output: OutputFormat) -> Exit {
    match (what, output) {
        (ConfigCommand::Check, OutputFormat::Text) => render::note("the configuration is sound"),
        (ConfigCommand::Check, OutputFormat::Json) => render::json(&serde_json::json!({ "errors": [] })),
        (ConfigCommand::Show { origin }, OutputFormat::Text) => render::text(loaded.show(*origin)),
        (ConfigCommand::Show { .. }, OutputFormat::Json) => render::json(&loaded.to_json()),
        (ConfigCommand::Schema { of }, _) => render::text(of.text()),
    }
    Exit::Ok
}

fn print_config_errors(errors: &[String], output: OutputFormat) -> Exit {
    match output {
        OutputFormat::Text => errors.iter().for_each(render::error),
        OutputFormat::Json => render::json(&serde_json::json!({ "errors": errors })),
    }
    Exit::Config
}

async fn diff(options: &ops::diff::DiffOptions, config: &Config) -> Exit {
    let parts = async {
        let pipeline = config.pipeline_for_diff()?;
        let pool = config.pool(1, executable()).await.map_err(|failure| failure.to_string())?;
        Ok::<_, String>((pipeline, pool))
    };
    match parts.await {
        Ok((pipeline, pool)) => {
            let exit = ops::diff::run(options, &pipeline, &pool).await;
            pool.shutdown().await;
            exit
        }
        Err(what) => report_exit(Err((Exit::Failed, what))),
    }
}

async fn dead(action: ops::dead::DeadAction, config: &Config, json: bool) -> Exit {
    match OperatorHandle::connect(&config.queue, config.sink()).await {
        Ok(queue) => exit_of_result(ops::dead::run(&queue, action, json).await),
        Err(e) => exit_of_result(Err(e)),
    }
}

async fn enqueue(options: &ops::enqueue::EnqueueOptions, config: &Config, json: bool) -> Exit {
    match ProducerHandle::connect(&config.queue, config.sink()).await {
        Ok(queue) => exit_of_result(ops::enqueue::run(&queue, options, json).await),
        Err(e) => exit_of_result(Err(e)),
    }
}

async fn backfill(options: &ops::backfill::BackfillOptions, config: &Config, json: bool) -> Exit {
    let api = match Api::new(&config.api) {
        Ok(Some(api)) => api,
        Ok(None) => {
            return report_exit(Err((Exit::Config, "api.url is not set: there is no app to ask".to_owned())));
        }
        Err(e) => return report_exit(Err((Exit::Config, e.to_string()))),
    };
    match ProducerHandle::connect(&config.queue, config.sink()).await {
        Ok(queue) => exit_of_result(ops::backfill::run(&queue, &api, options, json).await),
        Err(e) => exit_of_result(Err(e)),
    }
}

/// A worker with everything around it: alerts, health, signals; returns when it has let go of everything.
async fn work(config: &Config, until_empty: bool) -> Result<(), (Exit, String)> {
    logs::init(&config.log).map_err(|e| (Exit::Config, e.to_string()))?;
    // From here on, a TERM during start-up must end the worker in order, not kill it with its first jobs in flight.
    let phases = Phases::default();
    let following = phases.clone().follow_signals().map_err(|e| (Exit::Failed, e.to_string()))?;
    let signals = tokio::spawn(following);
    let (alerts, guard) =
        Alerts::start(&config.sentry, &build()).map_err(|e| (Exit::Config, e.to_string()))?;
    let slots = config.slots().map_err(|what| (Exit::Config, what))?;
    let queue = WorkerHandle::connect(&config.queue, config.sink()).await;
    let queue = queue.map_err(|e| (exit_of_queue_error(&e), e.to_string()))?;
    preflight(&queue).await?;
    let parts = WorkerParts { alerts, phases: phases.clone(), until_empty, ..WorkerParts::new(queue) };
    let worker = config.worker(parts).await.map_err(|e| match e {
        AssembleError::Config(what) => (Exit::Config, what),
        AssembleError::Failed(what) => (Exit::Failed, what),
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
        None => Ok(()),
        Some(task) => {
            Err((Exit::Failed, format!("this worker's {task} has ended, see the log: start it anew")))
        }
    }
}

/// Redis must be one that keeps what it is given. One that cannot be reached yet is waited for, not refused.
async fn preflight(queue: &Queue) -> Result<(), (Exit, String)> {
    match queue.preflight().await {
        Ok(server) => {
            server.fit_for_work().map_err(|e| (Exit::Config, e.to_string()))?;
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
        Err(e) => Err((exit_of_queue_error(&e), e.to_string())),
    }
}

async fn serve(config: &Config, worker: &Worker, stopped: CancellationToken) -> Result<(), (Exit, String)> {
    let Some(health) =
        health::bind(&config.web).await.map_err(|e| (Exit::Config, format!("web.bind: {e}")))?
    else {
        return Ok(());
    };
    let (phases, redis) = (worker.phases.clone(), Arc::clone(&worker.redis_answers));
    let metrics = Arc::clone(&worker.metrics);
    let probes = Probes {
        live: Arc::new(|| Probe::Ok("alive".to_owned())),
        ready: Arc::new(move || readiness(phases.now(), redis.load(Ordering::Relaxed))),
        metrics: Arc::new(move || metrics.render()),
    };
    tracing::info!(address = %health.address(), "health and metrics");
    tokio::spawn(health.serve(probes, stopped));
    Ok(())
}

fn readiness(phase: Phase, redis_answers: bool) -> Probe {
    match (phase, redis_answers) {
        (Phase::Running, true) => Probe::Ok("claiming".to_owned()),
        (Phase::Running, false) => Probe::Failing("Redis does not answer".to_owned()),
        (phase @ (Phase::Quiet | Phase::Draining | Phase::Stopped), _) => {
            Probe::Failing(phase.as_str().to_owned())
        }
    }
}

async fn health(config: &Config, path: &str) -> Exit {
    let Some(address) = config.web.bind else {
        return report_exit(Err((Exit::Config, "web.bind is off: there is nobody to ask".to_owned())));
    };
    match health::check(address, path).await {
        Ok(answer) => {
            render::line(answer);
            Exit::Ok
        }
        Err(what) => report_exit(Err((Exit::Failed, what.to_string()))),
    }
}

async fn doctor(config: &Config, json: bool) -> Exit {
    let isolation = match config.pool(1, executable()).await {
        Ok(pool) => {
            let features = pool.isolation();
            pool.shutdown().await;
            Ok(features)
        }
        Err(failure) => Err::<Vec<String>, Failure>(failure),
    };
    let queue = Queue::connect(&config.queue, config.sink()).await;
    let (slots, sizes, ceiling) = (config.slots(), config.sizes(), Limits::ceiling(&config.sandbox));
    let input = ops::doctor::DoctorInput { queue, slots, sizes, ceiling, isolation };
    ops::doctor::run(&input, json).await
}

/// The exit code of what was asked of the queue.
fn exit_of_result(answer: Result<Exit, queue::Error>) -> Exit {
    answer.unwrap_or_else(|e| {
        render::error(&e);
        exit_of_queue_error(&e)
    })
}

fn exit_of_queue_error(error: &queue::Error) -> Exit {
    match error {
        queue::Error::Unavailable(_) => Exit::RedisUnreachable,
        queue::Error::Full(_) => Exit::RedisFull,
        queue::Error::Config(_) | queue::Error::Evicts(_) | queue::Error::NewerSchema { .. } => Exit::Config,
        queue::Error::Refused(_) | queue::Error::Reply { .. } => Exit::Failed,
    }
}

fn report_exit(ended: Result<(), (Exit, String)>) -> Exit {
    match ended {
        Ok(()) => Exit::Ok,
        Err((exit, what)) => {
            render::error(what);
            exit
        }
    }
}

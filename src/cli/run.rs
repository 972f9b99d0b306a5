//! What was typed, carried out: configuration first, then one command, then its exit code.
//!
//! A table of contents: each arm builds the parts that its command needs and hands them over.

use std::fmt::Display;
use std::time::Duration;

use super::args::{Cli, Command, DiffArgs, OutputFormat};
use super::dash::dash;
use super::generate;
use super::job_args::JobCommand;
use super::monitor_args::SentryCommand;
use super::process_args::{ConfigCommand, WorkerCommand};
use super::queue_args::QueueCommand;
use super::work::work;
use crate::api::Api;
use crate::config::assemble::{executable, release};
use crate::config::{Config, ConfigSources, LoadedConfig};
use crate::demo;
use crate::job::text::shell_word;
use crate::job::{Job, JobId};
use crate::ops::{self, Exit, Output, render};
use crate::queue::{self, OperatorHandle, ProducerHandle, Queue, WorkerRequest};
use crate::results::ResultStore;
use crate::sandbox::Limits;
use crate::web::health::{self};

/// Version of the JSON of `config check` and `config show`.
const CONFIG_SCHEMA_VERSION: u32 = 1;

/// Runs the command.
pub fn run(cli: Cli) -> Exit {
    match &cli.command {
        Command::Config(ConfigCommand::Schema { of }) => {
            render::text(of.text());
            return Exit::Ok;
        }
        Command::Completions(args) => return generate::completions(args.shell),
        Command::Man(args) => return generate::man(args.dir.as_deref()),
        _ => {}
    }
    let load = match &cli.command {
        Command::Work(_) | Command::Config(ConfigCommand::Check) => LoadedConfig::load_for_work,
        _ => LoadedConfig::load,
    };
    let mut loaded = match load(&sources(&cli)) {
        Ok(loaded) => loaded,
        Err(errors) => return print_config_errors(&errors, cli.output),
    };
    if let Command::Config(what) = &cli.command {
        return show_config(what, &loaded, cli.output);
    }
    // What a worker prints is read elsewhere, where its files need not be.
    if !matches!(cli.command, Command::Work(_)) {
        loaded.config.queue.command_flags = command_flags(&cli, &loaded.config);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report_failure(failure(format!("no runtime: {e}"))),
    };
    let exit = runtime.block_on(command(cli, loaded.config)).unwrap_or_else(report_failure);
    // A name lookup that hangs in the C library must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    exit
}

/// ` -c production.toml --redis redis://cache:6379`, as given to this command. Credentials in an address are `***`,
/// to be replaced before the command is run again.
fn command_flags(cli: &Cli, config: &Config) -> String {
    let flag = |flag: &str, value: String| format!(" {flag} {}", shell_word(&value));
    let files = cli.config.iter().map(|file| flag("-c", file.display().to_string()));
    let redis = cli.redis.is_some().then(|| flag("--redis", config.queue.url.to_string()));
    files.chain(redis).collect()
}

fn sources(cli: &Cli) -> ConfigSources {
    let mut flags = Vec::new();
    let mut flag =
        |key: &str, value: Option<String>| flags.extend(value.map(|value| (key.to_owned(), value)));
    flag("queue.url", cli.redis.clone());
    flag("queue.name", cli.queue.clone());
    if let Command::Dash(dash) = &cli.command {
        flag("dash.bind", dash.bind.clone());
    }
    if let Command::Work(work) = &cli.command {
        flag("sandbox.slots", work.slots.map(|slots| slots.to_string()));
    }
    ConfigSources::from_process(cli.config.clone(), flags)
}

/// Why a command failed: its exit code, and what is printed.
pub(super) type CommandFailure = (Exit, String);

async fn command(cli: Cli, config: Config) -> Result<Exit, CommandFailure> {
    let output = ops::Output::from(cli.output);
    let json = output.is_json();
    match cli.command {
        Command::Diff(args) => diff(args, &config, json).await,
        Command::Work(args) => work(&config, args.until_empty).await,
        Command::Dash(_) => dash(&config).await,
        Command::Demo(args) => Ok(demo::scenario::run(args.pairs, args.dash, json).await),
        Command::Enqueue(args) => {
            let queue = ProducerHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
            ops::enqueue::run(&queue, &args.options(), json).await.map_err(queue_failure)
        }
        Command::Backfill(args) => {
            let api = Api::new(&config.api).map_err(config_failure)?;
            let api = api.ok_or_else(|| config_failure("api.url is not set: there is no app to ask"))?;
            let queue = ProducerHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
            ops::backfill::run(&queue, &api, &args.options(), json).await.map_err(queue_failure)
        }
        Command::Status(args) => status(&config, args.watch, output).await,
        Command::Queue(args) => queue_command(&config, args, json).await,
        Command::Quarantine(args) => {
            ops::quarantine::run(&operator(&config).await?, args.action(), json).await.map_err(queue_failure)
        }
        Command::Results(args) => {
            let queue = operator(&config).await?;
            ops::results::run(&queue, args.action(), json).await.map_err(queue_failure)
        }
        Command::Report(args) => {
            let queue = operator(&config).await?;
            let store = ResultStore::open(&config.results).map_err(config_failure)?;
            ops::report::show(&queue, store.as_ref(), &args.options(json)).await.map_err(queue_failure)
        }
        Command::Job(JobCommand::Diff(args)) => diff(args.into(), &config, json).await,
        Command::Job(JobCommand::Queued(args)) => {
            let action = args.action(&config).map_err(|what| (Exit::Usage, what))?;
            ops::job::run(&operator(&config).await?, action, output).await.map_err(queue_failure)
        }
        Command::Dead(args) => {
            let action = args.action(&config).map_err(|what| (Exit::Usage, what))?;
            ops::job::run(&operator(&config).await?, action, output).await.map_err(queue_failure)
        }
        Command::Audit(args) => {
            ops::audit::run(&operator(&config).await?, args.action(), output).await.map_err(queue_failure)
        }
        Command::Worker(args) => worker(&config, args, output).await,
        Command::Health(args) => health(&config, args.path()).await,
        Command::Doctor => Ok(doctor(&config, json).await),
        Command::Check(args) => {
            let connecting = Queue::connect(&config.queue, config.sink());
            Ok(ops::check::run(config.queue.name.as_str(), connecting, &args.options(json)).await)
        }
        Command::Sentry(SentryCommand::Test) => {
            Ok(ops::sentry_test::run(&config.sentry, &release(), json).await)
        }
        // Answered before anything was loaded or connected.
        Command::Config(_) | Command::Completions(_) | Command::Man(_) => Ok(Exit::Ok),
    }
}

fn show_config(what: &ConfigCommand, loaded: &LoadedConfig, output: OutputFormat) -> Exit {
    match (what, output) {
        (ConfigCommand::Check, OutputFormat::Text) => render::note("the configuration is sound"),
        (ConfigCommand::Check, OutputFormat::Json | OutputFormat::Ndjson) => {
            render::json(CONFIG_SCHEMA_VERSION, &serde_json::json!({ "errors": [] }))
        }
        (ConfigCommand::Show { origin }, OutputFormat::Text) => render::text(loaded.show(*origin)),
        (ConfigCommand::Show { .. }, OutputFormat::Json | OutputFormat::Ndjson) => {
            render::json(CONFIG_SCHEMA_VERSION, &loaded.to_json())
        }
        (ConfigCommand::Schema { of }, _) => render::text(of.text()),
    }
    Exit::Ok
}

fn print_config_errors(errors: &[String], output: OutputFormat) -> Exit {
    match output {
        OutputFormat::Text => errors.iter().for_each(render::error),
        OutputFormat::Json | OutputFormat::Ndjson => {
            render::json(CONFIG_SCHEMA_VERSION, &serde_json::json!({ "errors": errors }));
        }
    }
    Exit::Config
}

/// The queue for an operator's command: one that exists.
async fn operator(config: &Config) -> Result<OperatorHandle, CommandFailure> {
    let queue = OperatorHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
    refuse_unknown(&queue).await?;
    Ok(queue)
}

async fn status(config: &Config, watch: Option<Duration>, output: Output) -> Result<Exit, CommandFailure> {
    let connecting = async {
        let queue = Queue::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
        refuse_unknown(&queue).await.map(|()| queue)
    };
    // A handshake that times out, and the look whether the server answers without TLS.
    let tls = config.queue.url.is_tls().then(|| 2 * config.queue.connect_timeout);
    let options = ops::status::StatusOptions { watch, output, tls };
    ops::status::run(&config.queue, connecting, options, queue_failure).await
}

/// Refuses a queue that nobody has ever used, unless it has the default name: its name was mistyped.
async fn refuse_unknown(queue: &Queue) -> Result<(), CommandFailure> {
    if queue.name() == queue::DEFAULT_NAME || queue.exists().await.map_err(queue_failure)? {
        return Ok(());
    }
    let name = queue.name();
    let what = format!("there is no queue {name:?} in this Redis: no worker and no producer has used it");
    Err((Exit::NothingMatched, what))
}

/// A job of the queue, to look at.
async fn stored_job(id: &JobId, config: &Config) -> Result<Job, CommandFailure> {
    let stored = operator(config).await?.stored_job(id).await.map_err(queue_failure)?;
    stored.and_then(|stored| stored.job().cloned()).ok_or_else(|| {
        (Exit::NothingMatched, format!("no job {id}: it has ended, is unknown, or is not readable"))
    })
}

async fn diff(args: DiffArgs, config: &Config, json: bool) -> Result<Exit, CommandFailure> {
    let job = match &args.job {
        Some(id) => Some(stored_job(id, config).await?),
        None => None,
    };
    let options = args.options(job, config, json);
    let mut pipeline = config.pipeline_for_diff().map_err(failure)?;
    pipeline.max_result_bytes = if options.whole { config.sandbox.reply.as_u64() } else { 0 };
    let pool = config.pool(1, executable()).await.map_err(failure)?;
    let exit = ops::diff::run(&options, &pipeline, &pool).await;
    pool.shutdown().await;
    Ok(exit)
}

async fn queue_command(config: &Config, args: QueueCommand, json: bool) -> Result<Exit, CommandFailure> {
    // What is imported may be the first that a queue gets.
    let queue = if matches!(args, QueueCommand::Import { .. }) {
        OperatorHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?
    } else {
        operator(config).await?
    };
    ops::queue::run(&queue, args.action(), json).await.map_err(queue_failure)
}

async fn worker(config: &Config, args: WorkerCommand, output: ops::Output) -> Result<Exit, CommandFailure> {
    let (request, args) = match args {
        WorkerCommand::Ls => {
            return ops::workers::ls(&operator(config).await?, output).await.map_err(queue_failure);
        }
        WorkerCommand::Quiet(args) if args.own => return Ok(ops::worker::quiet()),
        WorkerCommand::Quiet(args) => (WorkerRequest::Quiet, args.ask),
        WorkerCommand::Stop(args) => (WorkerRequest::Stop, args.ask),
    };
    let ((which, options), queue) = (args.options(), operator(config).await?);
    let asked = ops::workers::ask(&queue, request, &which, &options, output.is_json());
    asked.await.map_err(queue_failure)
}

async fn health(config: &Config, path: &str) -> Result<Exit, CommandFailure> {
    let address = config.web.bind.ok_or_else(|| config_failure("web.bind is off: there is nobody to ask"))?;
    render::line(health::check(address, path).await.map_err(failure)?);
    Ok(Exit::Ok)
}

async fn doctor(config: &Config, json: bool) -> Exit {
    let pool = config.pool(1, executable()).await;
    if let Ok(pool) = &pool {
        pool.shutdown().await;
    }
    let isolation = pool.map(|pool| pool.isolation());
    let queue = Queue::connect(&config.queue, config.sink()).await;
    let (slots, sizes, ceiling) = (config.slots(), config.sizes(), Limits::ceiling(&config.sandbox));
    let results = ResultStore::open(&config.results).map_err(|e| e.to_string());
    let app = Api::new(&config.api).map_err(|e| e.to_string());
    let input = ops::doctor::DoctorInput { queue, slots, sizes, ceiling, isolation, app, results };
    ops::doctor::run(&input, json).await
}

pub(super) fn failure(what: impl Display) -> CommandFailure {
    (Exit::Failed, what.to_string())
}

pub(super) fn config_failure(what: impl Display) -> CommandFailure {
    (Exit::Config, what.to_string())
}

pub(super) fn queue_failure(error: queue::Error) -> CommandFailure {
    let exit = match &error {
        queue::Error::Unavailable(_) => Exit::RedisUnreachable,
        queue::Error::Full(_) | queue::Error::Refusing(_) => Exit::RedisFull,
        queue::Error::Config(_) | queue::Error::Evicts(_) | queue::Error::NewerSchema { .. } => Exit::Config,
        queue::Error::Denied(_)
        | queue::Error::Refused(_)
        | queue::Error::Reply { .. }
        | queue::Error::TooManyOperations { .. } => Exit::Failed,
    };
    (exit, error.to_string())
}

fn report_failure((exit, what): CommandFailure) -> Exit {
    render::error(what);
    exit
}

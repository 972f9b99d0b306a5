//! The world around the binary: a private Redis, a site, an ingest, the settings that workers and commands share.

mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, ToRedisArgs};
use rustix::process::{Pid, Signal, kill_process};
use url::Url;
use uuid::Uuid;
use wm_analyzer::config::{Config, ConfigSources, LoadedConfig};
use wm_analyzer::job::page::Version;
use wm_analyzer::job::{Job, JobId, VersionRef};
use wm_analyzer::queue::{Event, Selection, StoredJob};
use wm_testbed::body::Body;
use wm_testbed::fake_sentry::{FakeSentry, ResponseMode};
use wm_testbed::pages;
use wm_testbed::redis::{PrivateRedis, RedisOptions};
use wm_testbed::roles::Roles;
use wm_testbed::site::{Resource, Site};

pub(crate) use self::process::{CommandOutput, Worker, run, start};
pub(crate) use wm_testbed::gated_site::GatedSite;
pub(crate) use wm_testbed::processes::is_alive;
pub(crate) use wm_testbed::wait::until;

/// The rhythm of production, some twenty times as fast; two slots, because the machines of tests have two CPUs.
pub(crate) const FAST_TIMINGS: [(&str, &str); 9] = [
    ("sandbox.slots", "2"),
    ("worker.heartbeat", "100ms"),
    ("worker.ingest_every", "20ms"),
    ("worker.upkeep_every", "50ms"),
    ("policy.backoff_base", "20ms"),
    ("policy.backoff_max", "2h"),
    ("policy.probe_base", "20ms"),
    ("policy.probe_max", "300ms"),
    ("web.bind", "127.0.0.1:0"),
];
/// A moment that has not come by then does not come; generous, for a machine that does other things too.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Everything outside of the processes under test; dropping it ends it all.
pub(crate) struct World {
    pub(crate) site: Site,
    pub(crate) sentry: FakeSentry,
    pub(crate) queue: Roles,
    pub(crate) redis: PrivateRedis,
    pub(crate) settings: BTreeMap<String, String>,
    connection: OnceLock<MultiplexedConnection>,
}

impl World {
    /// A world with a Redis of its own.
    pub(crate) async fn new() -> Self {
        Self::with_redis_options(RedisOptions::default()).await
    }

    /// A world whose Redis is like this.
    pub(crate) async fn with_redis_options(options: RedisOptions) -> Self {
        let started = tokio::task::spawn_blocking(|| PrivateRedis::start(options)).await.unwrap();
        let redis = started.unwrap_or_else(|e| panic!("{e}"));
        let url = redis.url();
        Self::with_redis(redis, url).await
    }

    /// A world whose settings are the defaults, but for two slots and the addresses of the world itself.
    pub(crate) async fn with_default_settings() -> Self {
        let mut world = Self::new().await;
        for (key, _) in FAST_TIMINGS.iter().filter(|(key, _)| !["sandbox.slots", "web.bind"].contains(key)) {
            world.settings.remove(&env_var_name(key));
        }
        world
    }

    /// A world around this Redis, whose workers and commands find theirs by `url`.
    pub(crate) async fn with_redis(redis: PrivateRedis, url: String) -> Self {
        let (site, sentry) =
            (Site::start().await.unwrap(), FakeSentry::start(ResponseMode::Accept).await.unwrap());
        let mut settings: BTreeMap<_, _> =
            FAST_TIMINGS.iter().map(|(key, value)| (env_var_name(key), (*value).to_owned())).collect();
        settings.insert(env_var_name("queue.url"), url);
        settings.insert(env_var_name("sentry.dsn"), sentry.dsn());
        settings.insert(env_var_name("fetch.allow_networks"), "127.0.0.0/8".to_owned());
        let queue = Roles::connect(&config(&settings).queue).await.unwrap();
        Self { site, sentry, queue, redis, settings, connection: OnceLock::new() }
    }

    /// The same with one key of the configuration set, for workers and commands.
    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.settings.insert(env_var_name(key), value.into());
        self
    }

    /// A worker, started.
    pub(crate) fn worker(&self) -> Worker {
        Worker::start(&self.settings)
    }

    /// A worker of the same queue that is set otherwise.
    pub(crate) fn worker_with(&self, settings: &[(&str, &str)]) -> Worker {
        Worker::start(&self.settings_with(settings))
    }

    /// A worker of which one task (`heartbeat`, `ingest`, `upkeep`) panics once this file is there.
    pub(crate) fn worker_with_failing_task(&self, task: &str, file: &Path) -> Worker {
        self.worker_with_env(&[(&format!("WM_TEST_EXITS_{task}"), file.to_str().unwrap())])
    }

    /// A worker with these variables in its environment.
    pub(crate) fn worker_with_env(&self, variables: &[(&str, &str)]) -> Worker {
        Worker::start(&self.environment_with(variables))
    }

    fn environment_with(&self, variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = self.settings.clone();
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    }

    /// A command with these variables in its environment.
    pub(crate) async fn run_with_env(&self, variables: &[(&str, &str)], args: &[&str]) -> CommandOutput {
        run(args, &self.environment_with(variables), b"").await
    }

    /// A command that is set otherwise.
    pub(crate) async fn run_with(&self, settings: &[(&str, &str)], args: &[&str]) -> CommandOutput {
        run(args, &self.settings_with(settings), b"").await
    }

    fn settings_with(&self, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = self.settings.clone();
        all.extend(settings.iter().map(|(key, value)| (env_var_name(key), (*value).to_owned())));
        all
    }

    /// A command, run to its end with nothing on its standard input.
    pub(crate) async fn run(&self, args: &[&str]) -> CommandOutput {
        run(args, &self.settings, b"").await
    }

    /// A command that runs until it is told to end.
    pub(crate) fn start(&self, args: &[&str]) -> tokio::process::Child {
        start(args, &self.settings)
    }

    /// A command that is given something to read.
    pub(crate) async fn run_with_stdin(&self, args: &[&str], input: impl AsRef<[u8]>) -> CommandOutput {
        run(args, &self.settings, input.as_ref()).await
    }

    /// Asks Redis itself.
    pub(crate) async fn redis_cmd<T: FromRedisValue>(&self, command: &str, args: impl ToRedisArgs) -> T {
        if self.connection.get().is_none() {
            let client = redis::Client::open(self.redis.url()).unwrap();
            let _ = self.connection.set(client.get_multiplexed_async_connection().await.unwrap());
        }
        let mut connection = self.connection.get().unwrap().clone();
        redis::cmd(command).arg(args).query_async(&mut connection).await.unwrap()
    }

    /// Forgets the connection that [`redis_cmd`](Self::redis_cmd) uses: its server was another one.
    pub(crate) fn reconnect(&mut self) {
        self.connection = OnceLock::new();
    }

    /// How many keys there are of this pattern, behind the queue's prefix.
    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        self.redis_cmd("KEYS", key(pattern)).await
    }

    /// A field of a job.
    pub(crate) async fn field(&self, id: &JobId, field: &str) -> Option<String> {
        self.redis_cmd("HGET", &[&key(&format!("job:{id}")), field]).await
    }

    /// Puts payloads into the inbox, as any producer does.
    pub(crate) async fn push(&self, payloads: &[&[u8]]) {
        let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
        self.queue.producer.push(&payloads).await.unwrap();
    }

    /// Puts jobs into the inbox.
    pub(crate) async fn send(&self, jobs: &[Job]) {
        let payloads: Vec<_> = jobs.iter().map(Job::encode).collect();
        self.queue.producer.push(&payloads).await.unwrap();
    }

    /// A job about two pages of some size that differ; both are at the site, at `/<name>/from` and `/<name>/to`.
    pub(crate) fn pair(&self, name: &str, size_bytes: usize) -> Job {
        let (from, to) = pages::pair(name.bytes().map(u64::from).sum(), size_bytes);
        self.bodies(name, Body::html(from), Body::html(to))
    }

    /// A job about whatever is put at the site, at `/<name>/from` and `/<name>/to`.
    pub(crate) fn bodies(&self, name: &str, from: impl Into<Resource>, to: impl Into<Resource>) -> Job {
        let from = self.site.put(&format!("/{name}/from"), from);
        job(name, from, self.site.put(&format!("/{name}/to"), to))
    }

    /// A job that is work for a second or more, whatever the machine.
    pub(crate) fn heavy(&self, name: &str) -> Job {
        let page = |seed| Body::html(pages::pair(seed, 9_000_000).0);
        self.bodies(name, page(1), page(2))
    }

    /// A worker whose only job is in a child, which is stopped until it is resumed.
    pub(crate) async fn worker_with_job_in_child(&self) -> (Worker, Job, StoppedChild) {
        let held = self.heavy("held");
        let worker = self.worker();
        worker.until_logged("working").await;
        let child = self.stop_in_child(&worker, &held).await;
        (worker, held, child)
    }

    /// Sends a job to a worker that is idle, and stops the child that it is given to.
    pub(crate) async fn stop_in_child(&self, worker: &Worker, job: &Job) -> StoppedChild {
        self.send(std::slice::from_ref(job)).await;
        self.stop_next_child(worker).await
    }

    /// Stops the child that a worker has, or will have, at work.
    pub(crate) async fn stop_next_child(&self, worker: &Worker) -> StoppedChild {
        // Before that it has children that try its isolation.
        worker.until_logged("working").await;
        let slots = config(&self.settings).slots().unwrap() as usize;
        let mut child = None;
        until("it has a child", async || {
            child = worker.descendants().into_iter().nth(slots);
            child.is_some()
        })
        .await;
        let child = StoppedChild { pid: child.expect("it was found") };
        child.signal(Signal::STOP);
        child
    }

    /// A page at the site.
    pub(crate) fn page(&self) -> Url {
        self.site.put("/page", Body::html(pages::pair(7, 5_000).0))
    }

    /// All that happened.
    pub(crate) async fn events(&self) -> Vec<Event> {
        self.queue.events("0", 100_000).await.unwrap()
    }

    /// What happened to one job, in order.
    pub(crate) async fn job_events(&self, id: &JobId) -> Vec<String> {
        let events = self.events().await;
        events.into_iter().filter(|event| event.id == id.as_str()).map(|event| event.what).collect()
    }

    /// Waits until this happened to a job.
    pub(crate) async fn until_event(&self, id: &JobId, what: &str) {
        until(&format!("{id} is {what}"), async || {
            self.job_events(id).await.iter().any(|event| event == what)
        })
        .await;
    }

    /// The dead letters, newest first.
    pub(crate) async fn dead(&self) -> Vec<StoredJob> {
        self.queue.operator.dead(&Selection::default(), 1000).await.unwrap()
    }

    /// Waits until there are so many dead letters.
    pub(crate) async fn until_dead_letters(&self, count: usize) -> Vec<StoredJob> {
        until(&format!("{count} dead letters"), async || self.dead().await.len() >= count).await;
        let dead = self.dead().await;
        assert_eq!(dead.len(), count, "{dead:?}");
        dead
    }

    /// The stored report on a job's pair.
    pub(crate) async fn report(&self, job: &Job) -> Option<serde_json::Value> {
        let from = job.from.given().unwrap().uuid();
        let text = self.queue.report(from, job.to.uuid()).await.unwrap()?;
        Some(serde_json::from_str(&text).unwrap())
    }
}

/// A child that does nothing until it is resumed, so that its job is in flight for as long as a test wants.
pub(crate) struct StoppedChild {
    pub(crate) pid: u32,
}

impl StoppedChild {
    /// Lets it finish.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), signal).unwrap();
    }
}

/// The configuration that these variables make.
fn config(settings: &BTreeMap<String, String>) -> Config {
    let env = settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let loaded = LoadedConfig::load(&ConfigSources { env, ..ConfigSources::default() });
    loaded.unwrap_or_else(|errors| panic!("{errors:#?}")).config
}

/// `queue.lease` as a variable of the environment.
pub(crate) fn env_var_name(key: &str) -> String {
    format!("WM__{}", key.to_uppercase().replace('.', "__"))
}

/// A key of the queue.
pub(crate) fn key(rest: &str) -> String {
    format!("wm:{{analysis}}:{rest}")
}

/// A job with this id about two bodies.
pub(crate) fn job(id: &str, from: Url, to: Url) -> Job {
    let whole = |url| VersionRef::Inline(Box::new(Version::at(Uuid::new_v4(), url)));
    Job { id: JobId::parse(id).unwrap(), ..Job::new(whole(from), whole(to)) }
}

/// A job with this id that names its versions by uuid alone.
pub(crate) fn job_by_uuid(id: &str) -> Job {
    let uuid = || VersionRef::Uuid(Uuid::new_v4());
    Job { id: JobId::parse(id).unwrap(), ..Job::new(uuid(), uuid()) }
}

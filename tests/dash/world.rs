//! A queue that a dashboard has something to show of, and the dashboard itself as a process.

use std::collections::BTreeMap;

use url::Url;
use wm_analyzer::job::Job;
use wm_testbed::body::Body;
use wm_testbed::site::Resource;

use crate::harness::{GatedSite, Worker, World, job, until};

/// What a dashboard prints before its address, once it listens there.
const LISTENS: &str = "dashboard  ";
/// What the demo prints when only its pages are left.
const DEMO_ENDED: &str = "all jobs have ended";
/// A host of its own, which answers nothing and whose jobs wait.
const CLOSED_HOST: &str = "127.0.0.3";
/// Jobs at the closed host: more than may be at one host at once, so some of them wait for it.
const AT_CLOSED_HOST: usize = 8;

/// A worker that lives, and jobs in every state.
pub(crate) struct DashWorld {
    pub(crate) world: World,
    _worker: Worker,
    /// Where the jobs of [`done`](Self::DONE) and those that died were fetched from are `world.site`'s; this one is closed.
    pub(crate) closed_site: GatedSite,
}

impl DashWorld {
    /// Ids of jobs that are done.
    pub(crate) const DONE: [&str; 3] = ["done-0", "done-1", "done-2"];
    /// Ids of dead letters of kind `gone`.
    pub(crate) const GONE: [&str; 6] = ["gone-0", "gone-1", "gone-2", "gone-3", "gone-4", "gone-5"];
    /// Ids of dead letters of kind `forbidden_address`: the worker may not fetch from there.
    pub(crate) const FORBIDDEN: [&str; 2] = ["forbidden-0", "forbidden-1"];
    /// Payloads that are no jobs: dead letters of kind `decode`.
    pub(crate) const NO_JOBS: [&[u8]; 2] = [b"no job", b"\x1b[31mnor <b>this"];
    /// The id of a job whose host asks to come again in an hour.
    pub(crate) const IN_RETRY: &str = "in-retry";

    /// A queue of its own with jobs in every state, as a worker left them that goes on running.
    pub(crate) async fn new() -> Self {
        Self::in_world(World::new().await).await
    }

    /// The same in a world that is set as a test wants it.
    pub(crate) async fn in_world(world: World) -> Self {
        let worker = world.worker();
        let closed_site = GatedSite::closed_at(CLOSED_HOST).await;
        let dash = Self { world, _worker: worker, closed_site };
        dash.send_those_that_end().await;
        dash.send_those_that_wait().await;
        dash
    }

    async fn send_those_that_end(&self) {
        let world = &self.world;
        let page = || Body::html(&b"<!DOCTYPE html><title>A notice</title><p>The first version.</p>"[..]);
        let done = Self::DONE.map(|id| world.pair(id, 4_000));
        let gone = Self::GONE.map(|id| world.bodies(id, Resource::Status(404), page()));
        let elsewhere = |id: &str, side| Url::parse(&format!("http://10.0.0.1/{id}/{side}")).unwrap();
        let forbidden = Self::FORBIDDEN.map(|id| job(id, elsewhere(id, "from"), elsewhere(id, "to")));
        world.send(&[&done[..], &gone, &forbidden].concat()).await;
        world.push(&Self::NO_JOBS).await;
        world.until_dead_letters(Self::GONE.len() + Self::FORBIDDEN.len() + Self::NO_JOBS.len()).await;
        for job in &done {
            world.until_event(&job.id, "done").await;
        }
    }

    /// One in retry, and those at the closed host, of which some are fetched and the others wait for it.
    async fn send_those_that_wait(&self) {
        let world = &self.world;
        let retried = job(Self::IN_RETRY, self.closed_site.url("/busy"), world.page());
        world.send(std::slice::from_ref(&retried)).await;
        world.until_event(&retried.id, "retried").await;
        let url = |n, side| self.closed_site.url(&format!("/{n}/{side}"));
        let waiting: Vec<Job> =
            (0..AT_CLOSED_HOST).map(|n| job(&format!("waiting-{n}"), url(n, "from"), url(n, "to"))).collect();
        world.send(&waiting).await;
        until("they are fetched", async || world.queue.status().await.unwrap().in_flight > 0).await;
    }

    /// A dashboard on this queue, with these arguments beside its address.
    pub(crate) async fn dashboard(&self, args: &[&str]) -> Dashboard {
        Dashboard::start(&self.world, args).await
    }
}

/// A running `wm-analyzer dash`; dropped, it is killed.
pub(crate) struct Dashboard {
    pub(crate) process: Worker,
    pub(crate) url: Url,
}

impl Dashboard {
    /// Starts one at a free port of 127.0.0.1 and waits until it listens.
    pub(crate) async fn start(world: &World, args: &[&str]) -> Self {
        let args = [&["dash", "--bind", "127.0.0.1:0"], args].concat();
        Self::of(Worker::start_command(&args, &world.settings)).await
    }

    /// That of the demo, whose jobs have all ended.
    pub(crate) async fn of_demo() -> Self {
        let demo = Worker::start_command(&["demo", "--dash=127.0.0.1:0"], &BTreeMap::new());
        let dashboard = Self::of(demo).await;
        until("the demo has ended", async || dashboard.process.log_text().contains(DEMO_ENDED)).await;
        dashboard
    }

    async fn of(mut process: Worker) -> Self {
        let mut url = None;
        until("the dashboard listens", async || {
            let printed = process.log_text();
            assert!(process.is_running(), "the dashboard ended: {printed}");
            url = printed.lines().find_map(|line| Url::parse(line.split_once(LISTENS)?.1.trim()).ok());
            url.is_some()
        })
        .await;
        Self { process, url: url.unwrap() }
    }

    /// The address of one of its pages, with its query.
    pub(crate) fn page(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }
}

//! `dash`: serves the dashboard until TERM or INT.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::run::{CommandFailure, config_failure, failure, queue_failure};
use crate::config::Config;
use crate::config::assemble::VERSION;
use crate::ops::{Exit, render};
use crate::queue::OperatorHandle;
use crate::results::ResultStore;
use crate::telemetry::logs;
use crate::web::dash::{Parts, Server};

pub(super) async fn dash(config: &Config) -> Result<Exit, CommandFailure> {
    logs::init(&config.log).map_err(config_failure)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(failure)?;
    let queue = OperatorHandle::connect(&config.queue, config.sink()).await.map_err(queue_failure)?;
    let parts = Parts {
        config: config.dash.clone(),
        queue_config: config.queue.clone(),
        queue,
        sandbox: config.sandbox.clone(),
        results: ResultStore::open(&config.results).map_err(config_failure)?,
        environment: config.sentry.environment.clone(),
        version: VERSION.to_owned(),
    };
    let server = Server::bind(parts).await.map_err(|e| config_failure(format!("dash.bind: {e}")))?;
    render::note(format!("dashboard  http://{}/", server.address()));
    let stopped = CancellationToken::new();
    tokio::select! {
        ended = server.serve(stopped.clone()) => ended.map_err(failure)?,
        _ = terminated.recv() => stopped.cancel(),
        _ = tokio::signal::ctrl_c() => stopped.cancel(),
    }
    Ok(Exit::Ok)
}

//! The dashboard: `wm-analyzer dash`.
//!
//! ```text
//! request -> gate (host, origin, role, 2 s) -> a page: reads by `ops`, drawn by maud
//!                                           -> an act: plan -> confirmed -> `ops` -> operation page
//! live: one look at the queue every 2 s, for all open pages together
//! ```
//!
//! It opens no sandbox, fetches nothing and needs no worker. All changes go through the functions of
//! [`crate::ops`] that the commands call: with the same plan, audit and undo.
//!
//! Invariants:
//! - All untrusted text goes through maud, which escapes it.
//! - A request ends within 2 s and costs Redis a bounded number of commands; open pages cost it as much as one.
//! - Pages open while Redis is slow, full or absent, and say what is unknown.

mod access;
mod acts;
mod assets;
mod audit;
mod change;
mod chart;
mod every_step;
mod find;
mod gate;
mod groups;
mod hosts;
mod job;
mod jobs;
mod live;
mod login;
mod memory;
mod overview;
mod page;
mod results;
mod session;
mod settings;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::access::Config;
use self::acts::plans::Plans;
use self::acts::running::RunningActions;
use self::live::Live;
use self::session::Sessions;
use super::listener::{BoundedListener, ConnectionLimits, PeerAddress};
use crate::queue::{self, OperatorHandle};
use crate::results::ResultStore;
use crate::sandbox;

/// Time for a request, after which a person wonders.
const REQUEST_TIME: Duration = Duration::from_secs(2);
/// Time for what a page reads, so that the page itself is ready in time.
const READ_TIME: Duration = Duration::from_millis(1_700);
/// Longest form: an edited payload, and its reason.
const FORM_MAX_BYTES: usize = 128 * 1024;
/// The stream of the live parts.
const EVENTS: &str = "/events";

/// Browsers open few connections, but a proxy has one address for all of them. A page of events stays open: after 10
/// minutes its browser connects anew by itself. Each holds some 64 KiB.
const LIMITS: ConnectionLimits = ConnectionLimits {
    connections: 512,
    per_peer: 400,
    request_bytes: FORM_MAX_BYTES + 16 * 1024,
    request: Duration::from_secs(10),
    life: Duration::from_secs(600),
};

/// What the dashboard is made of.
pub struct Parts {
    /// Its section of the configuration.
    pub config: Config,
    /// That of the queue.
    pub queue_config: queue::Config,
    /// The queue.
    pub queue: OperatorHandle,
    /// The limits of children, below which those that an operator grants must stay.
    pub sandbox: sandbox::Config,
    /// Where whole results are; `None` for nowhere.
    pub results: Option<ResultStore>,
    /// The environment, as alerts name it.
    pub environment: String,
    /// This build.
    pub version: String,
}

/// All that pages share.
struct Dashboard {
    config: Config,
    queue_config: queue::Config,
    queue: OperatorHandle,
    sandbox: sandbox::Config,
    results: Option<ResultStore>,
    environment: String,
    version: String,
    sessions: Sessions,
    live: Live,
    plans: Plans,
    running: RunningActions,
}

/// An open port that does not serve yet.
pub struct Server {
    tcp: TcpListener,
    address: SocketAddr,
    dashboard: Arc<Dashboard>,
}

impl Server {
    /// Opens the port.
    ///
    /// # Errors
    /// Why it cannot be opened, with its address.
    pub async fn bind(parts: Parts) -> std::io::Result<Self> {
        let Parts { config, queue_config, queue, sandbox, results, environment, version } = parts;
        let wanted = config.bind;
        let because =
            |e: std::io::Error| std::io::Error::new(e.kind(), format!("cannot listen on {wanted}: {e}"));
        let tcp = TcpListener::bind(wanted).await.map_err(because)?;
        let address = tcp.local_addr().map_err(because)?;
        let live = Live::new(queue_config.clone(), queue.clone());
        let (sessions, plans, running) = (Sessions::default(), Plans::default(), RunningActions::default());
        let dashboard = Dashboard {
            config,
            queue_config,
            queue,
            sandbox,
            results,
            environment,
            version,
            sessions,
            live,
            plans,
            running,
        };
        Ok(Self { tcp, address, dashboard: Arc::new(dashboard) })
    }

    /// Its address; with the actual port if `:0` was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stopped` is cancelled.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn serve(self, stopped: CancellationToken) -> std::io::Result<()> {
        let Self { tcp, dashboard, .. } = self;
        let listener = BoundedListener::new(tcp, LIMITS);
        let service = router(Arc::clone(&dashboard)).into_make_service_with_connect_info::<PeerAddress>();
        let serving = axum::serve(listener, service);
        tokio::select! {
            ended = serving.into_future() => ended,
            () = dashboard.live.run() => Ok(()),
            () = dashboard.plans.expire() => Ok(()),
            () = stopped.cancelled() => Ok(()),
        }
    }
}

fn router(dashboard: Arc<Dashboard>) -> Router {
    Router::new()
        .route("/", get(overview::show))
        .route("/groups", get(groups::show))
        .route("/jobs", get(jobs::show))
        .route("/job", get(job::show))
        .route("/change", get(change::show))
        .route("/results", get(results::show))
        .route("/find", get(find::show))
        .route("/settings", get(settings::show))
        .route("/acts/{act}", get(acts::bulk::show).post(acts::bulk::act))
        .route("/switch/{switch}", get(acts::single::show).post(acts::single::act))
        .route("/operation", get(acts::operation::show))
        .route("/operation/stop", post(acts::operation::stop))
        .route("/hosts", get(hosts::show))
        .route("/workers", get(workers::show))
        .route("/audit", get(audit::show))
        .route(EVENTS, get(overview::events))
        .route(login::PATH, get(login::show).post(login::log_in))
        .route(login::LOGOUT, post(login::log_out))
        .route(assets::STYLE, get(assets::style))
        .route(assets::SCRIPT, get(assets::script))
        .route(assets::ICON, get(assets::icon))
        .fallback(page::not_found)
        .layer(DefaultBodyLimit::max(FORM_MAX_BYTES))
        .layer(from_fn_with_state(Arc::clone(&dashboard), gate::pass))
        .with_state(dashboard)
}

//! A headless Chromium with an empty profile and its chromedriver, as processes that end with their guard.
//!
//! # Why
//! chromedriver speaks to its browser through a pipe (`--remote-debugging-pipe`): when chromedriver is gone, however it
//! went, Chromium ends by itself, and no port is open that could drive it. Name resolution knows no name but loopback's,
//! so nothing that a hostile page asks for leaves the machine; what it asked for is seen in [`Evidence`].
//!
//! [`Evidence`]: crate::evidence::Evidence

use std::ffi::OsString;
use std::fs::{self, File};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::{Capabilities, WebDriver};
use tokio::sync::{Semaphore, SemaphorePermit};
use wm_testbed::kill_on_exit::KillOnExit;
use wm_testbed::peers::{is_available, skip_without};
use wm_testbed::processes::{descendants, is_alive};

use crate::evidence::DOCUMENT_START;
use crate::harness::until;

/// Browsers at once: a browser that renders keeps a CPU busy, and the machines of tests have two.
static BROWSERS: Semaphore = Semaphore::const_new(2);

/// What chromedriver prints before the port that it chose.
const LISTENS: &str = "was started successfully on port ";
/// The longest that one command may take: loading a page or running axe takes seconds on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long processes may take to be gone after `SIGKILL`, in steps of 10 ms.
const KILL_STEPS: u32 = 200;

const FLAGS: [&str; 14] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--mute-audio",
    // As on a phone: the whole width is the page's.
    "--hide-scrollbars",
    // Containers often give /dev/shm 64 MB, and a full one ends the page.
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
];

/// A running browser with one window; dropped, it is killed and its profile removed.
pub(crate) struct Browser {
    pub(crate) driver: WebDriver,
    /// Whether the scripts of its page run: see [`View::scripts`](crate::page::View::scripts).
    pub(crate) runs_scripts: AtomicBool,
    process: Option<KillOnExit>,
    _profile: TempDir,
    _permit: SemaphorePermit<'static>,
}

impl Browser {
    /// Starts a browser; `None` where none is installed, or none can start (an ordinary user's has a sandbox, which not
    /// every container allows); that is printed.
    pub(crate) async fn start() -> Option<Self> {
        if !is_available("chromium", &["--version"]) || !is_available("chromedriver", &["--version"]) {
            return None;
        }
        // The client could speak TLS, so it asks for a provider; that another test installed it is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let permit = BROWSERS.acquire().await.unwrap();
        let profile = tempfile::Builder::new().prefix("wm-browser-").tempdir().unwrap();
        let (process, port) = start_chromedriver(&profile).await;
        let server = format!("http://127.0.0.1:{port}");
        let session =
            WebDriver::builder(server, capabilities(&profile)).request_timeout(COMMAND_TIMEOUT).await;
        let driver = session.inspect_err(|e| skip_without(&format!("chromium that starts: {e}"))).ok()?;
        let runs_scripts = AtomicBool::new(true);
        let browser =
            Self { driver, runs_scripts, process: Some(process), _profile: profile, _permit: permit };
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", json!({ "source": DOCUMENT_START })).await;
        Some(browser)
    }

    /// Sends a command of the DevTools protocol.
    pub(crate) async fn cdp(&self, method: &str, params: Value) -> Value {
        let sent = self.driver.cdp().send_raw(method, params).await;
        sent.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// The process ids of chromedriver and all its browser's processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let driver = self.process.as_ref().map(KillOnExit::id);
        driver.into_iter().flat_map(|pid| descendants(pid).into_iter().chain([pid])).collect()
    }
}

impl Drop for Browser {
    #[expect(
        clippy::disallowed_methods,
        reason = "a drop cannot await, and the browser is gone in milliseconds"
    )]
    fn drop(&mut self) {
        // Or its own guard would ask a chromedriver that is gone to end the session.
        let _ = self.driver.clone().leak();
        let pids = self.pids();
        // The browser too, and at once: what still writes into the profile would keep it from being removed.
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(process) = self.process.take() {
            process.kill();
        }
        for _ in 0..KILL_STEPS {
            if !pids.iter().any(|pid| is_alive(*pid)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Starts chromedriver at a port of its choice, with a home in `profile`, which is also where its log is.
async fn start_chromedriver(profile: &TempDir) -> (KillOnExit, u16) {
    let log = profile.path().join("chromedriver.log");
    let mut words: Vec<OsString> = vec!["env".into()];
    for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"] {
        words.push(format!("{variable}={}", profile.path().display()).into());
    }
    words.extend(["chromedriver".into(), "--port=0".into()]);
    let mut process = KillOnExit::start(&words, profile.path(), File::create(&log).unwrap()).unwrap();
    let mut port = None;
    until("chromedriver listens", async || {
        let printed = fs::read_to_string(&log).unwrap();
        assert!(process.exit_status().is_none(), "chromedriver ended: {printed}");
        port =
            printed.lines().find_map(|line| line.split_once(LISTENS)?.1.trim_end_matches('.').parse().ok());
        port.is_some()
    })
    .await;
    (process, port.unwrap())
}

fn capabilities(profile: &TempDir) -> Capabilities {
    let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
    flags.push(format!("--user-data-dir={}", profile.path().join("profile").display()));
    // Chromium refuses to have its sandbox where it is root.
    if rustix::process::geteuid().is_root() {
        flags.push("--no-sandbox".to_owned());
    }
    let all = json!({
        "browserName": "chrome",
        // A dialog that is not the page's own (`beforeunload`) must not hold up the next command.
        "unhandledPromptBehavior": "dismiss",
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "goog:chromeOptions": { "args": flags },
    });
    let Value::Object(all) = all else { unreachable!("written as an object") };
    Capabilities::from(all)
}

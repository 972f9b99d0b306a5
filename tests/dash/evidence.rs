//! What a page did while it was open: what it printed, what its policy refused, whether a payload ran, whom it asked.

use serde_json::Value;
use url::Url;

use crate::browser::Browser;

/// Evaluated in every frame before the first script of its document.
///
/// What it sees is written to the console, from where it is read even when the page has gone elsewhere since. A payload that
/// runs calls `__xss(id)`, opens a dialog, or sets a title that begins with `xss `.
pub(crate) const DOCUMENT_START: &str = r#"(() => {
  const print = console.error.bind(console);
  const report = (kind, what) => print('wm-evidence ' + JSON.stringify({ kind, what: String(what) }));
  window.__xss = (id) => report('ran', id);
  for (const name of ['alert', 'confirm', 'prompt', 'print']) window[name] = (text) => report('dialog', `${name} ${text}`);
  const title = Object.getOwnPropertyDescriptor(Document.prototype, 'title');
  Object.defineProperty(document, 'title', { ...title, set(text) {
    if (String(text).startsWith('xss ')) report('ran', String(text).slice(4));
    title.set.call(this, text);
  } });
  document.addEventListener('securitypolicyviolation', (e) =>
    report('csp', `${e.effectiveDirective} refuses ${e.blockedURI} ${e.sample}`.trim()));
})();"#;

/// What precedes each line of [`DOCUMENT_START`] in the console, as a JSON string begins.
const MARK: &str = "\"wm-evidence ";

/// What a page did, in order.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// What scripts and the browser itself printed: level and text.
    pub(crate) console: Vec<(String, String)>,
    /// What the Content Security Policy refused.
    pub(crate) csp_violations: Vec<String>,
    /// Ids of the payloads that ran.
    pub(crate) ran: Vec<String>,
    /// Dialogs that were asked for; none of them was opened.
    pub(crate) dialogs: Vec<String>,
    /// Addresses that were asked, without those that the policy refused.
    pub(crate) requests: Vec<String>,
}

impl Evidence {
    /// Requests to any other origin than that of `own`.
    pub(crate) fn foreign_requests(&self, own: &Url) -> Vec<&str> {
        let foreign = |url: &&String| Url::parse(url).map_or(true, |url| url.origin() != own.origin());
        self.requests.iter().filter(foreign).map(String::as_str).collect()
    }

    /// Fails unless the page at `own` printed nothing, was refused nothing, ran no payload and sent no request to another origin.
    #[track_caller]
    pub(crate) fn assert_clean(&self, own: &Url) {
        assert_eq!(self.ran, [""; 0], "a payload ran: {self:#?}");
        assert_eq!(self.dialogs, [""; 0], "a dialog was asked for: {self:#?}");
        assert_eq!(self.csp_violations, [""; 0], "the policy refused something: {self:#?}");
        assert_eq!(self.foreign_requests(own), [""; 0], "another origin was asked");
        assert_eq!(self.console, [], "something was printed");
    }

    /// Adds what happened later.
    pub(crate) fn append(&mut self, mut later: Self) {
        self.console.append(&mut later.console);
        self.csp_violations.append(&mut later.csp_violations);
        self.ran.append(&mut later.ran);
        self.dialogs.append(&mut later.dialogs);
        self.requests.append(&mut later.requests);
    }

    fn note_console(&mut self, level: String, message: String) {
        let reported = message.find(MARK).and_then(|at| {
            let text: String = serde_json::from_str(&message[at..]).ok()?;
            serde_json::from_str::<Value>(&text[MARK.len() - 1..]).ok()
        });
        let Some(report) = reported else {
            self.console.push((level, message));
            return;
        };
        let what = report["what"].as_str().unwrap_or_default().to_owned();
        match report["kind"].as_str() {
            Some("ran") => self.ran.push(what),
            Some("dialog") => self.dialogs.push(what),
            Some("csp") => self.csp_violations.push(what),
            kind => panic!("DOCUMENT_START reports no {kind:?}"),
        }
    }

    /// Requests by their numbers, without those that a policy refused before they were sent.
    fn note_network(&mut self, messages: &[Value]) {
        let refused: Vec<&Value> = messages
            .iter()
            .filter(|m| m["method"] == "Network.loadingFailed" && m["params"]["blockedReason"] == "csp")
            .map(|m| &m["params"]["requestId"])
            .collect();
        for message in messages.iter().filter(|message| message["method"] == "Network.requestWillBeSent") {
            let params = &message["params"];
            let url = params["request"]["url"].as_str().unwrap_or_default();
            // Those of `chrome:` are the browser's own: it begins with a page of its own.
            let leaves_the_page =
                !["data:", "blob:", "about:", "chrome:"].iter().any(|scheme| url.starts_with(scheme));
            if leaves_the_page && !refused.contains(&&params["requestId"]) {
                self.requests.push(url.to_owned());
            }
        }
        // Those that the overridden functions do not see: `beforeunload`.
        let opened = messages.iter().filter(|message| message["method"] == "Page.javascriptDialogOpening");
        self.dialogs.extend(opened.map(|message| message["params"]["type"].to_string()));
    }
}

impl Browser {
    /// What happened since it was asked last. What a page still has to run, its frames' first scripts and its images'
    /// events included, is waited for.
    pub(crate) async fn evidence(&self) -> Evidence {
        self.settle().await;
        let mut evidence = Evidence::default();
        for entry in self.driver.get_log("browser").await.unwrap() {
            evidence.note_console(entry.level, entry.message);
        }
        let network = self.driver.get_log("performance").await.unwrap();
        let messages = network.iter().map(|entry| {
            let mut message: Value = serde_json::from_str(&entry.message).unwrap();
            message["message"].take()
        });
        evidence.note_network(&messages.collect::<Vec<_>>());
        evidence
    }
}

//! axe-core, the accessibility checker, run in the page that is open.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use wm_testbed::peers::skip_without;

use crate::browser::Browser;

/// Where the steps of `.ci/run` install it.
const AXE: &str = "target/ci/node_modules/axe-core/axe.min.js";

/// A rule that the page breaks, by what it does to people.
#[derive(Debug, Deserialize)]
pub(crate) struct Violation {
    /// The rule, e.g. `color-contrast`.
    pub(crate) id: String,
    /// `serious` or `critical`.
    pub(crate) impact: String,
    /// What to do.
    pub(crate) help: String,
    /// Selectors of what breaks it.
    pub(crate) nodes: Vec<String>,
}

impl Browser {
    /// What axe finds that is serious or critical; `None` where axe-core is not installed, which is printed.
    /// It is a script of the page while it runs, so it needs a view with scripts.
    pub(crate) async fn axe(&self) -> Option<Vec<Violation>> {
        let Ok(source) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE)) else {
            skip_without("axe-core");
            return None;
        };
        // Styles would be asked for once more to be read: they are our own, and readable where they are.
        let run = "const done = arguments[arguments.length - 1];
            axe.run(document, { preload: false, resultTypes: ['violations'] }).then((found) => done(
              found.violations.filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) =>
                ({ id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map((n) => n.target.join(' ')) }))
            ), (e) => done(String(e)));";
        self.eval(&source, &[]).await;
        let found: Value = self.driver.execute_async(run, []).await.unwrap().json().clone();
        Some(serde_json::from_value(found.clone()).unwrap_or_else(|e| panic!("{e}: {found}")))
    }

    /// Fails where axe finds something serious.
    pub(crate) async fn assert_accessible(&self) {
        let Some(violations) = self.axe().await else { return };
        assert!(violations.is_empty(), "{}: {violations:#?}", self.url().await);
    }
}

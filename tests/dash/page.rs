//! The page that a browser shows: opened in a view, read, clicked, typed into, walked through by keys, and its picture taken.

use std::path::Path;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use thirtyfour::{Key, WebElement};
use url::Url;

use crate::browser::Browser;
use crate::harness::until;

/// A picture is cut there: a page that is longer has lost its bound, and a test that wants to see so says it by size.
const MAX_SCREENSHOT_HEIGHT: f64 = 10_000.0;

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
    pub(crate) reduced_motion: bool,
    /// Whether the page's own scripts run; what a test evaluates does in any case.
    pub(crate) scripts: bool,
}

impl View {
    pub(crate) const DESKTOP: Self =
        Self { width: 1280, height: 800, dark: false, reduced_motion: false, scripts: true };
    pub(crate) const PHONE: Self = Self { width: 375, height: 812, ..Self::DESKTOP };

    pub(crate) const fn dark(self) -> Self {
        Self { dark: true, ..self }
    }

    pub(crate) const fn reduced_motion(self) -> Self {
        Self { reduced_motion: true, ..self }
    }

    pub(crate) const fn without_scripts(self) -> Self {
        Self { scripts: false, ..self }
    }
}

/// What a person takes an element for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Button,
    Choice,
    Link,
    TextField,
}

impl Role {
    fn selector(self) -> &'static str {
        match self {
            Self::Button => "button, summary, input[type=button], input[type=submit], [role=button]",
            Self::Choice => "select, [role=combobox], [role=listbox]",
            Self::Link => "a[href], [role=link]",
            Self::TextField => {
                "textarea, input:not([type]), [role=textbox], \
                 input:is([type=text], [type=search], [type=url], [type=password], [type=number])"
            }
        }
    }
}

/// The element that has the focus.
#[derive(Debug, Deserialize)]
pub(crate) struct Focus {
    /// Its tag, in lower case.
    pub(crate) tag: String,
    /// What it is called on the page.
    pub(crate) name: String,
    /// It is marked by an outline that can be seen.
    pub(crate) is_outlined: bool,
    /// Some of it is inside the window.
    pub(crate) is_in_view: bool,
}

/// A page that is wider than its window.
#[derive(Debug, Deserialize)]
pub(crate) struct Overflow {
    pub(crate) page_width: u32,
    pub(crate) window_width: u32,
    /// Elements that reach beyond the window, at most ten.
    pub(crate) elements: Vec<String>,
}

/// `nameOf`: the label, the text, or what else names an element to who looks at or listens to a page.
const NAME_OF: &str = r#"
const nameOf = (e) => {
  const by = (e.getAttribute('aria-labelledby') || '').split(/\s+/).map((id) => document.getElementById(id)?.innerText || '');
  const label = [...(e.labels || [])].map((l) => {
    const copy = l.cloneNode(true);
    copy.querySelectorAll('input, select, textarea, button').forEach((control) => control.remove());
    return copy.textContent;
  }).join(' ');
  const button = e.matches('input') && ['submit', 'button'].includes(e.type) ? e.value : '';
  const text = e.matches('input, textarea, select') ? '' : e.innerText;
  const names = [by.join(' '), e.getAttribute('aria-label'), label, button, text, e.title, e.placeholder];
  return (names.find((n) => n && n.trim()) || '').trim().replace(/\s+/g, ' ');
};
"#;

impl Browser {
    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &Url, view: View) {
        self.set_view(view).await;
        self.driver.goto(url.as_str()).await.unwrap_or_else(|e| panic!("{url}: {e}"));
    }

    /// Looks at the page that is open in another way.
    pub(crate) async fn set_view(&self, view: View) {
        let (width, height) = (view.width, view.height);
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if view.dark { "dark" } else { "light" };
        let motion = if view.reduced_motion { "reduce" } else { "no-preference" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": motion },
        ]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        self.cdp("Emulation.setScriptExecutionDisabled", json!({ "value": !view.scripts })).await;
        self.runs_scripts.store(view.scripts, Ordering::Relaxed);
    }

    /// The title of the page, as its tab shows it.
    pub(crate) async fn title(&self) -> String {
        self.driver.title().await.unwrap()
    }

    /// Where the browser is.
    pub(crate) async fn url(&self) -> Url {
        self.driver.current_url().await.unwrap()
    }

    /// Runs the body of a function in the page, regardless of its policy, and returns the result.
    pub(crate) async fn eval(&self, script: &str, args: &[Value]) -> Value {
        let ran = self.driver.execute(script, args).await;
        ran.unwrap_or_else(|e| panic!("{script}: {e}")).json().clone()
    }

    /// Waits until what was begun has been drawn: two frames, each after the tasks that were waiting. Nothing is waited
    /// for where no scripts run, the call after a frame included.
    pub(crate) async fn settle(&self) {
        if !self.runs_scripts.load(Ordering::Relaxed) {
            return;
        }
        let frames = "const done = arguments[arguments.length - 1];
            const frame = (then) => setTimeout(() => requestAnimationFrame(then), 0);
            frame(() => frame(() => done()));";
        // A page that goes elsewhere meanwhile takes its script along.
        let _ = self.driver.execute_async(frames, []).await;
    }

    /// The text of everything visible that the selector finds.
    pub(crate) async fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])]
            .filter((e) => e.checkVisibility({ visibilityProperty: true })).map((e) => e.innerText.trim());";
        serde_json::from_value(self.eval(script, &[selector.into()]).await).unwrap()
    }

    /// The text of the one visible element that the selector finds.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let mut texts = self.texts(selector).await;
        assert_eq!(texts.len(), 1, "{selector} finds {texts:?}");
        texts.remove(0)
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn until(&self, what: &str, expression: &str) {
        let script = format!("return Boolean({expression});");
        until(what, async || self.eval(&script, &[]).await == true).await;
    }

    /// Waits until this stands in the visible text of what the selector finds.
    pub(crate) async fn until_text(&self, selector: &str, text: &str) {
        let reached = async || self.texts(selector).await.iter().any(|found| found.contains(text));
        until(&format!("{selector} says {text:?}"), reached).await;
    }

    /// The one visible element of this role and name.
    pub(crate) async fn find(&self, role: Role, name: &str) -> WebElement {
        let all = format!(
            "{NAME_OF} return [...document.querySelectorAll(arguments[0])]
               .filter((e) => e.checkVisibility({{ visibilityProperty: true }}))"
        );
        let args = [role.selector().into(), name.into()];
        let found = format!("{all}.filter((e) => nameOf(e) === arguments[1]);");
        let mut found = self.driver.execute(found, args.to_vec()).await.unwrap().elements().unwrap();
        if found.len() != 1 {
            let names = self.eval(&format!("{all}.map(nameOf);"), &args).await;
            panic!("{} of {role:?} {name:?}; there are {names}", found.len());
        }
        found.remove(0)
    }

    /// Clicks at the one element of this role and name; something that covers it is a failure.
    pub(crate) async fn click(&self, role: Role, name: &str) {
        let clicked = self.find(role, name).await.click().await;
        clicked.unwrap_or_else(|e| panic!("{role:?} {name:?}: {e}"));
    }

    /// Replaces what stands in a text field.
    pub(crate) async fn fill(&self, name: &str, text: &str) {
        let field = self.find(Role::TextField, name).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Chooses what is called so in a list.
    pub(crate) async fn choose(&self, name: &str, option: &str) {
        let list = self.find(Role::Choice, name).await;
        list.send_keys(option).await.unwrap();
    }

    /// Presses and releases a key, wherever the focus is.
    pub(crate) async fn press(&self, key: Key) {
        self.driver.action_chain().key_down(key.value()).key_up(key.value()).perform().await.unwrap();
    }

    /// The same with the shift key held.
    pub(crate) async fn press_with_shift(&self, key: Key) {
        let shift = Key::Shift.value();
        let keys = self.driver.action_chain().key_down(shift).key_down(key.value()).key_up(key.value());
        keys.key_up(shift).perform().await.unwrap();
    }

    /// Types, wherever the focus is.
    pub(crate) async fn type_text(&self, text: &str) {
        self.driver.action_chain().send_keys(text).perform().await.unwrap();
    }

    /// What has the focus; `None` where the page as a whole has it.
    pub(crate) async fn focus(&self) -> Option<Focus> {
        let script = r#"
            const e = document.activeElement;
            if (!e || e === document.body || e === document.documentElement) return null;
            const [style, box] = [getComputedStyle(e), e.getBoundingClientRect()];
            const isClear = /^rgba\(.*, 0\)$/.test(style.outlineColor);
            return {
              tag: e.localName,
              name: nameOf(e),
              is_outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1 && !isClear,
              is_in_view: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0
                && box.top < innerHeight && box.left < innerWidth,
            };"#;
        serde_json::from_value(self.eval(&format!("{NAME_OF}{script}"), &[]).await).unwrap()
    }

    /// Whether the page has to be moved sideways to be read, and because of what.
    pub(crate) async fn overflow(&self) -> Option<Overflow> {
        let script = r#"
            const [page, width] = [document.documentElement.scrollWidth, innerWidth];
            if (page <= width) return null;
            const wide = [...document.body.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > width);
            const name = (e) => e.localName + (e.id && '#' + e.id) + [...e.classList].map((c) => '.' + c).join('');
            return { page_width: page, window_width: width, elements: wide.slice(0, 10).map(name) };"#;
        serde_json::from_value(self.eval(script, &[]).await).unwrap()
    }

    /// Writes a picture of the whole page, also of what is below the window.
    pub(crate) async fn screenshot(&self, to: &Path) {
        self.screenshot_of_top(to, MAX_SCREENSHOT_HEIGHT).await;
    }

    /// Writes a picture of the page down to this height.
    pub(crate) async fn screenshot_of_top(&self, to: &Path, height: f64) {
        self.settle().await;
        let size = self.cdp("Page.getLayoutMetrics", json!({})).await["cssContentSize"].take();
        let height = size["height"].as_f64().unwrap().min(height);
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1 });
        let params = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.cdp("Page.captureScreenshot", params).await;
        let bytes = BASE64.decode(picture["data"].as_str().unwrap()).unwrap();
        tokio::fs::write(to, bytes).await.unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    }
}

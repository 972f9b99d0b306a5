//! Skips pairs by what is known before fetching: the uuids, the schemes, the declared media types, the
//! extensions.
//!
//! These are the rules of web-monitoring-db's analysis job, one table each; nothing here reads a body (that
//! is up to [`crate::analysis::sniff`]) or uses the network.
//!
//! Invariant: every refusal is a [`Skip`] that names the side and the value that caused it; none is silent.
//!
//! # Why
//! - A declared media type *overrides* the extension: `…/report.pdf` that redirects to a page is a page.
//! - Unspecific media types (`application/octet-stream` and the like) are skipped, as in `AnalyzeChangeJob`.
//!   They could be sniffed instead, but the db app derives the type at import from the same bytes: where it
//!   could not determine one, a diff is useless to a person. An operator who wants them lists them in
//!   `extra_allowed_media_types`.
//! - Extensions are matched case-insensitively (`.PDF` is a PDF too); `AnalyzeChangeJob` let those through.
//! - For an address that is not a valid URL, the extension is taken from its text; without one it is allowed.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::job::media_type::MediaType;
use crate::job::page::{PagePair, Version};
use crate::job::skip::{Skip, SkipReason};
use crate::job::text::quote;

/// Media types of pages, besides `text/*`. Source: `ALLOWED_MEDIA` of `AnalyzeChangeJob`.
const ALLOWED_MEDIA: [&str; 2] = ["text/html", "application/xhtml+xml"];

/// `text/*` types that are not pages. Source: `DISALLOWED_MEDIA` of `AnalyzeChangeJob`.
const DENIED_MEDIA: [&str; 1] = ["text/calendar"];

/// Extensions that are not pages. Source: `DISALLOWED_EXTENSIONS` of `AnalyzeChangeJob`; task-sheets has the
/// same list.
const DENIED_EXTENSIONS: [&str; 29] = [
    "athruz", "avi", "doc", "docbook", "docx", "dsselect", "eps", "epub", "exe", "gif", "jpeg", "jpg", "kmz",
    "m2t", "mov", "mp3", "mpg", "pdf", "png", "ppt", "pptx", "radar", "rtf", "wmv", "xls", "xlsm", "xlsx",
    "xml", "zip",
];

/// Additionally allowed by task-sheets, the successor of `AnalyzeChangeJob`: generic XML. Source: its
/// `ALLOWED_MEDIA`, whose other rows are synonyms above.
const TASK_SHEETS_ALLOWED: [&str; 1] = ["application/xml"];

/// Additionally denied by task-sheets: feeds. Source: its `DISALLOWED_MEDIA`.
const TASK_SHEETS_DENIED: [&str; 1] = ["application/rss+xml"];

/// The project whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterRules {
    /// The rules of web-monitoring-db's analysis job.
    AnalysisJob,
    /// The same, with the additions of web-monitoring-task-sheets.
    TaskSheets,
}

impl FilterRules {
    /// Media types allowed and denied in addition to the tables.
    fn additions(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::AnalysisJob => (&[], &[]),
            Self::TaskSheets => (&TASK_SHEETS_ALLOWED, &TASK_SHEETS_DENIED),
        }
    }
}

/// The rules to apply, and an operator's additions to the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The project whose rules apply.
    pub rules: FilterRules,
    /// Skip versions that declare no media type, instead of checking their extension.
    pub require_media_type: bool,
    /// Additional extensions that are not pages, with or without a dot, in any case.
    pub extra_extensions: Vec<String>,
    /// Additional media types that are not pages; they override everything that allows.
    pub extra_denied_media_types: Vec<String>,
    /// Additional media types to fetch and sniff.
    pub extra_allowed_media_types: Vec<String>,
}

/// Checks a pair by its references alone.
///
/// # Errors
/// The first [`Skip`] that applies: the pair as a whole, then the schemes, then each side's declarations; the
/// older side first.
pub(crate) fn filter_by_address(pair: &PagePair, config: &Config) -> Result<(), Skip> {
    if pair.from.uuid == pair.to.uuid {
        let detail = format!("from and to are the same version {}", pair.to.uuid);
        return Err(Skip::new(SkipReason::SameVersion, detail));
    }
    // Equal times are none: the app shows milliseconds and has microseconds.
    if let (Some(from), Some(to)) = (pair.from.capture_time, pair.to.capture_time)
        && from > to
    {
        let detail = format!("from was captured at {from}, after to at {to}");
        return Err(Skip::new(SkipReason::WrongOrder, detail));
    }
    for (side, version) in pair.sides() {
        require_http(version).map_err(|skip| skip.on(side))?;
    }
    filter_by_type(pair, config)
}

/// Checks a pair by each side's declared type: all that can be checked for files.
///
/// # Errors
/// The first [`Skip`] that applies, the older side first.
pub(crate) fn filter_by_type(pair: &PagePair, config: &Config) -> Result<(), Skip> {
    for (side, version) in pair.sides() {
        check_declared_type(version, config).map_err(|skip| skip.on(side))?;
    }
    Ok(())
}

fn require_http(version: &Version) -> Result<(), Skip> {
    match version.body_url.scheme() {
        "http" | "https" => Ok(()),
        other => {
            let detail = format!("the body is kept at {}: only http and https are fetched", quote(other));
            Err(Skip::new(SkipReason::NotHttp, detail))
        }
    }
}

fn check_declared_type(version: &Version, config: &Config) -> Result<(), Skip> {
    let declared = version.media_type.as_deref().map(str::trim).filter(|declared| !declared.is_empty());
    match declared {
        Some(declared) => check_media_type(declared, config),
        None if config.require_media_type => {
            let detail = "no media type is declared, and filter.require_media_type requires one";
            Err(Skip::new(SkipReason::MediaTypeUnknown, detail))
        }
        None => check_extension(version.address(), config),
    }
}

fn check_media_type(declared: &str, config: &Config) -> Result<(), Skip> {
    let declared_type = MediaType::parse(declared);
    let canonical = declared_type.canonical();
    let listed = |list: &[String]| list.iter().any(|entry| MediaType::parse(entry).canonical() == canonical);
    let (also_allowed, also_denied) = config.rules.additions();
    let among = |lists: [&[&str]; 2]| lists.iter().any(|list| list.contains(&canonical));
    let denied = among([&DENIED_MEDIA, also_denied]) || listed(&config.extra_denied_media_types);
    let allowed = among([&ALLOWED_MEDIA, also_allowed])
        || canonical.starts_with("text/")
        || listed(&config.extra_allowed_media_types);
    if allowed && !denied {
        return Ok(());
    }
    let detail = format!("the declared media type {} is not that of a page", quote(declared));
    Err(Skip::new(SkipReason::MediaType, detail))
}

fn check_extension(address: &str, config: &Config) -> Result<(), Skip> {
    let Some(extension) = extension(address) else { return Ok(()) };
    let extra = |entry: &String| entry.trim_start_matches('.').eq_ignore_ascii_case(&extension);
    if DENIED_EXTENSIONS.contains(&extension.as_str()) || config.extra_extensions.iter().any(extra) {
        let detail =
            format!("no media type is declared, and .{} is not a page's extension", quote(&extension));
        return Err(Skip::new(SkipReason::Extension, detail));
    }
    Ok(())
}

/// The extension of the last path segment in lower case, without its dot. The query and the segment's own
/// parameters (`;jsessionid=…`) are ignored, and so is the dot of a hidden file.
fn extension(address: &str) -> Option<String> {
    let url = Url::parse(address);
    let path = match &url {
        Ok(url) => url.path(),
        Err(_) => address.split(['?', '#']).next().unwrap_or_default(),
    };
    let segment = path.trim_end_matches('/').rsplit('/').next()?;
    let name = segment.split(';').next()?;
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::job::page::Side;
    use uuid::Uuid;

    fn config() -> Config {
        Config {
            rules: FilterRules::AnalysisJob,
            require_media_type: false,
            extra_extensions: Vec::new(),
            extra_denied_media_types: Vec::new(),
            extra_allowed_media_types: Vec::new(),
        }
    }

    fn page(uuid: u128) -> Version {
        Version::at(Uuid::from_u128(uuid), Url::parse("https://archive.test/body").unwrap())
    }

    fn pair() -> PagePair {
        PagePair { page: None, from: page(1), to: page(2), from_is_earliest: false }
    }

    /// Filters a pair with one version changed, on either side in turn; both results must agree.
    fn skip_reason(config: &Config, change: impl Fn(&mut Version)) -> Option<SkipReason> {
        let reasons = [Side::From, Side::To].map(|side| {
            let mut pair = pair();
            change(if side == Side::From { &mut pair.from } else { &mut pair.to });
            let skip = filter_by_address(&pair, config).err();
            assert!(skip.iter().all(|skip| skip.side == Some(side)), "{skip:?} is not said of {side}");
            skip.map(|skip| skip.reason)
        });
        assert_eq!(reasons[0], reasons[1], "the two sides are judged alike");
        reasons[0]
    }

    fn skip_reason_for_type(media_type: &str, config: &Config) -> Option<SkipReason> {
        skip_reason(config, |version| version.media_type = Some(media_type.to_owned()))
    }

    fn skip_reason_for_address(address: &str, config: &Config) -> Option<SkipReason> {
        skip_reason(config, |version| version.url = Some(address.to_owned()))
    }

    #[test]
    fn the_same_version_on_both_sides_is_skipped_before_anything_else() {
        let mut pair = pair();
        pair.to = pair.from.clone();
        pair.to.body_url = Url::parse("ftp://archive.test/a.pdf").unwrap();
        let skip = filter_by_address(&pair, &config()).unwrap_err();
        assert_eq!((skip.reason, skip.side), (SkipReason::SameVersion, None));
    }

    #[test]
    fn a_pair_that_was_captured_in_the_wrong_order_is_skipped_and_one_without_times_is_not() {
        let times = [None, Some(1), Some(2)]
            .map(|time| time.map(|t| OffsetDateTime::from_unix_timestamp(t).unwrap()));
        for (from, to, skipped) in [(2, 1, true), (1, 2, false), (1, 1, false), (0, 1, false), (2, 0, false)]
        {
            let mut pair = pair();
            (pair.from.capture_time, pair.to.capture_time) = (times[from], times[to]);
            let skip = filter_by_address(&pair, &config()).err();
            assert_eq!(skip.map(|skip| skip.reason), skipped.then_some(SkipReason::WrongOrder));
        }
    }

    #[test]
    fn only_bodies_over_http_are_fetched() {
        for (body, skipped) in [
            ("http://archive.test/a", false),
            ("https://archive.test/a", false),
            ("HTTPS://archive.test/a", false),
            ("ftp://archive.test/a", true),
            ("file:///etc/passwd", true),
            ("data:text/html,hello", true),
            ("javascript:1", true),
            ("httpx://archive.test/a", true),
        ] {
            let reason = skip_reason(&config(), |version| version.body_url = Url::parse(body).unwrap());
            assert_eq!(reason, skipped.then_some(SkipReason::NotHttp), "{body}");
        }
    }

    #[test]
    fn each_declared_media_type_is_judged_as_the_old_job_did() {
        for (media_type, allowed) in [
            ("text/html", true),
            ("application/xhtml+xml", true),
            ("text/plain", true),
            ("text/css", true),
            ("text/xml", true),
            ("Text/HTML; charset=ISO-8859-1", true),
            ("  text/html ;q=1;charset=utf-8", true),
            ("text/calendar", false),
            ("TEXT/CALENDAR;method=publish", false),
            ("application/pdf", false),
            ("application/octet-stream", false),
            ("binary/octet-stream", false),
            ("application/x-download", false),
            ("application/xml", false),
            ("application/rss+xml", false),
            ("image/png", false),
            ("nonsense", false),
            ("text", false),
            ("textual/html", false),
            (";", false),
            // Synonyms: the canonical type decides.
            ("application/html", true),
            ("application/xhtml", true),
            ("application/xml+html", true),
            ("application/xml+xhtml", true),
            ("text/xhtml", true),
            ("text/xhtml+xml", true),
            ("text/xml+html", true),
            ("text/xml+xhtml", true),
            ("application/javascript", true),
            ("application/x-javascript", true),
            ("text/x-javascript", true),
            ("application/x-pdf", false),
            ("text/x-json", false),
            ("text/json", false),
            ("application/font-woff", false),
            ("application/x-font-woff", false),
            ("image/jpg", false),
            ("application/xlsx", false),
        ] {
            let expected = (!allowed).then_some(SkipReason::MediaType);
            assert_eq!(skip_reason_for_type(media_type, &config()), expected, "{media_type}");
        }
    }

    #[test]
    fn task_sheets_admits_bare_xml_and_denies_feeds_even_where_they_were_added() {
        let task_sheets = Config { rules: FilterRules::TaskSheets, ..config() };
        for (media_type, old_job, theirs) in [
            ("application/xml", false, true),
            ("application/rss+xml", false, false),
            ("text/calendar", false, false),
            ("text/html", true, true),
            ("application/xhtml", true, true),
            ("application/pdf", false, false),
        ] {
            for (config, allowed) in [(&config(), old_job), (&task_sheets, theirs)] {
                let expected = (!allowed).then_some(SkipReason::MediaType);
                assert_eq!(
                    skip_reason_for_type(media_type, config),
                    expected,
                    "{media_type} by {:?}",
                    config.rules
                );
            }
        }
        let feeds = vec!["application/rss+xml".to_owned()];
        for (rules, expected) in
            [(FilterRules::AnalysisJob, None), (FilterRules::TaskSheets, Some(SkipReason::MediaType))]
        {
            let config = Config { rules, extra_allowed_media_types: feeds.clone(), ..config() };
            assert_eq!(skip_reason_for_type("application/rss+xml", &config), expected);
        }
    }

    #[test]
    fn each_of_the_29_extensions_is_skipped_in_any_case() {
        let listed = "jpg pdf athruz avi doc docbook docx dsselect eps epub exe gif jpeg kmz m2t mov mp3 mpg png \
                      ppt pptx radar rtf wmv xls xlsm xlsx xml zip";
        assert_eq!(listed.split_whitespace().count(), 29);
        for extension in listed.split_whitespace() {
            for spelled in [extension.to_owned(), extension.to_uppercase()] {
                let address = format!("https://agency.test/a/b.{spelled}?download=1#top");
                assert_eq!(
                    skip_reason_for_address(&address, &config()),
                    Some(SkipReason::Extension),
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn only_the_last_path_segment_has_an_extension() {
        for (address, skipped) in [
            ("https://agency.test/", false),
            ("https://agency.test/index.html", false),
            ("https://agency.test/a.pdf/view", false),
            ("https://agency.test/view?file=a.pdf", false),
            ("https://agency.test/#a.pdf", false),
            ("https://agency.pdf", false),
            ("https://agency.test/.pdf", false),
            ("https://agency.test/a.", false),
            ("https://agency.test/pdf", false),
            ("https://agency.test/a.pdf.html", false),
            ("", false),
            ("not a url at all", false),
            ("https://agency.test/a.tar.zip", true),
            ("https://agency.test/a.pdf/", true),
            ("https://agency.test/a.pdf;jsessionid=1", true),
            ("https://agency.test:99999/a.pdf?x", true),
            ("agency.test/a.pdf#page=2", true),
        ] {
            let expected = skipped.then_some(SkipReason::Extension);
            assert_eq!(skip_reason_for_address(address, &config()), expected, "{address:?}");
        }
    }

    #[test]
    fn where_no_address_was_captured_the_place_of_the_body_stands_in() {
        let reason = skip_reason(&config(), |version| {
            version.body_url =
                Url::parse("https://archive.test/web/2018id_/http://agency.test/a.PDF").unwrap();
        });
        assert_eq!(reason, Some(SkipReason::Extension));
    }

    #[test]
    fn a_declared_media_type_wins_over_the_extension() {
        for (media_type, extension, expected) in [
            ("text/html", "pdf", None),
            ("application/pdf", "html", Some(SkipReason::MediaType)),
            ("", "pdf", Some(SkipReason::Extension)),
            (" ", "html", None),
        ] {
            let reason = skip_reason(&config(), |version| {
                version.media_type = Some(media_type.to_owned());
                version.url = Some(format!("https://agency.test/a.{extension}"));
            });
            assert_eq!(reason, expected, "{media_type:?} {extension}");
        }
    }

    #[test]
    fn a_missing_media_type_is_skipped_only_where_one_is_required() {
        let strict = Config { require_media_type: true, ..config() };
        let mut both = pair();
        assert_eq!(filter_by_address(&both, &config()), Ok(()));
        assert_eq!(filter_by_address(&both, &strict).unwrap_err().reason, SkipReason::MediaTypeUnknown);
        both.from.media_type = Some("text/html".to_owned());
        let skip = filter_by_address(&both, &strict).unwrap_err();
        assert_eq!((skip.reason, skip.side), (SkipReason::MediaTypeUnknown, Some(Side::To)));
        both.to.media_type = Some("text/html".to_owned());
        assert_eq!(filter_by_address(&both, &strict), Ok(()));
    }

    #[test]
    fn an_operators_lists_are_canonicalised_and_his_denials_win() {
        let config = Config {
            extra_extensions: vec![".ICS".to_owned(), "svg".to_owned()],
            extra_denied_media_types: vec![
                "application/xhtml; q=1".to_owned(),
                "Application/RSS+XML".to_owned(),
            ],
            extra_allowed_media_types: vec!["application/rss+xml".to_owned(), "application/XML".to_owned()],
            ..config()
        };
        assert_eq!(
            skip_reason_for_address("https://agency.test/a.ics", &config),
            Some(SkipReason::Extension)
        );
        assert_eq!(
            skip_reason_for_address("https://agency.test/a.SVG", &config),
            Some(SkipReason::Extension)
        );
        assert_eq!(skip_reason_for_type("application/xhtml+xml", &config), Some(SkipReason::MediaType));
        assert_eq!(skip_reason_for_type("application/rss+xml", &config), Some(SkipReason::MediaType));
        assert_eq!(skip_reason_for_type("application/xml; charset=utf-8", &config), None);
    }

    #[test]
    fn a_skip_shows_the_value_that_decided_it_clipped() {
        let mut pair = pair();
        pair.to.media_type = Some(format!("application/{}", "x".repeat(9_000)));
        let skip = filter_by_address(&pair, &config()).unwrap_err();
        assert!(skip.detail.contains("application/xxx") && skip.detail.len() < 200, "{}", skip.detail);
    }
}

//! Media types as headers declare them, read as browsers do, and blanks or quotes around a charset forgiven.
//!
//! A `Content-Type` may be repeated or be a comma list: the last valid type counts, and keeps an earlier charset of the
//! same type (<https://fetch.spec.whatwg.org/#content-type-header>). Of two equal parameters the first one counts
//! (<https://mimesniff.spec.whatwg.org/#parsing-a-mime-type>).

/// A media type without its parameters, and the one parameter that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaType {
    /// In lower case, e.g. `text/html`. What is no media type is kept up to its first blank, comma or semicolon.
    pub essence: String,
    /// The label of the character encoding, as spelled.
    pub charset: Option<String>,
}

/// Other names of media types, each with the one that tables should list.
///
/// Source: `MEDIA_TYPE_SYNONYMS` of web-monitoring-db, by which it has canonicalised at import since 2020;
/// older rows and other producers still use the left side.
const SYNONYMS: [(&str, &str); 18] = [
    ("application/html", "text/html"),
    ("application/xhtml", "application/xhtml+xml"),
    ("application/xml+html", "application/xhtml+xml"),
    ("application/xml+xhtml", "application/xhtml+xml"),
    ("text/xhtml", "application/xhtml+xml"),
    ("text/xhtml+xml", "application/xhtml+xml"),
    ("text/xml+html", "application/xhtml+xml"),
    ("text/xml+xhtml", "application/xhtml+xml"),
    ("application/x-pdf", "application/pdf"),
    ("application/javascript", "text/javascript"),
    ("application/x-javascript", "text/javascript"),
    ("text/x-javascript", "text/javascript"),
    ("text/x-json", "application/json"),
    ("text/json", "application/json"),
    ("application/font-woff", "font/woff"),
    ("application/x-font-woff", "font/woff"),
    ("image/jpg", "image/jpeg"),
    ("application/xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
];

impl MediaType {
    /// Reads a header's value; several headers are joined by commas.
    pub fn parse(declared: &str) -> Self {
        let mut found: Option<Self> = None;
        // The first charset of the type: what a later one without any inherits.
        let mut first = None;
        for value in split_outside_quotes(declared, ',') {
            let Some(next) = parse_one(value) else { continue };
            if found.as_ref().is_none_or(|last| last.essence != next.essence) {
                first = None;
            }
            first = first.or_else(|| next.charset.clone());
            found = Some(Self { charset: next.charset.or_else(|| first.clone()), ..next });
        }
        found.unwrap_or_else(|| Self { essence: first_word(declared), charset: None })
    }

    /// The essence with synonyms replaced.
    pub fn canonical(&self) -> &str {
        let synonym = SYNONYMS.iter().find(|(synonym, _)| *synonym == self.essence);
        synonym.map_or(&self.essence, |(_, name)| name)
    }
}

/// A single media type; `None` if it is none, or `*/*`.
fn parse_one(value: &str) -> Option<MediaType> {
    let mut parts = split_outside_quotes(value, ';');
    let essence = first_word(parts.next()?);
    let (kind, subtype) = essence.split_once('/')?;
    let token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    if !token(kind) || !token(subtype) || essence == "*/*" {
        return None;
    }
    let charset = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = unquoted(value.trim_start());
        (name.trim().eq_ignore_ascii_case("charset") && !value.is_empty()).then_some(value)
    });
    Some(MediaType { essence, charset })
}

/// The text up to its first blank, comma or semicolon, in lower case.
fn first_word(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';');
    text.trim_start().split(ends).next().unwrap_or_default().to_ascii_lowercase()
}

/// The value of a parameter: without its quotes and what follows them.
fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else { return value.trim_end().to_owned() };
    let mut plain = String::new();
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => plain.extend(chars.next()),
            _ => plain.push(c),
        }
    }
    plain
}

/// Splits at a separator that is not in a quoted value.
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut last) = (false, ' ');
    text.split(move |c: char| {
        let ends = c == separator && !quoted;
        if c == '"' && last != '\\' {
            quoted = !quoted && last == '=';
        }
        // An escaped backslash escapes nothing.
        last = if c == '\\' && last == '\\' { ' ' } else { c };
        ends
    })
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_browsers_read_them() {
        for (declared, essence, charset) in [
            ("text/html", "text/html", None),
            ("Text/HTML; Charset=UTF-8", "text/html", Some("UTF-8")),
            ("text/html;charset=\"windows-1251\";x=y", "text/html", Some("windows-1251")),
            ("text/html; charset=\"utf\\-8\" garbage", "text/html", Some("utf-8")),
            ("text/html;;; charset=gbk", "text/html", Some("gbk")),
            ("text/html; x; charset=gbk; charset=utf-8", "text/html", Some("gbk")),
            ("text/html; charset=; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html; title=\"a;charset=koi8-r\"; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html; charset = utf-8", "text/html", Some("utf-8")),
            ("text/html; title=5\" wide; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html; title=\"a\\\";charset=gbk\"; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html charset=utf-8", "text/html", None),
            ("text/html, text/html; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html; charset=gbk, text/html", "text/html", Some("gbk")),
            ("text/html; charset=gbk, text/html; charset=utf-8, text/html", "text/html", Some("gbk")),
            ("text/html; charset=gbk, text/plain", "text/plain", None),
            ("text/plain, text/html; charset=gbk", "text/html", Some("gbk")),
            ("text/html; charset=gbk, */*", "text/html", Some("gbk")),
            ("text/html; charset=gbk, ", "text/html", Some("gbk")),
            ("text/html; x=\"a, text/plain\"", "text/html", None),
            ("nonsense", "nonsense", None),
            ("text, nonsense", "text", None),
            (";", "", None),
            ("", "", None),
        ] {
            let expected = MediaType { essence: essence.to_owned(), charset: charset.map(ToOwned::to_owned) };
            assert_eq!(MediaType::parse(declared), expected, "{declared}");
        }
    }
}

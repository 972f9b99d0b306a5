//! The address of a page as it may be shown: what identifies a resource stays, what may be a credential does not.
//!
//! Invariant: a shown address holds no user-info, no fragment, and of a query no value but short numbers; showing it
//! again changes nothing.
//!
//! # Why
//! A list of secret parameters rots with every new storage service, so the rule goes by what is harmless: a number
//! of at most [`MAX_NUMBER_BYTES`] digits (a page, an id, a date), true or false, under a name that does not say secret. Names are
//! shown, values are not: `X-Amz-Signature=***` still says what was there. The rest of an identity is in the job, which
//! keeps the whole address.
//!
//! An archive's address has another one in its path, plain or percent-encoded, so the path is looked at as well: its
//! user-info and parameters (`;jsessionid=`) go by the same rules, and from a segment with an encoded delimiter on
//! nothing is shown. What else stands in a path is shown: it cannot be told from a name.

use url::Url;

use super::{MARK, SECRET_NAMES};

/// Longest value shown, in bytes: that of an archive's time stamp.
const MAX_NUMBER_BYTES: usize = 14;
/// Parameters of a query that are shown: signing schemes have at most ten, and what is hidden is longer than what
/// was there, so that a query of thousands would grow.
const MAX_PARAMETERS: usize = 32;
/// Longest parameter name shown, in bytes: twice the longest of the signing schemes.
const MAX_NAME_BYTES: usize = 40;
/// Parts of parameter names whose numbers are hidden, too, besides [`SECRET_NAMES`].
const SECRET_PARAMETERS: [&str; 9] = ["pass", "pwd", "pin", "otp", "code", "key", "sig", "auth", "sess"];
/// Schemes of addresses that stand within a path, for archives that write `http:/` with one slash.
const NESTED_SCHEMES: [&str; 3] = ["http", "https", "ftp"];
/// The delimiters `# & ; = ? @` as percent-encoding writes them.
const ENCODED_DELIMITERS: [[u8; 2]; 6] = [*b"23", *b"26", *b"3b", *b"3d", *b"3f", *b"40"];

/// A body's address as it may be shown.
pub fn page_url(url: &Url) -> String {
    page_address(url.as_str())
}

/// An address as it may be shown, even if it is malformed. A file's is shown whole.
pub fn page_address(address: &str) -> String {
    let mut shown = String::with_capacity(address.len());
    match address.split_once(':') {
        Some(_) if address.starts_with("file:///") => shown.push_str(address),
        Some((scheme, rest)) if is_scheme(scheme) && rest.starts_with('/') => {
            let place = rest.trim_start_matches('/');
            shown.push_str(&address[..address.len() - place.len()]);
            write_place(place, &mut shown);
        }
        // `mailto:` and the like, or a user and a password without a scheme.
        Some((_, rest)) if rest.contains('@') => shown.push_str(MARK),
        Some((scheme, rest)) if is_scheme(scheme) && !starts_with_port(rest) => {
            shown.extend([scheme, ":", MARK]);
        }
        Some(_) | None => write_place(address, &mut shown),
    }
    shown
}

/// Writes what follows the slashes after a scheme: authority, path, query and fragment.
pub(super) fn write_place(place: &str, out: &mut String) {
    let (place, fragment) = cut_at(place, '#');
    let (mut path, query) = cut_at(place, '?');
    loop {
        path = write_authority(path, out);
        match nested_place(path) {
            Some((start, end)) if !has_encoded_delimiter(&path[..start]) => {
                write_path(&path[..start], out);
                out.push_str(&path[start..end]);
                path = &path[end..];
            }
            Some(_) | None => break,
        }
    }
    write_path(path, out);
    if let Some(query) = query {
        out.push('?');
        write_query(query, out);
    }
    if let Some(fragment) = fragment {
        out.push('#');
        out.push_str(if fragment.is_empty() { "" } else { MARK });
    }
}

/// Writes the authority at the start of `place` without its user-info; returns what follows it.
fn write_authority<'a>(place: &'a str, out: &mut String) -> &'a str {
    let authority = &place[..place.find(['/', '\\']).unwrap_or(place.len())];
    // In `redis://:pa/ss@host` the port is not a number: the authority extends to the last `@`. Without one the
    // address was cut within its password.
    let login = authority.rfind('@');
    let odd = has_odd_port(&authority[login.map_or(0, |at| at + 1)..]);
    let rest = match if odd { place.rfind('@').filter(|at| Some(*at) > login) } else { login } {
        Some(at) => {
            out.push_str(MARK);
            &place[at..]
        }
        None if odd => {
            out.push_str(MARK);
            return "";
        }
        None => place,
    };
    let end = rest.find(['/', '\\']).unwrap_or(rest.len());
    out.push_str(&rest[..end]);
    &rest[end..]
}

/// True if what stands in the place of a port is not a number, even without the punctuation of a sentence.
fn has_odd_port(authority: &str) -> bool {
    let (_, port) = authority.rsplit_once(':').unwrap_or_default();
    !port.ends_with(']') && !port.trim_end_matches([',', ';', '.', ')']).bytes().all(|b| b.is_ascii_digit())
}

/// Where the first address within a path begins: at which byte its `:` stands, and where its slashes end.
fn nested_place(path: &str) -> Option<(usize, usize)> {
    path.match_indices(":/").map(|(at, _)| at).find_map(|at| {
        let scheme = path[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let rest = &path[at + 1..];
        let nested = !scheme.is_empty() && rest.starts_with("//");
        let nested = nested || NESTED_SCHEMES.iter().any(|nested| scheme.eq_ignore_ascii_case(nested));
        nested.then(|| (at, path.len() - rest.trim_start_matches('/').len()))
    })
}

/// Writes a path up to the first segment that holds a percent-encoded delimiter.
fn write_path(path: &str, out: &mut String) {
    for segment in path.split_inclusive('/') {
        if has_encoded_delimiter(segment) {
            out.push_str(MARK);
            break;
        }
        write_segment(segment, out);
    }
}

/// Writes one segment of a path, its `;name=value` parameters by the rules of a query.
fn write_segment(segment: &str, out: &mut String) {
    let (name, slash) = segment.strip_suffix('/').map_or((segment, ""), |name| (name, "/"));
    let name = match name.rfind('@') {
        Some(at) if name[..at].contains(':') => {
            out.push_str(MARK);
            &name[at..]
        }
        Some(_) | None => name,
    };
    for (index, piece) in name.split(';').enumerate() {
        if index > 0 {
            out.push(';');
        }
        if index == 0 && !piece.contains('=') {
            out.push_str(piece);
        } else {
            write_parameter(piece, out);
        }
    }
    out.push_str(slash);
}

fn write_query(query: &str, out: &mut String) {
    for (index, parameter) in query.split_inclusive(['&', ';']).enumerate() {
        if index == MAX_PARAMETERS {
            out.push_str(MARK);
            break;
        }
        let text = parameter.trim_end_matches(['&', ';']);
        write_parameter(text, out);
        out.push_str(&parameter[text.len()..]);
    }
}

/// Writes `name=value`, with a value that is not known to be harmless hidden; what has no name is a value.
fn write_parameter(parameter: &str, out: &mut String) {
    match parameter.split_once('=') {
        Some((name, value)) if is_name(name) && !value.trim_start_matches('=').is_empty() => {
            let harmless = is_harmless(value) && !names_secret(name);
            out.extend([name, "=", if harmless { value } else { MARK }]);
        }
        Some(_) | None if parameter.is_empty() => {}
        Some(_) | None => out.push_str(MARK),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.[]".contains(&b);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

/// A number, a date, or one bit.
fn is_harmless(value: &str) -> bool {
    let plain = |b: u8| b.is_ascii_digit() || b == b'-';
    let number = (1..=MAX_NUMBER_BYTES).contains(&value.len()) && value.bytes().all(plain);
    number || matches!(value, "true" | "false")
}

fn names_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().chain(&SECRET_PARAMETERS).any(|part| name.contains(part))
}

/// True if percent-encoding, of any depth, hides a delimiter: `%3F`, `%253f`.
fn has_encoded_delimiter(text: &str) -> bool {
    text.split('%').skip(1).any(|code| {
        let code = code.as_bytes();
        let mut rest = code;
        while let Some(deeper) = rest.strip_prefix(b"25") {
            rest = deeper;
        }
        rest.get(..2).is_some_and(|hex| ENCODED_DELIMITERS.iter().any(|of| of.eq_ignore_ascii_case(hex)))
    })
}

fn is_scheme(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn starts_with_port(text: &str) -> bool {
    let port = &text[..text.find(['/', '?', '#']).unwrap_or(text.len())];
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// The text before the first `mark`, and what follows it.
fn cut_at(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Addresses as producers, archives and storage services write them, each with what is shown of it.
    const ADDRESSES: [(&str, &str); 39] = [
        ("https://a.test:8443/b/c.html", "https://a.test:8443/b/c.html"),
        ("https://a.test", "https://a.test"),
        (
            "https://a.test/?page=2&date=2020-01-01&t=20200101120000",
            "https://a.test/?page=2&date=2020-01-01&t=20200101120000",
        ),
        ("https://s3cr3t@a.test/", "https://***@a.test/"),
        ("https://user:s3cr3t@a.test:1/x", "https://***@a.test:1/x"),
        ("https://user:s3@cr3t@a.test/x", "https://***@a.test/x"),
        ("https://user:s3cr3t@a.test/@user/x", "https://***@a.test/@user/x"),
        ("https://user:s3cr3t", "https://***"),
        ("https://user:s3cr3t/s3cr3t@a.test/x", "https://***@a.test/x"),
        ("https://a.test/x?page=2&X-Amz-Signature=s3cr3t", "https://a.test/x?page=2&X-Amz-Signature=***"),
        ("https://a.test/x?sig=s3cr3t;token=s3cr3t", "https://a.test/x?sig=***;token=***"),
        (
            "https://a.test/x?AWSAccessKeyId=s3cr3t&Signature=s3cr3t%3D&Expires=1",
            "https://a.test/x?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        ("https://a.test/x?pin=1234&otp=123456", "https://a.test/x?pin=***&otp=***"),
        ("https://a.test/x?q=s3cr3t&p=s3cr3t", "https://a.test/x?q=***&p=***"),
        ("https://a.test/x?s3cr3t", "https://a.test/x?***"),
        ("https://a.test/x?s3cr3t==", "https://a.test/x?***"),
        ("https://a.test/x?s3cr3t=&page=3", "https://a.test/x?***&page=3"),
        ("https://a.test/x?id=123456789012345", "https://a.test/x?id=***"),
        ("https://a.test/x?", "https://a.test/x?"),
        ("https://a.test/x?u=http://b.test/s3cr3t", "https://a.test/x?u=***"),
        ("https://a.test/x#s3cr3t", "https://a.test/x#***"),
        ("https://a.test/x?page=1#?page=s3cr3t", "https://a.test/x?page=1#***"),
        (
            "https://web.test/web/2020id_/http://x.test/?page=2",
            "https://web.test/web/2020id_/http://x.test/?page=2",
        ),
        (
            "https://web.test/web/2020id_/http://u:s3cr3t@x.test/?q=s3cr3t",
            "https://web.test/web/2020id_/http://***@x.test/?q=***",
        ),
        (
            "https://web.test/web/2020id_/http:/u:s3cr3t@x.test/a",
            "https://web.test/web/2020id_/http:/***@x.test/a",
        ),
        ("https://web.test/web/2020/u:s3cr3t@x.test/a", "https://web.test/web/2020/***@x.test/a"),
        ("https://web.test/http%3A%2F%2Fx.test%2F%3Fsig%3Ds3cr3t/s3cr3t", "https://web.test/***"),
        ("https://web.test/a/http%253A%252F%252Fu%253As3cr3t%2540x.test/b", "https://web.test/a/***"),
        ("https://web.test/a%3Fs3cr3t/http://x.test/", "https://web.test/***"),
        ("https://a.test/x;jsessionid=s3cr3t/y;v=2", "https://a.test/x;jsessionid=***/y;v=2"),
        ("https://a.test/x;s3cr3t", "https://a.test/x;***"),
        ("https://a.test/hdnts=exp=1~hmac=s3cr3t/y&sig=s3cr3t", "https://a.test/hdnts=***/***"),
        ("https://medium.test/@user/react@16.1/x", "https://medium.test/@user/react@16.1/x"),
        ("s3://bucket/key?versionId=s3cr3t", "s3://bucket/key?versionId=***"),
        ("data:text/html,s3cr3t", "data:***"),
        ("user:s3cr3t@a.test/x", "***"),
        ("a.test:80/x?sig=s3cr3t", "a.test:80/x?sig=***"),
        ("//user:s3cr3t@a.test/x?sig=s3cr3t", "***"),
        ("file:///tmp/a=b.html", "file:///tmp/a=b.html"),
    ];

    #[test]
    fn an_address_keeps_its_place_and_loses_what_may_be_a_credential() {
        for (address, shown) in ADDRESSES {
            assert_eq!(page_address(address), shown, "{address}");
            assert!(!shown.contains("s3cr3t") && !shown.contains("user:"), "{shown}");
            assert_eq!(page_address(shown), shown, "shown twice");
            if Url::parse(address).is_ok() && shown != MARK {
                Url::parse(shown).unwrap_or_else(|e| panic!("{shown}: {e}"));
            }
        }
    }

    #[test]
    fn a_query_of_thousands_of_parameters_is_shown_in_part() {
        let shown = page_address(&format!("https://a.test/?{}", "a&".repeat(4_000)));
        assert!(shown.len() < 200 && shown.ends_with(MARK), "{shown}");
    }

    proptest! {
        #[test]
        fn a_url_that_parses_never_shows_its_password_its_query_values_or_its_fragment(
            user in "[a-z]{1,5}",
            path in r"[a-z/:@;=&%0-9.~-]{0,20}",
            name in "[a-zA-Z_-]{1,20}",
            nested in r"(/http://[a-z.]{1,9}:s3cr3t@b\.test)?",
        ) {
            let text = format!("https://{user}:s3cr3t@a.test/{path}{nested}?{name}=s3cr3t&s3cr3t#s3cr3t");
            let url = Url::parse(&text).unwrap();
            let shown = page_url(&url);
            prop_assert!(!shown.contains("s3cr3t"), "{} became {}", text, shown);
            prop_assert_eq!(page_address(&shown), shown.clone());
            prop_assert!(Url::parse(&shown).is_ok() && shown.starts_with("https://***@a.test/"), "{}", shown);
        }
    }
}

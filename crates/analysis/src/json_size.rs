//! Computes the JSON size of the steps of a diff before they are built.
//!
//! Invariant: the actual JSON is never larger than the size computed here.

use wm_job::report::LinkOp;

/// JSON size of the steps so far, counted down from a limit in bytes.
pub(super) struct JsonSize {
    left: Option<usize>,
}

impl JsonSize {
    /// Starts without steps, with a limit in bytes.
    pub(super) fn new(limit: usize) -> Self {
        // The enclosing brackets.
        Self { left: limit.checked_sub(2) }
    }

    /// Whether the size is within the limit.
    pub(super) fn fits(&self) -> bool {
        self.left.is_some()
    }

    fn add_bytes(&mut self, bytes: usize) {
        self.left = self.left.and_then(|left| left.checked_sub(bytes));
    }

    /// Adds a text step: `[-1,"text"],`.
    pub(super) fn add_op(&mut self, text: &str) {
        self.add_bytes(r#"[-1,""],"#.len() + json_len(text));
    }

    /// Adds a step of a links diff.
    pub(super) fn add_link(&mut self, op: &LinkOp) {
        match op {
            LinkOp::Plain(_, link) => {
                self.add_bytes(
                    r#"[-1,{"text":"","href":""}],"#.len() + json_len(&link.text) + json_len(&link.href),
                );
            }
            LinkOp::Changed(_, link) => {
                link.text.iter().chain(&link.href).for_each(|op| self.add_op(&op.1));
                let hrefs: usize = link.hrefs.iter().map(|href| json_len(href)).sum();
                self.add_bytes(r#"[100,{"text":[],"href":[],"hrefs":["",""]}],"#.len() + hrefs);
            }
        }
    }
}

/// Length of a string in JSON, without its quotes.
fn json_len(text: &str) -> usize {
    let escaped = |b: u8| match b {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wm_job::report::{ChangedLink, Link, Op};

    #[test]
    fn a_size_is_that_of_the_json_but_for_one_comma() {
        let texts = ["", "plain", "\"q\" \\ \n\r\t\u{8}\u{c}\u{1}\u{7f}", "é🎉\u{2028}&<>"];
        let ops: Vec<Op> = texts.iter().map(|text| Op(-1, (*text).to_owned())).collect();
        let left_of = |size: &JsonSize, limit: usize| limit - size.left.unwrap();
        let mut size = JsonSize::new(10_000);
        ops.iter().for_each(|op| size.add_op(&op.1));
        // Every code is counted as the longest one, and every step with a comma.
        assert_eq!(left_of(&size, 10_000), serde_json::to_string(&ops).unwrap().len() + 1);

        let link =
            |text: &&str| LinkOp::Plain(-1, Link { text: (*text).to_owned(), href: (*text).to_owned() });
        let hrefs = ["a\"".to_owned(), "b".to_owned()];
        let changed = ChangedLink { text: ops.clone(), href: ops, hrefs };
        let links: Vec<LinkOp> = texts.iter().map(link).chain([LinkOp::Changed(100, changed)]).collect();
        let mut size = JsonSize::new(10_000);
        links.iter().for_each(|op| size.add_link(op));
        assert_eq!(left_of(&size, 10_000), serde_json::to_string(&links).unwrap().len() + 3);
    }

    #[test]
    fn past_the_limit_nothing_fits_again() {
        let mut size = JsonSize::new(20);
        size.add_op("0123456789");
        assert!(size.fits());
        size.add_op("");
        assert!(!size.fits());
        assert!(!JsonSize::new(1).fits());
    }
}

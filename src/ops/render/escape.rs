//! JSON that is safe on a terminal: control and invisible characters are escaped, the values stay the same.
//!
//! # Why
//! `-o json` is read by people as often as by programs. JSON must escape C0 controls only; C1 controls steer some
//! terminals, bidi controls and tag characters hide what stands there. A parser reads the same text either way.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::job::invisible::is_control_or_invisible;

/// One value over several lines.
pub(super) fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    formatted(value, PrettyFormatter::new())
}

/// One value in one line.
pub(super) fn compact(value: &impl Serialize) -> serde_json::Result<String> {
    formatted(value, CompactFormatter)
}

fn formatted(value: &impl Serialize, layout: impl Formatter) -> serde_json::Result<String> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, EscapingFormatter(layout)))?;
    String::from_utf8(text).map_err(|e| serde_json::Error::io(io::Error::other(e)))
}

/// Escapes within strings; the layout is that of another formatter.
struct EscapingFormatter<F>(F);

/// Hands these methods on to the layout.
macro_rules! layout {
    ($($method:ident($($flag:ident)?)),* $(,)?) => {
        $(fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $flag: bool)?) -> io::Result<()> {
            self.0.$method(writer $(, $flag)?)
        })*
    };
}

impl<F: Formatter> Formatter for EscapingFormatter<F> {
    layout!(
        begin_array(),
        end_array(),
        begin_array_value(first),
        end_array_value(),
        begin_object(),
        end_object(),
        begin_object_key(first),
        end_object_key(),
        begin_object_value(),
        end_object_value(),
    );

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_control_or_invisible(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_steers_or_deceives_a_terminal_is_escaped_and_the_value_stays_the_same() {
        for (text, escaped) in [
            ("\u{1b}[31m", r#""\u001b[31m""#),
            ("\u{7f}\u{80}\u{9b}31m\u{9f}", r#""\u007f\u0080\u009b31m\u009f""#),
            (
                "gpj.\u{202e}exe\u{2066}x\u{2069}\u{61c}\u{200e}",
                r#""gpj.\u202eexe\u2066x\u2069\u061c\u200e""#,
            ),
            ("a\u{e0041}\u{e007f}b", r#""a\udb40\udc41\udb40\udc7fb""#),
            ("\u{115f}\u{1160}\u{3164}\u{ffa0}\u{2028}", r#""\u115f\u1160\u3164\uffa0\u2028""#),
            ("né 漢 \"quoted\"\n", r#""né 漢 \"quoted\"\n""#),
        ] {
            assert_eq!(compact(&text).unwrap(), escaped);
            assert_eq!(serde_json::from_str::<String>(escaped).unwrap(), text);
        }
    }

    #[test]
    fn the_layout_is_that_of_serde_json_and_keys_are_escaped_too() {
        let value = json!({ "a": [1, { "b": [] }], "c": {}, "d": null });
        assert_eq!(pretty(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(compact(&value).unwrap(), value.to_string());
        let text = pretty(&json!({ "\u{9b}key": 1 })).unwrap();
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["\u{9b}key"], 1);
    }
}

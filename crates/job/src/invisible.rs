//! Characters that must not be shown as they are: they steer a terminal, reorder text, or leave nothing to see.
//!
//! # Why
//! One table for all output: sentences and JSON for people, log lines, alerts. It takes in the property
//! `Default_Ignorable_Code_Point` (Unicode 16), which covers bidi controls, joiners, blank Hangul letters, variation
//! selectors and tag characters; controls and line separators; and what renders as nothing without that property.
//! Written by hand: these ranges rarely change, and no dependency has a table of the property.

/// True for a character that is shown as an escape.
pub fn is_control_or_invisible(c: char) -> bool {
    c.is_control() || is_default_ignorable(c) || is_otherwise_invisible(c)
}

fn is_default_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Line and paragraph separator, annotation marks, the braille blank, the empty notehead.
fn is_otherwise_invisible(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{2800}' | '\u{1d159}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_class_of_invisible_characters_is_known_and_its_neighbours_are_not() {
        for (first, last, class) in [
            ('\0', '\u{1f}', "C0"),
            ('\u{7f}', '\u{9f}', "DEL and C1"),
            ('\u{ad}', '\u{ad}', "soft hyphen"),
            ('\u{34f}', '\u{34f}', "grapheme joiner"),
            ('\u{61c}', '\u{61c}', "Arabic letter mark"),
            ('\u{115f}', '\u{1160}', "Hangul fillers"),
            ('\u{17b4}', '\u{17b5}', "Khmer inherent vowels"),
            ('\u{180b}', '\u{180f}', "Mongolian selectors and separator"),
            ('\u{200b}', '\u{200f}', "zero width, and left-to-right and right-to-left marks"),
            ('\u{2028}', '\u{202e}', "separators, and embeddings and overrides"),
            ('\u{2060}', '\u{206f}', "word joiner, isolates"),
            ('\u{2800}', '\u{2800}', "braille blank"),
            ('\u{3164}', '\u{3164}', "Hangul filler"),
            ('\u{fe00}', '\u{fe0f}', "variation selectors"),
            ('\u{feff}', '\u{feff}', "byte order mark"),
            ('\u{ffa0}', '\u{ffa0}', "half-width Hangul filler"),
            ('\u{fff0}', '\u{fffb}', "unassigned ignorables, annotation marks"),
            ('\u{1bca0}', '\u{1bca3}', "shorthand controls"),
            ('\u{1d159}', '\u{1d159}', "null notehead"),
            ('\u{1d173}', '\u{1d17a}', "musical beams and slurs"),
            ('\u{e0000}', '\u{e0fff}', "tags, more variation selectors"),
        ] {
            assert!((first..=last).all(is_control_or_invisible), "{class}");
            let before = (first > '\0').then(|| char::from_u32(u32::from(first) - 1)).flatten();
            let after = char::from_u32(u32::from(last) + 1);
            for neighbour in before.into_iter().chain(after) {
                assert!(!is_control_or_invisible(neighbour), "{neighbour:?} beside {class}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_unicode_calls_ignorable_control_or_format_without_a_glyph_is_escaped(
            c in r"[\p{Default_Ignorable_Code_Point}\p{Cc}\p{Zl}\p{Zp}]",
        ) {
            prop_assert!(c.chars().all(is_control_or_invisible), "{:?}", c);
        }
    }
}

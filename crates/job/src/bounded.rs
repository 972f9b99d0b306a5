//! Reading values from an untrusted writer: every string, list and number is checked while it is read, so that
//! nothing larger than its limit is ever held.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// A string of at most `MAX` bytes.
///
/// # Errors
/// A longer one.
pub(crate) fn string<'de, D: Deserializer<'de>, const MAX: usize>(input: D) -> Result<String, D::Error> {
    struct StringVisitor<const MAX: usize>;
    impl<const MAX: usize> Visitor<'_> for StringVisitor<MAX> {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a string of at most {MAX} bytes")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            if text.len() <= MAX { Ok(text.to_owned()) } else { Err(E::invalid_length(text.len(), &self)) }
        }
    }
    input.deserialize_str(StringVisitor::<MAX>)
}

/// [`string`], or nothing.
///
/// # Errors
/// A longer one.
pub(crate) fn optional<'de, D: Deserializer<'de>, const MAX: usize>(
    input: D,
) -> Result<Option<String>, D::Error> {
    struct OptionVisitor<const MAX: usize>;
    impl<'de, const MAX: usize> Visitor<'de> for OptionVisitor<MAX> {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a string of at most {MAX} bytes, or null")
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
            string::<D, MAX>(input).map(Some)
        }
    }
    input.deserialize_option(OptionVisitor::<MAX>)
}

/// A list of at most `MAX` elements.
///
/// # Errors
/// A longer one.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    input: D,
) -> Result<Vec<T>, D::Error> {
    struct ListVisitor<T, const MAX: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut read = Vec::new();
            while let Some(element) = elements.next_element()? {
                if read.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                read.push(element);
            }
            Ok(read)
        }
    }
    input.deserialize_seq(ListVisitor::<T, MAX>(PhantomData))
}

/// A SHA-256 in lower-case hex.
///
/// # Errors
/// Anything else.
pub(crate) fn sha256<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let hash = string::<D, 64>(input)?;
    let is_hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { Ok(hash) } else { Err(D::Error::custom("a hash is 64 lower-case hex digits")) }
}

/// A number from 0 to 1.
///
/// # Errors
/// Any other number.
pub(crate) fn ratio<'de, D: Deserializer<'de>>(input: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(input)?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(D::Error::custom("a ratio is from 0 to 1")) }
}

/// A number of characters, bytes or changes of one page: at most [`MAX_COUNT`].
///
/// # Errors
/// Any other number.
pub(crate) fn count<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    let count = u64::deserialize(input)?;
    if count <= MAX_COUNT {
        Ok(count)
    } else {
        Err(D::Error::custom("a count is above what two pages can have"))
    }
}

/// More than the characters of the two largest pages together (256 MiB each).
const MAX_COUNT: u64 = 1 << 30;

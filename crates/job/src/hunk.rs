//! A hunk: neighbouring changes between two texts, with a little of what is around them.
//!
//! The one form of a change in reports, on the command line and on pages. What is equal elsewhere is not kept, so a
//! hunk says where it stands in both texts. Consumers read it as docs/results.md describes.
//!
//! Invariant: a [`Hunk`] has at most [`MAX_STEPS`] steps, a step at most [`STEP_MAX_BYTES`] bytes of text; what was
//! cut is counted.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};

use super::bounded;

/// Unchanged text before and after a hunk of the visible text, in code points: enough to find the place and to read a
/// word that is cut.
pub const TEXT_CONTEXT_CHARS: usize = 20;
/// The same of the source where the text changed too: most often it repeats what the text says.
pub const SOURCE_CONTEXT_CHARS: usize = 8;
/// Most steps of one hunk; a longer one is continued by the next hunk.
pub const MAX_STEPS: usize = 16;
/// Longest text of one step, in bytes: some paragraphs.
pub const STEP_MAX_BYTES: usize = 2000;
/// Most hunks of one diff. With [`MAX_STEPS`] it bounds what the shortest steps take in memory, which is many times
/// their JSON (tests/replies.rs).
pub const MAX_HUNKS: usize = 256;

/// What a step of a hunk says about its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Only the older text has it (-1).
    Removed,
    /// Both have it (0).
    Same,
    /// Only the newer text has it (1).
    Added,
}

impl StepKind {
    /// The code of web-monitoring-diff: -1, 0, 1.
    pub fn code(self) -> i8 {
        match self {
            Self::Removed => -1,
            Self::Same => 0,
            Self::Added => 1,
        }
    }

    /// The opposite of [`Self::code`].
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            -1 => Some(Self::Removed),
            0 => Some(Self::Same),
            1 => Some(Self::Added),
            _ => None,
        }
    }
}

/// One step of a hunk. JSON: `[code, text]`, or `[code, text, n]` where `n` more code points were left out at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which of the two texts have it.
    pub kind: StepKind,
    /// The text, never empty.
    pub text: Box<str>,
    /// Code points left out at its end.
    pub left_out: u32,
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let cut = self.left_out > 0;
        let mut step = output.serialize_seq(Some(2 + usize::from(cut)))?;
        step.serialize_element(&self.kind.code())?;
        step.serialize_element(&*self.text)?;
        if cut {
            step.serialize_element(&self.left_out)?;
        }
        step.end()
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_seq(StepVisitor)
    }
}

struct StepVisitor;

impl<'de> Visitor<'de> for StepVisitor {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[-1 | 0 | 1, text of 1 to {STEP_MAX_BYTES} bytes], and what was left out")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Step, A::Error> {
        #[derive(Deserialize)]
        struct StepText(#[serde(deserialize_with = "bounded::string::<_, STEP_MAX_BYTES>")] String);
        let kind = parts.next_element()?.and_then(StepKind::from_code);
        let kind = kind.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let text = parts.next_element::<StepText>()?.filter(|text| !text.0.is_empty());
        let text = text.ok_or_else(|| A::Error::invalid_length(1, &self))?.0.into_boxed_str();
        let left_out = parts.next_element()?.unwrap_or(0);
        Ok(Step { kind, text, left_out })
    }
}

/// Neighbouring changes with a little equal text before, between and after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hunk {
    /// Where its first step begins in the older and in the newer text, in Unicode code points.
    #[serde(deserialize_with = "place")]
    pub at: [u64; 2],
    /// The steps, in order; of a replacement what was removed comes first.
    #[serde(deserialize_with = "bounded::list::<_, _, MAX_STEPS>")]
    pub steps: Vec<Step>,
}

fn place<'de, D: Deserializer<'de>>(input: D) -> Result<[u64; 2], D::Error> {
    #[derive(Deserialize)]
    struct Place(#[serde(deserialize_with = "bounded::count")] u64);
    <[Place; 2]>::deserialize(input).map(|at| at.map(|place| place.0))
}

impl Hunk {
    /// Number of its steps that are changes.
    pub fn changes(&self) -> u64 {
        self.steps.iter().filter(|step| step.kind != StepKind::Same).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_list_of_two_or_three() {
        let step = |kind, text: &str, left_out| Step { kind, text: text.into(), left_out };
        let hunk = Hunk {
            at: [3, 4],
            steps: vec![
                step(StepKind::Same, "a ", 0),
                step(StepKind::Removed, "ö", 0),
                step(StepKind::Added, "long", 70),
            ],
        };
        let json = r#"{"at":[3,4],"steps":[[0,"a "],[-1,"ö"],[1,"long",70]]}"#;
        assert_eq!(serde_json::to_string(&hunk).unwrap(), json);
        assert_eq!(serde_json::from_str::<Hunk>(json).unwrap(), hunk);
        assert_eq!(hunk.changes(), 2);
    }

    #[test]
    fn what_no_step_can_be_is_refused() {
        for step in [
            "[]",
            "[0]",
            r#"["0","a"]"#,
            r#"[2,"a"]"#,
            r#"[1e300,"a"]"#,
            r#"[0,""]"#,
            r#"[0,"a",-1]"#,
            r#"[0,"a",1,1]"#,
            r#"{"code":0}"#,
            &format!("[1,{:?}]", "x".repeat(STEP_MAX_BYTES + 1)),
        ] {
            assert!(serde_json::from_str::<Step>(step).is_err(), "{}", &step[..step.len().min(30)]);
        }
        let many = format!(r#"{{"at":[0,0],"steps":[{}]}}"#, vec![r#"[1,"x"]"#; MAX_STEPS + 1].join(","));
        assert!(serde_json::from_str::<Hunk>(&many).is_err());
    }
}

//! Writes the whole result as compressed JSON while the diffs are measured, up to a limit.
//!
//! Invariant: at most the limit is held; a larger result is dropped.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use wm_job::report::DiffName;

/// The whole result so far, as gzip of the JSON of a [`wm_job::whole_result::WholeResult`].
pub(super) struct WholeWriter {
    state: State,
    diffs: u32,
    steps: u64,
}

enum State {
    /// It was not requested.
    Off,
    Writing(GzEncoder<LimitedBuffer>),
    TooLarge,
}

/// What became of a whole result.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// It was not requested.
    None,
    /// The compressed JSON.
    Written(Vec<u8>),
    /// It is above the limit.
    TooLarge,
}

impl WholeWriter {
    /// Writes at most `max_bytes`; 0 disables it.
    pub(super) fn new(max_bytes: usize) -> Self {
        let buffer = LimitedBuffer { bytes: Vec::new(), max_bytes };
        let encoder = || State::Writing(GzEncoder::new(buffer, Compression::fast()));
        Self { state: if max_bytes == 0 { State::Off } else { encoder() }, diffs: 0, steps: 0 }
    }

    /// Begins the steps of a diff.
    pub(super) fn begin(&mut self, name: DiffName) {
        let before = if self.diffs == 0 { '{' } else { ',' };
        (self.diffs, self.steps) = (self.diffs + 1, 0);
        let name: &str = name.into();
        self.write(|out| write!(out, r#"{before}"{name}":{{"diff":["#));
    }

    /// Adds a step.
    pub(super) fn step(&mut self, step: &impl Serialize) {
        let first = self.steps == 0;
        self.steps += 1;
        self.write(|out| {
            if !first {
                out.write_all(b",")?;
            }
            serde_json::to_writer(out, step).map_err(io::Error::from)
        });
    }

    /// Ends the steps of a diff.
    pub(super) fn end(&mut self, change_count: u64, approximate: bool) {
        self.write(|out| write!(out, r#"],"change_count":{change_count},"approximate":{approximate}}}"#));
    }

    fn write(&mut self, write: impl FnOnce(&mut GzEncoder<LimitedBuffer>) -> io::Result<()>) {
        if let State::Writing(out) = &mut self.state
            && write(out).is_err()
        {
            self.state = State::TooLarge;
        }
    }

    /// Ends the result.
    pub(super) fn finish(mut self) -> Whole {
        self.write(|out| out.write_all(b"}"));
        match self.state {
            State::Off => Whole::None,
            State::TooLarge => Whole::TooLarge,
            State::Writing(out) => {
                out.finish().map_or(Whole::TooLarge, |buffer| Whole::Written(buffer.bytes))
            }
        }
    }
}

/// Refuses what is above its limit.
struct LimitedBuffer {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Write for LimitedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.max_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use wm_job::whole_result::{Diff, Op, WholeResult};

    use super::*;

    fn written(max_bytes: usize) -> Whole {
        let mut writer = WholeWriter::new(max_bytes);
        writer.begin(DiffName::LinksJson);
        writer.end(0, false);
        writer.begin(DiffName::HtmlTextDmp);
        writer.step(&(0, "a \"quoted\" ü"));
        writer.step(&(-1, "b"));
        writer.end(1, true);
        writer.finish()
    }

    #[test]
    fn it_is_the_json_of_all_steps_and_none_above_its_limit() {
        let Whole::Written(gzip) = written(10_000) else { panic!("none") };
        let mut json = String::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut json).unwrap();
        let read: WholeResult = serde_json::from_str(&json).unwrap();
        let op = |code, text: &str| Op(code, text.to_owned());
        let diff = vec![op(0, "a \"quoted\" ü"), op(-1, "b")];
        assert_eq!(read.html_text_dmp, Some(Diff { change_count: 1, diff, approximate: true }));
        assert_eq!(read.links_json, Some(Diff { change_count: 0, diff: Vec::new(), approximate: false }));
        assert_eq!(written(gzip.len()), Whole::Written(gzip.clone()));
        assert_eq!(written(gzip.len() - 1), Whole::TooLarge);
        assert_eq!(written(0), Whole::None);
    }
}

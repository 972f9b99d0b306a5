//! What worker, zygote and job say to each other: fixed frames of little-endian words, by hand.
//!
//! - *control*, SEQPACKET, worker and zygote: one packet is one message of [`WORDS`] words. Every message but the first
//!   carries the job it is about, so a late one is recognised and dropped.
//! - *data*, a STREAM of its own for each job, so a half-written frame cannot spoil the next job:
//!   worker to job: [`RequestHeader`] and three parts; job to worker: [`READY`], [`ReplyHeader`] and the body.
//!
//! Invariant: a length is checked against its cap before anything is allocated for it.
//!
//! # Why
//! A deserialiser on a boundary that a hostile process writes to is surface for nothing: there are four numbers.

use std::time::Duration;

use super::board::PHASE_WORDS;
use super::features::Features;
use super::limits::Limits;

/// Counted up when a frame changes; part of [`BUILD`].
const PROTOCOL: u64 = 1;
/// First word of everything, so that a foreign peer is noticed.
const MAGIC: u64 = u64::from_le_bytes(*b"wmsbox\0\x01");
/// Words of a control message.
pub(super) const WORDS: usize = 16;
/// Bytes of a control message.
pub(super) const PACKET: usize = WORDS * 8;

/// Says which build this is: worker and zygote must be of one.
pub(super) const BUILD: u64 = fingerprint(env!("CARGO_PKG_VERSION"));

/// FNV-1a; source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
const fn fingerprint(text: &str) -> u64 {
    let (bytes, mut hash, mut i) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325 ^ PROTOCOL, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Worker to zygote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// Fork a job; its socket comes along.
    Start {
        /// The job.
        job: u64,
        /// Its limits.
        limits: Limits,
    },
    /// Kill that job, if it still runs.
    Cancel {
        /// The job.
        job: u64,
    },
}

/// Zygote to worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answer {
    /// The zygote is up.
    Hello {
        /// Its build.
        build: u64,
        /// The isolation that it proved.
        features: Features,
    },
    /// A job has ended and is gone.
    Report(Report),
    /// A job could not be forked.
    NoFork {
        /// The job.
        job: u64,
        /// The kernel's reason.
        errno: i32,
    },
}

/// What the zygote saw of a job's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    /// The job.
    pub(super) job: u64,
    /// How it ended.
    pub(super) ending: Ending,
    /// From fork to end.
    pub(super) wall: Duration,
    /// User and system time.
    pub(super) cpu: Duration,
    /// Peak resident set in bytes.
    pub(super) max_rss_bytes: u64,
    /// Peak of the counted heap in bytes, as the job said.
    pub(super) peak_heap_bytes: u64,
    /// What it was doing, as the job said.
    pub(super) phase: [u64; PHASE_WORDS],
}

/// How a job ended. That *we* killed it is the zygote's own word, never a guess from the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, and not by us.
    Killed(i32),
    /// By us, at the end of its wall clock.
    Deadline,
    /// By us, because the worker said so.
    Cancelled,
}

/// Exit code and signal, as evidence.
pub(super) fn exit_and_signal(ending: Ending) -> (Option<i32>, Option<i32>) {
    match ending {
        Ending::Exited(code) => (Some(code), None),
        Ending::Killed(signal) => (None, Some(signal)),
        Ending::Deadline | Ending::Cancelled => (None, Some(libc::SIGKILL)),
    }
}

/// A message as words, written or read from the front.
#[derive(Default)]
struct Words {
    words: [u64; WORDS],
    at: usize,
}

impl Words {
    fn put(mut self, word: u64) -> Self {
        self.words[self.at] = word;
        self.at += 1;
        self
    }

    fn take(&mut self) -> u64 {
        self.at += 1;
        self.words[self.at - 1]
    }

    fn bytes(self) -> [u8; PACKET] {
        let mut bytes = [0; PACKET];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a whole packet whose first word is right.
    fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == PACKET).then_some(())?;
        let mut words = Self::default();
        for (word, chunk) in words.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = word_of(chunk);
        }
        (words.take() == MAGIC).then_some(words)
    }
}

fn word_of(chunk: &[u8]) -> u64 {
    chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn start() -> Words {
    Words::default().put(MAGIC)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn signed(word: i32) -> u64 {
    u64::from(word.cast_unsigned())
}

fn unsigned(word: u64) -> Option<i32> {
    u32::try_from(word).ok().map(u32::cast_signed)
}

impl Order {
    /// As a packet.
    pub(super) fn encode(self) -> [u8; PACKET] {
        match self {
            Self::Start { job, limits } => start()
                .put(1)
                .put(job)
                .put(nanos(limits.wall))
                .put(limits.heap_bytes)
                .put(limits.stack_bytes)
                .put(limits.reply_bytes),
            Self::Cancel { job } => start().put(2).put(job),
        }
        .bytes()
    }

    /// From a packet; `None` if it is not one of ours.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = Words::read(packet)?;
        let (tag, job) = (words.take(), words.take());
        match tag {
            1 => {
                let wall = Duration::from_nanos(words.take());
                let (heap_bytes, stack_bytes, reply_bytes) = (words.take(), words.take(), words.take());
                Some(Self::Start { job, limits: Limits { wall, heap_bytes, stack_bytes, reply_bytes } })
            }
            2 => Some(Self::Cancel { job }),
            _ => None,
        }
    }
}

impl Answer {
    /// As a packet.
    pub(super) fn encode(self) -> [u8; PACKET] {
        match self {
            Self::Hello { build, features } => start().put(1).put(build).put(u64::from(features.bits())),
            Self::Report(report) => report.encode(start().put(2)),
            Self::NoFork { job, errno } => start().put(3).put(job).put(signed(errno)),
        }
        .bytes()
    }

    /// From a packet; `None` if it is not one of ours.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = Words::read(packet)?;
        match words.take() {
            1 => {
                let build = words.take();
                let features = Features::from_bits_retain(u32::try_from(words.take()).ok()?);
                Some(Self::Hello { build, features })
            }
            2 => Report::decode(&mut words).map(Self::Report),
            3 => Some(Self::NoFork { job: words.take(), errno: unsigned(words.take())? }),
            _ => None,
        }
    }
}

impl Report {
    fn encode(self, words: Words) -> Words {
        let (tag, value) = match self.ending {
            Ending::Exited(code) => (0, code),
            Ending::Killed(signal) => (1, signal),
            Ending::Deadline => (2, 0),
            Ending::Cancelled => (3, 0),
        };
        let words = words
            .put(self.job)
            .put(tag)
            .put(signed(value))
            .put(nanos(self.wall))
            .put(nanos(self.cpu))
            .put(self.max_rss_bytes)
            .put(self.peak_heap_bytes);
        self.phase.into_iter().fold(words, Words::put)
    }

    fn decode(words: &mut Words) -> Option<Self> {
        let job = words.take();
        let ending = match (words.take(), unsigned(words.take())?) {
            (0, code) => Ending::Exited(code),
            (1, signal) => Ending::Killed(signal),
            (2, _) => Ending::Deadline,
            (3, _) => Ending::Cancelled,
            _ => return None,
        };
        Some(Self {
            job,
            ending,
            wall: Duration::from_nanos(words.take()),
            cpu: Duration::from_nanos(words.take()),
            max_rss_bytes: words.take(),
            peak_heap_bytes: words.take(),
            phase: std::array::from_fn(|_| words.take()),
        })
    }
}

/// The first byte of every reply: written before a byte of the request is read. Until then no hostile byte has been in
/// the process, so whatever ends it is ours; afterwards nothing it says can make it ours again.
pub(super) const READY: u8 = b'R';

/// Bytes of [`RequestHeader`].
pub(super) const REQUEST_HEADER: usize = 4 * 8;

/// Lengths of a request's three parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestHeader {
    /// Of the options.
    pub(super) options: u64,
    /// Of the first body.
    pub(super) a: u64,
    /// Of the second body.
    pub(super) b: u64,
}

impl RequestHeader {
    /// As bytes.
    pub(super) fn encode(self) -> [u8; REQUEST_HEADER] {
        frame([MAGIC, self.options, self.a, self.b])
    }

    /// From bytes; `None` if it is not one of ours.
    pub(super) fn decode(bytes: [u8; REQUEST_HEADER]) -> Option<Self> {
        let [magic, options, a, b] = words(bytes);
        (magic == MAGIC).then_some(Self { options, a, b })
    }
}

/// What kind of body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// What the work returned.
    Done,
    /// The work panicked; its message.
    Panicked,
}

/// Bytes of [`ReplyHeader`].
pub(super) const REPLY_HEADER: usize = 4 * 8;

/// The head of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    /// What follows.
    pub(super) code: Code,
    /// How many bytes of it.
    pub(super) len: u64,
}

impl ReplyHeader {
    /// As bytes.
    pub(super) fn encode(self) -> [u8; REPLY_HEADER] {
        let code = match self.code {
            Code::Done => 1,
            Code::Panicked => 2,
        };
        frame([MAGIC, code, self.len, 0])
    }

    /// From bytes that a hostile process may have written; `None` if it is not one of ours.
    pub(super) fn decode(bytes: [u8; REPLY_HEADER]) -> Option<Self> {
        let code = match words(bytes) {
            [MAGIC, 1, _, 0] => Code::Done,
            [MAGIC, 2, _, 0] => Code::Panicked,
            _ => return None,
        };
        Some(Self { code, len: words(bytes)[2] })
    }
}

fn frame(words: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

fn words(bytes: [u8; 32]) -> [u64; 4] {
    std::array::from_fn(|i| word_of(&bytes[i * 8..i * 8 + 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { wall: Duration::from_millis(1_234), heap_bytes: 1, stack_bytes: 2, reply_bytes: 3 }
    }

    fn report(ending: Ending) -> Report {
        Report {
            job: 7,
            ending,
            wall: Duration::from_micros(1),
            cpu: Duration::from_micros(2),
            max_rss_bytes: 3,
            peak_heap_bytes: 4,
            phase: [5, 6, 7, 8],
        }
    }

    #[test]
    fn every_message_comes_back_as_it_was_sent() {
        for order in [Order::Start { job: u64::MAX, limits: limits() }, Order::Cancel { job: 9 }] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        let mut answers = vec![
            Answer::Hello { build: BUILD, features: Features::all() },
            Answer::NoFork { job: 1, errno: 11 },
        ];
        for ending in [Ending::Exited(-1), Ending::Killed(9), Ending::Deadline, Ending::Cancelled] {
            answers.push(Answer::Report(report(ending)));
        }
        for answer in answers {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        let header = RequestHeader { options: 1, a: 2, b: u64::MAX };
        assert_eq!(RequestHeader::decode(header.encode()), Some(header));
        for code in [Code::Done, Code::Panicked] {
            let header = ReplyHeader { code, len: u64::MAX };
            assert_eq!(ReplyHeader::decode(header.encode()), Some(header));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let good = Order::Cancel { job: 9 }.encode();
        assert_eq!(Order::decode(&good[..PACKET - 1]), None, "short");
        assert_eq!(Order::decode(&[]), None, "empty");
        assert_eq!(Order::decode(&[0; PACKET]), None, "no magic");
        let mut unknown = good;
        unknown[8] = 77;
        assert_eq!(Order::decode(&unknown), None, "unknown tag");
        assert_eq!(Answer::decode(&unknown), None, "unknown tag");
        let mut ending = Answer::Report(report(Ending::Deadline)).encode();
        ending[3 * 8] = 77;
        assert_eq!(Answer::decode(&ending), None, "unknown ending");
        for at in [0, 8, 24] {
            let mut reply = ReplyHeader { code: Code::Done, len: 5 }.encode();
            reply[at] ^= 0x80;
            assert_eq!(ReplyHeader::decode(reply), None, "byte {at}");
        }
    }
}

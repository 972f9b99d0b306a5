//! What worker, fork-server and job say to each other: fixed frames of little-endian words, by hand.
//!
//! - *control*, SEQPACKET, worker and fork-server: one packet is one message of [`PACKET_WORDS`] words. Every message but the first
//!   carries the job it is about, so a late one is recognised and dropped.
//! - *data*, a STREAM of its own for each job, so a half-written frame cannot spoil the next job:
//!   worker to job: [`RequestHeader`] and three parts; job to worker: [`READY`], [`ReplyHeader`] and the body.
//!
//! Invariant: a length is checked against its cap before anything is allocated for it.
//!
//! # Why
//! A deserialiser on a boundary that a hostile process writes to is surface for nothing: there are four numbers.

use std::time::Duration;

use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::status_block::PHASE_WORDS;

/// Counted up when a frame changes; part of [`BUILD_ID`].
const PROTOCOL_VERSION: u64 = 1;
/// First word of everything, so that a foreign peer is noticed.
const MAGIC: u64 = u64::from_le_bytes(*b"wmsbox\0\x01");
/// Words in a control message, 64 bits each.
pub(super) const PACKET_WORDS: usize = 16;
/// Bytes of a control message.
pub(super) const PACKET_BYTES: usize = PACKET_WORDS * 8;

/// Says which build this is: worker and fork-server must be of one.
pub(super) const BUILD_ID: u64 = fingerprint(env!("CARGO_PKG_VERSION"));

/// FNV-1a; source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
const fn fingerprint(text: &str) -> u64 {
    let (bytes, mut hash, mut i) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325 ^ PROTOCOL_VERSION, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Worker to fork-server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ControlCommand {
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

/// Fork-server to worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ControlEvent {
    /// The fork-server is up.
    Hello {
        /// Its build.
        build: u64,
        /// The isolation that it proved.
        layers: IsolationLayers,
    },
    /// A job has ended and is gone.
    JobExited(JobExit),
    /// A job could not be forked.
    ForkFailed {
        /// The job.
        job: u64,
        /// The kernel's reason.
        errno: i32,
    },
}

/// What the fork-server saw of a job's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct JobExit {
    /// The job.
    pub(super) job: u64,
    /// How it ended.
    pub(super) cause: ExitCause,
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

/// How a job ended. That *we* killed it is the fork-server's own word, never a guess from the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitCause {
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
pub(super) fn exit_and_signal(cause: ExitCause) -> (Option<i32>, Option<i32>) {
    match cause {
        ExitCause::Exited(code) => (Some(code), None),
        ExitCause::Killed(signal) => (None, Some(signal)),
        ExitCause::Deadline | ExitCause::Cancelled => (None, Some(libc::SIGKILL)),
    }
}

/// A message as words, written or read from the front.
#[derive(Default)]
struct PacketCursor {
    words: [u64; PACKET_WORDS],
    at: usize,
}

impl PacketCursor {
    fn put(mut self, word: u64) -> Self {
        self.words[self.at] = word;
        self.at += 1;
        self
    }

    fn take(&mut self) -> u64 {
        self.at += 1;
        self.words[self.at - 1]
    }

    fn bytes(self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a whole packet whose first word is right.
    fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == PACKET_BYTES).then_some(())?;
        let mut words = Self::default();
        for (word, chunk) in words.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = word_from_bytes(chunk);
        }
        (words.take() == MAGIC).then_some(words)
    }
}

fn word_from_bytes(chunk: &[u8]) -> u64 {
    chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn new_packet() -> PacketCursor {
    PacketCursor::default().put(MAGIC)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn i32_to_word(word: i32) -> u64 {
    u64::from(word.cast_unsigned())
}

fn word_to_i32(word: u64) -> Option<i32> {
    u32::try_from(word).ok().map(u32::cast_signed)
}

impl ControlCommand {
    /// As a packet.
    pub(super) fn encode(self) -> [u8; PACKET_BYTES] {
        match self {
            Self::Start { job, limits } => new_packet()
                .put(1)
                .put(job)
                .put(nanos(limits.wall))
                .put(limits.heap_bytes)
                .put(limits.stack_bytes)
                .put(limits.reply_bytes),
            Self::Cancel { job } => new_packet().put(2).put(job),
        }
        .bytes()
    }

    /// From a packet; `None` if it is not one of ours.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = PacketCursor::read(packet)?;
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

impl ControlEvent {
    /// As a packet.
    pub(super) fn encode(self) -> [u8; PACKET_BYTES] {
        match self {
            Self::Hello { build, layers } => new_packet().put(1).put(build).put(u64::from(layers.bits())),
            Self::JobExited(report) => report.encode(new_packet().put(2)),
            Self::ForkFailed { job, errno } => new_packet().put(3).put(job).put(i32_to_word(errno)),
        }
        .bytes()
    }

    /// From a packet; `None` if it is not one of ours.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = PacketCursor::read(packet)?;
        match words.take() {
            1 => {
                let build = words.take();
                let layers = IsolationLayers::from_bits_retain(u32::try_from(words.take()).ok()?);
                Some(Self::Hello { build, layers })
            }
            2 => JobExit::decode(&mut words).map(Self::JobExited),
            3 => Some(Self::ForkFailed { job: words.take(), errno: word_to_i32(words.take())? }),
            _ => None,
        }
    }
}

impl JobExit {
    fn encode(self, words: PacketCursor) -> PacketCursor {
        let (tag, value) = match self.cause {
            ExitCause::Exited(code) => (0, code),
            ExitCause::Killed(signal) => (1, signal),
            ExitCause::Deadline => (2, 0),
            ExitCause::Cancelled => (3, 0),
        };
        let words = words
            .put(self.job)
            .put(tag)
            .put(i32_to_word(value))
            .put(nanos(self.wall))
            .put(nanos(self.cpu))
            .put(self.max_rss_bytes)
            .put(self.peak_heap_bytes);
        self.phase.into_iter().fold(words, PacketCursor::put)
    }

    fn decode(words: &mut PacketCursor) -> Option<Self> {
        let job = words.take();
        let cause = match (words.take(), word_to_i32(words.take())?) {
            (0, code) => ExitCause::Exited(code),
            (1, signal) => ExitCause::Killed(signal),
            (2, _) => ExitCause::Deadline,
            (3, _) => ExitCause::Cancelled,
            _ => return None,
        };
        Some(Self {
            job,
            cause,
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
pub(super) const REQUEST_HEADER_BYTES: usize = 4 * 8;

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
    pub(super) fn encode(self) -> [u8; REQUEST_HEADER_BYTES] {
        encode_words([MAGIC, self.options, self.a, self.b])
    }

    /// From bytes; `None` if it is not one of ours.
    pub(super) fn decode(bytes: [u8; REQUEST_HEADER_BYTES]) -> Option<Self> {
        let [magic, options, a, b] = decode_words(bytes);
        (magic == MAGIC).then_some(Self { options, a, b })
    }
}

/// What kind of body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyCode {
    /// What the work returned.
    Done,
    /// The work panicked; its message.
    Panicked,
}

/// Bytes of [`ReplyHeader`].
pub(super) const REPLY_HEADER_BYTES: usize = 4 * 8;

/// The head of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    /// What follows.
    pub(super) code: ReplyCode,
    /// How many bytes of it.
    pub(super) len: u64,
}

impl ReplyHeader {
    /// As bytes.
    pub(super) fn encode(self) -> [u8; REPLY_HEADER_BYTES] {
        let code = match self.code {
            ReplyCode::Done => 1,
            ReplyCode::Panicked => 2,
        };
        encode_words([MAGIC, code, self.len, 0])
    }

    /// From bytes that a hostile process may have written; `None` if it is not one of ours.
    pub(super) fn decode(bytes: [u8; REPLY_HEADER_BYTES]) -> Option<Self> {
        let code = match decode_words(bytes) {
            [MAGIC, 1, _, 0] => ReplyCode::Done,
            [MAGIC, 2, _, 0] => ReplyCode::Panicked,
            _ => return None,
        };
        Some(Self { code, len: decode_words(bytes)[2] })
    }
}

fn encode_words(words: [u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

fn decode_words(bytes: [u8; 32]) -> [u64; 4] {
    std::array::from_fn(|i| word_from_bytes(&bytes[i * 8..i * 8 + 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { wall: Duration::from_millis(1_234), heap_bytes: 1, stack_bytes: 2, reply_bytes: 3 }
    }

    fn report(cause: ExitCause) -> JobExit {
        JobExit {
            job: 7,
            cause,
            wall: Duration::from_micros(1),
            cpu: Duration::from_micros(2),
            max_rss_bytes: 3,
            peak_heap_bytes: 4,
            phase: [5, 6, 7, 8],
        }
    }

    #[test]
    fn every_message_comes_back_as_it_was_sent() {
        for order in
            [ControlCommand::Start { job: u64::MAX, limits: limits() }, ControlCommand::Cancel { job: 9 }]
        {
            assert_eq!(ControlCommand::decode(&order.encode()), Some(order));
        }
        let mut answers = vec![
            ControlEvent::Hello { build: BUILD_ID, layers: IsolationLayers::all() },
            ControlEvent::ForkFailed { job: 1, errno: 11 },
        ];
        for cause in [ExitCause::Exited(-1), ExitCause::Killed(9), ExitCause::Deadline, ExitCause::Cancelled]
        {
            answers.push(ControlEvent::JobExited(report(cause)));
        }
        for answer in answers {
            assert_eq!(ControlEvent::decode(&answer.encode()), Some(answer));
        }
        let header = RequestHeader { options: 1, a: 2, b: u64::MAX };
        assert_eq!(RequestHeader::decode(header.encode()), Some(header));
        for code in [ReplyCode::Done, ReplyCode::Panicked] {
            let header = ReplyHeader { code, len: u64::MAX };
            assert_eq!(ReplyHeader::decode(header.encode()), Some(header));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let good = ControlCommand::Cancel { job: 9 }.encode();
        assert_eq!(ControlCommand::decode(&good[..PACKET_BYTES - 1]), None, "short");
        assert_eq!(ControlCommand::decode(&[]), None, "empty");
        assert_eq!(ControlCommand::decode(&[0; PACKET_BYTES]), None, "no magic");
        let mut unknown = good;
        unknown[8] = 77;
        assert_eq!(ControlCommand::decode(&unknown), None, "unknown tag");
        assert_eq!(ControlEvent::decode(&unknown), None, "unknown tag");
        let mut cause = ControlEvent::JobExited(report(ExitCause::Deadline)).encode();
        cause[3 * 8] = 77;
        assert_eq!(ControlEvent::decode(&cause), None, "unknown cause");
        for at in [0, 8, 24] {
            let mut reply = ReplyHeader { code: ReplyCode::Done, len: 5 }.encode();
            reply[at] ^= 0x80;
            assert_eq!(ReplyHeader::decode(reply), None, "byte {at}");
        }
    }
}

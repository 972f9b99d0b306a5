//! Wire format between worker, fork server and job: fixed-size frames of little-endian
//! 64-bit words, encoded by hand.
//!
//! - *control*, SEQPACKET, between worker and fork server: one packet is one message of
//!   [`PACKET_WORDS`] words. Every message except the first carries the id of its job, so that late
//!   messages are recognised and dropped.
//! - *data*, one STREAM per job, so that a partially written frame cannot affect the next job. Worker to job:
//!   [`RequestHeader`] and three parts. Job to worker: [`READY`], [`ReplyHeader`] and two parts.
//!
//! Invariant: a length is checked against its limit before memory is allocated for it.
//!
//! # Why
//! A deserialiser would add attack surface on a boundary that a hostile process writes to; there are only
//! four numbers to decode.

use std::time::Duration;

use super::isolation_layers::IsolationLayers;
use super::limits::Limits;
use super::status_block::PHASE_WORDS;

/// Incremented whenever a frame changes; part of [`BUILD_ID`].
const PROTOCOL_VERSION: u64 = 4;
/// First word of every frame; identifies peers that speak another protocol.
const MAGIC: u64 = u64::from_le_bytes(*b"wmsbox\0\x01");
/// Size of a control message, in 64-bit words.
pub(super) const PACKET_WORDS: usize = 16;
/// Size of a control message, in bytes.
pub(super) const PACKET_BYTES: usize = PACKET_WORDS * 8;

/// A time that is not known: 584 years, which no job waits.
const UNKNOWN: u64 = u64::MAX;

/// Fingerprint of this build; worker and fork server must have the same one.
pub(super) const BUILD_ID: u64 = fingerprint(env!("CARGO_PKG_VERSION"));

/// FNV-1a hash, see <http://www.isthe.com/chongo/tech/comp/fnv/>.
const fn fingerprint(text: &str) -> u64 {
    let (bytes, mut hash, mut i) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325 ^ PROTOCOL_VERSION, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Message from the worker to the fork server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ControlCommand {
    /// Fork a job; its data socket is attached to the packet.
    Start {
        /// Job id, unique within this fork server.
        job: u64,
        /// Resource limits the job runs under.
        limits: Limits,
    },
    /// Kill the job if it is still running.
    Cancel {
        /// Id from the matching `Start`.
        job: u64,
    },
}

/// Message from the fork server to the worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ControlEvent {
    /// The fork server is ready for jobs.
    Hello {
        /// [`BUILD_ID`] of the fork server.
        build: u64,
        /// Isolation layers that the self-test found in force.
        layers: IsolationLayers,
    },
    /// A job has exited and was reaped.
    JobExited(JobExit),
    /// Forking the job failed; it never ran.
    ForkFailed {
        /// Id from the matching `Start`.
        job: u64,
        /// Error of the `fork` call.
        errno: i32,
    },
}

/// Exit report of a job, measured by the fork server unless noted otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct JobExit {
    /// Id from the matching `Start`.
    pub(super) job: u64,
    /// Cause of the exit.
    pub(super) cause: ExitCause,
    /// Wall-clock time from fork to exit.
    pub(super) wall: Duration,
    /// User plus system CPU time.
    pub(super) cpu: Duration,
    /// Time in which it got no CPU, or had no request yet; `None` if the kernel does not count it.
    pub(super) waited: Option<Duration>,
    /// Peak resident set size, in bytes.
    pub(super) max_rss_bytes: u64,
    /// Page faults that were served without reading from a disk.
    pub(super) minor_faults: u64,
    /// Peak of the counted heap in bytes, as written by the job.
    pub(super) peak_heap_bytes: u64,
    /// Last phase, as written by the job.
    pub(super) phase: [u64; PHASE_WORDS],
}

/// How a job ended. Whether the fork server killed it is recorded when it sends the signal,
/// not inferred from the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitCause {
    /// Exited by itself with this code.
    Exited(i32),
    /// Killed by this signal, which the fork server did not send.
    Killed(i32),
    /// Killed by the fork server at the wall-clock limit.
    Deadline,
    /// Killed by the fork server at the hard ceiling, before the wall-clock limit was used.
    Ceiling,
    /// Killed by the fork server because the worker cancelled it.
    Cancelled,
}

/// Exit code or signal number, for the evidence in a report.
pub(super) fn exit_and_signal(cause: ExitCause) -> (Option<i32>, Option<i32>) {
    match cause {
        ExitCause::Exited(code) => (Some(code), None),
        ExitCause::Killed(signal) => (None, Some(signal)),
        ExitCause::Deadline | ExitCause::Ceiling | ExitCause::Cancelled => (None, Some(libc::SIGKILL)),
    }
}

/// Cursor that writes or reads the words of a control message in order.
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
        to_bytes(self.words)
    }

    /// Parses a packet of the right size that starts with [`MAGIC`]; the cursor is placed after it.
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; PACKET_BYTES] = bytes.try_into().ok()?;
        let mut words = Self { words: to_words(bytes), at: 0 };
        (words.take() == MAGIC).then_some(words)
    }
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

    /// Decodes a packet; `None` if the size, the magic or the tag is wrong.
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
    pub(super) fn encode(self) -> [u8; PACKET_BYTES] {
        match self {
            Self::Hello { build, layers } => new_packet().put(1).put(build).put(u64::from(layers.bits())),
            Self::JobExited(report) => report.encode(new_packet().put(2)),
            Self::ForkFailed { job, errno } => new_packet().put(3).put(job).put(i32_to_word(errno)),
        }
        .bytes()
    }

    /// Decodes a packet; `None` if the size, the magic, the tag or a value is invalid.
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
            ExitCause::Ceiling => (4, 0),
        };
        let words = words
            .put(self.job)
            .put(tag)
            .put(i32_to_word(value))
            .put(nanos(self.wall))
            .put(nanos(self.cpu))
            .put(self.waited.map_or(UNKNOWN, nanos))
            .put(self.max_rss_bytes)
            .put(self.minor_faults)
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
            (4, _) => ExitCause::Ceiling,
            _ => return None,
        };
        Some(Self {
            job,
            cause,
            wall: Duration::from_nanos(words.take()),
            cpu: Duration::from_nanos(words.take()),
            waited: Some(words.take()).filter(|&word| word != UNKNOWN).map(Duration::from_nanos),
            max_rss_bytes: words.take(),
            minor_faults: words.take(),
            peak_heap_bytes: words.take(),
            phase: std::array::from_fn(|_| words.take()),
        })
    }
}

/// First byte of every reply, written before any byte of the request is read. A job that ends before it has
/// written this byte cannot have been affected by its input, so the failure is ours. Nothing the job writes
/// afterwards can shift the blame back to us.
pub(super) const READY: u8 = b'R';

/// Encoded size of [`RequestHeader`].
pub(super) const REQUEST_HEADER_BYTES: usize = 4 * 8;

/// Lengths in bytes of the three parts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestHeader {
    /// Length of [`Request::options`](super::Request::options).
    pub(super) options: u64,
    /// Length of [`Request::a`](super::Request::a).
    pub(super) a: u64,
    /// Length of [`Request::b`](super::Request::b).
    pub(super) b: u64,
}

impl RequestHeader {
    pub(super) fn encode(self) -> [u8; REQUEST_HEADER_BYTES] {
        to_bytes([MAGIC, self.options, self.a, self.b])
    }

    /// Decodes a header; `None` if the magic does not match.
    pub(super) fn decode(bytes: [u8; REQUEST_HEADER_BYTES]) -> Option<Self> {
        let [magic, options, a, b] = to_words(bytes);
        (magic == MAGIC).then_some(Self { options, a, b })
    }
}

/// Largest answer of a job in bytes: it is parsed, so it stays far below what parsing may take.
pub const ANSWER_MAX_BYTES: u64 = 256 * 1024;

/// Kind of answer that follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyCode {
    /// The answer is that of the work.
    Done,
    /// The work panicked; the answer is the panic message.
    Panicked,
}

/// Encoded size of [`ReplyHeader`].
pub(super) const REPLY_HEADER_BYTES: usize = 4 * 8;

/// Header of a reply, followed by an answer and an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    /// Kind of the answer.
    pub(super) code: ReplyCode,
    /// Length of the answer in bytes.
    pub(super) answer: u64,
    /// Length of the attachment in bytes.
    pub(super) attachment: u64,
}

impl ReplyHeader {
    pub(super) fn encode(self) -> [u8; REPLY_HEADER_BYTES] {
        let code = match self.code {
            ReplyCode::Done => 1,
            ReplyCode::Panicked => 2,
        };
        to_bytes([MAGIC, code, self.answer, self.attachment])
    }

    /// Decodes bytes that a hostile process may have written; `None` if they are not a valid header.
    pub(super) fn decode(bytes: [u8; REPLY_HEADER_BYTES]) -> Option<Self> {
        match to_words(bytes) {
            [MAGIC, 1, answer, attachment] => Some(Self { code: ReplyCode::Done, answer, attachment }),
            [MAGIC, 2, answer, attachment] => Some(Self { code: ReplyCode::Panicked, answer, attachment }),
            _ => None,
        }
    }
}

/// Little-endian bytes of the words: eight of each.
fn to_bytes<const WORDS: usize, const BYTES: usize>(words: [u64; WORDS]) -> [u8; BYTES] {
    let little_endian = words.map(u64::to_le_bytes);
    std::array::from_fn(|i| little_endian[i / 8][i % 8])
}

/// The opposite of [`to_bytes`].
pub(super) fn to_words<const WORDS: usize, const BYTES: usize>(bytes: [u8; BYTES]) -> [u64; WORDS] {
    let (chunks, _) = bytes.as_chunks();
    std::array::from_fn(|i| u64::from_le_bytes(chunks[i]))
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
            waited: Some(Duration::from_micros(3)),
            max_rss_bytes: 3,
            minor_faults: 9,
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
        for cause in [
            ExitCause::Exited(-1),
            ExitCause::Killed(9),
            ExitCause::Deadline,
            ExitCause::Ceiling,
            ExitCause::Cancelled,
        ] {
            answers.push(ControlEvent::JobExited(report(cause)));
            answers.push(ControlEvent::JobExited(JobExit { waited: None, ..report(cause) }));
        }
        for answer in answers {
            assert_eq!(ControlEvent::decode(&answer.encode()), Some(answer));
        }
        let header = RequestHeader { options: 1, a: 2, b: u64::MAX };
        assert_eq!(RequestHeader::decode(header.encode()), Some(header));
        for code in [ReplyCode::Done, ReplyCode::Panicked] {
            let header = ReplyHeader { code, answer: u64::MAX, attachment: 7 };
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
        for at in [0, 8] {
            let mut reply = ReplyHeader { code: ReplyCode::Done, answer: 5, attachment: 6 }.encode();
            reply[at] ^= 0x80;
            assert_eq!(ReplyHeader::decode(reply), None, "byte {at}");
        }
    }
}

//! One job's conversation: hand it the request, hear its reply, and hear from the zygote how it ended.
//!
//! It decides nothing about what it has seen: that is `classify`.
//!
//! Invariant: nothing that a job says makes the worker hold more than the reply's cap, or wait beyond the backstop.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::Request;
use super::classify::{Said, Seen};
use super::handle::Handle;
use super::limits::Limits;
use super::protocol::{self, ReplyHeader, RequestHeader};

/// What is left in a dead job's socket is read at once; longer only if a stranger holds it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A job in flight: if nobody waits for it any more, it is cancelled.
struct Flight<'a>(&'a mut Handle);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A pair of connected sockets: ours, and the job's.
pub(super) fn sockets() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Sees a job through that was just begun. Dropping the future cancels the job.
pub(super) async fn converse(
    zygote: &mut Handle,
    mut data: UnixStream,
    request: Request,
    limits: &Limits,
) -> (Said, Seen) {
    let began = Instant::now();
    let flight = Flight(zygote);
    let backstop = sleep(limits.backstop());
    let talk = talk(&mut data, request, limits.reply_bytes);
    tokio::pin!(backstop, talk);
    let mut said = None;
    let seen = loop {
        tokio::select! {
            words = &mut talk, if said.is_none() => {
                if !matches!(words, Said::Reply { .. }) {
                    flight.0.cancel(); // nothing more can come of it: a job that hangs now would do so to its deadline
                }
                said = Some(words);
            }
            answer = flight.0.report() => break match answer {
                Ok(Ok(report)) => Seen::Ended(report),
                Ok(Err(errno)) => Seen::NotForked(errno),
                Err(error) => Seen::ZygoteLost { why: error.to_string(), wall: began.elapsed() },
            },
            () = &mut backstop => {
                flight.0.kill();
                break Seen::ZygoteLost { why: "it did not report in time".to_owned(), wall: began.elapsed() };
            }
        }
    };
    let said = match said {
        Some(said) => said,
        None => timeout(LAST_WORDS, talk).await.unwrap_or(Said::Nothing),
    };
    (said, seen)
}

/// Writes the request and reads the reply, whatever comes.
async fn talk(data: &mut UnixStream, request: Request, cap: u64) -> Said {
    // A job that dies while we write has often said why; so read on.
    let _ = write(data, request).await;
    match read(data, cap).await {
        Ok(said) => said,
        Err(_) => Said::Garbage("it broke the connection"),
    }
}

async fn write(data: &mut UnixStream, request: Request) -> io::Result<()> {
    let [options, a, b] = [&request.options, &request.a, &request.b].map(|part| part.len() as u64);
    data.write_all(&RequestHeader { options, a, b }.encode()).await?;
    for part in [request.options, request.a, request.b] {
        data.write_all(&part).await?; // and free it: the job has its own copy now
    }
    Ok(())
}

async fn read(data: &mut UnixStream, cap: u64) -> io::Result<Said> {
    let mut ready = [0];
    if data.read(&mut ready).await? == 0 {
        return Ok(Said::NotReady);
    }
    if ready != [protocol::READY] {
        return Ok(Said::Garbage("its first byte is not ours"));
    }
    let mut header = Vec::with_capacity(protocol::REPLY_HEADER);
    data.take(protocol::REPLY_HEADER as u64).read_to_end(&mut header).await?;
    let Ok(header) = <[u8; protocol::REPLY_HEADER]>::try_from(header.as_slice()) else {
        return Ok(if header.is_empty() { Said::Nothing } else { Said::Garbage("its header is cut off") });
    };
    let Some(header) = ReplyHeader::decode(header) else {
        return Ok(Said::Garbage("its header is not ours"));
    };
    if header.len > cap {
        return Ok(Said::TooLarge(header.len));
    }
    let mut body = Vec::with_capacity(usize::try_from(header.len).unwrap_or(0));
    // One byte more than announced, so that a longer one is noticed.
    data.take(header.len + 1).read_to_end(&mut body).await?;
    Ok(match (body.len() as u64).cmp(&header.len) {
        std::cmp::Ordering::Less => Said::Garbage("its body is cut off"),
        std::cmp::Ordering::Equal => Said::Reply { code: header.code, body },
        std::cmp::Ordering::Greater => Said::Garbage("it goes on after its end"),
    })
}

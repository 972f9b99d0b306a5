//! One job's exchange: writes its request, reads its reply, and waits for the fork-server's report of how it ended.
//!
//! It decides nothing about what it has read: that is `classify`.
//!
//! Invariant: nothing that a job says makes the worker hold more than the reply's cap, or wait beyond the report timeout.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::Request;
use super::classify::{ExitReport, JobOutput};
use super::fork_server_handle::ForkServerHandle;
use super::limits::Limits;
use super::protocol::{self, ReplyHeader, RequestHeader};

/// What is left in a dead job's socket is read at once; longer only if a stranger holds it open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A job in flight: if nobody waits for it any more, it is cancelled.
struct CancelOnDrop<'a>(&'a mut ForkServerHandle);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A pair of connected sockets: ours, and the job's.
pub(super) fn socket_pair() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Sees a job through that was just begun. Dropping the future cancels the job.
pub(super) async fn exchange(
    fork_server: &mut ForkServerHandle,
    mut data: UnixStream,
    request: Request,
    limits: &Limits,
) -> (JobOutput, ExitReport) {
    let began = Instant::now();
    let cancel_on_drop = CancelOnDrop(fork_server);
    let report_timeout = sleep(limits.report_timeout());
    let transfer = transfer(&mut data, request, limits.reply_bytes);
    tokio::pin!(report_timeout, transfer);
    let mut output = None;
    let exit_report = loop {
        tokio::select! {
            received = &mut transfer, if output.is_none() => {
                if !matches!(received, JobOutput::Reply { .. }) {
                    cancel_on_drop.0.cancel(); // nothing more can come of it: a job that hangs now would do so to its deadline
                }
                output = Some(received);
            }
            answer = cancel_on_drop.0.wait_for_report() => break match answer {
                Ok(Ok(report)) => ExitReport::Ended(report),
                Ok(Err(errno)) => ExitReport::ForkFailed(errno),
                Err(error) => ExitReport::ForkServerLost { why: error.to_string(), wall: began.elapsed() },
            },
            () = &mut report_timeout => {
                cancel_on_drop.0.kill();
                break ExitReport::ForkServerLost { why: "it did not report in time".to_owned(), wall: began.elapsed() };
            }
        }
    };
    let output = match output {
        Some(output) => output,
        None => timeout(DRAIN_TIMEOUT, transfer).await.unwrap_or(JobOutput::Empty),
    };
    (output, exit_report)
}

/// Writes the request and reads the reply, whatever comes.
async fn transfer(data: &mut UnixStream, request: Request, cap: u64) -> JobOutput {
    // A job that dies while we write has often reported why; so read on.
    let _ = write_request(data, request).await;
    match read_reply(data, cap).await {
        Ok(output) => output,
        Err(_) => JobOutput::Malformed("it broke the connection"),
    }
}

async fn write_request(data: &mut UnixStream, request: Request) -> io::Result<()> {
    let [options, a, b] = [&request.options, &request.a, &request.b].map(|part| part.len() as u64);
    data.write_all(&RequestHeader { options, a, b }.encode()).await?;
    for part in [request.options, request.a, request.b] {
        data.write_all(&part).await?; // and free it: the job has its own copy now
    }
    Ok(())
}

async fn read_reply(data: &mut UnixStream, cap: u64) -> io::Result<JobOutput> {
    let mut ready = [0];
    if data.read(&mut ready).await? == 0 {
        return Ok(JobOutput::NotReady);
    }
    if ready != [protocol::READY] {
        return Ok(JobOutput::Malformed("its first byte is not ours"));
    }
    let mut header = Vec::with_capacity(protocol::REPLY_HEADER_BYTES);
    data.take(protocol::REPLY_HEADER_BYTES as u64).read_to_end(&mut header).await?;
    let Ok(header) = <[u8; protocol::REPLY_HEADER_BYTES]>::try_from(header.as_slice()) else {
        return Ok(if header.is_empty() {
            JobOutput::Empty
        } else {
            JobOutput::Malformed("its header is cut off")
        });
    };
    let Some(header) = ReplyHeader::decode(header) else {
        return Ok(JobOutput::Malformed("its header is not ours"));
    };
    if header.len > cap {
        return Ok(JobOutput::TooLarge(header.len));
    }
    let mut body = Vec::with_capacity(usize::try_from(header.len).unwrap_or(0));
    // One byte more than announced, so that a longer one is noticed.
    data.take(header.len + 1).read_to_end(&mut body).await?;
    Ok(match (body.len() as u64).cmp(&header.len) {
        std::cmp::Ordering::Less => JobOutput::Malformed("its body is cut off"),
        std::cmp::Ordering::Equal => JobOutput::Reply { code: header.code, body },
        std::cmp::Ordering::Greater => JobOutput::Malformed("it goes on after its end"),
    })
}
